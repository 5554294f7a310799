"""Learning rates that change from epoch to epoch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from .base import Callback, Training, monitored


class LRScheduler(Callback):
    """A scheduler of ``torch.optim.lr_scheduler``, stepped after each epoch.

    Args:
        factory: makes the scheduler from the optimizer, such as a class of
            ``torch.optim.lr_scheduler``.
        options: passed to ``factory``, for example ``gamma=0.99``.
        monitor: dotted key to pass to schedulers that want a value (``ReduceLROnPlateau``).
    """

    def __init__(
        self, factory: Callable[..., Any], *, monitor: str | None = None, **options: Any
    ) -> None:
        self.factory, self.monitor = functools.partial(factory, **options), monitor
        self.scheduler: Any = None

    def on_fit_begin(self, trainer: Training, **kwargs: Any) -> None:
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

    def on_epoch_end(self, trainer: Training, row: dict[str, Any], **kwargs: Any) -> None:
        """One step of the scheduler."""
        self.scheduler.step(*(() if self.monitor is None else (monitored(row, self.monitor),)))
