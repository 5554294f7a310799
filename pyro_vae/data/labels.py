"""Labels of any kind as whole numbers, with the names of the classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import kinds


def in_order(names: Iterable[str]) -> list[str]:
    """Class names in the order of their labels: whole numbers by size, others as text.

    Example:
        >>> in_order(["10", "9", "1"]), in_order(["dog", "cat"])
        (['1', '9', '10'], ['cat', 'dog'])
    """
    names = sorted(names)
    numbers = all(name.isascii() and name.isdigit() for name in names)
    return sorted(names, key=int) if numbers else names


def as_integers(value: Any, n: int) -> tuple[Tensor, tuple[str, ...]]:
    """Labels ``int64`` (n,), and the names of classes that were text or categories.

    -1 is a label that is missing. Raises ``TypeError`` for an object that holds no labels,
    ``ValueError`` for another number of labels than n, or numbers not whole by their type.
    """
    numbers, names = numbered(value)
    y = kinds.array(numbers, "y")
    if isinstance(y, np.ndarray):
        if y.dtype.kind not in "biuf":
            raise TypeError(
                f"y: expected whole numbers or text, got {type(value).__name__} of {y.dtype}: "
                "number the classes 0, 1, ..."
            )
        y = torch.from_numpy(np.array(y, dtype=y.dtype.newbyteorder("=")))
    if y.ndim == 2 and n in y.shape and y.numel() == n:
        y = y.reshape(n)
    if y.shape != (n,):
        raise ValueError(
            f"y: expected shape ({n},), one label for each row of x, got {tuple(y.shape)}: "
            + _shape_advice(y, n)
        )
    if y.is_floating_point() or y.is_complex():
        raise ValueError(_no_integers(y))
    return y.detach().long(), names


def numbered(value: Any) -> tuple[Any, tuple[str, ...]]:
    """Categories and text as numbers, with their names; all else as it is."""
    if isinstance(value, Tensor):
        return value, ()
    if kinds.is_a(value, "pandas", "Series", "Categorical"):
        categories = getattr(value, "cat", value)
        if hasattr(categories, "codes"):
            return np.asarray(categories.codes), tuple(map(str, categories.categories))
    found = kinds.array(value, "y")
    if isinstance(found, Tensor) or found.dtype.kind not in "UOT":
        return found, ()
    flat = found.reshape(-1).tolist()
    there = [v for v in flat if not kinds.is_missing(v)]
    others = [v for v in there if not isinstance(v, str)]
    if len(others) == len(there):
        whole = there and all(isinstance(v, int | np.integer) for v in there)
        return (np.array([-1 if kinds.is_missing(v) else v for v in flat]) if whole else found), ()
    if others:
        raise ValueError(
            f"y: expected text for each row, or None where it is missing, got {len(others)} "
            f"others, the first {others[0]!r}: make text of them"
        )
    names = in_order(set(there))
    number = {name: k for k, name in enumerate(names)}
    return np.array([number.get(v, -1) for v in flat]).reshape(found.shape), tuple(names)


def _shape_advice(y: Tensor, n: int) -> str:
    if y.ndim == 2 and len(y) == n:
        if bool(((y == 0) | (y == 1)).all()) and bool((y.sum(1) == 1).all()):
            return "turn one-hot rows into y.argmax(1)"
        return "pass one column, y[:, 0], and others as factors="
    if y.ndim == 1:
        return "drop the rows of x without label, or the labels without row"
    return "pass one label for each row"


def _no_integers(y: Tensor) -> str:
    if y.is_complex() or not (finite := y.isfinite()).all():
        first = 0 if y.is_complex() else int((~finite).nonzero()[0])
        return (
            f"y: expected whole numbers, got {y.dtype} with NaN or infinite values, the first "
            f"y[{first}] = {y[first].item()}: drop the rows without label from x and y, then pass "
            "y.long(), or y.astype(int) of an array; for models.VAE(..., labels='partial') mark "
            "them by -1"
        )
    if not (whole := y == y.round()).all():
        first = int((~whole).nonzero()[0])
        return (
            f"y: expected whole numbers, got {int((~whole).sum())} other values, the first "
            f"y[{first}] = {float(y[first])}: leave measurements out, or pass them as factors=; "
            "number classes 0, 1, ..."
        )
    return (
        f"y: expected whole numbers, got {y.dtype}, as measurements have: pass y.long(), or "
        "y.astype(int) of an array, if these number classes; else leave them out, or pass them "
        "as factors="
    )


def renumbered(
    y: Tensor, found: Sequence[str], names: Sequence[str] | None
) -> tuple[Tensor, Sequence[str] | None]:
    """Labels of the classes ``found``, numbered as in ``names`` where these are given."""
    if not found or names is None:
        return y, names if names is not None else (found or None)
    names = tuple(map(str, names))
    if unknown := [name for name in found if name not in names]:
        raise ValueError(
            f"names: expected all names that y has, got none for {unknown[0]!r}: add it, or leave "
            "names out"
        )
    # The last one is for -1, a label that is missing
    return torch.tensor([*map(names.index, found), -1])[y], names


def shared_names(labels: Sequence[Any]) -> list[str] | None:
    """Names of the classes of several sets whose labels are text, to number them alike."""
    found = [np.asarray(y).reshape(-1) for y in labels]
    if not any(y.dtype.kind in "UOST" for y in found):
        return None
    return in_order({v for y in found for v in y.astype(str).tolist()})


def check_labelled(y: Tensor, programs: Sequence[Any]) -> None:
    """Raise ``ValueError`` where labels are missing, -1, that conditional programs need."""
    partial = any(getattr(program, "partly_labelled", False) is True for program in programs)
    if not partial and (gone := y < 0).any():
        raise ValueError(
            f"y: expected the class of each datum, got {int(gone.sum())} of {len(gone)} missing, "
            f"the first y[{int(gone.long().argmax())}]: drop these rows, d[d.y >= 0], or build "
            'the model with labels="partial"'
        )
