"""The bound of a pair as a recorded tensor graph: Pyro runs once, the tensors run every step."""

from __future__ import annotations

import collections
import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from ..elbo import ELBOTerms, Estimator
from .captured import Capture, Captured, cuda_graph
from .fingerprint import Fingerprint
from .rewriting import UNTRACEABLE, recorded
from .traced import Traced, TracedGradient

_MOST_GRAPHS, _MOST_KEYS = 32, 128
# (recorded graph, its inputs) -> what runs on such inputs and returns the same
Compiler = Callable[[GraphModule, Sequence[Tensor]], Callable]
_CAPTURES = {"cuda": cuda_graph}
_COMPILED = 'a network is compiled by itself; leave that out, and engine="compile" compiles it all'
Replay = Callable[[Tensor, Tensor | None], tuple[Tensor, ELBOTerms]]


class Graph:
    """An estimator that records ``estimator(model, guide, x, y)`` once and replays the tensors.

    The pair runs once under ``make_fx`` with its parameters and buffers as inputs; replaying the
    recorded operations costs no Pyro, and under ``backward``, which records the gradient with
    the loss, no autograd either. Losses, gradients, buffers and random numbers are those of the
    estimator itself, bit for bit. Another graph is recorded for another batch shape, training
    mode, pair, set of parameters or set of trainable ones, and for a changed plain attribute of
    a module. Tensors that a program closes over (a 0-d beta) are read by reference and may change
    in place.

    On a GPU loss and gradient are launched together, as one CUDA graph.

    A record is replayed once beside the program itself, on the same random numbers, before it is
    used. A program whose record differs, or that cannot be recorded (control flow on tensor
    values, score-function sites, hooks on gradients, plain functions, whose globals cannot be
    watched), runs as it is, with one warning that says why. What is not seen: objects that are
    neither modules nor plain data and change in place, Python's own random numbers, and hooks on
    the nodes of autograd.

    Attributes:
        operations: how many the latest recorded graph has, 0 before.

    Args:
        estimator: ``TraceELBO(...)`` or ``AnalyticELBO(...)``.
        compile: what to make of a recorded graph and its inputs, for example a
            ``compiled.Compiler()``; default: the graph as it is.
        capture: what makes one launch of loss and gradient; default: on a GPU
            ``captured.cuda_graph``, elsewhere nothing.
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
        self,
        estimator: Estimator,
        *,
        compile: Compiler | None = None,
        capture: Capture | None = None,
        after: int = 0,
    ) -> None:
        self.estimator, self.after = estimator, after
        self.compile, self.capture = compile, capture
        self._recorded: dict[Any, Replay | None] = {}
        self._calls: collections.Counter[Any] = collections.Counter()
        self._noticed: set[str] = set()
        self.operations = 0
        self._latest: Fingerprint | None = None
        self._number = 0
        self._numbers: dict[Any, int] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Graph:
        """One without records, which belong to their pair."""
        estimator = copy.deepcopy(self.estimator, memo)
        options = {"compile": self.compile, "capture": self.capture, "after": self.after}
        return type(self)(estimator, **options)

    def __call__(
        self, model: Callable, guide: Callable, x: Tensor, y: Tensor | None = None
    ) -> tuple[Tensor, ELBOTerms]:
        """Loss with the pair's scales, and the terms without them, detached."""
        replay = self._replay(Traced, model, guide, x, y)
        return self._as_it_is(model, guide, x, y) if replay is None else replay(x, y)

    def backward(
        self, model: Callable, guide: Callable, x: Tensor, y: Tensor | None = None
    ) -> tuple[Tensor, ELBOTerms]:
        """The same, and the gradient of the loss in ``grad`` of each parameter, all None before.

        The loss is detached.
        """
        replay = self._replay(TracedGradient, model, guide, x, y)
        loss, terms = self._as_it_is(model, guide, x, y) if replay is None else replay(x, y)
        if loss.requires_grad:
            loss.backward()
        return loss.detach(), terms

    def _replay(
        self, kind: type[Traced], model: Callable, guide: Callable, x: Tensor, y: Tensor | None
    ) -> Replay | None:
        """What replays such a call, or None where it is to run as it is."""
        if not (isinstance(model, nn.Module) and isinstance(guide, nn.Module)):
            self._notice("the model or the guide is a plain function, whose state is hidden")
            return None
        if len(self._calls) > _MOST_KEYS:
            self._notice("its modules' attributes change from step to step")
            return None
        number = self._number_of(model, guide)
        if self._latest.hooked:
            self._notice("a parameter or a module has hooks on its gradient")
            return None
        where = x.device.type
        key = (
            Traced if x.requires_grad else kind,
            number,
            *(None if t is None else (t.shape, t.stride(), t.dtype, t.device) for t in (x, y)),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled(where) and torch.get_autocast_dtype(where),
        )
        return self._recorded.get(key) or self._recorded_now(key, model, guide, x, y)

    def _number_of(self, model: nn.Module, guide: nn.Module) -> int:
        """A number for all that the fingerprint of a pair holds."""
        if self._latest is None or not self._latest.holds(model, guide):
            self._latest = Fingerprint(model, guide)
            self._number = self._numbers.setdefault(self._latest.key, len(self._numbers))
        return self._number

    def _recorded_now(
        self, key: Any, model: nn.Module, guide: nn.Module, x: Tensor, y: Tensor | None
    ) -> Replay | None:
        if key in self._recorded:
            return None
        self._calls[key] += 1
        if self._calls[key] <= self.after:
            return None
        if len(self._recorded) >= _MOST_GRAPHS:
            del self._recorded[next(iter(self._recorded))]
        kind, *_ = key
        replay = self._record(kind(model, guide, self.estimator), x, y)
        if replay is not None and Fingerprint(model, guide).key != self._latest.key:
            self._notice("its modules' attributes change when it runs")
            replay = None
        self._recorded[key] = replay
        return replay

    def _as_it_is(
        self, model: Callable, guide: Callable, x: Tensor, y: Tensor | None
    ) -> tuple[Tensor, ELBOTerms]:
        with pyro.validation_enabled(False):
            return self.estimator(model, guide, x, y)

    def _record(self, traced: Traced, x: Tensor, y: Tensor | None) -> Replay | None:
        traced.prepare(x, y)
        data = (x,) if y is None else (x, y)
        try:
            with traced.restored(x.device):
                inputs = (*traced.tensors, *data)
                graph, constants = recorded(traced, inputs, *traced.rewrites)
                if type(traced) is TracedGradient and any(c.requires_grad for c in constants):
                    # Parameters that no module holds: autograd alone finds them
                    return self._record(Traced(*traced.programs, self.estimator), x, y)
                run = graph.forward
                self._check(traced, run, inputs, constants)
                with traced.replaying():
                    if self.compile is not None:
                        run = self.compile(graph, (*inputs, *constants))
                    run = self._captured(run, traced, data, constants)
        except UNTRACEABLE as error:
            compiled = "dynamo-optimized" in str(error)
            self._notice(_COMPILED if compiled else _reason(error))
            return None
        self.operations = len(graph.graph.nodes)

        def replay(x: Tensor, y: Tensor | None) -> tuple[Tensor, ELBOTerms]:
            data = (x,) if y is None else (x, y)
            # The pair is kept by it, because its identity is part of the key
            return traced.results(run, (*traced.tensors, *data, *constants))

        return replay

    def _check(
        self, traced: Traced, run: Callable, inputs: Sequence[Tensor], constants: Sequence[Tensor]
    ) -> None:
        """Raise unless a record gives, and leaves behind, what the program does."""
        expected = traced.outcome(traced, inputs)
        with traced.replaying():
            found = traced.outcome(lambda *inputs: run(*inputs, *constants), inputs)
        same = _equal if inputs[-1].device.type == "cpu" else _close
        if len(found) != len(expected) or not all(map(same, found, expected)):
            raise RuntimeError("its recorded operations do not give what it gives itself")

    def _captured(
        self, run: Callable, traced: Traced, data: Sequence[Tensor], constants: Sequence[Tensor]
    ) -> Callable:
        capture = self.capture or _CAPTURES.get(data[0].device.type)
        if capture is None or traced.kept is None:
            return run
        try:
            return Captured(run, traced.tensors, data, constants, traced.kept, capture)
        except RuntimeError as error:  # operations that no CUDA graph can hold
            self._notice(_reason(error), "launches its operations one by one, not as a CUDA graph")
            return run

    def _notice(self, reason: str, does: str = "runs eagerly, not as a graph") -> None:
        if reason not in self._noticed:
            self._noticed.add(reason)
            warnings.warn(f"this pair {does}: {reason}", stacklevel=4)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def _close(a: Tensor, b: Tensor) -> bool:
    """Up to the order of sums, which no GPU promises."""
    if not (a.is_floating_point() and a.shape == b.shape):
        return _equal(a, b)
    return torch.allclose(a, b, rtol=1e-2, atol=1e-4, equal_nan=True)


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
