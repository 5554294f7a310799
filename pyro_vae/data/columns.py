"""Columns of a table: their names, and of what kind their values are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from ..ground.tables import pandas_or
from . import kinds
from .labels import in_order

Kind = Literal["numeric", "count", "binary", "categorical"]
KINDS: tuple[Kind, ...] = ("numeric", "count", "binary", "categorical")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: as in the table.
        kind: "binary" for 0 and 1; "categorical" for text, numbered in its order; "count" for
            whole numbers from 0 on that vary at least half as much as Poisson counts of their
            mean; "numeric" for all others, such as years.
        categories: the text of 0, 1, ..., where it was text.

    Example:
        >>> Column("city", "binary", ("Bonn", "Rome"))
        Column(name='city', kind='binary', categories=('Bonn', 'Rome'))
    """

    name: str
    kind: Kind
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """The numbers (n, columns) of a table, with what belongs to them.

    Attributes:
        values: text as the number of its category.
        names: of all columns.
        categories: the text of these, by column.
        index: what the rows are called, (n,), or None.
    """

    values: Any
    names: tuple[str, ...]
    categories: Mapping[int, tuple[str, ...]]
    index: np.ndarray | None = None

    def columns(self, x: Tensor) -> tuple[Column, ...]:
        """The columns, of kinds by their values ``x`` (n, columns)."""
        found = zip(self.names, kinds_of(x, self.categories), strict=True)
        return tuple(Column(n, k, self.categories.get(i, ())) for i, (n, k) in enumerate(found))


def kinds_of(x: Tensor, text: Iterable[int] = ()) -> list[Kind]:
    """The kind of each column of ``x`` (n, columns), of what is no NaN; of ``text`` no counts.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0, 2001.0, 0.5, 0.0], [1.0, 2003.0, 0.1, 9.0]])
        >>> kinds_of(x)
        ['binary', 'numeric', 'numeric', 'count']
    """
    gone, mean = x.isnan(), x.double().nanmean(0)
    binary = ((x == 0) | (x == 1) | gone).all(0)
    whole = ((x >= 0) & (x == x.round()) | gone).all(0)
    varies = (x - mean).square().nanmean(0) >= mean / 2
    found: list[Kind] = []
    for i, flag in enumerate(binary.tolist()):
        count = bool(whole[i] & varies[i])
        others: Kind = "categorical" if i in text else "count" if count else "numeric"
        found.append("binary" if flag else others)
    return found


def table_of(value: Any, argument: str = "x") -> Table | None:
    """A frame of pandas or polars, or an ``AnnData``, as a ``Table``; None for all else.

    Raises:
        TypeError: columns of dates, lists and other objects.
    """
    if isinstance(value, Table):
        return value
    if kinds.is_a(value, "anndata", "AnnData"):
        names = tuple(map(str, value.var_names))
        return Table(kinds.array(value, argument), names, {}, np.asarray(value.obs_names))
    if not kinds.is_frame(value):
        return None
    each = {i: kinds.column_at(value, i) for i in range(value.shape[1])}
    text = {i: column for i, column in each.items() if kinds.is_text(column)}
    numbered = {i: numbers_of(column, str(value.columns[i])) for i, column in text.items()}
    rest = [i for i in each if i not in text]
    numbers = iter(kinds.array(kinds.columns_at(value, rest), argument).T if rest else ())
    values = [numbered[i][0] if i in text else next(numbers) for i in each]
    return Table(
        np.stack(values, 1),
        tuple(map(str, value.columns)),
        {i: names for i, (_, names) in numbered.items()},
        np.asarray(value.index) if kinds.is_a(value, "pandas") else None,
    )


def numbers_of(column: Any, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Text as numbers of its categories, in their order.

    Raises ``ValueError``, naming the column, for values that are missing.
    """
    # Of pandas, which has an order; those of polars are in that in which they were met
    own = getattr(column, "cat", None)
    ordered = getattr(own, "categories", None)
    values = column.to_list() if hasattr(column, "to_list") else list(column)
    if ordered is not None:
        values = [None if code < 0 else str(ordered[code]) for code in own.codes]
    if missing := [i for i, v in enumerate(values) if not isinstance(v, str)]:
        raise ValueError(
            f"x: expected text in all of column {name!r}, got {len(missing)} others, the first in "
            f"row {missing[0]}: drop these rows, or fill them"
        )
    names = in_order(set(values)) if ordered is None else [*map(str, ordered)]
    number = {text: k for k, text in enumerate(names)}
    return np.array([number[v] for v in values], dtype=np.float64), tuple(names)


def frame_of(columns: Sequence[Column], x: Tensor, index: np.ndarray | None = None) -> Any:
    """Values ``x`` (m, columns) as a ``pandas.DataFrame`` with names, text and index.

    Counts and flags that are whole have a type of whole numbers; means of them have not.

    Raises:
        ImportError: pandas is not installed.
        ValueError: values of another shape.
    """
    pandas = pandas_or("the tensor and its columns")
    if x.dim() != 2 or x.shape[1] != len(columns):
        raise ValueError(
            f"x: expected rows (m, {len(columns)}) of this table, got {tuple(x.shape)}: pass such "
            "as vae.sample(10) of a model of these data"
        )
    found = {}
    for i, (column, values) in enumerate(zip(columns, x.detach().cpu().numpy().T, strict=True)):
        if column.categories:
            names = np.array(column.categories)
            codes = np.clip(np.round(values), 0, len(names) - 1).astype(int)
            values = pandas.Categorical.from_codes(codes, names)
        elif column.kind != "numeric" and (values == np.round(values)).all():
            values = values.astype(np.int64)
        found[i] = values
    frame = pandas.DataFrame(found, index=index)
    frame.columns = [column.name for column in columns]
    return frame
