"""How far a run is, and a wish that it ends after the step that is running."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from ..callbacks import Callback
from ..ground.tables import duration
from ..training.trainer import Trainer

_BETWEEN_SECONDS = 0.25


class Listener(Protocol):
    """What wants to know how runs go."""

    def progress(self, done: float, text: str) -> None:
        """A run goes on: the share that is done, and a line that says more."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch has ended, with this row of the history."""

    def follow(self) -> None:
        """Something else was chosen, or a run has ended."""


class Watch(Callback):
    """Tells a few times a second how far a run is; ends it after a step once it is ``stopping``.

    Args:
        listener: who is told.
    """

    def __init__(self, listener: Listener | None) -> None:
        self.listener, self.stopping = listener, False
        self._began = self._told = time.perf_counter()

    def on_step_end(self, trainer: Trainer, **kwargs: Any) -> None:
        """Tell how far the run is, now and then."""
        if self.stopping:
            raise KeyboardInterrupt("stop()")
        now = time.perf_counter()
        if self.listener is not None and now - self._told > _BETWEEN_SECONDS:
            self._told = now
            self.listener.progress(*progress(trainer, now - self._began))

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any], **kwargs: Any) -> None:
        """Tell what the epoch found."""
        if self.stopping:
            trainer.stop()
        if self.listener is not None:
            self.listener.epoch(row)

    def state_dict(self) -> dict[str, Any]:
        """Nothing that a resumed run needs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up."""


def progress(trainer: Trainer, seconds: float) -> tuple[float, str]:
    """The share of a run's steps that are done in so many seconds, and a line about it."""
    run, position = trainer.state.run, trainer.state.run.position
    done = (run.done + position.batches / run.steps) / run.epochs
    bound = f", elbo {position.totals.means()['elbo']:.2f}" if position.totals.count else ""
    return done, (
        f"epoch {len(trainer.history) + 1} ({run.done + 1} of {run.epochs}), step "
        f"{position.batches} of {run.steps}{bound}, about {duration(seconds / done - seconds)} "
        "left"
    )
