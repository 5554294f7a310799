"""What the text of an option may be, wherever a program has options."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Callable

_MOST = 10**9


def integer(least: int, most: int | None = None) -> Callable[[str], int]:
    """A parser of whole numbers from ``least`` to ``most``, by default as far as memory goes.

    Example:
        >>> integer(1)("20")
        20
    """
    expected = f"of at least {least}" if most is None else f"from {least} to {most}"

    def parse(text: str) -> int:
        fits = re.fullmatch(r"[+-]?\d{1,20}", text) is not None
        if not fits or not least <= int(text) <= (_MOST if most is None else most):
            raise ArgumentTypeError(f"expected a whole number {expected}, got {text!r}")
        return int(text)

    return parse
