"""A model and a guide with all that a step of their training needs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import ranks
from ..data import Dataset
from ..infer import SVI, check_pair
from ..infer.batchnorm import check_single
from ..infer.engine.graph import Graph
from ..infer.engine.optimizers import check_optimizer, fused
from ..infer.engine.svi import Engine, running
from ..infer.engine.trainable import Waiting
from ..infer.objectives.elbo import Estimator, as_estimator
from ..programs.belonging import check_run
from ..programs.checks import check_guide, check_minibatches
from ..programs.freezing import Freezing
from ..programs.modes import training
from ..programs.placing import seen_values, usable_device
from ..schedules import Schedule
from . import runs
from .annealing import Annealing
from .feeds import Loaded, Resident
from .moments import Moments
from .parallel import Parallel, synchronised
from .precision import Precision, PrecisionName, as_precision

# Recording takes about as long as it saves in so many steps
_STEPS_BEFORE_A_GRAPH = 100


class TrainedPair:
    """A model and a guide, their objective, and the optimizer's state of each parameter.

    The state of a parameter stays from run to run, also while a guide without it is trained.

    Args:
        model: generative program.
        guide: inference program.
        beta: weight of the KL, see ``Trainer``.
        lr: learning rate.
        optimizer: a class of ``torch.optim``, or any callable ``optimizer(parameters, lr=...)``.
        elbo: the estimator, or its name.
        clip_norm: clip the total gradient norm to this value, if given.
        engine: how steps run, see ``Trainer``.
        precision: how networks are evaluated, see ``Trainer``.
        device: move model and guide there; None: leave the pair where it is.

    Attributes:
        step: optimizer steps taken so far.
    """

    def __init__(
        self,
        model: Callable,
        guide: Callable,
        *,
        beta: float | Schedule | Tensor | Mapping[str, float | Schedule | Tensor],
        lr: float,
        optimizer: Callable[..., torch.optim.Optimizer],
        elbo: Literal["trace", "analytic"] | Estimator,
        clip_norm: float | None,
        engine: Engine | None,
        precision: PrecisionName | Precision,
        device: torch.device | str | None,
    ) -> None:
        check_optimizer(optimizer)
        check_guide(model, guide)
        check_minibatches(guide)
        self.model, self.guide = model, guide
        self.optimizer_class = optimizer
        self.step, self._fitting, self._svi = 0, False, None
        self._announce = None
        self.clip_norm, self.engine, self.precision = clip_norm, engine, precision
        self.elbo = elbo
        self.device = None if device is None else usable_device(device)
        for module in self.modules():
            module.to(self.device)
        self.beta, self.lr = beta, lr
        self._moments = Moments()
        # The first data of the last run, with which another guide is tried
        self._tried: tuple[Tensor, Tensor | None] | None = None
        self._freezing = Freezing()

    @property
    def beta(self) -> Any:
        """The weight of the KL as it was given; may be assigned between calls of ``fit``."""
        return self._beta

    @beta.setter
    def beta(self, beta: float | Schedule | Tensor | Mapping) -> None:
        self._refuse_in_fit("beta", "use a schedule, or a 0-d tensor that you fill in place")
        annealing = Annealing(beta)
        if hasattr(self.model, "latents"):
            annealing.check(self.model.latents)
        self._beta = beta

    @property
    def elbo(self) -> Estimator:
        """The estimator; may be assigned between calls of ``fit``, like the argument ``elbo``.

        Model, guide and the optimizer's state stay, so that a run goes on with another bound,
        such as ``infer.ImportanceWeightedELBO(10, "mean")`` for fine-tuning.
        """
        return self._elbo

    @elbo.setter
    def elbo(self, elbo: Literal["trace", "analytic"] | Estimator) -> None:
        self._refuse_in_fit("elbo", "end the run with trainer.stop()")
        estimator = as_estimator(elbo)
        if self.step and estimator.reduction != (expected := self._elbo.reduction):
            raise ValueError(
                f"elbo: expected reduction={expected!r}, as in the steps so far, got "
                f"{estimator.reduction!r}, which the optimizer's state does not fit: pass "
                f"{type(estimator).__name__}(..., reduction={expected!r})"
            )
        self._elbo = estimator
        self._running = self._under_engine()

    @property
    def clip_norm(self) -> float | None:
        """The greatest norm of the total gradient; may be assigned at any time."""
        return self._clip_norm

    @clip_norm.setter
    def clip_norm(self, clip_norm: float | None) -> None:
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm: expected a positive number or None, got {clip_norm}")
        self._clip_norm = clip_norm
        if self._svi is not None:
            self._svi.clip_norm = clip_norm

    @property
    def engine(self) -> Engine | None:
        """How steps run, as it was given; may be assigned between calls of ``fit``."""
        return self._engine

    @engine.setter
    def engine(self, engine: Engine | None) -> None:
        self._refuse_in_fit("engine", "end the run with trainer.stop()")
        self._engine = engine

    @property
    def precision(self) -> PrecisionName | Precision:
        """How networks are evaluated; may be assigned between calls of ``fit``."""
        return self._precision

    @precision.setter
    def precision(self, precision: PrecisionName | Precision) -> None:
        self._refuse_in_fit("precision", "end the run with trainer.stop()")
        as_precision(precision)
        self._precision = precision

    def _refuse_in_fit(self, name: str, within: str, *, do: str = "assign it") -> None:
        if self._fitting:
            raise RuntimeError(f"{name}: {do} between calls of fit; within one, {within}")

    @property
    def constant_beta(self) -> bool:
        """Whether beta is a number, or numbers per site, for good."""
        return Annealing(self.beta).constant

    @property
    def lr(self) -> float:
        """The learning rate as it is now; may be assigned at any time."""
        return self._lr if self.optimizer is None else self.optimizer.param_groups[0]["lr"]

    @lr.setter
    def lr(self, lr: float) -> None:
        if not 0 < lr < math.inf:
            raise ValueError(f"lr: expected a positive finite number, got {lr}")
        self._lr = lr
        for group in [] if self.optimizer is None else self.optimizer.param_groups:
            group["lr"] = lr

    @property
    def frozen(self) -> bool:
        """Whether the guide is trained alone, see ``swap_guide``."""
        return self._freezing.names is not None

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The torch optimizer of the present pair; None before the first ``fit``."""
        return None if self._svi is None else self._svi.optimizer

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle takes along; what belongs to a run is made anew."""
        self._keep_moments()
        run = {"_svi": None, "_running": None, "_announce": None, "_fitting": False}
        return {**self.__dict__, **run}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._running = self._under_engine()

    def modules(self) -> list[nn.Module]:
        """Model and guide, where they are modules."""
        return [p for p in (self.model, self.guide) if isinstance(p, nn.Module)]

    def parameters(self) -> list[nn.Parameter]:
        """All parameters of model and guide; those that both hold twice."""
        return [p for module in self.modules() for p in module.parameters()]

    def _swap(self, guide: Callable, *, freeze_model: bool) -> None:
        self._refuse_in_fit("swap_guide", "end the run with trainer.stop()", do="call it")
        check_guide(self.model, guide)
        check_minibatches(guide)
        if isinstance(guide, nn.Module):
            guide.to(self.device)
        if self._tried is not None:
            x, y = self._tried
            check_pair(self.model, guide, x, y=y)
            check_run(self.model, guide, x, y)
        if freeze_model:
            self._freezing.check(self.model)
        self._keep_moments()
        self._freezing.thaw()
        if freeze_model:
            self._freezing.freeze(self.model)
        self.guide, self._svi = guide, None

    @contextlib.contextmanager
    def _in_training(self, feed: Resident | Loaded) -> Iterator[tuple[Annealing, tuple[str, ...]]]:
        """Be ready for steps: the ``SVI`` made, the modules in training mode, at the precision."""
        pair = self.model, self.guide
        with contextlib.ExitStack() as stack:
            stack.enter_context(synchronised(*pair))
            for module in self.modules():
                stack.enter_context(training(module))
            # After the guide, which may hold conditionals of the model
            stack.enter_context(self._freezing.holding(self.model))
            if feed.last == 1 and ranks.size() == 1:
                x, y = _first(feed.data[:1])
                check_single(*pair, x, y, count=feed.count, batch_size=feed.batch_size)
            made = self._make_svi(feed.data, len(feed))
            stack.enter_context(as_precision(self.precision).on(*pair, *_first(feed.data)))
            self._fitting = True
            try:
                yield made
            finally:
                self._fitting = False
                if isinstance(self._running, Parallel):
                    self._running.release()

    def _make_svi(self, data: Dataset, steps_per_epoch: int) -> tuple[Annealing, tuple[str, ...]]:
        x, y = _first(data)
        summary = check_pair(self.model, self.guide, x, y=y)
        self._tried = x, y
        self._keep_moments()
        # Made anew, because a mapping may have been changed in place since the last run
        annealing = Annealing(self.beta)
        annealing.check(tuple(summary.latents))
        annealing.start(x.device)
        annealing.set(self.step, steps_per_epoch)
        self._running = self._under_engine()
        estimator = self.elbo
        if ranks.size() > 1:
            estimator = self._running = Parallel(self.elbo)
        self._svi = SVI(
            annealing.scale(self.model),
            annealing.scale(self.guide),
            self._build_optimizer,
            estimator,
            clip_norm=self.clip_norm,
            engine=self._running,
        )
        self._svi.waiting = Waiting(steps_per_epoch)
        self._svi.prepare(x, y=y)
        return annealing, tuple(summary.point_masses)

    @property
    def _engine_name(self) -> str:
        return self.engine or ("graph" if len(self.modules()) == 2 else "eager")

    @property
    def replays(self) -> bool:
        """Whether the pair is recorded, and its tensors replayed."""
        return self._engine_name != "eager"

    def _under_engine(self) -> Callable:
        return running(
            self.elbo, self._engine_name, after=_STEPS_BEFORE_A_GRAPH, announce=self._announce
        )

    def begin_epoch(self) -> None:
        """Tell the engine, which compares records with the programs then; for ``Loop``."""
        if isinstance(self._running, Graph):
            self._running.begin_epoch(self.step)

    def _build_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = fused(self.optimizer_class, lr=self.lr)(parameters)
        for parameter in parameters:
            if parameter in self._moments:
                optimizer.state[parameter] = self._moments[parameter]
        return optimizer

    def restore_optimizer(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Give the optimizer the options and parameters of an interrupted run; for ``Loop``."""
        runs.restore_groups(self.optimizer, groups, self.parameters(), self._moments.get)
        # What was unfrozen since the last step of that run
        self._svi.take_up({})

    def _keep_moments(self) -> None:
        if self.optimizer is not None:
            self._lr = self.lr
            for parameter, state in self.optimizer.state.items():
                self._moments[parameter] = state


def _first(data: Dataset) -> tuple[Tensor, Tensor | None]:
    """The first data, with which a pair is tried."""
    return seen_values(data[:2]), None if data.y is None else data.y[:2]
