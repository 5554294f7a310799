"""The bound of a pair as a recorded tensor graph: Pyro runs once, the tensors run every step."""

from __future__ import annotations

import collections
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ..registration import unregistered
from .elbo import ELBOTerms, Estimator
from .fingerprint import Fingerprint
from .rewriting import UNTRACEABLE, lifted, quickened, recorded

_MOST_GRAPHS, _MOST_KEYS = 32, 128
# (recorded graph, its inputs) -> what runs on such inputs and returns the same
Compiler = Callable[[GraphModule, Sequence[Tensor]], Callable]


class Graph:
    """An estimator that records ``estimator(model, guide, x, y)`` once and replays the tensors.

    The pair runs once under ``make_fx`` with its parameters and buffers as inputs; replaying the
    recorded operations costs no Pyro. Losses, gradients, buffers and random numbers are those of
    the estimator itself, bit for bit. Another graph is recorded for another batch shape, training
    mode, pair, set of parameters or set of trainable ones, and for a changed plain attribute of
    a module. Tensors that a program closes over (a 0-d beta) are read by reference and may change
    in place.

    A program that cannot be recorded (control flow on tensor values, score-function sites, plain
    functions, whose globals cannot be watched) runs as it is, with one warning that says why.

    Attributes:
        operations: how many the latest recorded graph has, 0 before.

    Args:
        estimator: ``TraceELBO(...)`` or ``AnalyticELBO(...)``.
        compile: what to make of a recorded graph and its inputs, for example a
            ``compiled.Compiler()``; default: the graph as it is.
        after: calls that run as they are before a graph is recorded, so that a short run does not
            pay for recording (a fraction of a second to some seconds).

    Example:
        >>> from pyro_vae import guides, infer, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> guide, x = guides.BottomUp(vae), torch.zeros(5, 6)
        >>> recorded, eager = infer.Graph(infer.TraceELBO()), infer.TraceELBO()
        >>> with torch.random.fork_rng():
        ...     loss, _ = recorded(vae, guide, x)
        >>> bool(loss == eager(vae, guide, x)[0])
        True
    """

    def __init__(
        self, estimator: Estimator, *, compile: Compiler | None = None, after: int = 0
    ) -> None:
        self.estimator, self.compile, self.after = estimator, compile, after
        self._recorded: dict[Any, Callable | None] = {}
        self._calls: collections.Counter[Any] = collections.Counter()
        self._noticed: set[str] = set()
        self.operations = 0
        self._latest: Fingerprint | None = None
        self._number = 0
        self._numbers: dict[Any, int] = {}

    def __call__(
        self, model: Callable, guide: Callable, x: Tensor, y: Tensor | None = None
    ) -> tuple[Tensor, ELBOTerms]:
        """Loss with the pair's scales, and the terms without them, detached."""
        if not (isinstance(model, nn.Module) and isinstance(guide, nn.Module)):
            self._notice("the model or the guide is a plain function, whose state is hidden")
            return self._as_it_is(model, guide, x, y)
        if len(self._calls) > _MOST_KEYS:
            self._notice("its modules' attributes change from step to step")
            return self._as_it_is(model, guide, x, y)
        key = (
            self._number_of(model, guide),
            *(None if t is None else (t.shape, t.dtype, t.device) for t in (x, y)),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
        )
        replay = self._recorded.get(key) or self._recorded_now(key, model, guide, x, y)
        if replay is None:
            return self._as_it_is(model, guide, x, y)
        loss, reconstruction, kl = replay(x, y)
        return loss, ELBOTerms(reconstruction, kl)

    def _number_of(self, model: nn.Module, guide: nn.Module) -> int:
        """A number for all that the fingerprint of a pair holds."""
        if self._latest is None or not self._latest.holds(model, guide):
            self._latest = Fingerprint(model, guide)
            self._number = self._numbers.setdefault(self._latest.key, len(self._numbers))
        return self._number

    def _recorded_now(
        self, key: Any, model: nn.Module, guide: nn.Module, x: Tensor, y: Tensor | None
    ) -> Callable | None:
        if key in self._recorded:
            return None
        self._calls[key] += 1
        if self._calls[key] <= self.after:
            return None
        if len(self._recorded) >= _MOST_GRAPHS:
            del self._recorded[next(iter(self._recorded))]
        self._recorded[key] = self._record(model, guide, x, y)
        return self._recorded[key]

    def _as_it_is(
        self, model: Callable, guide: Callable, x: Tensor, y: Tensor | None
    ) -> tuple[Tensor, ELBOTerms]:
        with pyro.validation_enabled(False):
            return self.estimator(model, guide, x, y)

    def _record(
        self, model: nn.Module, guide: nn.Module, x: Tensor, y: Tensor | None
    ) -> Callable | None:
        self.estimator.prepare(model, guide, x, y)
        pair = _Pair(model, guide, self.estimator)
        named = {**dict(pair.named_parameters()), **dict(pair.named_buffers())}
        data = (x,) if y is None else (x, y)
        sites: list[str] = []

        def run(*tensors: Tensor) -> tuple[Tensor, ...]:
            held = dict(zip(named, tensors, strict=False))
            x, *y = tensors[len(named) :]
            result = torch.func.functional_call(pair, held, (x, y[0] if y else None))
            loss, reconstruction, kl = result
            sites[:] = kl
            return loss, reconstruction, *kl.values()

        # Recording runs the program once: afterwards buffers and RNG are as before
        buffers = {name: buffer.clone() for name, buffer in pair.named_buffers()}
        try:
            devices = [x.device] if x.device.type == "cuda" else []
            with torch.random.fork_rng(devices):
                with _StoppedGradients():
                    graph = quickened(recorded(run, (*named.values(), *data)))
                tensors, constants = tuple(named.values()), lifted(graph)
                forward = graph.forward
                if self.compile is not None:
                    forward = self.compile(graph, (*tensors, *data, *constants))
        except UNTRACEABLE as error:
            self._notice(str(error).splitlines()[0] if str(error) else type(error).__name__)
            return None
        finally:
            with torch.no_grad():
                for name, buffer in pair.named_buffers():
                    buffer.copy_(buffers[name])
        self.operations = len(graph.graph.nodes)

        # The pair is kept, because its identity is part of the key
        def replay(x: Tensor, y: Tensor | None, pair: _Pair = pair) -> tuple:
            data = (x,) if y is None else (x, y)
            loss, reconstruction, *kl = forward(*tensors, *data, *constants)
            return loss, reconstruction, dict(zip(sites, kl, strict=True))

        return replay

    def _notice(self, reason: str) -> None:
        if reason not in self._noticed:
            self._noticed.add(reason)
            warnings.warn(f"this pair runs eagerly, not as a graph: {reason}", stacklevel=4)


class _StoppedGradients(TorchFunctionMode):
    """Records that a program stops gradients by ``no_grad``, which ``make_fx`` forgets."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if torch.is_grad_enabled():
            return result
        given = tree_leaves((args, kwargs))
        if not any(isinstance(a, Tensor) and a.requires_grad for a in given):
            return result
        return tree_map_only(Tensor, Tensor.detach, result)


class _Pair(nn.Module):
    """Model and guide under one module, so that the tensors of both can be passed in."""

    def __init__(self, model: nn.Module, guide: nn.Module, estimator: Estimator) -> None:
        super().__init__()
        self.model, self.guide, self.estimator = model, guide, estimator

    def forward(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        with unregistered(), pyro.validation_enabled(False):
            loss, terms = self.estimator(self.model, self.guide, x, y)
        return loss, terms.reconstruction, terms.kl
