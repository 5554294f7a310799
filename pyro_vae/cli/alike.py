"""New data with columns, text and classes numbered as those that a pair was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data import Arguments, Dataset
from ..data.conditions import Names
from ..data.frames import Table, of_columns
from ..ground.arguments import guess, known
from ..models import Covariates
from ..models.given import EXPOSURE


def alike(data: Dataset, model: Any, classes: Names | None) -> Dataset:
    """New data as the model was given those of training.

    Args:
        data: as a file alone tells them.
        model: its ``columns`` are those of a table, if any.
        classes: the names of the classes on which it is conditional; None where nobody knows.

    Raises:
        ValueError: a column that is not there, text or a class that training did not have.
    """
    y, names = _renumbered(data.y, data.names, classes)
    columns = getattr(model, "columns", ())
    if not (columns and data.columns):
        return data.replace(y=y, names=names)
    here = [column.name for column in data.columns]
    if odd := [column.name for column in columns if column.name not in here]:
        raise ValueError(
            f"--data: expected the columns of training, got no {odd[0]!r}{guess(odd[0], here)}: "
            "rename columns, or add it"
        )
    text = {i: column.categories for i, column in enumerate(data.columns) if column.categories}
    table = of_columns(Table(data.x, tuple(here), text, data.index), columns)
    return Dataset(table, y, names=names or None, binarize=data.binarize, columns=columns)


def _renumbered(
    y: Tensor | Arguments | None, found: Names, classes: Names | None
) -> tuple[Any, Names]:
    if y is None or not classes:
        return y, found
    if not isinstance(y, Arguments):
        # Whole numbers, of a file without names, are those of the classes
        if _are_numbers(found) and (_are_numbers(classes) or {*found}.isdisjoint(classes)):
            # Those of no class are for the model to refuse
            return y, classes if int(y.max()) < len(classes) else found
        return _of_class(y, found, classes, "labels"), classes
    columns = {
        name: _of_class(column, found[name], classes[name], f"column {name!r}")
        if name in classes
        else column
        for name, column in y.items()
    }
    return columns, classes


def class_named(option: str, text: str, names: Sequence[str], count: int) -> int:
    """The number of a class by its name or, where names are words, by its number.

    Args:
        option: where the text was given, for errors.
        text: what a person typed.
        names: what classes were called in training; none where nobody knows.
        count: how many classes there are.

    Raises:
        ValueError: no class of that name or number.
    """
    if text in names:
        return names.index(text)
    numbered = not names or _are_numbers(names)
    takes_numbers = numbered or not any(map(str.isdecimal, names))
    if takes_numbers and text.isdecimal() and int(text) < count:
        return int(text)
    if numbered:
        raise ValueError(f"{option}: expected a class from 0 to {count - 1}, got {text}")
    return names.index(known(option, text, names))


def given_as(told: Mapping[str, str], covariates: Covariates, names: Names) -> dict[str, float]:
    """What a model is told of its covariates, NAME=TEXT, as numbers by name.

    Raises:
        ValueError: a covariate that is not there, or no number or class of one that is.
    """
    found: dict[str, float] = {}
    called = names if isinstance(names, Mapping) else {}
    for name, text in told.items():
        known("--given", name, [*covariates.shapes, *([EXPOSURE] if covariates.offset else [])])
        option = f"--given {name}"
        if (count := covariates.classes.get(name)) is not None:
            found[name] = class_named(option, text, called.get(name, ()), count)
            continue
        try:
            found[name] = float(text)
        except ValueError:
            raise ValueError(f"{option}: expected a number, got {text!r}") from None
    return found


def _are_numbers(names: Sequence[str] | Mapping[str, Any]) -> bool:
    return [*names] == [*map(str, range(len(names)))]


def _of_class(y: Tensor, found: Sequence[str], classes: Sequence[str], where: str) -> Tensor:
    """Labels of the classes ``found`` as those of ``classes``; -1 stays what is missing."""
    for k in y[y >= 0].unique().tolist():
        known(f"--data, {where}", found[k], classes)
    places = [classes.index(name) if name in classes else -1 for name in found]
    return torch.tensor([*places, -1], device=y.device)[y]
