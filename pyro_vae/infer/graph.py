"""The bound of a pair as a recorded tensor graph: Pyro runs once, the tensors run every step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from ..programs import unregistered
from .elbo import ELBOTerms, Estimator

# Programs raise these where tracing meets a value that it cannot know: .item(), if tensor, ...
_UNTRACEABLE = (RuntimeError, NotImplementedError, TypeError, ValueError)
_PLAIN = (bool, int, float, str, type(None))


class _Pair(nn.Module):
    """Model and guide under one module, so that their tensors can be passed in."""

    def __init__(self, model: nn.Module, guide: nn.Module, estimator: Estimator) -> None:
        super().__init__()
        self.model, self.guide = model, guide
        object.__setattr__(self, "estimator", estimator)

    def forward(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        with unregistered(), pyro.validation_enabled(False):
            loss, terms = self.estimator(self.model, self.guide, x, y)
        return loss, terms.reconstruction, terms.kl


def _guard(value: Any) -> Any:
    """What of an attribute decides which operations a program runs."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, tuple | list):
        return tuple(_guard(v) for v in value)
    if isinstance(value, Mapping):
        return tuple((k, _guard(v)) for k, v in value.items())
    if hasattr(value, "guard"):
        return value.guard()
    return id(value)


_BOOKKEEPING = frozenset(nn.Module().__dict__) - {"training"} | {"arguments"}


class Graph:
    """An estimator that records ``estimator(model, guide, x, y)`` once and replays the tensors.

    The pair runs once under ``make_fx`` with its parameters and buffers as inputs; replaying the
    recorded operations costs no Pyro. Losses, gradients, buffers and random numbers are those of
    the estimator itself, bit for bit. A new graph is recorded for a new batch shape, training
    mode, guide, set of trainable parameters, or a changed plain attribute of a module. Tensors
    that a program closes over (a 0-d beta) are read by reference and may change in place.

    A program that cannot be recorded (control flow on tensor values, score-function sites, plain
    functions, whose globals cannot be watched) runs as it is, with one warning that says why.

    Args:
        estimator: ``TraceELBO(...)`` or ``AnalyticELBO(...)``.
        compile: compiles a recorded graph, for example ``torch.compile``; None replays it.

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
        self, estimator: Estimator, *, compile: Callable[[Callable], Callable] | None = None
    ) -> None:
        self.estimator, self.compile = estimator, compile
        self._recorded: dict[Any, Callable | None] = {}

    @property
    def reduction(self) -> str:
        """Of the estimator: "sum" or "mean"."""
        return self.estimator.reduction

    def __call__(
        self, model: Callable, guide: Callable, x: Tensor, y: Tensor | None = None
    ) -> tuple[Tensor, ELBOTerms]:
        """Loss with the pair's scales, and the terms without them, detached."""
        if not (isinstance(model, nn.Module) and isinstance(guide, nn.Module)):
            self._notice("the model or the guide is a plain function")
            return self.estimator(model, guide, x, y)
        pair = _Pair(model, guide, self.estimator)
        tensors = {**dict(pair.named_parameters()), **dict(pair.named_buffers())}
        key = (
            tuple(x.shape), x.dtype, x.device, None if y is None else (tuple(y.shape), y.dtype),
            torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
            tuple((id(t), t.requires_grad) for t in tensors.values()),
            tuple(
                (id(m), tuple((k, _guard(v)) for k, v in m.__dict__.items() if k not in _BOOKKEEPING))
                for program in (model, guide)
                for m in program.modules()
            ),
        )
        if key not in self._recorded:
            self._recorded[key] = self._record(pair, tensors, x, y)
        replay = self._recorded[key]
        if replay is None:
            return self.estimator(model, guide, x, y)
        loss, reconstruction, kl = replay(tensors, x, y)
        terms = ELBOTerms(reconstruction.detach(), {s: v.detach() for s, v in kl.items()})
        return loss, terms

    def _record(
        self, pair: _Pair, tensors: dict[str, Tensor], x: Tensor, y: Tensor | None
    ) -> Callable | None:
        def run(tensors: dict[str, Tensor], x: Tensor, y: Tensor | None) -> Any:
            return torch.func.functional_call(pair, tensors, (x, y))
        # Recording runs the program: buffers and the RNG are put back
        buffers = {name: b.clone() for name, b in pair.named_buffers()}
        devices = [x.device] if x.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices):
                graph = make_fx(run)(tensors, x, y)
        except _UNTRACEABLE as error:
            self._notice(str(error).splitlines()[0] if str(error) else type(error).__name__)
            return None
        finally:
            for name, buffer in pair.named_buffers():
                buffer.data.copy_(buffers[name])
        return graph if self.compile is None else self.compile(graph)

    def _notice(self, reason: str) -> None:
        warnings.warn(
            f"engine='graph': this pair runs eagerly, because {reason}", stacklevel=4
        )
