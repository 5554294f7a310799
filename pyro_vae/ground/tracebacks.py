"""Errors in notebooks: the person's own code and the message, without the frames in between.

IPython hides frames by a local ``__tracebackhide__``, which would be a line in each function, and
never hides the last one. Here the traceback is shortened where it is shown, so that nothing is
done while all goes well, and an error that is caught, logged or read by a debugger is whole.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any

_PACKAGE = __name__.partition(".")[0]
# Through whose functions a person's program is called, and theirs are of no interest
_BELOW = ("pyro", "torch", "contextlib", "functools")


def shorten_in(shell: Any) -> None:
    """Have an IPython shell show errors that pass through the library in few lines.

    ``%tb`` shows the same error in full, and ``%xmode Verbose`` every one from then on. A shell
    that has a handler of errors already keeps it.

    Args:
        shell: ``IPython.get_ipython()``; nothing happens to None.
    """
    if shell is not None and not shell.custom_exceptions:
        shell.set_custom_exc((Exception,), _show)


def _show(
    shell: Any,
    kind: type[Exception],
    error: Exception,
    traceback: TracebackType,
    tb_offset: int | None = None,
) -> None:
    chain = _chained(error)
    whole = [(e, e.__traceback__, e.__cause__, e.__suppress_context__) for e in chain]
    try:
        if shell.InteractiveTB.mode != "Verbose" and _is_told(traceback):
            _shorten(chain)
        shown = (kind, error, error.__traceback__)
        shell.showtraceback(shown, tb_offset=tb_offset, running_compiled_code=True)
    finally:
        for each, traceback, cause, suppressed in whole:
            each.__traceback__, each.__cause__ = traceback, cause
            each.__suppress_context__ = suppressed
        # What %tb and %debug read
        sys.last_traceback = error.__traceback__


def _shorten(chain: list[BaseException]) -> None:
    """Leave out frames of the library, and causes that have no others."""
    for each in chain:
        each.__traceback__ = without_library(each.__traceback__)
    kept = [e for i, e in enumerate(chain) if not i or e.__traceback__ is not None]
    for each, cause in zip(kept, [*kept[1:], None], strict=True):
        if _cause(each) is not cause:
            each.__cause__ = cause


def without_library(traceback: TracebackType | None) -> TracebackType | None:
    """The frames of a traceback that are neither of this library nor of what it calls."""
    kept = None
    for frame in reversed([*_frames(traceback)]):
        if _owner(frame) not in (_PACKAGE, *_BELOW):
            kept = TracebackType(kept, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return kept


def _is_told(traceback: TracebackType) -> bool:
    """Whether an error passes through the library, and is no mistake in it.

    It is told by a ``raise`` statement, or comes from code that the library calls for a person.
    """
    frames = [*_frames(traceback)]
    owners = [_owner(frame) for frame in frames]
    if _PACKAGE not in owners:
        return False
    last, code = frames[-1], frames[-1].tb_frame.f_code.co_code
    told = dis.opname[code[last.tb_lasti]] == "RAISE_VARARGS"
    return told or next(o for o in reversed(owners) if o not in _BELOW) != _PACKAGE


def _chained(error: BaseException | None) -> list[BaseException]:
    """An error, its cause, the cause of that, and so on."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = _cause(error)
    return found


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _frames(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _owner(traceback: TracebackType) -> str:
    """The package, or "__main__", whose function a frame runs."""
    return str(traceback.tb_frame.f_globals.get("__name__")).partition(".")[0]
