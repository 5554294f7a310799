"""Stochastic variational inference with one torch optimizer over all parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Literal

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from ..registration import unregistered
from .elbo import ELBOTerms, Estimator, TraceELBO
from .engine.compiled import Compiler
from .engine.graph import Graph
from .engine.stepping import Stepper
from .optimizers import OptimizerFactory, fused
from .traces import measuring

Engine = Literal["eager", "graph", "compile"]


_ENGINES: dict[str, Callable[..., Callable]] = {
    "eager": lambda estimator, after, announce: estimator,
    "graph": lambda estimator, after, announce: Graph(estimator, after=after),
    "compile": lambda estimator, after, announce: Graph(
        estimator, compile=Compiler(announce), after=after
    ),
}


def running(
    estimator: Estimator,
    engine: Engine,
    *,
    after: int = 0,
    announce: Callable[[str], object] | None = None,
) -> Callable:
    """An estimator under an engine.

    Args:
        estimator: ``TraceELBO(...)`` or another one.
        engine: as in ``SVI``.
        after: steps that run eagerly before a graph is recorded.
        announce: is told how long compiling took, as in ``Compiler``.

    Raises:
        ValueError: an unknown engine.
    """
    if engine not in _ENGINES:
        gone = " (which decided by the clock)" if engine == "auto" else ""
        raise ValueError(
            f"engine: expected {' or '.join(map(repr, _ENGINES))}, got {engine!r}{gone}: "
            "pass 'graph', or 'compile' for a long run"
        )
    return _ENGINES[engine](estimator, after, announce)


class SVI:
    """The contract of ``pyro.infer.SVI`` with one fused torch optimizer for all parameters.

    The loss and its gradient are those of ``pyro.infer.Trace_ELBO``: minus the ELBO, summed over
    the data (``reduction="mean"`` in the estimator: nats per datum).

    Args:
        model: generative program: an ``nn.Module`` or a function with ``pyro.param`` sites.
        guide: inference program.
        optimizer: makes a torch optimizer from a list of parameters, for example
            ``functools.partial(torch.optim.Adam, lr=1e-3)``. Default: fused Adam, 1e-3.
        loss: ``TraceELBO()``, ``AnalyticELBO()`` or ``ImportanceWeightedELBO(10)``.
        clip_norm: clip the total gradient norm to this value, if given.
        engine: "eager" runs the programs at each step, as Pyro does; "graph" runs them once and
            replays the recorded tensors of loss and gradient, bit for bit the same, on a GPU as
            one CUDA graph; "compile" passes these through the compiler of ``torch.compile``,
            which takes seconds to minutes, told to the logger "pyro_vae", and gives the same up
            to rounding. Or an estimator that runs already under an engine, such as
            ``Graph(loss)``, to share it.

    Raises:
        ValueError: an unknown engine.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> _ = torch.manual_seed(0)
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> svi = SVI(vae, guides.BottomUp(vae))
        >>> x = torch.zeros(5, 6)
        >>> first = svi.step(x)
        >>> for _ in range(50):
        ...     last = svi.step(x)
        >>> bool(last < first)
        True
    """

    def __init__(
        self,
        model: Callable,
        guide: Callable,
        optimizer: OptimizerFactory | None = None,
        loss: Estimator | None = None,
        *,
        clip_norm: float | None = None,
        engine: Engine | Callable = "eager",
    ) -> None:
        """Hold the pair; the optimizer is made at the first step, when all parameters exist."""
        self.model, self.guide = model, guide
        self.optimizer_factory = optimizer or fused(torch.optim.Adam, lr=1e-3)
        self.loss = loss or TraceELBO()
        self._fast_loss = running(self.loss, engine) if isinstance(engine, str) else engine
        self.clip_norm = clip_norm
        self.optimizer: torch.optim.Optimizer | None = None
        self._stepper: Stepper | None = None
        # Decides from loss and gradients whether the optimizer is to take the step
        self.accept: Callable[[Tensor], bool] | None = None
        self._checked = False
        self.terms: ELBOTerms | None = None

    def parameters(self) -> list[nn.Parameter]:
        """The modules' trainable parameters, each once, in order."""
        modules = [p for p in (self.model, self.guide) if isinstance(p, nn.Module)]
        found = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
        return list(found.values())

    def step(self, x: Tensor, *, y: Tensor | None = None) -> Tensor:
        """One gradient step.

        Args:
            x: (n, *event_shape).
            y: (n,) labels for a conditional pair.

        Returns:
            The loss before the step, a 0-d tensor (``float(loss)`` waits for the device). The
            terms of the bound are left in ``self.terms``.

        Raises:
            ValueError: at the first step, a parameter that gets no gradient.
        """
        if self.optimizer is None:
            self.prepare(x, y=y)
        loss = self._step(x, y)
        self._checked = True
        return loss

    def prepare(self, x: Tensor, *, y: Tensor | None = None) -> None:
        """Collect the parameters and make the optimizer; ``step`` does so when nobody else did.

        Args:
            x: any data (n, *event_shape), to find the ``pyro.param`` sites of plain functions.
            y: (n,) labels for a conditional pair.

        Raises:
            ValueError: the pair has no trainable parameter.
        """
        with poutine.trace(param_only=True) as captured:
            with measuring(self.model, self.guide, device=x.device):
                self.loss(self.model, self.guide, x, y)
        sites = [s["value"].unconstrained() for s in captured.trace.nodes.values()]
        parameters = list({id(p): p for p in (*self.parameters(), *sites)}.values())
        if not parameters:
            raise ValueError(
                "the pair has no trainable parameters: are all of them frozen "
                "(requires_grad=False), or held by a module that the program does not register?"
            )
        self.optimizer = self.optimizer_factory(parameters)

    def _step(self, x: Tensor, y: Tensor | None) -> Tensor:
        for parameter in self._all():
            parameter.grad = None
        # The first step runs the programs with all of Pyro's checks
        checks = pyro.validation_enabled(False) if self._checked else contextlib.nullcontext()
        with unregistered(), checks:
            estimate = self._fast_loss if self._checked else self.loss
            if backward := getattr(estimate, "backward", None):
                loss, self.terms = backward(self.model, self.guide, x, y)
            else:
                loss, self.terms = estimate(self.model, self.guide, x, y)
                loss.backward()
        if not self._checked:
            self._check_gradients()
            if isinstance(self._fast_loss, Graph):
                self._fast_loss.step += 1
        if self.accept is not None and not self.accept(loss):
            return loss.detach()
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._all(), self.clip_norm)
        if self._stepper is None or self._stepper.optimizer is not self.optimizer:
            self._stepper = Stepper(self.optimizer)
        self._stepper()
        return loss.detach()

    def _all(self) -> Iterable[Tensor]:
        return (p for group in self.optimizer.param_groups for p in group["params"])

    def _check_gradients(self) -> None:
        missing = [
            f"{role}.{name}"
            for role, program in (("model", self.model), ("guide", self.guide))
            if isinstance(program, nn.Module)
            for name, p in program.named_parameters()
            if p.requires_grad and p.grad is None
        ]
        if missing:
            raise ValueError(
                f"these parameters got no gradient in the first step: {', '.join(missing)}. "
                "Use them in the program, or freeze them with requires_grad_(False)"
            )

    def evaluate_loss(self, x: Tensor, *, y: Tensor | None = None) -> Tensor:
        """The loss of ``step`` without a step and without any change of state.

        Args:
            x: (n, *event_shape).
            y: (n,) labels for a conditional pair.

        Returns:
            The loss, a 0-d tensor, in evaluation mode; the RNG is restored.
        """
        with measuring(self.model, self.guide, device=x.device):
            return self.loss(self.model, self.guide, x, y)[0]
