"""Columns of a table: their names, and of what kind their values are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from torch import Tensor, nn

from ..ground.tables import pandas_or

if TYPE_CHECKING:
    import pandas

Kind = Literal["numeric", "count", "binary", "categorical"]
KINDS: tuple[Kind, ...] = ("numeric", "count", "binary", "categorical")


class Column(NamedTuple):
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


def values_of(columns: Sequence[Column], x: Tensor) -> list[np.ndarray]:
    """Values ``x`` (m, columns) by column: text, None where it is missing, and numbers.

    Counts and flags that are whole have a type of whole numbers; means of them have not.
    ``ValueError`` for values of another shape.
    """
    if x.dim() != 2 or x.shape[1] != len(columns):
        raise ValueError(
            f"x: expected rows (m, {len(columns)}) of this table, got {tuple(x.shape)}: pass such "
            "as vae.sample(10) of a model of these data"
        )
    found = []
    plain = x.as_subclass(Tensor).detach().cpu().numpy()
    for column, values in zip(columns, plain.T, strict=True):
        if column.categories:
            names = np.array([*column.categories, None], dtype=object)
            codes = np.clip(np.round(values), 0, len(names) - 2)
            values = names[np.nan_to_num(codes, nan=-1).astype(int)]
        elif column.kind != "numeric" and (values == np.round(values)).all():
            values = values.astype(np.int64)
        found.append(values)
    return found


def frame_of(
    columns: Sequence[Column], x: Tensor, index: np.ndarray | None = None
) -> pandas.DataFrame:
    """Values ``x`` (m, columns) as a ``pandas.DataFrame`` with names, text and index.

    Raises:
        ImportError: pandas is not installed.
        ValueError: values of another shape.
    """
    pandas = pandas_or("the tensor and its columns, or data.write(path, x)")
    found = dict(enumerate(values_of(columns, x)))
    for i, column in enumerate(columns):
        if column.categories:
            found[i] = pandas.Categorical(found[i], [*column.categories])
    frame = pandas.DataFrame(found, index=index)
    frame.columns = [column.name for column in columns]
    return frame


class Rows(Tensor):
    """Rows (m, columns) of a table that know its columns: ``rows.to_frame()``.

    What is computed from them, such as a part, is a plain tensor, and so is what is stored.

    Example:
        >>> import torch
        >>> rows = Rows.of(torch.zeros(2, 1), [Column("height", "numeric")])
        >>> rows.columns[0].name, type(rows[:1])
        ('height', <class 'torch.Tensor'>)
    """

    columns: tuple[Column, ...]
    # As a parameter: an operation on it does not see that it is one
    __torch_function__ = nn.Parameter.__torch_function__

    @classmethod
    def of(cls, x: Tensor, columns: Sequence[Column]) -> Rows:
        """The same values, that know these columns."""
        found = x.as_subclass(cls)
        found.columns = tuple(columns)
        return found

    def to_frame(self) -> pandas.DataFrame:
        """A table of pandas, with the names of columns and categories.

        Raises:
            ImportError: pandas is not installed.
        """
        return frame_of(self.columns, self.as_subclass(Tensor))

    def __deepcopy__(self, memo: dict[int, Any]) -> Rows:
        return Rows.of(self.detach().clone(), self.columns)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.as_subclass(Tensor).__reduce_ex__(protocol)


def of_table(x: Tensor, model: Any) -> Tensor:
    """What a model makes of its data's kind: ``Rows`` where these are a table."""
    columns = getattr(model, "columns", ())
    return Rows.of(x, columns) if columns else x
