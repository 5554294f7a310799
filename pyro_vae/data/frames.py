"""Tables as numbers, and new rows of a table that is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..ground.arguments import guess, known
from . import kinds
from .columns import Column, Rows, kinds_of
from .labels import in_order


@dataclass(frozen=True)
class Table:
    """The numbers (n, columns) of a table, with what belongs to them.

    Attributes:
        values: text as the number of its category.
        names: of all columns.
        categories: the text of these, by column.
        index: what the rows are called, (n,), or None.
        told: the columns, where they are not told by the values.
    """

    values: Any
    names: tuple[str, ...]
    categories: Mapping[int, tuple[str, ...]]
    index: np.ndarray | None = None
    told: tuple[Column, ...] = ()

    def columns(self, x: Tensor) -> tuple[Column, ...]:
        """The columns, of kinds by their values ``x`` (n, columns)."""
        if self.told:
            return self.told
        found = zip(self.names, kinds_of(x, self.categories), strict=True)
        return tuple(Column(n, k, self.categories.get(i, ())) for i, (n, k) in enumerate(found))


def table_of(value: Any, argument: str = "x") -> Table | None:
    """A frame of pandas or polars, ``AnnData`` or ``Rows``, as a ``Table``; None for all else.

    Raises:
        TypeError: columns of dates, lists and other objects.
    """
    if isinstance(value, Table):
        return value
    if isinstance(value, Rows):
        names = tuple(column.name for column in value.columns)
        return Table(value.as_subclass(Tensor), names, {}, told=value.columns)
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
    """Text as numbers of its categories, in their order, and NaN where it is missing.

    Raises ``ValueError``, naming the column, for values that are no text.
    """
    # Of pandas, which has an order; those of polars are in that in which they were met
    own = getattr(column, "cat", None)
    ordered = getattr(own, "categories", None)
    values = column.to_list() if hasattr(column, "to_list") else list(column)
    if ordered is not None:
        values = [None if code < 0 else str(ordered[code]) for code in own.codes]
    there = [v for v in values if not kinds.is_missing(v)]
    if others := [v for v in there if not isinstance(v, str)]:
        raise ValueError(
            f"x: expected text in all of column {name!r}, got {len(others)} others, the first "
            f"{others[0]!r}: make text of them, or NaN where they are missing"
        )
    names = in_order(set(there)) if ordered is None else [*map(str, ordered)]
    number = {text: float(k) for k, text in enumerate(names)}
    return np.array([number.get(v, np.nan) for v in values]), tuple(names)


def of_columns(value: Any, columns: Sequence[Column]) -> Table:
    """New rows of a table that is known: its columns, in their order, text numbered as there.

    Raises ``ValueError``, naming what may have been meant, for a column that is not there, values
    that are no category of it, and text in place of numbers.
    """
    columns = tuple(Column(*column) for column in columns)
    names = tuple(column.name for column in columns)
    if (table := table_of(value)) is None:
        return Table(value, names, {}, told=columns)
    found = kinds.array(table.values, "x")
    each = []
    for column in columns:
        place = table.names.index(known("x", column.name, table.names))
        values = np.asarray(found[:, place], dtype=np.float64)
        text = table.told[place].categories if table.told else table.categories.get(place, ())
        each.append(_numbered(values, text, column))
    return Table(np.stack(each, 1), names, {}, table.index, columns)


def _numbered(values: np.ndarray, text: Sequence[str], column: Column) -> np.ndarray:
    """Values of a column, numbers of ``text`` or themselves, as those of one that is known."""
    told = f"x, column {column.name!r}"
    if not column.categories:
        if text:
            raise ValueError(
                f"{told}: expected numbers, got text such as {text[0]!r}: leave cells without a "
                "value empty"
            )
        return values
    if not text:
        # What is text among other text, such as "1" and "x", may be numbers alone
        numbers = np.unique(values[~np.isnan(values)])
        text = [f"{number:g}" for number in numbers]
        values = np.where(np.isnan(values), np.nan, np.searchsorted(numbers, values))
    codes = [column.categories.index(known(told, t, column.categories)) for t in text]
    # The last one is for what is missing
    return np.array([*codes, np.nan])[np.nan_to_num(values, nan=-1).astype(int)]


def check_columns(found: Sequence[Column], programs: Sequence[Any]) -> None:
    """Raise ``ValueError`` for a table other than that of a model: names, order or categories."""
    expected = next((c for p in programs if (c := getattr(p, "columns", ()))), ())
    if not expected or [c[::2] for c in found] == [c[::2] for c in expected]:
        return
    names, wanted = ([c.name for c in columns] for columns in (found, expected))
    way = "pass data.Dataset(frame, columns=model.columns)"
    if names == wanted:
        name = next(f.name for f, e in zip(found, expected, strict=True) if f[2] != e[2])
        told = f"other categories of {name!r}"
    elif odd := [name for name in wanted if name not in names]:
        told = f"no {odd[0]!r}{guess(odd[0], names)}"
        way = f"rename columns, and {way}"
    else:
        told = "other columns besides, or another order"
    raise ValueError(
        f"data: expected the columns of the model, with their categories, got {told}: {way}"
    )
