"""In which floating type the networks of a run compute."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.modules import module as hooks

from ..data.arguments import Data
from ..ground.recorded import Recorded
from ..infer.engine.internals import tree_leaves, tree_map
from ..programs.running import measuring, trace_pair


class Precision(Recorded):
    """Single precision everywhere, as torch computes it by itself."""

    @contextlib.contextmanager
    def on(
        self, model: Callable, guide: Callable, x: Data, y: Tensor | None = None
    ) -> Iterator[None]:
        """Compute a pair's networks in this precision; as before afterwards.

        They are found by some data ``x`` (n, *event_shape), with labels ``y`` (n,) for a
        conditional pair.
        """
        yield


class TF32(Precision):
    """Products of float32 matrices with 10 bits of mantissa, where a GPU has TF32 units.

    Parameters, results and all else stay in float32.
    """

    @contextlib.contextmanager
    def on(
        self, model: Callable, guide: Callable, x: Data, y: Tensor | None = None
    ) -> Iterator[None]:
        """Set torch's switch, and set it back."""
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


class BF16(Precision):
    """Networks under autocast to bfloat16, which has 8 bits of mantissa; all else in float32.

    Parameters and their gradients stay in float32, so does what a network returns, and with it
    scales, densities, KL terms and codebooks.

    Source: "Mixed Precision Training", Micikevicius et al. (2018), for the division of labour.
    """

    @contextlib.contextmanager
    def on(
        self, model: Callable, guide: Callable, x: Data, y: Tensor | None = None
    ) -> Iterator[None]:
        """Put every network under autocast; ``ValueError`` for a pair in double precision."""
        if x.dtype != torch.float32:
            raise ValueError(
                f"precision: 'bf16' expects a pair in torch.float32, got {x.dtype}: convert it "
                "with .float(), or leave precision out"
            )
        enter, leave = _hooks(x.device.type)
        with contextlib.ExitStack() as stack:
            for network in networks(model, guide, x, y):
                stack.callback(network.register_forward_pre_hook(enter).remove)
                stack.callback(network.register_forward_hook(leave, always_call=True).remove)
            yield


@functools.cache
def _hooks(device: str) -> tuple[Callable, Callable]:
    """What enters and leaves autocast on a device; the same in each run, as records expect."""
    running: list[torch.autocast] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        # A cast weight that is kept would be one tensor in a recorded graph, and its gradients
        # would be summed in half precision
        running.append(torch.autocast(device, torch.bfloat16, cache_enabled=False))
        running[-1].__enter__()

    def leave(module: nn.Module, inputs: Any, output: Any) -> Any:
        running.pop().__exit__(None, None, None)
        return tree_map(_single, output)

    return enter, leave


def _single(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype == torch.bfloat16
    return value.float() if half else value


PRECISIONS: dict[str, Precision] = {"float32": Precision(), "tf32": TF32(), "bf16": BF16()}
PrecisionName = Literal["float32", "tf32", "bf16"]


def as_precision(precision: PrecisionName | Precision) -> Precision:
    """An object as it is, that of a name; ``ValueError`` for anything else."""
    if isinstance(precision, Precision):
        return precision
    if precision not in PRECISIONS:
        names = " or ".join(map(repr, PRECISIONS))
        raise ValueError(f"precision: expected {names}, got {precision!r}")
    return PRECISIONS[precision]


class _Calls(Messenger):
    """Which modules call which, and in which of them there is a distribution or a sample site."""

    def __init__(self) -> None:
        super().__init__()
        self.modules: dict[int, nn.Module] = {}
        self.callers: dict[int, set[int]] = {}
        self.probabilistic: set[int] = set()
        self._stack: list[int] = []

    def __enter__(self) -> _Calls:
        self._handles = [
            hooks.register_module_forward_pre_hook(self._enter),
            hooks.register_module_forward_hook(self._leave, always_call=True),
        ]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        for handle in self._handles:
            handle.remove()
        super().__exit__(*error)

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self.modules[id(module)] = module
        self.callers.setdefault(id(module), set()).update(self._stack)
        self._stack.append(id(module))

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if any(isinstance(leaf, Distribution) for leaf in tree_leaves(output)):
            self.probabilistic.update(self._stack)
        self._stack.pop()

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        self.probabilistic.update(self._stack)


def networks(
    model: Callable, guide: Callable, x: Data, y: Tensor | None = None
) -> list[nn.Module]:
    """The modules of a pair that map tensors to tensors, the largest ones, without any change.

    No sample site runs in them, and no distribution is made in them: the layers of a network
    belong to it, and a conditional distribution is none, but its network and its heads are. To
    find them, some data ``x`` (n, *event_shape) with labels ``y`` (n,) or None are run once.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> guide = guides.BottomUp(vae)
        >>> q = guide.conditionals["z1"]
        >>> found = networks(vae, guide, torch.zeros(5, 6))
        >>> found == [q.network, q.raw_scale, q.loc, vae.decoder]
        True
    """
    with measuring(model, guide, device=x.device), _Calls() as calls:
        trace_pair(model, guide, x, y)
    return [
        calls.modules[key]
        for key, callers in calls.callers.items()
        if key not in calls.probabilistic and callers <= calls.probabilistic
    ]
