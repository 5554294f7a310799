"""Arrays and tables in one file."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from . import kinds
from .dataset import Dataset
from .delimited import read_delimited
from .given import Channels, as_dataset
from .labels import shared_names
from .sources import Splits

# Bytes that one byte of a deflated file can stand for
_MOST_DEFLATED = 1032
_PARTS = ("_train", "_test", "_val")


def read_file(path: Path, *, channels: Channels = None, whole: bool = False) -> Splits:
    """What a file of a suffix in ``READERS`` holds; of a table, the ``whole`` without labels."""
    suffix = path.suffix.lower()
    with _reading(path, *_EXPECTED.get(suffix, ("a whole file", "Write it anew"))):
        text = READERS[suffix] is read_delimited
        found = read_delimited(path, labelled=not whole) if text else READERS[suffix](path)
    if isinstance(found, Mapping):
        return _parts(found, path, channels)
    if whole and kinds.is_frame(found):
        return (Dataset(found),)
    return (as_dataset(found, str(path), channels=channels),)


@contextlib.contextmanager
def _reading(path: Path, expected: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ValueError(
            f"{path}: expected {error.name} to be installed, which reads {path.suffix} files: "
            f"pip install {error.name}, or save the array with numpy.save"
        ) from error
    except Exception as error:  # whatever a broken file provokes in the readers
        raise ValueError(
            f"{path}: expected {expected}, got: {str(error) or type(error).__name__}. {remedy}"
        ) from error


def _parts(arrays: Mapping[str, Any], path: Path, channels: Channels) -> Splits:
    """x[, y], or x_train, x_test[, x_val], each with its labels or all without."""
    own = "x_train" in arrays
    parts = [p for p in _PARTS if f"x{p}" in arrays] if own else [""]
    needed = {f"x{part}" for part in parts} | ({"x_train", "x_test"} if own else set())
    labels = {f"y{part}" for part in parts}
    if set(arrays) not in (needed, needed | labels):
        raise ValueError(
            f"{path}: expected the arrays x[, y] or x_train, x_test[, x_val][, y_train, y_test"
            f"[, y_val]], got {', '.join(sorted(arrays)) or 'none'}: {_choice(arrays, path)}"
        )
    names = shared_names([arrays[y] for y in labels if y in arrays])
    return tuple(
        Dataset(arrays[f"x{part}"], arrays.get(f"y{part}"), channels=channels, names=names)
        for part in parts
    )


def _choice(arrays: Mapping[str, Any], path: Path) -> str:
    """A line that loads the largest array of a file."""
    opened = {".npz": "numpy.load", ".mat": "scipy.io.loadmat", ".pt": "torch.load"}
    largest = max(arrays, key=lambda name: getattr(arrays[name], "nbytes", 0), default=None)
    if largest is None:
        return "rename them, and drop others"
    opener = opened.get(path.suffix.lower(), "torch.load")
    return (
        f"rename them, and drop others, or choose with data.load({opener}({str(path)!r})"
        f"[{largest!r}])"
    )


# Arrays


def _read_numpy(path: Path) -> Any:
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            file.seek(0)
            return _array(file, path.stat().st_size)
    with zipfile.ZipFile(path) as archive:
        found = {}
        for entry in archive.infolist():
            if entry.file_size > _MOST_DEFLATED * entry.compress_size + _MOST_DEFLATED:
                raise ValueError(f"{entry.filename} claims {entry.file_size} bytes")
            with archive.open(entry) as file:
                found[entry.filename.removesuffix(".npy")] = _array(file, entry.file_size)
    return found


def _array(file: IO[bytes], size: int) -> np.ndarray:
    """An array of a file of so many bytes, which is asked before memory is."""
    version = np.lib.format.read_magic(file)
    # Later versions are for names of fields, which no plain array has
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in headers:
        raise ValueError(f"an array in version {version} of the format")
    shape, _, dtype = headers[version](file)
    if math.prod(shape) * dtype.itemsize > size - file.tell():
        raise ValueError(f"a header for {shape} values of {dtype}, and {size} bytes in all")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _read_matlab(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    found = {k: v for k, v in loadmat(path).items() if not k.startswith("__")}
    arrays = {k.lower() if k.lower() in ("x", "y") else k: v for k, v in found.items()}
    y = arrays.get("y")
    # MATLAB's numbers are double unless somebody asked for others
    if isinstance(y, np.ndarray) and y.dtype.kind == "f" and (y == y.round()).all():
        arrays["y"] = y.astype(np.int64)
    return arrays


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        # Torch's own text tells how to run what is in it
        raise ValueError("objects of other types") from error


# Tables


def _read_parquet(path: Path) -> Any:
    polars, *both = (importlib.util.find_spec(n) for n in ("polars", "pandas", "pyarrow"))
    if polars is None or all(both):
        return importlib.import_module("pandas").read_parquet(path)
    # Polars takes what pandas wrote as the names of the rows for columns
    reader = importlib.import_module("polars")
    told = json.loads(reader.read_parquet_metadata(path).get("pandas", "{}"))
    index = [name for name in told.get("index_columns", ()) if isinstance(name, str)]
    return reader.read_parquet(path).drop(index)


def _read_anndata(path: Path) -> Any:
    return importlib.import_module("anndata").read_h5ad(path)


# Pictures and volumes of measuring devices, one in a file


def read_scans(path: Path) -> Splits:
    """Files .dcm or .nii of a folder, each one datum (1, ...) of the same shape."""
    arrays = []
    for file in scans_in(path):
        with _reading(file, "a scan", "Remove or replace it"):
            arrays.append(_SCANS[_scan(file)](file))
    return (Dataset(kinds.array(arrays, "x")[:, None]),)


def scans_in(path: Path) -> list[Path]:
    """Files of a folder that hold one picture or volume each, and are no common images."""
    return sorted(p for p in path.iterdir() if _scan(p) and not p.name.startswith("."))


def _scan(path: Path) -> str | None:
    return next((suffix for suffix in _SCANS if path.name.lower().endswith(suffix)), None)


def _read_dicom(path: Path) -> np.ndarray:
    return importlib.import_module("pydicom").dcmread(path).pixel_array.astype(np.float32)


def _read_nifti(path: Path) -> np.ndarray:
    return importlib.import_module("nibabel").load(path).get_fdata(dtype=np.float32)


_SCANS = {".dcm": _read_dicom, ".nii": _read_nifti, ".nii.gz": _read_nifti}

READERS: dict[str, Callable[[Path], Any]] = {
    ".npy": _read_numpy,
    ".npz": _read_numpy,
    ".mat": _read_matlab,
    ".pt": _read_torch,
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".txt": read_delimited,
    ".parquet": _read_parquet,
    ".h5ad": _read_anndata,
}
_NUMPY = (
    "numeric arrays written by numpy.save or numpy.savez",
    "Objects are never unpickled; save plain arrays",
)
_TEXT = (
    "a table of numbers in UTF-8, a datum in a line",
    "Leave cells without a value empty; to choose columns use numpy.loadtxt(path, usecols=..., "
    "...)",
)
_EXPECTED = {
    ".npy": _NUMPY,
    ".npz": _NUMPY,
    ".pt": (
        "a tensor, or a dict of x[, y], written by torch.save",
        "Objects are never unpickled; save plain tensors",
    ),
    **dict.fromkeys((".csv", ".tsv", ".txt"), _TEXT),
}


def advice(path: Path) -> str:
    """What to do with a file that nothing here reads."""
    suffix, name = path.suffix.lower(), str(path)
    if _scan(path):
        return "name the folder that holds one such file for each datum"
    if suffix in (".pkl", ".pickle", ".joblib"):
        return "objects are never unpickled: save the array with numpy.save"
    if suffix in (".h5", ".hdf5"):
        return f"pass data.load(h5py.File({name!r})[key]), key one of its data sets"
    if suffix in (".xlsx", ".xls", ".feather", ".json"):
        read = {".feather": "read_feather", ".json": "read_json"}.get(suffix, "read_excel")
        return f"pass data.load(pandas.{read}({name!r}))"
    return "save the array with numpy.save, or name the folder that holds the images"
