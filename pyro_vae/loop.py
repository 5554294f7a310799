"""A run of training: epochs of steps, and what is told of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from . import measurements, ranks
from .annealing import Annealing
from .data import Dataset
from .feeds import Loaded, Resident
from .history import Totals, logged
from .infer import SVI
from .programs import name_of

if TYPE_CHECKING:
    from .trainer import Trainer

_REFRESH_SECONDS = 0.5
_MOST_ENCODED = 1000


class Loop:
    """What ``Trainer.fit`` does once everything is checked.

    Args:
        trainer: whose ``step`` and ``history`` go on.
        svi: takes the steps.
        annealing: beta as a function of the step.
        feed: minibatches, one epoch after the other.
        validation: data whose bound is estimated after each epoch, or None.
        callbacks: objects with the hooks of ``callbacks.Callback``.
        bar: progress bar of all steps.
        points: latent sites at which the guide is a point mass: what it trains is no bound.
    """

    def __init__(
        self,
        trainer: Trainer,
        svi: SVI,
        annealing: Annealing,
        feed: Resident | Loaded,
        *,
        validation: Dataset | Loaded | None,
        callbacks: Sequence[Any],
        bar: tqdm,
        points: Sequence[str],
    ) -> None:
        self.trainer, self.svi, self.annealing, self.feed = trainer, svi, annealing, feed
        self.validation, self.callbacks, self.bar, self.points = validation, callbacks, bar, points
        shown = feed.data[:_MOST_ENCODED] if validation is None else validation
        self._encoded = shown.data if isinstance(shown, Loaded) else shown
        self._bound = "log p(x, z)" if points else "elbo"

    def run(self, epochs: int) -> None:
        """Train for so many epochs, or until a callback stops it, or Ctrl-C."""
        self._call("on_fit_begin")
        try:
            for _ in range(epochs):
                row = self._epoch()
                self._measure(row)
                row.update(ranks.agreed(row))
                self._call("on_epoch_end", row=row)
                if self.trainer.stopping:
                    break
        except KeyboardInterrupt:
            steps = self.trainer.step
            self.bar.write(f"stopped by Ctrl-C after {steps} steps; the trainer is usable")
        finally:
            self._call("on_fit_end")

    def _epoch(self) -> dict[str, Any]:
        trainer = self.trainer
        started = shown = time.perf_counter()
        totals = Totals(trainer.step)
        hooks = [h for c in self.callbacks if (h := getattr(c, "on_step_end", None))]
        mean = trainer.elbo.reduction == "mean"
        finished, self._weights = False, None
        row: dict[str, Any] = {"epoch": len(trainer.history) + 1}
        try:
            for x, y in self.feed:
                self.annealing.set(trainer.step, len(self.feed))
                loss = self.svi.step(x, y=y)
                trainer.step += 1
                totals.add(loss * len(x) if mean else loss, self.svi.terms)
                if hooks:
                    # Now, because a hook may fill beta for the next step
                    self._weights = self.annealing.snapshot()
                    for hook in hooks:
                        hook(trainer=trainer, loss=loss)
                self.bar.update()
                # Reading the totals waits for the device
                if not self.bar.disable and time.perf_counter() - shown > _REFRESH_SECONDS:
                    shown = time.perf_counter()
                    self._show(row["epoch"], totals.means()["elbo"])
            totals.combine()
            finished = True
        except KeyboardInterrupt:
            row["interrupted"] = True
            raise
        finally:
            # Also when Ctrl-C ended the epoch: its row tells what was trained
            if totals.count and (row.get("interrupted") or finished):
                self._record(row, totals, time.perf_counter() - started)
        self._show(row["epoch"], row["elbo"], refresh=False)
        return row

    def _measure(self, row: dict[str, Any]) -> None:
        trainer = self.trainer
        if self.validation is not None:
            row["validation"] = measurements.validation(
                self.svi.model, self.svi.guide, self.validation, trainer.elbo
            )
        units = measurements.active_units(trainer.guide, self._encoded, without=self.points)
        if units:
            row["active_units"] = units

    def _show(self, epoch: int, value: float, *, refresh: bool = True) -> None:
        self.bar.set_postfix({"epoch": epoch, self._bound: f"{value:.2f}"}, refresh=refresh)

    def _record(self, row: dict[str, Any], totals: Totals, seconds: float) -> None:
        trainer = self.trainer
        row.update(
            beta=self.annealing.values(self._weights),
            **logged(trainer.modules()),
            step=trainer.step,
            **totals.means(),
            lr=trainer.lr,
            guide=name_of(trainer.guide),
            frozen=trainer.frozen,
            seconds=seconds,
        )
        if particles := getattr(trainer.elbo, "particles", None):
            row["particles"] = particles
        if trainer.swapped:
            row["swapped"], trainer.swapped = True, False
        trainer.history.append(row)

    def _call(self, hook: str, **kwargs: Any) -> None:
        for callback in self.callbacks:
            if method := getattr(callback, hook, None):
                method(trainer=self.trainer, **kwargs)
