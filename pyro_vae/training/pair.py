"""A model and a guide, what is trained of them, and what training has changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Generic, Literal, TypeVar

import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from ..data.arguments import Arguments, Data
from ..infer.engine.svi import Engine
from ..infer.objectives.elbo import Estimator
from ..infer.objectives.pyro_elbo import as_estimator
from ..programs import stored
from ..programs.belonging import check_run, join
from ..programs.calling import missing
from ..programs.checks import check_guide, check_minibatches
from ..programs.freezing import check_stored
from ..programs.methods import as_program
from ..programs.placing import usable_device
from ..programs.unwrapping import is_ours
from ..schedules import Schedule
from .annealing import Annealing
from .history import History
from .objective import Objective, check_lr
from .precision import Precision, PrecisionName
from .state import TrainState

# The types of the programs, as a type checker sees them
M = TypeVar("M", bound=Callable[..., Any])
G = TypeVar("G", bound=Callable[..., Any])


class TrainedPair(Generic[M, G]):
    """A model and a guide, their objective, and the state of their training; see ``Trainer``.

    The optimizer's state of a parameter stays from run to run, also while a guide without it is
    trained.

    Attributes:
        objective: what the pair is trained for; its parts may be assigned one by one.
        steps: what takes the steps of the present run, or took those of the last one.
    """

    def __init__(
        self,
        model: M,
        guide: G,
        objective: Objective,
        state: TrainState,
        device: torch.device | str | None,
        plate: str | None = None,
    ) -> None:
        check_guide(model, guide)
        if is_ours(model):
            check_minibatches(guide)
        self.model: M = as_program(model)
        self.guide: G = as_program(guide)
        self.plate = plate
        self.state = state
        self.objective, self.steps = objective, None
        self._check_beta(objective.beta)
        self._fitting = False
        self.device = None if device is None else usable_device(device)
        for module in self.modules():
            module.to(self.device)
        # The first data of the last run, with which another guide is tried
        self._tried: tuple[Data, Tensor | None] | None = None

    @property
    def history(self) -> History:
        """A plain dict per epoch."""
        return self.state.history

    @property
    def step(self) -> int:
        """Optimizer steps taken so far."""
        return self.state.step

    @property
    def swapped(self) -> bool:
        """Whether the guide was swapped after the last epoch."""
        return self.state.swapped

    @property
    def told_collapsed(self) -> set[str]:
        """Latent sites whose collapse was told."""
        return self.state.told_collapsed

    @property
    def optimizer_class(self) -> Callable[..., torch.optim.Optimizer]:
        """The optimizer as it was given."""
        return self.objective.optimizer

    @property
    def engine(self) -> Engine | None:
        """How steps run, as it was given; may be assigned between calls of ``fit``."""
        return self.objective.engine

    @engine.setter
    def engine(self, engine: Engine | None) -> None:
        self._refuse_in_fit("engine", "end the run with trainer.stop()")
        self._replace(engine=engine)

    @property
    def precision(self) -> PrecisionName | Precision:
        """How networks are evaluated; may be assigned between calls of ``fit``."""
        return self.objective.precision

    @precision.setter
    def precision(self, precision: PrecisionName | Precision) -> None:
        self._refuse_in_fit("precision", "end the run with trainer.stop()")
        self._replace(precision=precision)

    @property
    def frozen(self) -> bool:
        """Whether the guide is trained alone, see ``swap_guide``."""
        return self.state.freezing.names is not None

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The torch optimizer of the present pair; None before the first ``fit``."""
        return None if self.steps is None else self.steps.svi.optimizer

    @property
    def beta(self) -> float | Schedule | Tensor | Mapping[str, float | Schedule | Tensor]:
        """The weight of the KL as it was given; may be assigned between calls of ``fit``."""
        return self.objective.beta

    @beta.setter
    def beta(self, beta: float | Schedule | Tensor | Mapping) -> None:
        self._refuse_in_fit("beta", "use a schedule, or a 0-d tensor that you fill in place")
        self._check_beta(beta)
        self._replace(beta=beta)

    def _check_beta(self, beta: Any) -> None:
        latents = getattr(self.model, "latents", None)
        # A program of somebody else's may mean something else by this name
        if isinstance(latents, tuple) and all(isinstance(site, str) for site in latents):
            Annealing(beta).check(latents)

    @property
    def constant_beta(self) -> bool:
        """Whether beta is a number, or numbers per site, for good."""
        return Annealing(self.beta).constant

    @property
    def elbo(self) -> Estimator:
        """The estimator; may be assigned between calls of ``fit``, like the argument ``elbo``.

        Model, guide and the optimizer's state stay, so that a run goes on with another bound,
        such as ``infer.ImportanceWeightedELBO(10, "mean")`` for fine-tuning. An objective of
        ``pyro.infer`` is then reduced as the one before.
        """
        return self.objective.elbo

    @elbo.setter
    def elbo(self, elbo: Literal["trace", "analytic", "enumerate"] | Estimator | ELBO) -> None:
        self._refuse_in_fit("elbo", "end the run with trainer.stop()")
        estimator = as_estimator(elbo, self.elbo.reduction if self.step else "sum")
        if self.step and estimator.reduction != (expected := self.elbo.reduction):
            raise ValueError(
                f"elbo: expected reduction={expected!r}, as in the steps so far, got "
                f"{estimator.reduction!r}, which the optimizer's state does not fit: pass "
                f"{type(estimator).__name__}(..., reduction={expected!r})"
            )
        self._replace(elbo=estimator)

    @property
    def clip_norm(self) -> float | None:
        """The greatest norm of the total gradient; may be assigned at any time."""
        return self.objective.clip_norm

    @clip_norm.setter
    def clip_norm(self, clip_norm: float | None) -> None:
        self._replace(clip_norm=clip_norm)
        if self.steps is not None:
            self.steps.svi.clip_norm = clip_norm

    @property
    def lr(self) -> float:
        """The learning rate as it is now; may be assigned at any time."""
        optimizer = self.optimizer
        return self.objective.lr if optimizer is None else optimizer.param_groups[0]["lr"]

    @lr.setter
    def lr(self, lr: float) -> None:
        check_lr(lr)
        self._replace(lr=lr)
        for group in [] if self.optimizer is None else self.optimizer.param_groups:
            group["lr"] = lr

    def _replace(self, **parts: Any) -> None:
        self.objective = dataclasses.replace(self.objective, **parts)

    def _refuse_in_fit(self, name: str, within: str, *, do: str = "assign it") -> None:
        if self._fitting:
            raise RuntimeError(f"{name}: {do} between calls of fit; within one, {within}")

    def modules(self) -> list[nn.Module]:
        """Model and guide, where they are modules."""
        return [p for p in (self.model, self.guide) if isinstance(p, nn.Module)]

    def parameters(self) -> list[nn.Parameter]:
        """All parameters of model and guide; those that both hold twice.

        Besides those of modules the ``pyro.param`` sites that were trained, as Pyro's store has
        them, unconstrained, in the order of their names.
        """
        return [*self._held(), *stored.tensors(self.state.stored).values()]

    def _held(self) -> list[nn.Parameter]:
        return [p for module in self.modules() for p in module.parameters()]

    def state_dict(self) -> dict[str, Any]:
        """What a trainer has besides its pair: tensors, and plain data in "plain"."""
        self._keep_optimizer()
        return self.state.plain(self.parameters())

    def load_state_dict(self, state: Mapping[str, Any], *, known: bool = False) -> None:
        """Take over what ``state_dict`` gave; ``ValueError`` where it cannot be of this pair.

        Args:
            state: it.
            known: whether the optimizer is one of torch, whose moments can be checked.
        """
        self.state.load(state, self.model, self._held(), known=known)
        if self.step:
            join(self.model, self.guide)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle takes along; what belongs to a run is made anew.

        ``TypeError`` for a trainer of ``pyro.param`` sites, which its copy would share.
        """
        if self.state.stored:
            raise TypeError(
                f"trainer: pyro.param sites {sorted(self.state.stored)} are in Pyro's store, and "
                "no copy or pickle of the trainer can have them for itself: save(trainer, path), "
                "and load it in another process"
            )
        self._keep_optimizer()
        return {**self.__dict__, "steps": None, "_fitting": False}

    def _swap(self, guide: Any, *, freeze_model: bool) -> None:
        self._refuse_in_fit("swap_guide", "end the run with trainer.stop()", do="call it")
        check_guide(self.model, guide)
        if is_ours(self.model):
            check_minibatches(guide)
        guide = as_program(guide)
        if isinstance(guide, nn.Module):
            guide.to(self.device)
        x, y = self._tried or (None, None)
        # One that needs more than those data is tried with the next ones
        if x is not None and not (isinstance(x, Arguments) and missing(guide, x)):
            self.elbo.examine(self.model, guide, x, y)
            check_run(self.model, guide, x, y)
        freezing, names = self.state.freezing, None
        if freeze_model:
            names = freezing.trainable(self.model, (self.guide, guide), self._tried)
            if self.state.stored and self._tried is not None:
                check_stored(self.model, self.guide, *self._tried, self.state.stored)
        self._keep_optimizer()
        freezing.thaw()
        if names is not None:
            freezing.freeze(self.model, names)
        self.guide, self.steps = guide, None

    def _keep_optimizer(self) -> None:
        """Have its moments, and its learning rate, for the next one."""
        if self.steps is not None:
            if self.lr != self.objective.lr:
                self._replace(lr=self.lr)
            self.state.moments.keep(self.optimizer)
