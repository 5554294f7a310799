"""Checks of arguments that any part may have."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any


def is_whole(value: Any) -> bool:
    """Whether this is an integer, NumPy's too, and no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


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
