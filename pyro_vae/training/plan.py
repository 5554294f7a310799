"""What a call of ``Trainer.fit`` asks for."""

from __future__ import annotations

import builtins
import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from .. import ranks
from ..callbacks import check_callbacks
from ..callbacks.stopping import Patience
from ..data.scale import scale_notice
from ..ground.machine import check_threads, using_threads
from ..ground.signals import Interruption, held_back
from ..likelihoods import Gaussian
from ..programs.unwrapping import innermost
from . import runs
from .feeds import Loaded, Resident, check_source, source, turns
from .guard import Skip, limit_of
from .parallel import check_parallel

if TYPE_CHECKING:
    from .trainer import Trainer


class Call:
    """The arguments of one call of ``Trainer.fit``, checked, and filled in where a run goes on.

    Args:
        trainer: whose pair is to be trained, and which may have an interrupted run to finish.
        data: as for ``Trainer.fit``, like all that follow.
        epochs: of this run, those before it was interrupted among them.
        batch_size: data per step.
        validation: data whose bound is estimated after each epoch, or None.
        patience: epochs to wait for a better one, or None.
        callbacks: objects with the hooks of ``callbacks.Callback``.
        threads: threads of the CPU, or None.
        progress: whether there is a progress bar.
        checkpoint: the folder to write checkpoints into, or None.
        every: steps between two checkpoints.
        keep: how many checkpoints stay.
        on_nonfinite: what a step that is not finite leads to.
        on_interrupt: what Ctrl-C leads to.

    Attributes:
        data: the data where the pair is, and in its type.
        validation: likewise, or None.
        epochs: of this run in all.
        callbacks: those that were given, and what ``patience`` stands for.
        folder: where checkpoints are written, or None.
        tolerated: steps of an epoch that may be left out because they are not finite.
        reraises: whether ``fit`` ends in a KeyboardInterrupt where Ctrl-C ended the run.
        going_on: what a checkpoint tells of the run that this call finishes, or None.

    Raises:
        ValueError: as ``Trainer.fit``.
        TypeError: as ``Trainer.fit``.
    """

    def __init__(
        self,
        trainer: Trainer,
        data: Any,
        *,
        epochs: int | None,
        batch_size: int | None,
        validation: Any,
        patience: int | None,
        callbacks: Sequence[Any],
        threads: int | None,
        progress: bool,
        checkpoint: str | Path | None,
        every: int | None,
        keep: int | None,
        on_nonfinite: str | Skip,
        on_interrupt: str | None,
    ) -> None:
        self.going_on = going_on = None if trainer.going_on is None else trainer.progress
        if going_on is not None:
            epochs = going_on["epochs"] if epochs is None else epochs
            batch_size = going_on["batch_size"] if batch_size is None else batch_size
            checkpoint = trainer.going_on if checkpoint is None else checkpoint
            every = going_on["every"] if every is None else every
            keep = going_on["keep"] if keep is None else keep
            patience = going_on.get("patience") if patience is None else patience
        batch_size = 128 if batch_size is None else batch_size
        waits = () if patience is None else (("patience", patience),)
        for name, value in (("epochs", epochs), ("batch_size", batch_size), *waits):
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        if patience is not None and validation is None:
            raise ValueError(
                "patience: expected validation= beside it, whose bound tells the best epoch, got "
                "None: pass validation=d.test, or leave patience out"
            )
        if on_interrupt not in ("raise", "return", None):
            raise ValueError(
                f'on_interrupt: expected "raise" or "return", got {on_interrupt!r}: leave it out '
                "to stop the cells below in a notebook, and to go on in a script"
            )
        in_notebook = hasattr(builtins, "__IPYTHON__")
        self.reraises = on_interrupt == "raise" or (on_interrupt is None and in_notebook)
        check_callbacks(callbacks)
        self.callbacks = callbacks if patience is None else (*callbacks, Patience(patience))
        check_threads(threads)
        self.epochs, self.tolerated = epochs, limit_of(on_nonfinite)
        self._first = trainer.step == 0
        self._threads, self._progress = threads, progress
        self.folder = runs.folder(checkpoint, every=every, keep=keep)
        pair = trainer.model, trainer.guide
        known = {"device": trainer.device, "epoch": len(trainer.history)}
        self.data, self.validation = source(data, "data", *pair, **known), None
        if validation is not None:
            self.validation = source(validation, "validation", *pair, divide=turns, **known)
            _check_names(self.data, self.validation, trainer.model)
        loaded = isinstance(self.data, Loaded)
        self._feed = self.data if loaded else Resident(self.data, batch_size)
        check_parallel(self._feed, *pair)
        if self.folder is not None:
            runs.check_sources(self.data, self.validation)
            self.folder.describe(self._feed, self.validation, self.callbacks)
            self.folder.facts["patience"] = patience
            if going_on is not None:
                self.folder.check_same(going_on, epochs)
        ranks.check_alike(
            {
                "epochs": epochs,
                "data": f"{self._feed.count} data, {len(self._feed)} steps in an epoch",
                "steps before": trainer.step,
                "validation": validation is not None,
                "patience": patience,
                "checkpoint": None if checkpoint is None else str(checkpoint),
                "every": None if self.folder is None else self.folder.every,
            }
        )

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do of the run that goes on."""
        run = self.going_on
        return bool(self.folder and run and run["finished"] and run["epochs"] == self.epochs)

    @property
    def epochs_left(self) -> int:
        """Epochs that this call has to begin or to finish."""
        return self.epochs - (0 if self.going_on is None else self.going_on["done"])

    @contextlib.contextmanager
    def held(self, trainer: Trainer) -> Iterator[Interruption]:
        """Have signals wait, the folder for this process alone, and so many threads."""
        # Signals first, so that all else is in order when SIGTERM ends the process
        with held_back() as interruption, contextlib.ExitStack() as stack:
            if self.folder is not None:
                ranks.by_first(lambda: stack.enter_context(self.folder.held(trainer)))
            stack.enter_context(using_threads(self._threads))
            yield interruption

    def feed(self, model: Callable) -> Resident | Loaded:
        """The minibatches, once the model was found to be able to produce the data.

        A loader without a generator of its own draws its order from the present random stream.
        """
        ranks.diverge()
        check_source(self.data, "data", model)
        data = self.data.data if isinstance(self.data, Loaded) else self.data
        likelihood = getattr(innermost(model), "likelihood", None)
        if isinstance(likelihood, Gaussian) and self._first:
            # What networks see, where a likelihood standardises the data for them
            seen = getattr(likelihood, "inputs", lambda x: x)(data.x)
            if (notice := scale_notice(seen)) is not None:
                warnings.warn(notice, stacklevel=3)
        if self.validation is not None:
            with torch.random.fork_rng(devices=[]):
                check_source(self.validation, "validation", model)
        return self._feed

    def bar(self, feed: Resident | Loaded) -> tqdm:
        """The progress bar of all steps, shown by the first process alone."""
        hidden = not self._progress or ranks.rank() > 0
        return tqdm(total=self.epochs * len(feed), unit="step", disable=hidden)


def _check_names(data: Any, validation: Any, model: Callable) -> None:
    """Raise where the same label is of other classes in the two sets."""
    names = [getattr(part, "names", ()) for part in (data, validation)]
    if getattr(model, "condition", 0) and all(names) and names[0] != names[1]:
        raise ValueError(
            f"validation: expected the class names of the data, {names[0]}, got {names[1]}: "
            "number both alike, with Dataset(x, y, names=...) for text"
        )
