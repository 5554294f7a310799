"""What can be hung into ``Trainer.fit``: objects with hooks that take ``**kwargs``."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from tqdm.auto import tqdm

from .history import lookup
from .infer.predictive import mean_squared_error
from .likelihoods import PredictedSigma, Sigma
from .likelihoods.gaussian import Phase

if TYPE_CHECKING:
    from .trainer import Trainer


class Callback:
    """Base class with empty hooks; any object with some of these methods will do.

    Where ``fit`` writes checkpoints, a callback also has ``state_dict()``, tensors and plain data
    that tell what it keeps between epochs, and ``load_state_dict(state)``, which a resumed run
    calls after ``on_fit_begin``.

    Example:
        >>> class Print:
        ...     def on_epoch_end(self, trainer, row, **kwargs):
        ...         print(row["epoch"], row["elbo"])
    """

    def on_fit_begin(self, trainer: Trainer, **kwargs: Any) -> None:
        """Before the first step; ``trainer.optimizer`` exists."""

    def on_step_end(self, trainer: Trainer, **kwargs: Any) -> None:
        """After each optimizer step; reading a loss here waits for the device."""

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any], **kwargs: Any) -> None:
        """After each epoch, with its history row."""

    def on_fit_end(self, trainer: Trainer, **kwargs: Any) -> None:
        """After the last epoch, also when Ctrl-C or a callback ended the run."""


def check_callbacks(callbacks: Any) -> None:
    """Raise ``TypeError`` unless ``callbacks`` is a list or tuple of objects, no classes."""
    if not isinstance(callbacks, list | tuple):
        raise TypeError(
            f"callbacks: expected a list of objects, got {type(callbacks).__name__}: write "
            "callbacks=[...]"
        )
    for callback in callbacks:
        if inspect.isclass(callback):
            raise TypeError(
                f"callbacks: expected objects, got the class {callback.__name__}: write "
                f"{callback.__name__}(...)"
            )


def _default_monitor(trainer: Trainer) -> str:
    """What a run is to raise: its own objective, or the bound while beta changes."""
    return "validation.objective" if trainer.constant_beta else "validation.elbo"


def _monitored(row: dict[str, Any], monitor: str) -> float:
    value = lookup(row, monitor)
    if value is None:
        raise ValueError(
            f"monitor: the history has no {monitor!r}: pass validation= to fit, or monitor one of "
            f"{sorted(k for k, v in row.items() if isinstance(v, int | float))}"
        )
    return float(value)


class EarlyStopping(Callback):
    """End the run when a bound has not risen for ``patience`` epochs.

    Args:
        monitor: dotted key of the history row, bigger is better. Default: the objective on the
            validation data where beta is constant, else the bound.
        patience: epochs to wait.
        min_delta: rise that counts, in nats.
    """

    def __init__(
        self, monitor: str | None = None, *, patience: int = 10, min_delta: float = 0.0
    ) -> None:
        self.monitor, self.patience, self.min_delta = monitor, patience, min_delta

    def on_fit_begin(self, trainer: Trainer, **kwargs: Any) -> None:
        """Start to wait anew."""
        self.best, self.waited = -math.inf, 0

    def state_dict(self) -> dict[str, Any]:
        """The best bound, and epochs waited."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on waiting."""
        self.best, self.waited = state["best"], state["waited"]

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any], **kwargs: Any) -> None:
        """Compare with the best bound so far."""
        value = _monitored(row, self.monitor or _default_monitor(trainer))
        if value > self.best + self.min_delta:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
            if self.waited >= self.patience:
                trainer.stop()


