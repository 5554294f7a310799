"""A ``Dataset`` of whatever a person passes where data are expected."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from . import kinds
from .dataset import Dataset
from .splits import DataSplits

Channels = Literal["first", "last"] | None
_PAIRS = (("x", "y"), ("data", "target"))
LABELS = ("label", "labels", "class", "target")


def as_dataset(data: Any, name: str = "data", *, channels: Channels = None) -> Dataset:
    """Data in memory as a ``Dataset``; one that is a ``Dataset`` as it is.

    Args:
        data: a ``Dataset``; a pair (x, y); a mapping of x[, y] or, as of scikit-learn, data[,
            target]; a ``TensorDataset``, or another data set of torch or torchvision, of which
            each item is read once; a table of pandas or polars, whose column of text, or of whole
            numbers by a name such as "label", are labels; or x alone, of any kind of ``kinds``.
        name: the argument, for errors.
        channels: as for ``Dataset``.

    Raises:
        TypeError: what holds no data in memory, or more than one set of them.
        ValueError: as ``Dataset``.

    Example:
        >>> as_dataset((np.zeros((2, 3)), ["a", "b"]))
        Dataset(2 x (3,), labels=2, binarize=None)
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, DataSplits):
        raise TypeError(
            f"{name}: expected one set of data, got DataSplits {data.name!r} of two or more: pass "
            "its .train or its .test"
        )
    if isinstance(data, TensorDataset):
        data = data.tensors
    elif isinstance(data, DataLoader | IterableDataset):
        raise TypeError(_no_stream(data, name))
    elif isinstance(data, TorchDataset):
        return _read(data, name, channels)
    elif isinstance(data, str | Path):
        raise TypeError(
            f"{name}: expected data in memory, got {data!r}: pass data.load({str(data)!r}).train, "
            "or its .test"
        )
    elif isinstance(data, Mapping):
        data = _entries(data, name)
    elif kinds.is_frame(data):
        data = _with_labels(data, name)
    if isinstance(data, tuple) or _is_pair(data):
        if not 1 <= len(data) <= 2:
            raise TypeError(
                f"{name}: expected x or a pair (x, y), got {len(data)} in one: pass data[0], or "
                "the two of them that are x and y"
            )
        return Dataset(*data, channels=channels)
    return Dataset(data, channels=channels)


def _is_pair(data: Any) -> bool:
    """Whether a list is a batch [x, y] of a loader, which cannot be two rows of a table."""
    if not isinstance(data, list) or len(data) != 2:
        return False
    x, y = data
    arrays = all(isinstance(v, Tensor | np.ndarray) for v in data) and x.ndim > 1 == y.ndim
    return arrays or y is None


def _no_stream(data: Any, name: str) -> str:
    if isinstance(data, DataLoader) and not isinstance(data.dataset, IterableDataset):
        return f"{name}: expected data in memory, got a DataLoader: pass its .dataset"
    batches = ", which fit alone takes" if isinstance(data, DataLoader) else ""
    return (
        f"{name}: expected data in memory, got a stream, {type(data).__name__}{batches}: collect "
        "it, torch.stack(list(...)) of tensors"
    )


def _read(data: Any, name: str, channels: Channels) -> Dataset:
    """All items of a data set with ``__getitem__``, each x or (x, y)."""
    if not len(data):
        raise ValueError(
            f"{name}: expected at least one datum, got an empty {type(data).__name__}"
        )
    first = data[0]
    alone = not isinstance(first, tuple | list)
    x = first if alone else first[0]
    kinds.check_room((len(data), *np.shape(x)), getattr(x, "itemsize", 1), name)
    items = [first, *(data[i] for i in range(1, len(data)))]
    if alone:
        return Dataset(items, channels=channels)
    if len(items[0]) != 2:
        raise TypeError(
            f"{name}: expected items x or (x, y), got {len(items[0])} in one of a "
            f"{type(data).__name__}: pass [item[0] for item in data]"
        )
    x, y = zip(*items, strict=True)
    names = getattr(data, "classes", None)
    numbered = isinstance(names, list) and all(isinstance(v, int) and v < len(names) for v in y)
    return Dataset(list(x), list(y), channels=channels, names=names if numbered else None)


def _entries(data: Mapping, name: str) -> Any:
    keys = {str(key).lower(): key for key in data}
    for x, y in _PAIRS:
        if x in keys:
            return (data[keys[x]], data[keys[y]]) if y in keys else data[keys[x]]
    raise TypeError(
        f"{name}: expected a mapping of x[, y] or data[, target], got "
        f"{', '.join(map(repr, data)) or 'none'}: pass one of them, data[name], or a pair of them"
    )


def _with_labels(frame: Any, name: str) -> Any:
    """A table as (x, y) where a column is its labels: of that name, or the only one of text."""
    columns = [kinds.column_at(frame, i) for i in range(frame.shape[1])]
    text = [i for i, column in enumerate(columns) if kinds.is_text(column)]
    labels = [i for i, told in enumerate(frame.columns) if str(told).lower() in LABELS]
    incomplete = {i: kinds.whole_or_missing(columns[i]) for i in labels if i not in text}
    named = [
        i for i in labels if i in text or kinds.is_whole(columns[i]) or incomplete[i] is not None
    ]
    found = named or (text if len(text) == 1 else [])
    if len(found) > 1:
        raise TypeError(
            f"{name}: expected one column of labels, got "
            f"{', '.join(repr(frame.columns[i]) for i in found)}: drop all but one, or pass a "
            "pair (x, y)"
        )
    if not found or frame.shape[1] == 1:
        return frame
    rest = [i for i in range(frame.shape[1]) if i != found[0]]
    numbers = incomplete.get(found[0])
    return kinds.columns_at(frame, rest), columns[found[0]] if numbers is None else numbers
