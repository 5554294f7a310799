"""Building modules that somebody else described, without more memory than they may have."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration
from torch.overrides import TorchFunctionMode

# What a module or a tensor takes besides its values, in values
_OVERHEAD = 4096
_FACTORIES = {
    *(torch.empty, torch.zeros, torch.ones, torch.full, torch.eye, torch.arange),
    *(torch.linspace, torch.rand, torch.randn, torch.randint, torch.randperm),
    *(Tensor.new_empty, Tensor.new_zeros, Tensor.new_ones, Tensor.new_full),
}


class _Limited(TorchFunctionMode):
    def __init__(self, values: int) -> None:
        super().__init__()
        self.values = self.left = values

    def check(self) -> None:
        if self.left < 0:
            raise ValueError(f"its arguments ask for more than {self.values:,} values")

    def __torch_function__(
        self,
        func: Callable,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _FACTORIES:
            described = {k: v for k, v in kwargs.items() if k not in ("generator", "out")}
            self.left -= func(*args, **{**described, "device": "meta"}).numel()
            if self.left < 0:
                self.check()
        return func(*args, **kwargs)


@contextlib.contextmanager
def limited(values: int) -> Iterator[None]:
    """Refuse tensors and modules made inside that have more than ``values`` values in all.

    A tensor is refused, by ``ValueError``, before its memory is asked for.

    Example:
        >>> with limited(10**6):
        ...     nn.Linear(10**6, 10**6)
        Traceback (most recent call last):
        ...
        ValueError: its arguments ask for more than 1,000,000 values
    """
    mode = _Limited(values)

    def count(module: nn.Module, name: str, part: Any) -> None:
        mode.left -= _OVERHEAD
        if mode.left < 0:
            mode.check()

    with contextlib.ExitStack() as stack:
        for register in (
            registration.register_module_parameter_registration_hook,
            registration.register_module_buffer_registration_hook,
            registration.register_module_module_registration_hook,
        ):
            stack.callback(register(count).remove)
        stack.enter_context(mode)
        yield
