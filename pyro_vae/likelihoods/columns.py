"""The likelihood of a table, by the kinds of its columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ..data import Dataset, DataSplits
from ..data.columns import KINDS, Kind, kinds_of
from ..ground.arguments import is_whole, known
from .bernoulli import Bernoulli
from .counts import NegativeBinomial
from .discrete import Nominal
from .gaussian import Gaussian
from .mixed import Mixed


def for_columns(
    data: Dataset | DataSplits, kinds: Mapping[str | int, Kind] | None = None
) -> Mixed:
    """A ``Mixed`` for these data: a likelihood for the columns of each kind.

    | kind | likelihood |
    |---|---|
    | numeric | ``Gaussian("per_pixel")``, standardised by the training data |
    | count | ``NegativeBinomial("per_column")``, about the means of the training data |
    | binary | ``Bernoulli()`` |
    | categorical | ``Nominal(k)`` |

    Args:
        data: a table, or vectors (n, columns), whose training set is looked at; what is missing,
            NaN, is left out.
        kinds: name, or number, of a column -> its kind, in place of what ``data.Column`` tells:
            whole numbers such as 0, 1, 2 that number categories are to be told here.

    Raises:
        TypeError: data of another type.
        ValueError: data that are no vectors, unknown columns or kinds, columns of which all is
            missing, numeric ones that never vary, categories that are not numbered from 0, or
            that the training set lacks.

    Example:
        >>> import torch
        >>> from pyro_vae import data
        >>> x = torch.tensor([[0.5, 0.0, 2.0], [1.5, 9.0, 0.0], [0.0, 3.0, 1.0]])
        >>> mixed = for_columns(data.Dataset(x), kinds={2: "categorical"})
        >>> mixed.likelihoods[2], mixed.feature_shape((3,)), mixed.columns
        (Nominal(categories=3), (5,), ((0,), (1,), (2,)))
    """
    if not isinstance(data, Dataset | DataSplits):
        raise TypeError(
            f"data: expected a data set of a table, got {type(data).__name__}: pass such as "
            'data.load("table.csv"), or data.Dataset(frame)'
        )
    sets = [data] if isinstance(data, Dataset) else [data.train, data.test, data.validation]
    train = sets[0]
    x, size = train.x, train.event_shape[0]
    if len(train.event_shape) != 1:
        raise ValueError(
            f"data: expected rows of a table, got data of shape {train.event_shape}: pass "
            "vectors, x.flatten(1)"
        )
    names = [column.name for column in train.columns] or None
    told = names or [*map(str, range(size))]
    if (lost := x.isnan().all(0)).any():
        raise ValueError(
            "data: expected each column to be seen in some row of the training set, got "
            f"{told[int(lost.long().argmax())]!r} of missing values alone: leave it out"
        )
    found = [c.kind for c in train.columns] or kinds_of(x)
    for column, kind in (kinds or {}).items():
        found[_number(column, names, size)] = known("kinds", kind, KINDS)
    groups: dict[Any, list[int]] = defaultdict(list)
    for i, kind in enumerate(found):
        text = train.columns[i].categories if train.columns else ()
        if kind == "categorical" or text:
            seen = [_seen(part, i) for part in sets if part is not None]
            _check_seen(seen[0], set().union(*seen[1:]), text, told[i])
        if kind == "categorical":
            groups[kind, len(text) or int(max(map(max, seen))) + 1].append(i)
        else:
            groups[kind].append(i)
    for i in groups["numeric"]:
        there = x[:, i][~x[:, i].isnan()]
        if (there == there[0]).all():
            raise ValueError(
                f"data: expected numeric columns that vary, got {told[i]!r} of one value, "
                f"{float(there[0]):.4g}, whose density has no bound: leave it out"
            )
    made = {
        "numeric": lambda rows: Gaussian.standardized(rows, "per_pixel"),
        "count": lambda rows: NegativeBinomial.standardized(rows, "per_column"),
        "binary": lambda _: Bernoulli(),
    }
    parts = []
    for kind, columns in groups.items():
        if columns:
            likelihood = Nominal(kind[1]) if isinstance(kind, tuple) else made[kind](x[:, columns])
            parts.append((columns, likelihood))
    table = [c._replace(kind=k) for c, k in zip(train.columns, found, strict=False)]
    return Mixed(parts, table or None)


def _seen(data: Dataset, column: int) -> set[float]:
    """The values of a column that are there."""
    values = data.x[:, column]
    return {*values[~values.isnan()].tolist()}


def _check_seen(train: set[float], others: set[float], text: Sequence[str], name: str) -> None:
    """Raise ``ValueError`` for a category whose probability nothing would teach."""
    if unseen := sorted(others - train):
        first = repr(text[int(unseen[0])]) if text else f"{unseen[0]:g}"
        raise ValueError(
            f"data: expected each category of {name!r} in some row of the training set, got "
            f"{first} in other sets alone: split them otherwise, as with data.load(..., seed=1), "
            "or leave these rows out"
        )


def _number(column: str | int, names: list[str] | None, size: int) -> int:
    if is_whole(column):
        column = int(column)
        if not -size <= column < size:
            raise ValueError(
                f"kinds: expected columns 0 to {size - 1}, got {column}: check the number"
            )
        return column
    return (names or []).index(known("kinds", column, names or ()))
