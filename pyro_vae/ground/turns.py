"""One thread at a time runs Pyro programs, since Pyro has one stack for all threads."""

from __future__ import annotations

import collections
import os
import threading


class Turn:
    """A lock that threads get in the order in which they asked, and its holder again at once.

    All that runs programs in this library is within ``with turn:`` (training, evaluations,
    ``sample``, ``encode``, ``decode``), so that threads can serve a model, or train several, with
    the results of one thread. A run of training holds it from its first step to its last and lets
    others go first between two steps. Pyro itself knows nothing of it: a thread that calls
    ``poutine.trace`` or ``pyro.sample`` on its own needs ``with ground.turns.turn:`` around it.
    ``waiting`` holds a ticket for each other thread that waits.

    Example:
        >>> turn = Turn()
        >>> with turn, turn:
        ...     len(turn.waiting)
        0
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self.waiting: collections.deque[object] = collections.deque()
        self._holder, self._depth = 0, 0

    def __enter__(self) -> Turn:
        """Wait for the turn, unless this thread has it."""
        self._take(1)
        return self

    def __exit__(self, *error: object) -> None:
        """Let the next thread have it, where this is the outermost ``with``."""
        if self._holder != threading.get_ident():
            return  # interrupted while it gave way
        if self._depth > 1:
            self._depth -= 1
        else:
            self._leave()

    def give_way(self) -> None:
        """Let the threads that wait now go first; for its holder."""
        if self.waiting:
            depth = self._depth
            self._leave()
            self._take(depth)

    def _take(self, depth: int) -> None:
        me = threading.get_ident()
        if self._holder == me:
            self._depth += depth
            return
        ticket = object()
        with self._changed:
            self.waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: not self._holder and self.waiting[0] is ticket)
                self._holder, self._depth = me, depth
            finally:
                self.waiting.remove(ticket)
                self._changed.notify_all()

    def _leave(self) -> None:
        with self._changed:
            self._holder, self._depth = 0, 0
            self._changed.notify_all()


turn = Turn()
# A child has none of its parent's other threads, which would hold it for ever
os.register_at_fork(after_in_child=turn._reset)
