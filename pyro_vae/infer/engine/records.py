"""Records by what they are of, from run to run."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Hashable
from typing import Any, Generic, Protocol, TypeVar

_MOST = 32


class Renewable(Protocol):
    """What may be of use to the run after the one that made it."""

    def renew(self) -> bool:
        """Be taken up; whether it can be."""


R = TypeVar("R", bound=Renewable)


class Records(Generic[R]):
    """The records of a run, and those of the one before, of which it takes up what it needs.

    What a run does not need is gone when the next one begins. ``found`` has a record for each key,
    or None where there can be none; ``calls`` tells how often each key was called without one.
    The second part of a key is the ``number`` of a pair.
    """

    def __init__(self) -> None:
        self.found: dict[Any, R | None] = {}
        self.calls: collections.Counter[Any] = collections.Counter()
        self._before: dict[Any, R | None] = {}
        self._calls_before: collections.Counter[Any] = collections.Counter()
        self._numbers: dict[Hashable, int] = {}
        self._next_number = itertools.count()

    def begin_run(self) -> None:
        """Begin another run; one that called nothing was none."""
        if self.calls:
            self._before, self._calls_before = self.found, self.calls
            used = {number for _, number, *_ in self.calls}
            self._numbers = {key: n for key, n in self._numbers.items() if n in used}
            self.found, self.calls = {}, collections.Counter()

    def number(self, key: Hashable) -> int:
        """A number for what is told of a pair."""
        return self._numbers.setdefault(key, next(self._next_number))

    def called(self, key: Any) -> int:
        """Count a call of a key that has no record yet; how many there were, earlier runs too."""
        self.calls[key] += 1 + self._calls_before.pop(key, 0)
        return self.calls[key]

    def takes_up(self, key: Any) -> bool:
        """Have the record of the run before, or that there can be none; whether there is one."""
        if key not in self._before:
            return False
        record = self._before.pop(key)
        if record is not None and not record.renew():
            return False
        self.found[key] = record
        return True

    def keep(self, key: Any, record: R | None) -> None:
        """Have a new record, or that there can be none; the oldest goes where there are many."""
        if len(self.found) >= _MOST:
            del self.found[next(iter(self.found))]
        self.found[key] = record

    def forget(self, record: R) -> None:
        """Have no such record."""
        self.found = {key: r for key, r in self.found.items() if r is not record}

    def forget_others(self, number: int) -> None:
        """Have none of the run before that are of another pair."""
        self._before = {key: r for key, r in self._before.items() if key[1] == number}
