"""A run of training: epochs of steps, and what is told of them."""

from __future__ import annotations

import contextlib
import operator
import time
import warnings
from collections.abc import Iterator
from functools import partial
from signal import SIGTERM
from typing import Any

import torch
from torch import Tensor, nn

from .. import ranks
from ..callbacks.collapse import CollapseWarning, tell_collapsed
from ..data.arguments import Data
from ..ground import streams
from ..ground.turns import turn
from ..infer.engine.trainable import UntrainedWarning
from ..infer.objectives.elbo import check_possible
from ..programs.unwrapping import is_ours, name_of
from . import checkpoint
from .feeds import Batch, Loaded
from .guard import Guard
from .moments import groups_of, restore_groups
from .pair import TrainedPair
from .plan import Plan
from .state import Position
from .step import Step
from .totals import Totals, logged
from .validation import Validation, active_units, warn_of_few_codes

_REFRESH_SECONDS = 0.5
_MOST_ENCODED = 1000
_RATE = operator.itemgetter("lr")
# By then codes that are going to be used are
_EPOCHS_BEFORE_A_WARNING = 4


class Loop:
    """What ``Trainer.fit`` does once everything is checked and ready."""

    def __init__(self, trainer: TrainedPair, plan: Plan, step: Step) -> None:
        self.trainer, self.plan, self.step = trainer, plan, step
        self.state, self.feed, self.run = trainer.state, plan.feed, plan.run
        shown = plan.feed.data[:_MOST_ENCODED] if plan.validation is None else plan.validation
        self._encoded = shown.data if isinstance(shown, Loaded) else shown
        self._possible = not step.points
        self._validate = None
        if plan.validation is not None:
            pair, estimator = (step.svi.model, step.svi.guide), step.objective.elbo
            how = {"replay": step.replays, "at_once": plan.feed.batch_size}
            how["graph"] = step.validating
            self._validate = Validation(*pair, plan.validation, estimator, **how)
            step.validating = self._validate.graph
            if not any(map(is_ours, pair)):
                self._validate.check()

    def _keep_start(self) -> None:
        keeping = [c for c in self.plan.keeping if c.counts_start(self.trainer)]
        validation = ranks.agreed(self._validate()) if keeping else {}
        for callback in keeping:
            callback.on_start(self.trainer, validation)

    def __call__(self) -> bool:
        """Train until the run, a callback or a signal ends it; whether that was Ctrl-C."""
        run, interruption = self.run, self.plan.interruption
        interrupted = False
        self._call("on_fit_begin")
        try:
            if run.found:
                self._go_on()
            elif self._validate is not None and self.plan.keeping:
                self._keep_start()
            self._write()
            # An epoch that has begun is trained to its end
            while run.done < run.epochs and (run.position or not ranks.agreed(run.stopping)):
                row = self._epoch()
                self._measure(row)
                row.update(ranks.agreed(row))
                self._call("on_epoch_end", row=row)
                run.done, run.position = run.done + 1, None
            run.finished = True
        except KeyboardInterrupt as error:
            interrupted = interruption.signal != SIGTERM
            if not ranks.rank():
                by = str(error) or ("Ctrl-C" if interrupted else "SIGTERM")
                self.plan.bar.write(
                    f"stopped by {by} after {self.state.step} steps; the trainer is usable"
                )
        finally:
            self._call("on_fit_end")
        if run.finished:
            self._write()
            self._tell()
        return interrupted

    def _tell(self) -> None:
        """Say what a run that is finished ended without."""
        if ranks.rank():
            return
        if len(self.state.history) >= _EPOCHS_BEFORE_A_WARNING:
            warn_of_few_codes(self.trainer.model, self.trainer.guide, self._encoded)
        if not any(isinstance(callback, CollapseWarning) for callback in self.plan.callbacks):
            tell_collapsed(self.trainer, self.step.points)

    def _epoch(self) -> dict[str, Any]:
        state, run = self.state, self.run
        if run.position is None:
            run.position = Position(streams.positions(self.feed.device), Totals(state.step))
        totals = run.position.totals
        started = time.perf_counter() - run.position.seconds
        row: dict[str, Any] = {"epoch": len(state.history) + 1}
        self._weights = None
        # At the beginning, as it may fall to 0 with the last step
        resting = not any(map(_RATE, self.step.svi.optimizer.param_groups))
        try:
            self._steps(run.position, started, row["epoch"])
            totals.combine()
        except (KeyboardInterrupt, Exception) as error:
            # The row of the epoch tells what was trained
            failed = not isinstance(error, KeyboardInterrupt)
            row["failed" if failed else "interrupted"] = True
            if totals.count:
                # What went wrong first is what a person has to know
                with contextlib.suppress(*[FloatingPointError] * failed):
                    self._record(row, time.perf_counter() - started)
            raise
        self._record(row, time.perf_counter() - started)
        if resting and not row["lr"]:
            warnings.warn(
                f"lr: it was 0 in epoch {row['epoch']}, as a schedule has left it, so that "
                "nothing was trained: assign trainer.lr, such as trainer.lr = 1e-3, before fit",
                UntrainedWarning,
                stacklevel=4,
            )
        self._show(row["epoch"], row["elbo"], refresh=False)
        return row

    def _steps(self, position: Position, started: float, epoch: int) -> None:
        """The steps of an epoch that are left."""
        state, plan, step, totals = self.state, self.plan, self.step, position.totals
        interruption, bar, folder, annealing = (
            plan.interruption,
            plan.bar,
            plan.folder,
            step.annealing,
        )
        hooks = [h for c in plan.callbacks if (h := getattr(c, "on_step_end", None))]
        mean, per_epoch = step.objective.elbo.reduction == "mean", len(self.feed)
        batches = self._batches(position)
        guard = step.begin_epoch(plan.tolerated)
        shown = time.perf_counter()
        for x, y in batches:
            if turn.waiting:
                # On torch's global random stream
                with state.stream.aside():
                    turn.give_way()
            with interruption:
                if annealing.moves:
                    annealing.set(state.step, per_epoch)
                loss = guard.step(x, y)
                if guard.refused:
                    self._refused(guard, position, loss, x, y)
                state.step += 1
                position.batches += 1
                if not guard.refused:
                    terms = step.svi.terms
                    totals.add(loss * len(terms.reconstruction) if mean else loss, terms)
            bar.update()
            if hooks and not guard.refused:
                if not annealing.constant:
                    # Now, because a hook may fill beta for the next step
                    self._weights = annealing.snapshot()
                for hook in hooks:
                    hook(trainer=self.trainer, loss=loss)
            interrupted = interruption.ends()
            due = folder and (interrupted or state.step % folder.every == 0)
            # Reading the totals waits for the device
            refresh = not bar.disable and time.perf_counter() - shown > _REFRESH_SECONDS
            last = position.batches == per_epoch
            if (due or last or refresh) and not guard.settled():
                raise guard.error(x, y, totals.blamed_at(guard.bad_step))
            if refresh and totals.count:
                shown = time.perf_counter()
                self._show(epoch, totals.means()["elbo"])
            if due:
                position.seconds = time.perf_counter() - started
                self._write()
            if interrupted:
                totals.combine()
                raise KeyboardInterrupt

    def _refused(
        self, guard: Guard, position: Position, loss: Tensor, x: Data, y: Tensor | None
    ) -> None:
        """Leave a step out, or stop there."""
        position.skipped += 1
        if position.skipped > self.plan.tolerated or position.skipped == len(self.feed):
            totals = position.totals
            if guard.bad_step > self.state.step:
                blamed = totals.blamed(loss, self.step.svi.terms)
            else:
                blamed = totals.blamed_at(guard.bad_step)
            raise guard.error(x, y, blamed)
        guard.undo()

    def _batches(self, position: Position) -> Iterator[Batch]:
        """An epoch's batches, without those that the interrupted run has had."""
        device, taken = self.feed.device, position.batches
        now = streams.positions(device)
        streams.go_to(device, position.random)
        batches = iter(self.feed)
        for _ in range(taken):
            next(batches)
        if taken:
            streams.go_to(device, now)
        return batches

    def _measure(self, row: dict[str, Any]) -> None:
        if self._validate is not None:
            row["validation"] = self._validate()
        units = active_units(self.trainer.guide, self._encoded, without=self.step.points)
        if units:
            row["active_units"] = units

    def _show(self, epoch: int, value: float, *, refresh: bool = True) -> None:
        bound = "log p(x, z)" if self.step.points else "elbo"
        self.plan.bar.set_postfix({"epoch": epoch, bound: f"{value:.2f}"}, refresh=refresh)

    def _record(self, row: dict[str, Any], seconds: float) -> None:
        trainer, state, position = self.trainer, self.state, self.run.position
        row.update(
            beta=self.step.annealing.values(self._weights),
            **logged(self.step.modules),
            step=state.step,
            **position.totals.means(),
            lr=trainer.lr,
            guide=name_of(trainer.guide),
            frozen=state.freezing.names is not None,
            seconds=seconds,
        )
        if particles := getattr(self.step.objective.elbo, "particles", None):
            row["particles"] = particles
        if position.skipped:
            row["skipped"] = position.skipped
        if state.swapped:
            row["swapped"], state.swapped = True, False
        if self._possible:
            count = position.totals.count
            self._possible = check_possible(row["elbo"], row["reconstruction"], count)
        state.history.append(row)

    def _call(self, hook: str, **kwargs: Any) -> None:
        for callback in self.plan.callbacks:
            if method := getattr(callback, hook, None):
                method(trainer=self.trainer, **kwargs)

    # Checkpoints

    def _write(self) -> None:
        if (folder := self.plan.folder) is None:
            return
        parameters = self.trainer.parameters()
        run = self.run.plain(
            self.feed.device,
            {
                "buffers": _hidden_buffers(self.step.modules),
                "optimizer": groups_of(self.step.svi.optimizer, parameters),
                "states": [callback.state_dict() for callback in self.plan.callbacks],
            },
        )
        write = partial(checkpoint.write, trainer=self.trainer, run=run, arguments=None)
        ranks.by_first(lambda: folder.put(self.state.step, write))

    def _go_on(self) -> None:
        """Be where the run was when the checkpoint was written."""
        run, step = self.run, self.step
        for callback, state in zip(self.plan.callbacks, run.found["states"], strict=True):
            callback.load_state_dict(state)
        parameters = self.trainer.parameters()
        restore_groups(step.svi.optimizer, run.found["optimizer"], parameters, self.state.moments)
        # What was unfrozen since the last step of that run
        step.svi.take_up({})
        with torch.no_grad():
            hidden = _hidden_buffers(step.modules)
            for buffer, value in zip(hidden, run.found["buffers"], strict=True):
                # One without elements has nothing to take up: older files may have more in it
                if buffer.numel():
                    buffer.copy_(value)
        batches = 0 if run.position is None else run.position.batches
        self.plan.bar.update(run.done * len(self.feed) + batches)
        streams.go_to(self.feed.device, run.each[ranks.rank()][1])
        run.found, run.each = {}, []


def _hidden_buffers(modules: list[nn.Module]) -> list[Tensor]:
    """Buffers that a state dict leaves out, such as what the last batch told."""
    found = []
    for module in modules:
        held = module.state_dict(keep_vars=True).keys()
        found += [buffer for name, buffer in module.named_buffers() if name not in held]
    return found
