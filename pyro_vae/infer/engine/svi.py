"""Stochastic variational inference with one torch optimizer over all parameters."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import pyro
import pyro.infer
import torch
from pyro.distributions.constraints import Constraint
from pyro.infer.util import validation_enabled
from pyro.optim import PyroOptim
from torch import Tensor, nn

from ...data.arguments import Arguments, Data, LabelData, tensors_of
from ...ground.turns import turn
from ...programs.belonging import check_run, join
from ...programs.calling import check_arguments
from ...programs.given import are_labels
from ...programs.labels import covariates_of
from ...programs.methods import as_program
from ...programs.registration import unregistered
from ...programs.running import measuring, undisturbed
from ..objectives.elbo import ELBOTerms, Estimator, TraceELBO
from ..stock import StockLoss, StockOptimizer, as_loss, run_pair
from .accumulated import Accumulated
from .compiled import Compiler
from .fingerprint import Watch
from .graph import Graph
from .optimizers import OptimizerFactory, check_optimizer, fused
from .stepping import Stepper
from .trainable import Sites, Waiting, named_parameters, tell_untrained

Engine = Literal["eager", "graph", "compile"]


def running(
    estimator: Estimator,
    engine: Engine,
    *,
    after: int = 0,
    announce: Callable[[str], object] | None = None,
) -> Callable:
    """An estimator under an engine of ``SVI``; ``ValueError`` for an unknown one.

    ``after`` steps run eagerly before a graph is recorded; ``announce`` is that of ``Compiler``.
    """
    check_engine(engine)
    if engine == "eager":
        return estimator
    if not getattr(estimator, "recordable", True):
        instead = "elbo='trace'" if isinstance(estimator, Estimator) else "loss=TraceELBO()"
        warnings.warn(
            f"{type(estimator.elbo).__name__} runs eagerly, not as a graph: pass {instead} with "
            f"engine={engine!r}, or leave engine out",
            stacklevel=3,
        )
        return estimator
    compiler = Compiler(announce) if engine == "compile" else None
    return Graph(estimator, compile=compiler, after=after)


def check_engine(engine: Engine) -> None:
    """Raise ``ValueError`` for an unknown engine."""
    if engine not in get_args(Engine):
        gone = " (which decided by the clock)" if engine == "auto" else ""
        raise ValueError(
            f"engine: expected {' or '.join(map(repr, get_args(Engine)))}, got {engine!r}{gone}: "
            "pass 'graph', or 'compile' for a long run"
        )


class SVI:
    """The contract of ``pyro.infer.SVI`` with one fused torch optimizer for all parameters.

    The loss and its gradient are those of ``pyro.infer.Trace_ELBO``: minus the ELBO, summed over
    the data (``reduction="mean"`` in the estimator: nats per datum).

    Args:
        model: generative program: an ``nn.Module``, a method of one, such as ``vae.model``, a
            ``functools.partial`` or a handler around these; or a function with ``pyro.param``
            sites.
        guide: inference program.
        optimizer: makes a torch optimizer from a list of parameters, for example
            ``functools.partial(torch.optim.Adam, lr=1e-3)``. Default: fused Adam, 1e-3. Those of
            ``pyro.optim`` work too: one optimizer per parameter, which is slower.
        loss: ``TraceELBO()``, ``AnalyticELBO()`` or ``ImportanceWeightedELBO(10)``; or one of
            ``pyro.infer``, such as ``Trace_ELBO()``: it runs eagerly and gives no ``terms``.
        clip_norm: clip the total gradient norm to this value, if given.
        engine: "eager" runs the programs at each step, as Pyro does; "graph" runs them once and
            replays the recorded tensors of loss and gradient, bit for bit the same, on a GPU as
            one CUDA graph; "compile" passes these through the compiler of ``torch.compile``,
            which takes seconds to minutes, told to the logger "pyro_vae", and gives the same up
            to rounding. Or an estimator that runs already under an engine, such as
            ``Graph(loss)``, to share it.
        plate: name of the plate over the data, where several could be it.
        accumulate: in how many parts the gradient of a step is added up, so that its memory is
            that of a part; see ``Trainer.fit``.

    Raises:
        ValueError: an unknown engine, fewer than one part.
        TypeError: an optimizer or a loss of another kind, one of ``pyro.infer`` for parts.

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
        optimizer: OptimizerFactory | PyroOptim | None = None,
        loss: Estimator | pyro.infer.ELBO | None = None,
        *,
        clip_norm: float | None = None,
        engine: Engine | Callable = "eager",
        plate: str | None = None,
        accumulate: int = 1,
    ) -> None:
        """Hold the pair; the optimizer is made at the first step, when all parameters exist."""
        self.model, self.guide, self.plate = as_program(model), as_program(guide), plate
        self.optimizer_factory = self._factory(optimizer or fused(torch.optim.Adam, lr=1e-3))
        self.loss = as_loss(TraceELBO() if loss is None else loss)
        self._fast_loss = running(self.loss, engine) if isinstance(engine, str) else engine
        if accumulate != 1:
            losses = (self.loss, self._fast_loss)
            made = {id(loss): Accumulated(loss, accumulate, self._trained) for loss in losses}
            self.loss, self._fast_loss = (made[id(loss)] for loss in losses)
        self.clip_norm = clip_norm
        self.optimizer: torch.optim.Optimizer | None = None
        self._stepper: Stepper | None = None
        self._checked = False
        self._watch: Watch | None = None
        self._sites = Sites()
        self.waiting = Waiting(1)
        # ``pyro.param`` sites in Pyro's store alone, and how they are declared
        self.stored: dict[str, Constraint] = {}
        self.terms: ELBOTerms | None = None

    def _factory(self, optimizer: OptimizerFactory | PyroOptim) -> OptimizerFactory:
        if isinstance(optimizer, PyroOptim):
            modules = [p for p in (self.model, self.guide) if isinstance(p, nn.Module)]
            return functools.partial(StockOptimizer, inner=optimizer, modules=modules)
        check_optimizer(optimizer)
        return optimizer

    def parameters(self) -> list[nn.Parameter]:
        """The modules' trainable parameters, each once, in order."""
        return [*named_parameters(model=self.model, guide=self.guide).values()]

    def step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One gradient step: ``gradient``, then ``update``.

        What becomes trainable after the first step is trained from then on: parameters that are
        unfrozen, networks that are replaced, ``pyro.param`` sites that come later.

        Args:
            args: x, (n, *event_shape), or the programs' own arguments, as for ``pyro.infer.SVI``.
            kwargs: y, (n,) labels for a conditional pair, or the programs' own.

        Returns:
            The loss before the step, a 0-d tensor (``float(loss)`` waits for the device). The
            terms of the bound are left in ``self.terms``; None for a loss of ``pyro.infer``.

        Warns:
            UntrainedWarning: after the first step, parameters that got no gradient, and tensors
                that the loss depends on but that no optimizer has.
        """
        with turn:
            loss = self._gradient(*self._given(args, kwargs))
            self.update()
        return loss

    def gradient(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ELBOTerms | None]:
        """The first half of ``step``: the gradient of the loss, in ``grad`` of each parameter.

        Between the halves the gradient can be looked at, or changed; without ``update`` no
        parameter moves. What has become trainable is in the optimizer from here on.

        Arguments and warnings are those of ``step``.

        Returns:
            The loss, a 0-d tensor, and the terms of the bound, as in ``self.terms``; both are
            detached.

        Example:
            >>> from pyro_vae import guides, likelihoods, models
            >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
            >>> svi = SVI(vae, guides.BottomUp(vae))
            >>> loss, terms = svi.gradient(torch.zeros(5, 6))
            >>> if loss.isfinite():
            ...     svi.update()
        """
        with turn:
            return self._gradient(*self._given(args, kwargs)), self.terms

    def update(self) -> None:
        """The second half of ``step``: clip the gradients, and let the optimizer take its step.

        Raises:
            RuntimeError: before the first ``gradient``.
        """
        if self.optimizer is None:
            raise RuntimeError("update: expected a gradient, got none yet: call gradient(x) first")
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._all(), self.clip_norm)
        if self._stepper is None or self._stepper.optimizer is not self.optimizer:
            self._stepper = Stepper(self.optimizer)
        self._stepper()

    def _given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Data, LabelData]:
        """Data, and labels, of a call."""
        if self.plate is None and len(args) == 1 and kwargs.keys() <= {"y"}:
            (x,), y = args, kwargs.get("y")
            if isinstance(x, Tensor | Arguments) and (y is None or are_labels(y)):
                return x, y
            if isinstance(x, Tensor) and (covariates := covariates_of(self.model)) is not None:
                return x, covariates.columns(y, len(x))
        if args and isinstance(args[0], Arguments):
            return args[0].replace(plate=self.plate), None
        return Arguments(args, kwargs, plate=self.plate), None

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Collect the parameters and make the optimizer; ``step`` does so when nobody else did.

        It runs the pair on data x, to find the ``pyro.param`` sites of plain functions. Those that
        Pyro's store does not have yet begin, and join the optimizer, at the first step.

        Raises:
            ValueError: the pair has no trainable parameter.
        """
        self._prepare(*self._given(args, kwargs))

    def _prepare(self, x: Data, y: LabelData) -> None:
        if isinstance(x, Arguments):
            check_arguments(x, self.model, self.guide)
        check_run(self.model, self.guide, x, y)
        join(self.model, self.guide)
        run = run_pair if isinstance(self.loss, StockLoss) else self.loss
        # Shapes are compared here, also where Pyro's validation is off
        with turn, Sites() as sites, undisturbed(self.model, self.guide, device=x.device):
            with validation_enabled(True):
                run(self.model, self.guide, x, y)
        store, found = dict(pyro.get_param_store().named_parameters()), {}
        if sites.found:
            self.stored |= sites.of_no(self.parameters())
        for name, parameter in sites.found.items():
            if store.get(name) is parameter:
                found[name] = parameter
        self.take_up(found, later=len(found) < len(sites.found))

    def take_up(self, sites: Mapping[str, Tensor], *, later: bool = False) -> None:
        """Let the optimizer have what is trainable and not yet in it.

        Args:
            sites: trainable ``pyro.param`` sites by name, besides the modules' parameters.
            later: whether others are to come, so that there may be none yet.
        """
        held = set() if self.optimizer is None else set(map(id, self._all()))
        found = named_parameters(model=self.model, guide=self.guide)
        known = held.union(map(id, found.values()))
        found |= {name: p for name, p in sites.items() if id(p) not in known}
        new = {name: p for name, p in found.items() if id(p) not in held}
        self._watch = Watch(self.model, self.guide)
        if self.optimizer is None:
            if not (new or later):
                raise ValueError(
                    "the pair has no trainable parameters: are all of them frozen "
                    "(requires_grad=False), or held by a module that the program does not "
                    "register?"
                )
            # Torch makes none of no parameters
            parameters = list(new.values()) or [nn.Parameter(torch.empty(0))]
            self.optimizer = self.optimizer_factory(parameters)
            if not new:
                for group in self.optimizer.param_groups:
                    group["params"].clear()
        elif new:
            _join(self.optimizer, self.optimizer_factory(list(new.values())))
        # Those with a state have had a gradient in another run
        self.waiting.add({n: p for n, p in new.items() if not self.optimizer.state.get(p)})

    def _gradient(self, x: Data, y: LabelData) -> Tensor:
        if self.optimizer is None:
            self._prepare(x, y)
        if self._watch is None or not self._watch.holds():
            self.take_up({})
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        estimate, found = self._fast_loss if self._checked else self.loss, self._sites.found
        found.clear()
        with self._sites:
            if isinstance(estimate, Graph):
                loss, self.terms = estimate.backward(self.model, self.guide, x, y)
            else:
                loss, self.terms = self._run(estimate, x, y)
        late = found and not {*map(id, found.values())} <= {*map(id, self._all())}
        # Recorded tensors make no module
        if late:
            self.stored |= self._sites.of_no(self.parameters())
        if late or (estimate is self.loss and not self._watch.holds()):
            self.take_up(found)
        if not self._checked:
            self._checked = True
            if isinstance(self._fast_loss, Graph):
                self._fast_loss.step += 1
            known = [*self._all(), *tensors_of(x, y)]
            tell_untrained(loss, known, model=self.model, guide=self.guide)
        if self.waiting.parameters:
            self.waiting.step()
        return loss.detach()

    def _run(self, estimate: Callable, x: Data, y: LabelData) -> tuple[Tensor, ELBOTerms | None]:
        # The first step runs the programs with all of Pyro's checks
        checks = pyro.validation_enabled(False) if self._checked else contextlib.nullcontext()
        with unregistered(self.model, self.guide), checks:
            if backward := getattr(estimate, "backward", None):
                return backward(self.model, self.guide, x, y)
            loss, terms = estimate(self.model, self.guide, x, y)
            loss.backward()
            return loss, terms

    def _all(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _trained(self) -> list[Tensor]:
        """Those of the optimizer, and sites that are to join it."""
        return [*{id(p): p for p in (*self._all(), *self._sites.found.values())}.values()]

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        """The loss of ``step``, a 0-d tensor, without a step and without any change of state.

        In evaluation mode; the RNG is restored.
        """
        x, y = self._given(args, kwargs)
        with measuring(self.model, self.guide, device=x.device):
            return self.loss(self.model, self.guide, x, y)[0]


def _join(optimizer: torch.optim.Optimizer, other: torch.optim.Optimizer) -> None:
    """Give an optimizer the parameters of another, with their state, group by group."""
    groups, others = optimizer.param_groups, other.param_groups
    for i, group in enumerate(others):
        groups[i if len(groups) == len(others) else 0]["params"].extend(group["params"])
    optimizer.state.update(other.state)
