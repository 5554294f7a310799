"""What a call of ``Trainer.fit`` asks for."""

from __future__ import annotations

import builtins
import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import ranks
from ..callbacks import check_callbacks
from ..callbacks.stopping import KeepBest, Patience
from ..data import Dataset
from ..data.arguments import Arguments, part_of
from ..data.identity import identity
from ..data.scale import scale_notice
from ..ground.arguments import whole
from ..ground.machine import check_threads, using_threads
from ..ground.signals import Interruption, held_back
from ..ground.streams import forked
from ..guides import linear
from ..likelihoods.located import Located
from ..programs.autoguides import is_per_datum, take_all
from ..programs.checks import check_minibatches
from ..programs.missing import filled
from ..programs.placing import seen_values
from ..programs.program import Guide, Model
from ..programs.unwrapping import innermost, is_ours
from ..storage.folder import RunFolder
from .feeds import Loaded, Resident, check_source, source, turns
from .guard import limit_of
from .incomplete import check_incomplete
from .pair import TrainedPair
from .parallel import check_parallel
from .state import Run, TrainState

_BATCH_SIZE = 128


class Plan:
    """One call of ``Trainer.fit``, with its arguments and errors, before anything happens.

    What is ``asked`` for as None is filled in where a run goes on. ``feed``, the minibatches, and
    ``validation`` are where the pair is, and in its type; ``patience``, where it is asked for, is
    one of the ``callbacks``. Of an epoch, ``tolerated`` steps may be left out because they are
    not finite.
    ``reraises`` tells whether ``fit`` ends in a KeyboardInterrupt where Ctrl-C ended the run;
    ``interruption`` tells after each step whether the run is to end. ``bar`` is the progress bar
    of all steps, while it is ``shown``.
    """

    bar: tqdm

    def __init__(
        self,
        trainer: TrainedPair,
        data: Any,
        validation: Any,
        callbacks: Sequence[Any],
        **asked: Any,
    ) -> None:
        pair, state = (trainer.model, trainer.guide), trainer.state
        before = state.run if state.run is not None and state.run.folder is not None else None
        defaults = {} if before is None else before.asked()
        asked |= {name: value for name, value in defaults.items() if asked[name] is None}
        epochs = whole("epochs", asked["epochs"])
        if (batch_size := asked["batch_size"]) is not None:
            batch_size = whole("batch_size", batch_size)
        accumulate = 1 if asked["accumulate"] is None else asked["accumulate"]
        if accumulate != 1:
            accumulate = whole("accumulate", accumulate)
        if (patience := asked["patience"]) is not None:
            patience = whole("patience", patience)
            if validation is None:
                raise ValueError(
                    "patience: expected validation= beside it, whose bound tells the best epoch, "
                    "got None: pass validation=d.test, or leave patience out"
                )
        if (on_interrupt := asked["on_interrupt"]) not in ("raise", "return", None):
            raise ValueError(
                f'on_interrupt: expected "raise" or "return", got {on_interrupt!r}: leave it out '
                "to stop the cells below in a notebook, and to go on in a script"
            )
        in_notebook = hasattr(builtins, "__IPYTHON__")
        self.reraises = on_interrupt == "raise" or (on_interrupt is None and in_notebook)
        check_callbacks(callbacks)
        self.patience = None if patience is None else Patience(patience)
        if self.patience is not None:
            callbacks = *callbacks, self.patience
        self.keeping = callbacks and [c for c in callbacks if isinstance(c, KeepBest)]
        self.callbacks, self.progress = callbacks, asked["progress"]
        self.threads, self.recompute = asked["threads"], asked["recompute"]
        check_threads(self.threads)
        self.tolerated = limit_of(asked["on_nonfinite"])
        self.folder = _folder(asked["checkpoint"], every=asked["every"], keep=asked["keep"])
        known = {"device": trainer.device, "epoch": len(state.history), "plate": trainer.plate}
        known["arguments"] = asked["arguments"]
        data = source(data, "data", *pair, **known)
        if validation is not None:
            validation = source(validation, "validation", *pair, divide=turns, **known)
            _check_names(data, validation, trainer.model)
        # As covariates_of does, without a call in each fit
        if getattr(trainer.model, "covariates", False) is True:
            if isinstance(data, Dataset) and data.y is not None:
                trainer.model.condition.check_training(data.y)
        elif getattr(trainer.model, "partly_labelled", False) is True:
            _check_classes(getattr(data, "y", None), trainer.model.condition)
        feed = data
        if isinstance(data, Loaded):
            check_minibatches(trainer.guide)
        else:
            batch_size = _batch_size(trainer, data, batch_size)
            # Programs of a person's own may have parameters for each row
            in_order = len(data) <= batch_size and not any(map(is_ours, pair))
            feed = Resident(data, batch_size, in_order=in_order)
        if accumulate != 1 and not (feed is data or any(map(is_ours, pair))):
            _check_parts(trainer, data, batch_size, accumulate)
        self.feed, self.validation, self.accumulate = feed, validation, accumulate
        check_parallel(feed, *pair, estimator=trainer.elbo)
        self.run, every = Run(epochs, {}), None
        if self.folder is not None:
            _check_sources(data, validation)
            _check_storable(callbacks)
            every, keep = self.folder.every, self.folder.keep
            facts = {
                "batch_size": batch_size,
                "callbacks": [type(callback).__name__ for callback in callbacks],
                "data": identity(data),
                "validation": identity(validation),
                "patience": patience,
                "accumulate": accumulate,
            }
            self.run = Run(epochs, facts, every, keep)
            if before is not None:
                self.run = _going_on(before, self.run)
        self.run.steps = len(feed)
        ranks.check_alike(
            {
                "epochs": epochs,
                "data": f"{feed.count} data, {len(feed)} steps in an epoch",
                "steps before": state.step,
                "validation": validation is not None,
                "patience": patience,
                "accumulate": accumulate,
                "checkpoint": None if every is None else str(asked["checkpoint"]),
                "every": every,
            }
        )
        self.interruption = Interruption()

    @contextlib.contextmanager
    def held(self, state: TrainState) -> Iterator[None]:
        """Have signals wait, the folder for this process alone, and so many threads."""
        # Signals first, so that all else is in order when SIGTERM ends the process
        with held_back(self.interruption), contextlib.ExitStack() as stack:
            if (folder := self.folder) is not None:
                held = folder.held(state.step, state.written)
                ranks.by_first(lambda: stack.enter_context(held))
            stack.enter_context(using_threads(self.threads))
            yield

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Have the progress bar, shown by the first process alone."""
        total, hidden = self.run.epochs * len(self.feed), not self.progress or ranks.rank() > 0
        with tqdm(total=total, unit="step", disable=hidden) as self.bar:
            yield

    def receive_data(self, model: Callable, guide: Callable, *, first: bool) -> None:
        """Raise unless the pair can have the data; tell of a scale that is hard to train on.

        Before the first step a pair for a table begins as the linear model of data in memory.
        A loader without a generator of its own draws its order from the present random stream.
        """
        ranks.diverge()
        data = self.feed if isinstance(self.feed, Loaded) else self.feed.data
        own = innermost(model)
        if isinstance(own, Model):
            _check_types(own, guide)
        check_source(data, "data", model, guide)
        if self.feed.data.missing:
            check_incomplete(self.feed, guide)
        likelihood = getattr(own, "likelihood", None)
        if isinstance(likelihood, Located) and first:
            # What networks see, where a likelihood standardises the data for them
            seen = getattr(likelihood, "inputs", lambda x: x)(self.feed.data.x)
            seen = filled(seen) if self.feed.data.missing else seen
            if (notice := scale_notice(seen)) is not None:
                warnings.warn(notice, stacklevel=3)
        if first and getattr(model, "covariates", False) is True:
            if (notice := model.condition.notice(self.feed.data.y)) is not None:
                warnings.warn(notice, stacklevel=3)
        if self.validation is not None:
            with forked():
                check_source(self.validation, "validation", model)
        if first and getattr(model, "tabular", False) is True and isinstance(self.feed, Resident):
            if linear.begins(model, guide, self.feed.data.x):
                linear.begin(model, guide, self.feed.data.x)


def _batch_size(trainer: TrainedPair, data: Dataset | Arguments, asked: int | None) -> int:
    """As asked, or the default; all data for programs that take no fewer, else ``ValueError``."""
    batch_size = asked or _BATCH_SIZE
    if is_per_datum(trainer.guide):
        # An autoguide has as many parameters as there are data in its first run
        _runs(trainer, data, len(data))
        if not is_per_datum(trainer.guide):
            return batch_size
        if asked is None or len(data) <= asked:
            return max(len(data), 1)
        check_minibatches(trainer.guide)
    if len(data) <= batch_size or any(map(is_ours, (trainer.model, trainer.guide))):
        return batch_size
    part = data[:batch_size]
    # What is wrong with all data as well is told where the pair is tried; all of them may show
    # which plates are not theirs, but as large as a batch
    runs = functools.partial(_runs, trainer, total=len(data))
    if runs(part) or not runs(data) or runs(part):
        return batch_size
    if asked is None:
        take_all(trainer.guide)
        return len(data)
    raise ValueError(
        f"batch_size: expected all {len(data)} data in each step, as the programs run on no fewer,"
        f" got {asked}: leave batch_size out, or make their plates as large as the data they get"
    )


def _runs(trainer: TrainedPair, data: Dataset | Arguments, total: int) -> bool:
    """Whether the pair runs on data, which are a part of ``total``."""
    x = part_of(seen_values(data), total)
    try:
        trainer.elbo.examine(trainer.model, trainer.guide, x, data.y)
    except Exception:  # whatever a program raises
        return False
    return True


def _check_parts(trainer: TrainedPair, data: Any, batch_size: int, accumulate: int) -> None:
    """Raise ``ValueError`` where a pair runs on batches, but not on parts of them."""
    check_minibatches(trainer.guide)
    n = min(batch_size, len(data))
    if not _runs(trainer, data[: -(-n // accumulate)], len(data)):
        raise ValueError(
            f"accumulate: expected programs that run on a part of {n} data, got {accumulate} parts"
            " of which one does not: leave accumulate out"
        )


def _folder(path: str | Path | None, **options: int | None) -> RunFolder | None:
    given = {name: value for name, value in options.items() if value is not None}
    if path is not None:
        return RunFolder(path, **given)
    for name, value in given.items():
        raise ValueError(
            f"{name}: expected None without checkpoint=, got {value!r}: pass the folder to write "
            "to as well"
        )
    return None


def _going_on(before: Run, run: Run) -> Run:
    """The interrupted run, as it is asked for now; raises unless the facts are the same."""
    if (processes := len(before.each)) != ranks.size():
        raise ValueError(
            f"processes: expected {processes}, as in the run that goes on, each with a random "
            f"stream of its own, got {ranks.size()}: start {processes}, or read its last "
            "checkpoint with pyro_vae.load to begin another run"
        )
    if run.epochs < (begun := before.done + (before.position is not None)):
        raise ValueError(
            f"epochs: expected at least {begun}, those that the run which goes on has "
            f"begun, got {run.epochs}: leave epochs out to finish it as it was meant to be"
        )
    for name, got in run.facts.items():
        expected = before.facts.get(name)
        if isinstance(expected, dict) and isinstance(got, dict) and got != expected:
            key = next(k for k in [*got, *expected] if expected.get(k) != got.get(k))
            name, expected, got = f"{name}: {key}", expected.get(key), got.get(key)
        if expected != got:
            raise ValueError(
                f"{name}: expected {expected!r}, as in the run that goes on, got {got!r}: "
                "pass what that run was given, or read its last checkpoint with pyro_vae.load "
                "to begin another run"
            )
    return replace(
        before,
        epochs=run.epochs,
        every=run.every,
        keep=run.keep,
        position=before.each[ranks.rank()][0],
        # More epochs than were asked for at first go on after an early end, too
        stopping=before.stopping and not before.finished,
        finished=before.finished and before.epochs == run.epochs,
    )


def _check_types(model: Model, guide: Callable) -> None:
    """Raise ``ValueError`` for what is trained in half precision, or in several floating types."""
    # A program of a person's own may convert what it is given, as may a network that is frozen
    pair = {"model": model, "guide": guide} if isinstance(guide, Guide) else {"model": model}
    expected = getattr(getattr(model, "one_hot", None), "dtype", None)
    for name, program in pair.items():
        for parameter in filter(lambda p: p.requires_grad, program.parameters()):
            got, expected = parameter.dtype, expected or parameter.dtype
            if got in (torch.float16, torch.bfloat16):
                raise ValueError(
                    f"{name}: expected parameters of torch.float32 or torch.float64, got {got}: "
                    "use model.float() and guide.float(), and Trainer(..., precision='bf16') for "
                    "networks that compute in half precision"
                )
            if got != expected:
                raise ValueError(
                    f"{name}: expected parameters of {expected}, as the model has, got {got}: use "
                    f"model.to({expected}) and guide.to({expected})"
                )


def _check_sources(data: Any, validation: Any) -> None:
    """Raise ``TypeError`` for data whose order no checkpoint can tell."""
    for name, given in (("data", data), ("validation", validation)):
        if isinstance(given, Loaded):
            raise TypeError(
                f"{name}: expected a Dataset or tensors where checkpoint= is given, got a "
                "DataLoader, whose order no checkpoint can tell: leave checkpoint= out, and save "
                "the trainer after each call of fit"
            )


def _check_storable(callbacks: Sequence[Any]) -> None:
    """Raise ``TypeError`` for a callback whose state no checkpoint can hold."""
    for callback in callbacks:
        if not all(hasattr(callback, name) for name in ("state_dict", "load_state_dict")):
            name = type(callback).__name__
            raise TypeError(
                f"callbacks: {name} has no state_dict() and load_state_dict(state), so that a "
                "resumed run would not go on where it stopped: add both (they may return {} and "
                "do nothing where it keeps nothing), or leave checkpoint= out"
            )


def _check_classes(y: Tensor | None, classes: int) -> None:
    """Raise ``ValueError`` where some classes have labels and others none."""
    seen = set() if y is None else {*y[y >= 0].tolist()}
    if unseen := sorted({*range(classes)} - seen) if seen else []:
        raise ValueError(
            f"data: expected labels of all {classes} classes, or none, got none of class "
            f"{', '.join(map(str, unseen))}: label one datum of each at least, or pass x alone"
        )


def _check_names(data: Any, validation: Any, model: Callable) -> None:
    """Raise where the same label is of other classes in the two sets."""
    names = [getattr(part, "names", ()) for part in (data, validation)]
    if getattr(model, "condition", 0) and all(names) and names[0] != names[1]:
        raise ValueError(
            f"validation: expected the class names of the data, {names[0]}, got {names[1]}: "
            "number both alike, with Dataset(x, y, names=...) for text"
        )
