"""Columns of a table that are no data but what a model is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..ground.arguments import known
from .conditions import classes_of_column
from .dataset import Dataset
from .frames import Table


def conditioned(
    data: Dataset, labels: Sequence[str], numbers: Sequence[str], exposure: str | None
) -> Dataset:
    """A table with these columns as labels by their names, and the others as data.

    Raises:
        ValueError: a column that is not there, or twice, or of another kind; no others.

    Example:
        >>> import torch
        >>> from pyro_vae.data.frames import Table
        >>> values = torch.tensor([[1.0, 20.0, 7.0], [0.0, 30.0, 9.0]])
        >>> table = Dataset(Table(values, ("site", "age", "count"), {}))
        >>> conditioned(table, ["site"], ["age"], None).y
        Arguments(2 x (site: (), age: ()))
    """
    place = {column.name: i for i, column in enumerate(data.columns)}
    if not place:
        raise ValueError(
            "labels, numbers, exposure: expected a table with names of columns, got data without: "
            "give the file a first line of names"
        )
    asked = [
        ("labels", labels),
        ("numbers", numbers),
        ("exposure", [exposure] if exposure else []),
    ]
    for argument, names in asked:
        if isinstance(names, str):
            raise ValueError(f"{argument}: expected names, got {names!r}: pass [{names!r}]")
        for name in names:
            known(argument, name, place)
    taken = [name for _, names in asked for name in names]
    rest = [i for name, i in place.items() if name not in taken]
    if len({*taken}) < len(taken) or not rest:
        raise ValueError(
            f"labels, numbers, exposure: expected each column once, and others that are data, got "
            f"{', '.join(map(repr, taken))} of {', '.join(place)}: name fewer"
        )
    y: dict[str, Any] = {}
    called = {}
    for name in labels:
        i = place[name]
        y[name], called[name] = classes_of_column(data.x[:, i], data.columns[i])
    y |= {name: data.x[:, place[name]] for name in numbers}
    if exposure:
        y["exposure"] = data.x[:, place[exposure]]
    kept = [data.columns[i] for i in rest]
    text = {k: column.categories for k, column in enumerate(kept) if column.categories}
    names = tuple(column.name for column in kept)
    return Dataset(Table(data.x[:, rest], names, text, data.index), y, names=called)
