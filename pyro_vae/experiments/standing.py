"""Where an experiment stands while it runs for hours, and about how long it will take."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from tqdm.auto import tqdm

from ..callbacks import Callback
from ..ground.tables import duration
from ..training.trainer import Trainer

T = TypeVar("T")
_MOST_SECONDS = 60.0


class Standing(Callback):
    """Lines on standard error: one per row, per tenth of its epochs, and per minute of them.

    The time left is that of what is left at the pace of this process: what others or earlier runs
    have done takes none of it.

    Args:
        quiet: say nothing.

    Example:
        >>> standing = Standing(quiet=True)
        >>> [row for row in standing.over(["a", "b"], epochs=3)]
        ['a', 'b']
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        # Of this process: seconds and number of epochs, and seconds of its rows besides them
        self._training = self._aside = 0.0
        self._trained = self._asked = self._reached = self._later = 0
        self._lengths: list[int] = []
        self._row = ""

    def over(
        self,
        rows: Sequence[T],
        *,
        epochs: int,
        there: Callable[[T], bool] = lambda row: False,
        name: Callable[[T], str] = str,
    ) -> Iterator[T]:
        """Go through rows of so many epochs at most, those that are ``there`` already included."""
        self._asked, had = epochs, len(rows) - _missing(rows, there)
        if 0 < had < len(rows):
            self._say(f"{had} of {len(rows)} rows are there already")
        for number, row in enumerate(rows, start=1):
            if there(row):
                yield row
                continue
            self._later = _missing(rows[number:], there)
            self._row, self._reached = f"row {number} of {len(rows)} ({name(row)})", 0
            began, training = time.perf_counter(), self._training
            yield row
            seconds = time.perf_counter() - began
            # Others may have filled some meanwhile
            self._later = _missing(rows[number:], there)
            self._aside += seconds - (self._training - training)
            self._lengths.append(self._reached)
            rest = f", about {duration(self._seconds(0))} left" if self._later else ""
            self._say(f"{self._row}: done in {duration(seconds)}{rest}")

    def on_fit_begin(self, trainer: Trainer, **kwargs: Any) -> None:
        """Count from here."""
        self._reached = len(trainer.history)
        self._since = self._told = time.perf_counter()

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any], **kwargs: Any) -> None:
        """Tell of every tenth of the epochs, of the first one, and of every minute."""
        now = time.perf_counter()
        self._training, self._since = self._training + now - self._since, now
        self._trained, self._reached = self._trained + 1, row["epoch"]
        due = self._reached % math.ceil(self._asked / 10) == 0 or self._trained == 1
        if not due and now - self._told < _MOST_SECONDS:
            return
        self._told = now
        left = duration(self._seconds(1))
        self._say(
            f"{self._row}: epoch {self._reached} of {self._asked}, elbo {row['elbo']:.2f}, about "
            f"{left} left{'' if self._lengths else ', evaluation aside'}"
        )

    def _seconds(self, running: int) -> float:
        """For the rows that are not done, those that are ``running`` among them."""
        # Of rows that end before the epochs that are asked for
        length = statistics.fmean(self._lengths or [self._asked])
        epochs = self._later * length + running * (self._asked - self._reached)
        aside = self._aside / max(1, len(self._lengths))
        return epochs * self._training / max(1, self._trained) + (self._later + running) * aside

    def _say(self, text: str) -> None:
        if not self.quiet:
            tqdm.write(text, file=sys.stderr)


def _missing(rows: Sequence[T], there: Callable[[T], bool]) -> int:
    return sum(not there(row) for row in rows)
