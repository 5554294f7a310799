"""What covariates there are to be, from what a person asks for, or from data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..data import Dataset
from ..data.arguments import as_column
from ..data.conditions import mapping_of
from ..ground.arguments import is_whole
from .given import EXPOSURE, OFFSET, RESERVED, check_finite, log_exposure

Numbers = int | Sequence[str] | Mapping[str, int]


def classes_asked(classes: int | Mapping[str, int]) -> dict[str, int]:
    """Name -> number of classes; ``ValueError`` for what is none."""
    named = dict(classes) if isinstance(classes, Mapping) else {"classes": classes}
    for name, k in named.items():
        if not is_whole(k) or k < (name != "classes"):
            raise ValueError(
                f"classes: expected the number of classes, got {k!r}: pass an integer such as 10, "
                "or a mapping such as {'site': 4, 'sex': 2}"
            )
    return {str(name): int(k) for name, k in named.items() if k}


def numbers_asked(numbers: Numbers) -> dict[str, tuple[int, ...]]:
    """Name -> shape of one datum, () for a single number; ``ValueError`` for what is none."""
    if is_whole(numbers) and numbers >= 0:
        return {"numbers": (int(numbers),)} if numbers else {}
    several = isinstance(numbers, list | tuple | Mapping)
    counts = numbers.values() if isinstance(numbers, Mapping) else ()
    named = several and all(isinstance(name, str) for name in numbers)
    if not named or not all(is_whole(k) and k > 0 for k in counts):
        raise ValueError(
            f"numbers: expected how many, or a name for each, got {numbers!r}: pass an integer "
            "such as 3, or names such as ('age', 'dose')"
        )
    if isinstance(numbers, Mapping):
        return {name: (int(k),) if k > 1 else () for name, k in numbers.items()}
    return dict.fromkeys(numbers, ())


def check_names(names: Sequence[str], *, offset: bool) -> None:
    """Raise ``ValueError`` for no names at all, or one that is there twice or means something."""
    if not (names or offset):
        raise ValueError(
            "Covariates: expected classes, numbers or an offset, got none: pass such as "
            "classes=10, or leave condition out"
        )
    wrong = [n for n in names if names.count(n) > 1 or n in RESERVED]
    if wrong:
        raise ValueError(
            f"Covariates: expected names that are there once, other than {EXPOSURE!r} and "
            f"{OFFSET!r}, got {wrong[0]!r}: rename it; an exposure is asked for by offset=True"
        )


def asked_by(y: Any) -> dict[str, Any]:
    """The arguments of ``Covariates`` for labels of several kinds, standardised by them."""
    names: Mapping[str, Sequence[str]] = {}
    if isinstance(y, Dataset):
        y, names = y.y, y.names
    found = mapping_of(y)
    if found is None:
        raise ValueError(
            "y: expected a mapping of classes and numbers, got "
            f"{'none' if y is None else type(y).__name__}: pass such as "
            "{'site': sites, 'age': ages}, or condition=10 for ten classes alone"
        )
    classes, numbers, told = {}, {}, []
    for name, value in found.items():
        column = as_column(value, f"y[{name!r}]")
        rows = column.reshape(len(column), -1).double()
        if name in RESERVED:
            continue
        if column.is_floating_point() or rows.shape[1] > 1:
            check_finite(name, column)
            numbers[name] = rows.shape[1]
            told.append(rows)
        else:
            classes[name] = len(names[name]) if name in names else int(column.max()) + 1
    offset = any(name in found for name in RESERVED)
    if offset:
        told.append(log_exposure(found).reshape(-1, 1))
    asked = {"classes": classes, "numbers": numbers, "offset": offset}
    if not told:
        return asked
    values = torch.cat(told, 1)
    scale = values.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)
    return asked | {"loc": values.mean(0).tolist(), "scale": scale.tolist()}
