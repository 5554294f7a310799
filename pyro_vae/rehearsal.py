"""Building modules without memory first, to see how large they are going to be."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration

# What a module or a tensor takes besides its values, in values
_OVERHEAD = 4096


class TooLarge(ValueError):
    """Modules of more values than there may be."""


@contextlib.contextmanager
def limited(values: int) -> Iterator[None]:
    """Raise ``TooLarge`` as soon as modules register more than ``values`` values in all.

    Example:
        >>> with limited(10**6), torch.device("meta"):
        ...     nn.Linear(1000, 1000)
        Traceback (most recent call last):
        ...
        pyro_vae.rehearsal.TooLarge: its arguments ask for more than 1,000,000 values
    """
    left = values

    def count(module: nn.Module, name: str, part: Any) -> None:
        nonlocal left
        left -= _OVERHEAD + (part.numel() if isinstance(part, Tensor) else 0)
        if left < 0:
            raise TooLarge(f"its arguments ask for more than {values:,} values")

    with contextlib.ExitStack() as hooks:
        for register in (
            registration.register_module_parameter_registration_hook,
            registration.register_module_buffer_registration_hook,
            registration.register_module_module_registration_hook,
        ):
            hooks.callback(register(count).remove)
        yield


@contextlib.contextmanager
def rehearsal(values: int) -> Iterator[None]:
    """What is built inside has shapes and no memory; ``TooLarge`` for more than ``values``.

    A constructor that needs the values of its tensors fails here; that is passed over, for the
    real one is built next and speaks for itself.
    """
    try:
        with limited(values), torch.device("meta"):
            yield
    except TooLarge:
        raise
    except Exception:
        return
