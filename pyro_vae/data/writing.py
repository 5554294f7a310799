"""Values, a row per datum, in files that other programs read."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from ..ground.arguments import guess
from ..ground.files import expanded, write_atomically
from ..ground.optional import needed
from .columns import Rows, values_of

Values = Tensor | np.ndarray
# What a column of names is called, of which pandas and we are told that it is none
_INDEX = "index"
# Lines that are texts at once
_ROWS = 4096


def write(
    path: str | Path,
    values: Values | Mapping[str, Values],
    *,
    index: Sequence[Any] | np.ndarray | None = None,
) -> None:
    """Write samples, codes or other values to ``.npy``, ``.csv`` or ``.parquet``, whole or not.

    | ending | what is written | needs |
    |---|---|---|
    | ``.npy`` | one array, in the shape that it has | |
    | ``.csv`` | a line of names, and a line per datum; cells of missing values are empty | |
    | ``.parquet`` | a column per element, in the type that it has | ``pyro_vae[tables]`` |

    In the last two a column is an element, such as "x[0,3]" of pictures and "z1[2]" of a latent,
    or "x" of single numbers. ``Rows``, what a model of a table draws, have the names of its
    columns, text for categories and whole numbers for counts. ``data.load`` reads all three.

    Args:
        path: where to; a file that is there is replaced once the new one is whole.
        values: (n, *event); or name -> such values of equal n, which stand side by side.
        index: what the rows are called, (n,), for a first column; an array alone has none.

    Raises:
        FileNotFoundError: the folder does not exist.
        ImportError: the package that writes the format is not installed.
        ValueError: another ending, several arrays for ``.npy``, other numbers of rows.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "z.csv")
        ...     write(path, {"z1": torch.tensor([[0.5, -1.0], [2.0, 0.1]])}, index=["a", "b"])
        ...     print(path.read_text())
        ,z1[0],z1[1]
        a,0.5,-1.0
        b,2.0,0.1
    """
    path = writable("path", path)
    named = values if isinstance(values, Mapping) else {"x": values}
    sizes = {name: len(value) for name, value in named.items()}
    sizes |= {} if index is None else {"index": len(index)}
    if len({*sizes.values()}) != 1:
        found = ", ".join(f"{n} of {name}" for name, n in sizes.items()) or "none"
        raise ValueError(
            f"values: expected as many rows in each, got {found}: pass values, and an index, of "
            "the same data"
        )
    write_atomically(path, WRITERS[path.suffix.lower()](named, index))


def columns_of(name: str, values: Values) -> list[tuple[str, np.ndarray]]:
    """Each element of values (n, ...) as a column (n,), such as "z1[0,2]"; of a table its own.

    Example:
        >>> [name for name, _ in columns_of("z1", np.zeros((5, 2)))]
        ['z1[0]', 'z1[1]']
    """
    if isinstance(values, Rows):
        names = [column.name for column in values.columns]
        return [*zip(names, values_of(values.columns, values), strict=True)]
    values = _array(values)
    return [
        (f"{name}[{','.join(map(str, place))}]" if place else name, values[(slice(None), *place)])
        for place in np.ndindex(values.shape[1:])
    ]


def writable(argument: str, path: str | Path) -> Path:
    """The path of a file that ``write`` can write, with what its errors are."""
    path = expanded(argument, path)
    if path.suffix.lower() not in WRITERS:
        raise ValueError(
            f"{argument}: expected a name that ends in {', '.join(WRITERS)}, got {str(path)!r}"
            f"{guess(path.suffix, WRITERS)}"
        )
    if path.suffix.lower() == ".parquet":
        _pyarrow("pyarrow.parquet")
    return path


def _array(values: Any) -> np.ndarray:
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.as_subclass(Tensor).detach().cpu()
    # Of half precision NumPy knows one kind only
    return (
        values.float() if values.is_floating_point() and values.itemsize < 4 else values
    ).numpy()


def _table(named: Mapping[str, Values], index: Any, called: str) -> dict[str, np.ndarray]:
    """All columns by their names, the first one ``index`` under the name ``called``."""
    found = [] if index is None else [(called, np.asarray(index))]
    found += [column for name, values in named.items() for column in columns_of(name, values)]
    counts = Counter(name for name, _ in found)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ValueError(
            f"values: expected columns of different names, got {twice[0]!r} twice: rename one"
        )
    return dict(found)


def _numpy(named: Mapping[str, Values], index: Any) -> bytes:
    if len(named) > 1:
        raise ValueError(
            f"values: expected one array for .npy, got {', '.join(named)}: pass one of them, or "
            "end the name with .csv or .parquet"
        )
    (values,) = named.values()
    np.save(buffer := io.BytesIO(), _array(values), allow_pickle=False)
    return buffer.getvalue()


def _csv(named: Mapping[str, Values], index: Any) -> str:
    # The name that pandas gives an index, and takes for one
    table = _table(named, index, "")
    lines = csv.writer(text := io.StringIO(newline=""), lineterminator="\n")
    lines.writerow(table)
    for i in range(0, len(next(iter(table.values()))), _ROWS):
        lines.writerows(zip(*(_texts(c[i : i + _ROWS]) for c in table.values()), strict=True))
    return text.getvalue()


def _texts(values: np.ndarray) -> Sequence[str]:
    """Shortest texts from which the same values are read, "" for what is missing."""
    if values.dtype.kind != "f":
        return ["" if value is None else str(value) for value in values]
    return np.where(np.isnan(values), "", values.astype(str)).tolist()


def _parquet(named: Mapping[str, Values], index: Any) -> bytes:
    table = _pyarrow("pyarrow").table(_table(named, index, _INDEX))
    if index is not None:
        column = {"name": None, "field_name": _INDEX, "pandas_type": None, "numpy_type": None}
        told = {"index_columns": [_INDEX], "columns": [column], "column_indexes": []}
        table = table.replace_schema_metadata({"pandas": json.dumps(told)})
    _pyarrow("pyarrow.parquet").write_table(table, buffer := io.BytesIO())
    return buffer.getvalue()


def _pyarrow(module: str) -> ModuleType:
    return needed(module, "tables", "a .parquet file", "end the name with .csv")


WRITERS: dict[str, Callable[[Mapping[str, Values], Any], bytes | str]] = {
    ".npy": _numpy,
    ".csv": _csv,
    ".parquet": _parquet,
}
