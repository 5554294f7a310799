"""Labels of several kinds: a mapping of classes, numbers and exposures, a row per datum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..ground.arguments import known
from . import checks, kinds
from .arguments import Arguments, as_column
from .columns import Column
from .labels import as_integers, numbered, renumbered

Names = tuple[str, ...] | dict[str, tuple[str, ...]]


def mapping_of(y: Any, *, frames: int = 2) -> dict[str, Any] | None:
    """Labels of several kinds by their names; None for labels of one kind, and for none.

    A table is such a mapping from so many columns on.
    """
    if isinstance(y, Mapping | Arguments):
        return {str(name): value for name, value in y.items()}
    if kinds.is_frame(y) and y.shape[1] >= frames:
        return {str(name): kinds.column_at(y, i) for i, name in enumerate(y.columns)}
    return None


def classes_in(y: Tensor | Arguments | None) -> Tensor | None:
    """Labels (n,) by which data are told apart: of several kinds the first classes."""
    if not isinstance(y, Arguments):
        return y
    return next((v for v in y.values if v.dim() == 1 and not v.is_floating_point()), None)


def classes_of(data: Any) -> tuple[Tensor | None, Sequence[str]]:
    """``classes_in`` the labels of a ``Dataset``, and what these classes are called."""
    classes = classes_in(data.y)
    if not isinstance(data.y, Arguments):
        return classes, data.names
    name = next((name for name, column in data.y.items() if column is classes), None)
    return classes, data.names.get(name, ())


def held(
    y: Any, n: int, names: Any, device: torch.device
) -> tuple[Tensor | Arguments | None, Names, bool]:
    """Labels of n data as a ``Dataset`` holds them, names, and whether text decided on numbers."""
    if y is None:
        return None, checks.names(names, None), False
    if isinstance(y, Arguments) and len(y) == n:
        return y.to(device), names or {}, False
    if (several := mapping_of(y)) is not None:
        return _several(several, n, names, device)
    labels, found = as_integers(y, n)
    by_text = bool(found) and names is None
    labels, names = renumbered(labels, found, names)
    return labels.to(device), checks.names(names, labels), by_text


def _several(
    y: Mapping[str, Any], n: int, names: Any, device: torch.device
) -> tuple[Arguments, dict[str, tuple[str, ...]], bool]:
    given, columns, called = dict(names or {}), {}, {}
    for name in given:
        known("names", name, y)
    for name, value in y.items():
        try:
            numbers, found = numbered(value)
            column = as_column(numbers, "y")
            if not (column.is_floating_point() or column[:1].numel() > 1):
                labels, _ = as_integers(column, n)
                column, own = renumbered(labels, found, given.get(name))
                if own:
                    called[name] = checks.names(own, column)
        except (TypeError, ValueError) as error:
            raise type(error)(str(error).replace("y", f"y[{name!r}]", 1)) from error
        if column.dim() == 0 or len(column) != n:
            raise ValueError(
                f"y[{name!r}]: expected a row for each of {n} data, got shape "
                f"{tuple(column.shape)}: pass as many as there are rows of x"
            )
        columns[name] = column.to(device)
    return Arguments((), columns, tuple(columns)), called, bool(called) and names is None


def told(y: Tensor | Arguments | None, names: Names) -> str:
    """What a ``Dataset`` shows of its labels."""
    if isinstance(y, Arguments):
        return f"({', '.join(map(str, y.kwargs))})"
    return "None" if y is None else str(len(names) or len(y.unique()))


def classes_of_column(values: Tensor, column: Column) -> tuple[Tensor, tuple[str, ...]]:
    """A column of a table as classes 0, 1, ..., -1 where it is missing, and what they are called.

    Raises ``ValueError`` for numbers that are not whole.
    """
    gone = values.isnan()
    if column.categories:
        return values.masked_fill(gone, -1).long(), column.categories
    if ((values != values.round()) & ~gone).any():
        raise ValueError(
            f"labels: expected text or whole numbers, got others in the column {column.name!r}: "
            "pass it as one of numbers="
        )
    # Whatever they are, such as years, they are numbered in their order
    found = values[~gone].unique()
    numbers = torch.searchsorted(found, values.contiguous()).masked_fill(gone, -1)
    return numbers, tuple(f"{value:g}" for value in found.tolist())
