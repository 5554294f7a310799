"""What people bring in place of tensors: an array of each kind of object.

Objects of libraries that may not be installed are known by the name of their class and module.

| kind | values | labels |
|---|---|---|
| tensor, also sparse; array; anything with ``__array__`` | as they are | numbers, text |
| list of numbers, arrays, tensors of one shape | stacked | numbers, text |
| list of ``PIL`` pictures of one size | 8-bit pixels (n, 1 or 3, h, w) | |
| pandas or polars frame | its columns, all numbers; missing ones NaN | its only column |
| pandas or polars series, pandas categorical | as they are | numbers, text, categories |
| ``scipy.sparse`` matrix | dense | |
| ``anndata.AnnData`` | ``.X`` | |
| ``xarray.DataArray`` | as they are | numbers, text |
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from ..ground.machine import memory
from .images import as_pixels


def is_a(value: Any, module: str, *names: str) -> bool:
    """Whether an object is of a class of that name in a package that need not be installed."""
    return any(
        c.__module__.partition(".")[0] == module and (not names or c.__name__ in names)
        for c in type(value).__mro__
    )


def is_frame(value: Any) -> bool:
    """Whether an object is a table with named columns, of pandas or polars."""
    return is_a(value, "pandas", "DataFrame") or is_a(value, "polars", "DataFrame")


def array(value: Any, argument: str) -> Tensor | np.ndarray:
    """The numbers, or text, of an object of any kind of the table above.

    Raises:
        TypeError: an object of another kind, with what to pass in its place.
        ValueError: rows of unequal shape, hidden entries, too large to be dense.
    """
    if isinstance(value, Tensor):
        if value.layout == torch.strided:
            return value
        check_room(value.shape, value.element_size(), argument)
        return value.to_dense()
    if isinstance(value, np.ndarray):
        return _unmasked(value, argument)
    if is_frame(value):
        return _columns(value, argument)
    if is_a(value, "pandas", "Series", "Index", "Categorical") or is_a(value, "polars", "Series"):
        return _column(value)
    if is_a(value, "anndata", "AnnData"):
        return array(value.X, argument)
    if is_a(value, "scipy") and hasattr(value, "toarray"):
        check_room(value.shape, value.dtype.itemsize, argument)
        return value.toarray()
    if isinstance(value, list | tuple | range) and len(value):
        return _stacked(value, argument)
    if hasattr(value, "__array__") and not is_a(value, "xarray", "Dataset"):
        if not isinstance(value, Image.Image):
            return np.asarray(value)
    raise TypeError(
        f"{argument}: expected a tensor, an array, a list, a table or another kind of numbers, "
        f"got {type(value).__name__}: {_advice(value)}"
    )


def is_whole(column: Any) -> bool:
    """Whether a column of a table has a type of whole numbers."""
    if is_a(column, "pandas"):
        return sys.modules["pandas"].api.types.is_integer_dtype(column.dtype)
    return column.dtype.is_integer()


def whole_or_missing(column: Any) -> np.ndarray | None:
    """A column of numbers that are whole where they are not missing, -1; None for any other."""
    try:
        values = np.asarray(_column(column), dtype=np.float64)
    except (TypeError, ValueError):
        return None
    gone = np.isnan(values)
    if not gone.any() or gone.all() or (values[~gone] != values[~gone].round()).any():
        return None
    return np.where(gone, -1, values).astype(np.int64)


def column_at(frame: Any, place: int) -> Any:
    """A column of a table, of which another may have the same name."""
    return frame.iloc[:, place] if is_a(frame, "pandas") else frame.to_series(place)


def columns_at(frame: Any, places: list[int]) -> Any:
    """Some columns of a table."""
    return frame.iloc[:, places] if is_a(frame, "pandas") else frame[:, places]


def is_text(column: Any) -> bool:
    """Whether a column of a table holds text, or categories."""
    if is_a(column, "pandas"):
        kind = str(column.dtype)
        return (
            kind in ("category", "str")
            or kind.startswith("string")
            or (kind == "object" and any(isinstance(v, str) for v in column))
        )
    return str(column.dtype).partition("(")[0] in ("String", "Utf8", "Categorical", "Enum")


def is_missing(value: Any) -> bool:
    """Whether a value of a column of text is not there: None, NaN, or what pandas has for it."""
    if isinstance(value, float | np.floating):
        return bool(np.isnan(value))
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def check_room(shape: Sequence[int], itemsize: int, argument: str) -> None:
    """Raise ``ValueError`` for values that would take more than half of the memory."""
    # Python's numbers, which do not overflow
    size = itemsize
    for length in shape:
        size *= int(length)
    if size > memory() / 2:
        raise ValueError(
            f"{argument}: expected values that take half of the memory at most, got shape "
            f"{tuple(shape)}, {size / 1e9:.1f} GB for {memory() / 1e9:.1f}: select rows or "
            "columns, or train on a DataLoader that reads a batch at a time"
        )


def _unmasked(value: np.ndarray, argument: str) -> np.ndarray:
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.is_masked(value):
            raise ValueError(
                f"{argument}: expected an array without hidden entries, got "
                f"{int(np.ma.getmaskarray(value).sum())} masked: pass x.filled(value) with what "
                "they shall be"
            )
        return np.asarray(value)
    if value.dtype.names:
        columns = ", ".join(f"x[{name!r}]" for name in value.dtype.names)
        raise TypeError(
            f"{argument}: expected numbers, got an array x with named fields: pass "
            f"numpy.column_stack([{columns}])"
        )
    if value.dtype.kind == "S":
        return value.astype(str)
    if value.dtype.kind == "O" and value.size:
        # Of numbers of Python's own, or of arrays of one shape
        try:
            inside = np.asarray(value.tolist())
        except ValueError:
            return value
        return inside if inside.dtype.kind in "biufU" and _is_pure(value) else value
    return value


def _is_pure(value: np.ndarray) -> bool:
    """Whether all objects are text, or none is: NumPy turns numbers beside text into text."""
    return len({isinstance(v, str) for v in value.flat}) == 1


def not_numbers(frame: Any) -> list[str]:
    """Columns of a table that hold no numbers."""
    if is_a(frame, "pandas"):
        is_number = sys.modules["pandas"].api.types.is_numeric_dtype
        return [name for name, kind in frame.dtypes.items() if not is_number(kind)]
    boolean = sys.modules["polars"].Boolean
    return [
        name for name, kind in frame.schema.items() if not kind.is_numeric() and kind != boolean
    ]


def _columns(frame: Any, argument: str) -> np.ndarray:
    if frame.shape[1] == 1 and argument == "y":
        (name,) = frame.columns
        return _column(frame[name])
    if others := not_numbers(frame):
        dropped = f"columns={others!r}" if is_a(frame, "pandas") else repr(others)
        raise TypeError(
            f"{argument}: expected columns of numbers, got {', '.join(map(repr, others))} of "
            f"other types: pass {argument}.drop({dropped}), or make numbers of them"
        )
    if is_a(frame, "pandas"):
        return frame.to_numpy(dtype=np.float64, na_value=np.nan)
    return frame.cast(sys.modules["polars"].Float64).to_numpy()


def _column(value: Any) -> np.ndarray:
    if is_a(value, "polars") and not value.dtype.is_numeric():
        return np.array(value.to_list(), dtype=object if value.null_count() else None)
    return value.to_numpy() if hasattr(value, "to_numpy") else np.asarray(value)


def _stacked(values: Sequence[Any], argument: str) -> Tensor | np.ndarray:
    values = list(values)
    if all(isinstance(v, Image.Image) for v in values):
        return as_pixels(values)
    if all(isinstance(v, Tensor) for v in values) and len({v.shape for v in values}) == 1:
        return torch.stack(values)
    try:
        found = np.asarray(values)
    except (ValueError, TypeError) as error:
        shapes = list(dict.fromkeys(np.shape(v) for v in values if hasattr(v, "__len__")))
        raise ValueError(
            f"{argument}: expected rows of one shape, got {', '.join(map(str, shapes[:3]))}, ...: "
            "pad or cut them to one length"
        ) from error
    return _unmasked(found, argument)


def _advice(value: Any) -> str:
    """What to pass in place of an object that holds no array."""
    if isinstance(value, str | Path):
        return f"pass data.load({str(value)!r})"
    if isinstance(value, Image.Image):
        return "pass a list of pictures, or the folder that holds them to data.load"
    if isinstance(value, TorchDataset):
        return "pass it to data.load, which reads x and y of it"
    if isinstance(value, Mapping):
        return (
            f"name one of {', '.join(map(repr, value))}, such as data[{next(iter(value), '')!r}]"
        )
    if isinstance(value, list | tuple | range):
        return "there is nothing in it; check what was selected"
    if isinstance(value, Iterable) and not hasattr(value, "__len__"):
        return "pass list(...) of it"
    return "make an array of it, with a row for each datum"
