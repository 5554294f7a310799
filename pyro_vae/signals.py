"""Ctrl-C and SIGTERM, held back until a step is finished."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Interruption:
    """A wish of the system or of a person that a run ends.

    Attributes:
        signal: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; a second Ctrl-C interrupts at once."""
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal != signal.SIGTERM:
            self.signal = number


@contextlib.contextmanager
def held_back() -> Iterator[Interruption]:
    """Let Ctrl-C and SIGTERM wait: the run looks at ``Interruption.signal`` after each step.

    Only in the main thread, where Python handles signals; handlers of a person's own for Ctrl-C,
    and signals that are ignored, stay as they are. The handlers from before are back afterwards,
    and a SIGTERM that came takes its course: a handler of a person's own is called, and without
    one the process ends.

    Raises:
        SystemExit: status 143, after SIGTERM.
    """
    interruption = Interruption()
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
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if interruption.signal == signal.SIGTERM:
            if before[signal.SIGTERM] is signal.SIG_DFL:
                raise SystemExit(128 + signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
