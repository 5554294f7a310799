"""A run of training: epochs of steps, and what is told of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from signal import SIGTERM
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import ranks
from ..callbacks.collapse import CollapseWarning, tell_collapsed
from ..data import Dataset
from ..ground import streams
from ..ground.signals import Interruption
from ..ground.turns import turn
from ..infer import SVI
from ..infer.objectives.elbo import check_possible
from ..programs.unwrapping import name_of
from . import runs
from .annealing import Annealing
from .feeds import Batch, Loaded, Resident
from .guard import Guard
from .totals import Totals, logged
from .validation import Validation, active_units, warn_of_few_codes

if TYPE_CHECKING:
    from .trainer import Trainer

_REFRESH_SECONDS = 0.5
_MOST_ENCODED = 1000
# By then codes that are going to be used are
_EPOCHS_BEFORE_A_WARNING = 4


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
        folder: where checkpoints are written, or None.
        interruption: tells after each step whether the run is to end.
        tolerated: steps of an epoch that may be left out because they are not finite.

    Attributes:
        interrupted: whether Ctrl-C ended the run.
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
        folder: runs.RunFolder | None,
        interruption: Interruption,
        tolerated: int,
    ) -> None:
        self.trainer, self.svi, self.annealing, self.feed = trainer, svi, annealing, feed
        self.validation, self.callbacks, self.bar, self.points = validation, callbacks, bar, points
        shown = feed.data[:_MOST_ENCODED] if validation is None else validation
        self._encoded = shown.data if isinstance(shown, Loaded) else shown
        self._bound = "log p(x, z)" if points else "elbo"
        self.folder, self.interruption, self.tolerated = folder, interruption, tolerated
        if validation is not None:
            self._validate = Validation(
                svi.model, svi.guide, validation, trainer.elbo, replay=trainer.replays
            )
        self._epochs, self._done, self._possible = 0, 0, True
        self.interrupted = False
        self._position: dict[str, Any] | None = None

    def run(self, epochs: int, going_on: Mapping[str, Any] | None = None) -> None:
        """Train for so many epochs, or until a callback stops it, or Ctrl-C.

        Args:
            epochs: of this run, those before it was interrupted among them.
            going_on: what a checkpoint tells of an interrupted run, to go on with it.
        """
        self._epochs, finished = epochs, False
        self._call("on_fit_begin")
        try:
            if going_on is not None:
                self._go_on(going_on)
            self._write()
            while self._done < epochs and not self._ends():
                row = self._epoch()
                self._measure(row)
                row.update(ranks.agreed(row))
                self._call("on_epoch_end", row=row)
                self._done, self._position = self._done + 1, None
            finished = True
        except KeyboardInterrupt:
            self.interrupted = self.interruption.signal != SIGTERM
            by = "SIGTERM" if self.interruption.signal == SIGTERM else "Ctrl-C"
            steps = self.trainer.step
            if not ranks.rank():
                self.bar.write(f"stopped by {by} after {steps} steps; the trainer is usable")
        finally:
            self._call("on_fit_end")
        if finished:
            self._write(finished=True)
            if len(self.trainer.history) >= _EPOCHS_BEFORE_A_WARNING and not ranks.rank():
                warn_of_few_codes(self.trainer.model, self.trainer.guide, self._encoded)
            own = any(isinstance(callback, CollapseWarning) for callback in self.callbacks)
            if not own and not ranks.rank():
                tell_collapsed(self.trainer, self.points)

    def _ends(self) -> bool:
        """Whether a callback stopped the run; an epoch that has begun is trained to its end."""
        return self._position is None and ranks.agreed(self.trainer.stopping)

    def _epoch(self) -> dict[str, Any]:
        trainer = self.trainer
        position = self._position or {
            "random": streams.positions(self.feed.data.device),
            "batches": 0,
            "seconds": 0.0,
            "skipped": 0,
            "totals": None,
        }
        batches = self._batches(position)
        totals = position["totals"] = position["totals"] or Totals(trainer.step)
        started = shown = time.perf_counter()
        started -= position["seconds"]
        self._position = position
        hooks = [h for c in self.callbacks if (h := getattr(c, "on_step_end", None))]
        mean = trainer.elbo.reduction == "mean"
        self._weights = None
        row: dict[str, Any] = {"epoch": len(trainer.history) + 1}
        trainer.begin_epoch()
        self._guard = Guard(
            self.svi, trainer.modules(), trainer.step, self.feed.data.device, self.tolerated
        )
        try:
            for x, y in batches:
                if turn.wanted:
                    trainer.give_way()
                with self.interruption.whole_step():
                    self.annealing.set(trainer.step, len(self.feed))
                    loss = self._guard.step(x, y)
                    if self._guard.refused:
                        self._refused(position, loss, x, y)
                    trainer.step += 1
                    position["batches"] += 1
                    if not self._guard.refused:
                        totals.add(loss * len(x) if mean else loss, self.svi.terms)
                self.bar.update()
                if hooks and not self._guard.refused:
                    # Now, because a hook may fill beta for the next step
                    self._weights = self.annealing.snapshot()
                    for hook in hooks:
                        hook(trainer=trainer, loss=loss)
                interrupted = self.interruption.ends()
                last = position["batches"] == len(self.feed)
                due = self.folder and (interrupted or trainer.step % self.folder.every == 0)
                # Reading the totals waits for the device
                refresh = not self.bar.disable and time.perf_counter() - shown > _REFRESH_SECONDS
                if (due or last or refresh) and not self._guard.settled():
                    blamed = totals.blamed_at(self._guard.bad_step)
                    raise self._guard.error(x, y, blamed)
                if refresh and totals.count:
                    shown = time.perf_counter()
                    self._show(row["epoch"], totals.means()["elbo"])
                if due:
                    position["seconds"] = time.perf_counter() - started
                    self._write()
                if interrupted:
                    totals.combine()
                    raise KeyboardInterrupt
            totals.combine()
        except KeyboardInterrupt:
            # The row of the epoch tells what was trained
            row["interrupted"] = True
            if totals.count:
                self._record(row, totals, time.perf_counter() - started)
            raise
        except Exception:
            row["failed"] = True
            if totals.count:
                # What went wrong first is what a person has to know
                with contextlib.suppress(FloatingPointError):
                    self._record(row, totals, time.perf_counter() - started)
            raise
        self._record(row, totals, time.perf_counter() - started)
        self._show(row["epoch"], row["elbo"], refresh=False)
        return row

    def _refused(
        self, position: dict[str, Any], loss: Tensor, x: Tensor, y: Tensor | None
    ) -> None:
        """Leave a step out, or stop there."""
        totals: Totals = position["totals"]
        position["skipped"] += 1
        if position["skipped"] > self.tolerated or position["skipped"] == len(self.feed):
            if self._guard.bad_step > self.trainer.step:
                blamed = totals.blamed(loss, self.svi.terms)
            else:
                blamed = totals.blamed_at(self._guard.bad_step)
            raise self._guard.error(x, y, blamed)
        self._guard.undo()

    def _batches(self, position: Mapping[str, Any]) -> Iterator[Batch]:
        """An epoch's batches, without those that the interrupted run has had."""
        device, taken = self.feed.data.device, position["batches"]
        now = streams.positions(device)
        streams.go_to(device, position["random"])
        batches = iter(self.feed)
        for _ in range(taken):
            next(batches)
        if taken:
            streams.go_to(device, now)
        return batches

    # Checkpoints

    def _write(self, *, finished: bool = False) -> None:
        if self.folder is None:
            return
        trainer, feed, position = self.trainer, self.feed, self._position
        if position is not None:
            position = {**position, "totals": position["totals"].state()}
        # What differs between the processes of a run
        own = {"position": position, "random": streams.positions(feed.data.device)}
        own, *others = ranks.each(own)
        trainer.progress = {
            "finished": finished,
            "stopping": trainer.stopping,
            "epochs": self._epochs,
            "done": self._done,
            "every": self.folder.every,
            "keep": self.folder.keep,
            **self.folder.facts,
            **own,
            "others": others,
            "buffers": runs.hidden_buffers(trainer.modules()),
            "optimizer": runs.optimizer_groups(trainer.optimizer, trainer.parameters()),
            "states": [callback.state_dict() for callback in self.callbacks],
        }
        try:
            ranks.by_first(lambda: self.folder.write(trainer))
        finally:
            trainer.progress = None

    def _go_on(self, progress: Mapping[str, Any]) -> None:
        """Be where the run was when the checkpoint was written."""
        trainer = self.trainer
        for callback, state in zip(self.callbacks, progress["states"], strict=True):
            callback.load_state_dict(state)
        trainer.restore_optimizer(progress["optimizer"])
        with torch.no_grad():
            hidden = runs.hidden_buffers(trainer.modules())
            for buffer, value in zip(hidden, progress["buffers"], strict=True):
                buffer.copy_(value)
        own = [progress, *progress.get("others", ())][ranks.rank()]
        self._done, position = progress["done"], own["position"]
        # More epochs than were asked for at first go on after an early end, too
        trainer.stopping = progress["stopping"] and not progress["finished"]
        if position is not None:
            self._position = {**position, "totals": Totals.of(position["totals"])}
        self.bar.update(self._done * len(self.feed) + (position or {"batches": 0})["batches"])
        streams.go_to(self.feed.data.device, own["random"])

    def _measure(self, row: dict[str, Any]) -> None:
        trainer = self.trainer
        if self.validation is not None:
            row["validation"] = self._validate()
        units = active_units(trainer.guide, self._encoded, without=self.points)
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
        if skipped := self._position["skipped"]:
            row["skipped"] = skipped
        if trainer.swapped:
            row["swapped"], trainer.swapped = True, False
        if self._possible and not self.points:
            self._possible = check_possible(row["elbo"], row["reconstruction"], totals.count)
        trainer.history.append(row)

    def _call(self, hook: str, **kwargs: Any) -> None:
        for callback in self.callbacks:
            if method := getattr(callback, hook, None):
                method(trainer=self.trainer, **kwargs)