class KeepBest(Callback):
    """Keep the state of model and guide with the best bound, and restore it when the run ends.

    A state from before the pair got other parts, such as a predicted sigma, is forgotten.

    Args:
        monitor: dotted key of the history row, bigger is better. Default: the objective on the
            validation data where beta is constant, else the bound.

    Attributes:
        best: the best value.
        best_epoch: its epoch.
    """

    def __init__(self, monitor: str | None = None) -> None:
        self.monitor = monitor

    def on_fit_begin(self, trainer: Trainer, **kwargs: Any) -> None:
        """Forget earlier runs."""
        self.best, self.best_epoch, self._state, self._names = -math.inf, None, None, None

    def state_dict(self) -> dict[str, Any]:
        """The best bound, its epoch and its state."""
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "state": self._state,
            "names": self._names,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the best epoch of the interrupted run."""
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self._state, self._names = state["state"], state["names"]

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any], **kwargs: Any) -> None:
        """Copy the state if this is the best epoch."""
        value = _monitored(row, self.monitor or _default_monitor(trainer))
        if self._state is not None and _structure(trainer) != self._names:
            self.on_fit_begin(trainer)
        if value > self.best:
            self.best, self.best_epoch, self._names = value, row["epoch"], _structure(trainer)
            states = [copy.deepcopy(m.state_dict()) for m in trainer.modules()]
            self._state = states, [p.detach().clone() for p in _parameters(trainer)]

    def on_fit_end(self, trainer: Trainer, **kwargs: Any) -> None:
        """Put the best state back."""
        if self._state is not None and _structure(trainer) == self._names:
            states, values = self._state
            for module, state in zip(trainer.modules(), states, strict=True):
                module.load_state_dict(state)
            for parameter, value in zip(_parameters(trainer), values, strict=True):
                parameter.detach().copy_(value)


def _parameters(trainer: Trainer) -> list[torch.Tensor]:
    """All that is trained, ``pyro.param`` sites of plain functions among it."""
    return [p for group in trainer.optimizer.param_groups for p in group["params"]]


def _structure(trainer: Trainer) -> list[Any]:
    return [len(_parameters(trainer)), *(list(m.state_dict()) for m in trainer.modules())]


class LRScheduler(Callback):
    """A scheduler of ``torch.optim.lr_scheduler``, stepped after each epoch.

    Args:
        factory: makes the scheduler from the optimizer, such as a class of
            ``torch.optim.lr_scheduler``.
        options: passed to ``factory``, for example ``gamma=0.99``.
        monitor: dotted key to pass to schedulers that want a value (``ReduceLROnPlateau``).
    """

    def __init__(
        self,
        factory: Callable[..., Any],
        *,
        monitor: str | None = None,
        **options: Any,
    ) -> None:
        self.factory, self.monitor = functools.partial(factory, **options), monitor
        self.scheduler: Any = None

    def on_fit_begin(self, trainer: Trainer, **kwargs: Any) -> None:
        """Attach to this run's optimizer and go on where the last run stopped."""
        state = None if self.scheduler is None else self.scheduler.state_dict()
        rates = [group["lr"] for group in trainer.optimizer.param_groups]
        self.scheduler = self.factory(trainer.optimizer)
        if state is not None:
            self.scheduler.load_state_dict(state)
            for group, rate in zip(trainer.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """What the scheduler holds; rates are the optimizer's."""
        return self.scheduler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the scheduler stopped."""
        self.scheduler.load_state_dict(dict(state))

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any], **kwargs: Any) -> None:
        """One step of the scheduler."""
        self.scheduler.step(*(() if self.monitor is None else (_monitored(row, self.monitor),)))


class CollapseWarning(Callback):
    """Warn, once per latent site and run, when a site's KL falls to almost nothing.

    Costs nothing: it reads the KL terms of the history row, those of the validation data where
    there are any. Not every collapse shows in the KL: ``diagnostics.collapse`` looks closer.

    Args:
        every: epochs between two looks.
        threshold: mean KL of a site in nats per datum at or below which it has collapsed.

    Raises:
        ValueError: ``every`` below 1, a threshold that is not positive.
    """

    def __init__(self, every: int = 1, *, threshold: float = 0.05) -> None:
        if every < 1 or not threshold > 0:
            raise ValueError(
                f"every and threshold: expected at least 1 epoch and a positive number of nats, "
                f"got {every} and {threshold}"
            )
        self.every, self.threshold = every, threshold
        self._warned: set[str] = set()

    def on_fit_begin(self, trainer: Trainer, **kwargs: Any) -> None:
        """Forget the sites of earlier runs."""
        self._warned = set()

    def state_dict(self) -> dict[str, Any]:
        """Sites that were named in this run."""
        return {"warned": sorted(self._warned)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Name no site again."""
        self._warned = set(state["warned"])

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any], **kwargs: Any) -> None:
        """Look at the KL of each site in every ``every``-th epoch."""
        if row["epoch"] % self.every:
            return
        kl = row.get("validation", row)["kl"]
        low = [s for s, v in sorted(kl.items()) if v <= self.threshold and s not in self._warned]
        if low:
            self._warned.update(low)
            values = ", ".join(f"{s} {kl[s]:.2g}" for s in low)
            warnings.warn(
                f"latent variables collapse: KL in nats after epoch {row['epoch']}: {values}. See "
                "print(diagnostics.collapse(model, guide, data)); try warm-up of beta, "
                "models.VAE(skip=True), handlers.free_bits, a ladder guide or beta < 1",
                stacklevel=2,
            )


