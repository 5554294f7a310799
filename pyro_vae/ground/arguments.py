"""Checks of arguments that any part may have."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Integral
from typing import Any, TypeVar

import torch

_T = TypeVar("_T", bound=str)
# What single precision cannot hold is 0 or infinite to a program
_LEAST, _MOST = 1e-45, torch.finfo(torch.float32).max


def is_whole(value: Any) -> bool:
    """Whether this is an integer, NumPy's too, and no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole(name: str, value: Any, least: int = 1, *, advice: str = "") -> int:
    """A whole number from ``least`` on; ``ValueError``, ending in ``advice``, for anything else.

    Example:
        >>> whole("samples", 10)
        10
    """
    if not is_whole(value) or value < least:
        raise ValueError(
            f"{name}: expected a whole number of at least {least}, got {value!r}"
            + (advice and f": {advice}")
        )
    return int(value)


def at_least(name: str, value: Any, least: float = 0.0) -> float:
    """A finite number from ``least`` on, as a float; ``ValueError`` for anything else.

    Example:
        >>> at_least("beta", 4)
        4.0
    """
    if not least <= (number := _number(value)) <= _MOST:
        raise ValueError(f"{name}: expected a finite number >= {least:g}, got {value!r}")
    return number


def positive(name: str, value: Any, above: float = 0.0, *, advice: str = "") -> float:
    """A finite number above ``above``, as a float; ``ValueError`` for anything else.

    Example:
        >>> positive("sigma", 0.5)
        0.5
    """
    if not max(above, _LEAST) < (number := _number(value)) <= _MOST:
        expected = f" above {above:g}" if above else ""
        raise ValueError(
            f"{name}: expected a positive finite number{expected}, got {value!r}"
            + (advice and f": {advice}")
        )
    return number


def _number(value: Any) -> float:
    """As a float, NaN for what is no number."""
    try:
        return math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError, RuntimeError):
        return math.nan


def sizes(argument: str, value: int | Iterable[int]) -> tuple[int, ...]:
    """One positive integer or several, as a tuple.

    Raises:
        ValueError: anything else.

    Example:
        >>> sizes("latents", 3), sizes("hidden", [400, 400])
        ((3,), (400, 400))
    """
    items = tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(is_whole(item) and item > 0 for item in items):
        raise ValueError(
            f"{argument}: expected positive integers, got {value!r}: pass one such as 20, or "
            "several such as (64, 32)"
        )
    return tuple(int(item) for item in items)


def known(name: str, value: _T, names: Iterable[str]) -> _T:
    """One of ``names``, as it is; ``ValueError`` with what may have been meant for another.

    Example:
        >>> known("site", "z1", ("z2", "z1"))
        'z1'
    """
    names = tuple(names)
    if value not in names:
        raise ValueError(
            f"{name}: expected one of {', '.join(names)}, got {value!r}{guess(value, names)}"
        )
    return value


def guess(value: Any, names: Iterable[str]) -> str:
    """The name that was meant, for the end of an error; nothing where none is near.

    Example:
        >>> guess("Minst", ["mnist", "digits"]), guess("cats", ["mnist"])
        ("; did you mean 'mnist'?", '')
    """
    lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(str(value).lower(), lower, n=1)
    return f"; did you mean {lower[close[0]]!r}?" if close else ""
