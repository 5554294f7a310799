"""Ctrl-C and SIGTERM, held back until a step is finished."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from .. import ranks

_SECONDS = 0.1


class Interruption:
    """A wish of the system or of a person that a run ends: the ``signal`` that came, or None."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._received = self._within = self._again = False
        self._steps = self._left = 1
        self._several = ranks.size() > 1
        self._asked = time.perf_counter()

    def ends(self) -> bool:
        """Whether the run ends after this step, to be asked after each one.

        Several processes end after the same step. They agree on it about every tenth of a second,
        for that takes them as long as a small step.
        """
        if not self._several:
            return self.signal is not None
        self._left -= 1
        if self._left:
            return False
        seconds = time.perf_counter() - self._asked
        steps = max(1, int(self._steps * _SECONDS / seconds))
        agreed, negative = ranks.most([self.signal or 0, -steps])
        self._steps = self._left = -negative
        self._asked = time.perf_counter()
        # One that comes meanwhile waits for the next time
        self.signal = agreed or self.signal
        return agreed > 0

    def __enter__(self) -> None:
        """A step, which a second Ctrl-C lets end, so that none is left half done; no third one."""
        self._within = True

    def __exit__(self, *error: object) -> None:
        """Interrupt now where a second Ctrl-C came within."""
        self._within = False
        if self._again and error[0] is None:
            raise KeyboardInterrupt

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; a second Ctrl-C interrupts at once, or after its step."""
        if self._received and number == signal.SIGINT:
            if not self._within or self._again:
                raise KeyboardInterrupt
            self._again = True
        self._received = True
        if self.signal != signal.SIGTERM:
            self.signal = number


@contextlib.contextmanager
def held_back(interruption: Interruption) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait: the run looks at ``Interruption.signal`` after each step.

    Only in the main thread, where Python handles signals; handlers of a person's own for Ctrl-C,
    and signals that are ignored, stay as they are. The handlers from before are back afterwards,
    and a SIGTERM that came takes its course: a handler of a person's own is called, and without
    one the process ends, by ``SystemExit`` of status 143.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            before[signal.SIGINT] = signal.default_int_handler
        # None: a handler that was not installed from Python
        if signal.getsignal(signal.SIGTERM) not in (signal.SIG_IGN, None):
            before[signal.SIGTERM] = signal.getsignal(signal.SIGTERM)
    try:
        for number in before:
            signal.signal(number, interruption.receive)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if interruption.signal == signal.SIGTERM and signal.SIGTERM in before:
            if before[signal.SIGTERM] is signal.SIG_DFL:
                raise SystemExit(128 + signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
