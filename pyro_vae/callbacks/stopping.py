"""Ending a run, and keeping its best epoch."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from ..ground.tables import lookup
from .base import Callback, Training, default_monitor, monitored, trained

# Epochs count from 1
_START = 0


class Keeping(Callback):
    """A callback whose state is some of its attributes, in ``kept``: name -> attribute."""

    kept: ClassVar[Mapping[str, str]]

    def state_dict(self) -> dict[str, Any]:
        """What it keeps from epoch to epoch."""
        return {name: getattr(self, attribute) for name, attribute in self.kept.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what the interrupted run kept."""
        for name, attribute in self.kept.items():
            setattr(self, attribute, state[name])


class EarlyStopping(Keeping):
    """End the run when a bound has not risen for ``patience`` epochs.

    Args:
        monitor: dotted key of the history row, bigger is better. Default: the objective on the
            validation data where beta is constant, else the bound.
        patience: epochs to wait.
        min_delta: rise that counts, in nats.
    """

    kept = MappingProxyType({"best": "best", "waited": "waited"})

    def __init__(
        self, monitor: str | None = None, *, patience: int = 10, min_delta: float = 0.0
    ) -> None:
        self.monitor, self.patience, self.min_delta = monitor, patience, min_delta

    def on_fit_begin(self, trainer: Training, **kwargs: Any) -> None:
        """Start to wait anew."""
        self.best, self.waited = -math.inf, 0

    def on_epoch_end(self, trainer: Training, row: dict[str, Any], **kwargs: Any) -> None:
        """Compare with the best bound so far."""
        value = monitored(row, self.monitor or default_monitor(trainer))
        if value > self.best + self.min_delta:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
            if self.waited >= self.patience:
                trainer.stop()


class KeepBest(Keeping):
    """Keep the state of model and guide with the best bound, and restore it when the run ends.

    Where beta is constant, the state that the run began with, which may be a fitted one, counts as
    well for what is monitored on validation data. A state from before the pair got other parts,
    such as a predicted sigma, is forgotten. What the optimizer keeps, such as Adam's moments, is
    that of the last step, as in Keras; a further ``fit`` goes on with it.

    Args:
        monitor: dotted key of the history row, bigger is better. Default: the objective on the
            validation data where beta is constant, else the bound.

    Attributes:
        best: the best value.
        best_epoch: its epoch, 0 for the start.
    """

    kept = MappingProxyType(
        {
            "best": "best",
            "best_epoch": "best_epoch",
            "state": "_state",
            "names": "_names",
            "compared": "_compared",
        }
    )

    def __init__(self, monitor: str | None = None) -> None:
        self.monitor = monitor

    def on_fit_begin(self, trainer: Training, **kwargs: Any) -> None:
        """Forget earlier runs."""
        self.best, self.best_epoch, self._state, self._names = -math.inf, None, None, None
        self._compared = False

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what the interrupted run kept, of older files without its start."""
        super().load_state_dict({"compared": True, **state})

    def counts_start(self, trainer: Training) -> bool:
        """Whether the start is to be compared with epochs."""
        monitor = self.monitor or default_monitor(trainer)
        return trainer.constant_beta and monitor.startswith("validation.")

    def on_start(self, trainer: Training, validation: dict[str, Any]) -> None:
        """Keep the present state, of which ``validation`` data tell this, until one is better."""
        row = {"epoch": _START, "validation": validation}
        if lookup(row, self.monitor or default_monitor(trainer)) is not None:
            self._keep(trainer, row)

    def on_epoch_end(self, trainer: Training, row: dict[str, Any], **kwargs: Any) -> None:
        """Copy the state if this is the best epoch."""
        self._keep(trainer, row)
        self._compared = True

    def _keep(self, trainer: Training, row: dict[str, Any]) -> None:
        value = monitored(row, self.monitor or default_monitor(trainer))
        if self._state is not None and _structure(trainer) != self._names:
            self.on_fit_begin(trainer)
        if value > self.best:
            self.best, self.best_epoch, self._names = value, row["epoch"], _structure(trainer)
            states = [copy.deepcopy(m.state_dict()) for m in trainer.modules()]
            self._state = states, [p.detach().clone() for p in trained(trainer)]

    def on_fit_end(self, trainer: Training, **kwargs: Any) -> None:
        """Put the best state back; without an epoch to compare with what was trained stays."""
        if not self._compared:
            return
        if self._state is not None and _structure(trainer) == self._names:
            states, values = self._state
            for module, state in zip(trainer.modules(), states, strict=True):
                module.load_state_dict(state)
            for parameter, value in zip(trained(trainer), values, strict=True):
                parameter.detach().copy_(value)


class Patience(KeepBest):
    """Keep the best epoch on validation data, and end the run when none is better for long.

    What is compared is the objective on the validation data, among epochs of one and the same
    beta: while beta moves no epoch counts, neither as the best nor as one of the ``epochs`` to
    wait. The history row of the epoch whose state the run ends with has ``kept=True``.

    Where beta is constant the run ends with the state that it began with, which may be a fitted
    one, if no epoch was better; its last row has ``kept=False`` then. The optimizer goes on from
    the last step, see ``KeepBest``.
    """

    kept = MappingProxyType(
        {**KeepBest.kept, "waited": "waited", "beta": "_beta", "highest": "_highest"}
    )

    def __init__(self, epochs: int) -> None:
        super().__init__("validation.objective")
        self.epochs = epochs

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what the interrupted run kept, of older files without its start."""
        super().load_state_dict({"highest": state["best"], **state})

    def on_fit_begin(self, trainer: Training, **kwargs: Any) -> None:
        """Forget earlier runs."""
        super().on_fit_begin(trainer)
        self.waited, self._beta, self._highest = 0, None, -math.inf

    def on_epoch_end(self, trainer: Training, row: dict[str, Any], **kwargs: Any) -> None:
        """Compare with the best epoch so far."""
        before, self._beta = self._beta, row["beta"]
        if not trainer.constant_beta and before != self._beta:
            super().on_fit_begin(trainer)
            self.waited, self._highest = 0, -math.inf
            return
        super().on_epoch_end(trainer, row)
        # Among epochs alone: the first ones may be worse than a start that later ones excel
        if (value := monitored(row, self.monitor)) > self._highest:
            self.waited, self._highest = 0, value
        else:
            self.waited += 1
        if self.waited >= self.epochs:
            trainer.stop()

    def on_fit_end(self, trainer: Training, **kwargs: Any) -> None:
        """Put the best state back, and mark its row."""
        if not self._compared:
            return
        if self.best_epoch == _START:
            trainer.history[-1]["kept"] = False
        super().on_fit_end(trainer)
        for row in trainer.history:
            if row["epoch"] == self.best_epoch:
                row["kept"] = True


def _structure(trainer: Training) -> list[Any]:
    return [len(trained(trainer)), *(list(m.state_dict()) for m in trainer.modules())]