class PredictSigma(Callback):
    """Switch to sigma(z) once one sigma has been learnt: ``vae.likelihood.predict_sigma()``.

    The bound is unchanged at the switch; the parameters that train from then on are printed, and
    kept in ``phase``. Where elements hardly vary, such as the border of an image, sigma(z) becomes
    so small that the mean cannot follow at the learning rate of the first phase: train sigma(z)
    alone to the end, or assign a small ``trainer.lr`` before all train again.

    Source: "Balancing Reconstruction Quality and Regularisation in ELBO for VAEs", Lin, Roberts,
    Trigoni, Clark (2019), for the two phases.

    Args:
        after: epochs of the trainer before the switch.
        alone: epochs in which sigma(z) alone is trained, all else frozen, before all are.

    Raises:
        ValueError: fewer than 1 epoch before the switch, or fewer than 0 alone.
    """

    def __init__(self, after: int, *, alone: int = 0) -> None:
        if after < 1 or alone < 0:
            raise ValueError(
                f"after and alone: expected at least 1 and 0 epochs, got {after} and {alone}"
            )
        self.after, self.alone = after, alone
        self.phase: Phase | None = None
        self._until = 0

    def on_fit_begin(self, trainer: Trainer, **kwargs: Any) -> None:
        """Know the parameters."""
        self._trainer = weakref.proxy(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Which parameters rest, and until when."""
        resting = None if self.phase is None else _numbers(self._trainer, self.phase.resting)
        return {"resting": resting, "until": self._until}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Be in the phase of the interrupted run."""
        self._until, self.phase = state["until"], None
        if state["resting"] is not None:
            parameters = self._trainer.parameters()
            resting = tuple(parameters[i] for i in state["resting"])
            self.phase = Phase(self._trainer.model, resting)

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any], **kwargs: Any) -> None:
        """Switch, or end the epochs of sigma alone."""
        likelihood, epoch = trainer.model.likelihood, row["epoch"]
        if epoch >= self.after and not isinstance(likelihood.noise, PredictedSigma):
            rest = trainer.modules() if self.alone else ()
            self.phase = likelihood.predict_sigma(freeze=rest)
            self._until = epoch + self.alone
            tqdm.write(f"epoch {epoch}: sigma is predicted from here on\n{self.phase}")
            _train_new_parameters(trainer)
        elif self.phase is not None and epoch == self._until:
            self.phase.unfreeze()
            tqdm.write(f"epoch {epoch}: all parameters train from here on\n{self.phase}")
            _train_new_parameters(trainer)


def _numbers(trainer: Trainer, chosen: Iterable[nn.Parameter]) -> list[int]:
    """Where parameters are among those of a trainer."""
    every = trainer.parameters()
    return [next(i for i, p in enumerate(every) if p is parameter) for parameter in chosen]


def _train_new_parameters(trainer: Trainer) -> None:
    """Let the optimizer of the present run have what the pair got, or unfroze, since it began."""
    held = {id(p) for p in _parameters(trainer)}
    for parameter in (p for module in trainer.modules() for p in module.parameters()):
        if parameter.requires_grad and id(parameter) not in held:
            trainer.optimizer.param_groups[0]["params"].append(parameter)
            held.add(id(parameter))


class UpdateSigma(Callback):
    """Alternate: an epoch of model and guide, then sigma in closed form over the training set.

    sigma^2 = E[(x_k - g_k(z))^2], z ~ q(z|x), over data and elements, or per element for
    ``PerPixelSigma``. In between sigma rests: its own parameters are frozen during the run.

    Args:
        data: the training data, as for ``fit``.
        batch_size: data at once.
    """

    def __init__(self, data: Any, *, batch_size: int = 1000) -> None:
        self.data, self.batch_size = data, batch_size

    def on_fit_begin(self, trainer: Trainer, **kwargs: Any) -> None:
        """Freeze sigma."""
        parts = [part for module in trainer.modules() for part in module.modules()]
        self._sigmas = [part for part in parts if isinstance(part, Sigma)]
        if not self._sigmas:
            raise ValueError(
                "UpdateSigma: expected a model with a Gaussian likelihood, got none: use "
                'likelihoods.Gaussian(sigma="learned")'
            )
        self._frozen = [p for s in self._sigmas for p in s.parameters() if p.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        self._trainer = weakref.proxy(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Which parameters rest during the run."""
        return {"frozen": _numbers(self._trainer, self._frozen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Know what to let train again."""
        parameters = self._trainer.parameters()
        self._frozen = [parameters[i] for i in state["frozen"]]

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any], **kwargs: Any) -> None:
        """Set sigma, and tell it in the history row."""
        square = mean_squared_error(
            trainer.model, trainer.guide, self.data, batch_size=self.batch_size
        )
        for sigma in self._sigmas:
            sigma.maximise(square)
            row.update(sigma.logged())

    def on_fit_end(self, trainer: Trainer, **kwargs: Any) -> None:
        """Let sigma train again."""
        for parameter in self._frozen:
            parameter.requires_grad_(True)


class TensorBoard(Callback):
    """Write every number of the history to TensorBoard.

    Any other tracker plugs in the same way: an object with ``on_epoch_end(trainer, row)``.

    Args:
        log_dir: folder for the event files.

    Raises:
        ModuleNotFoundError: tensorboard is not installed; the message names the command.
    """

    def __init__(self, log_dir: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "TensorBoard needs the package tensorboard: pip install tensorboard"
            ) from error
        self.writer = SummaryWriter(str(log_dir))

    def state_dict(self) -> dict[str, Any]:
        """Nothing: what was written stays."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to do."""

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any], **kwargs: Any) -> None:
        """Write one row."""
        for tag, value in _scalars(row):
            self.writer.add_scalar(tag, value, row["epoch"])

    def on_fit_end(self, trainer: Trainer, **kwargs: Any) -> None:
        """Flush to disk."""
        self.writer.flush()


def _scalars(row: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for key, value in row.items():
        if isinstance(value, dict):
            found += _scalars(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((prefix + key, value))
    return found
