"""Tables that Python packages ship, for comparisons: where each is from and how it is read.

A package is not imported: its file is read, so that it may be installed without what it needs.
Whole numbers get uniform noise, since a density of such has no bound, in the order of their rows
from one seed: every system sees the same numbers.
"""

from __future__ import annotations

import csv
import importlib.util
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..data import Column, Dataset, DataSplits

# Shares of the rows for training and validation
_TRAIN, _VALIDATION = 0.6, 0.2
_COLUMNS = "LOWINC PERASIAN PERBLACK PERHISP PERMINTE AVYRSEXP AVSALK PERSPENK PTRATIO PCTAF"
_WINDOW, _STEP, _PATCH, _GENES = 64, 16, 16, 50


class RealTable(NamedTuple):
    """A table: the package that ships it, a reader, and the size of the latent.

    Of a ``signal`` the reader gives one long row, of which windows are cut, those of each part
    from its own stretch of time.
    """

    package: str
    read: Callable[[np.random.Generator], np.ndarray]
    latents: int = 4
    signal: bool = False


def shipped(package: str, path: str) -> Path:
    """A file that an installed package ships.

    Raises:
        ModuleNotFoundError: it is not installed.
        FileNotFoundError: another version, without the file.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"{package}: expected the package that ships {path}, got none: pip install {package}, "
            "or name other --tables"
        )
    file = Path(spec.submodule_search_locations[0], path)
    if not file.exists():
        raise FileNotFoundError(
            f"{package}: expected a version that ships {path}, got one without: install another "
            "one, or name other --tables"
        )
    return file


def load(table: RealTable, device: Any = None) -> DataSplits:
    """Training, validation and test rows, 60, 20 and 20 %, always the same ones.

    Rows are shuffled; windows of a signal are cut from its first, middle and last part. Numbers
    are told to be columns of a table, whole ones too, since all are to have a density.
    """
    rng = np.random.default_rng(0)
    x = table.read(rng)
    ends = [round(share * len(x)) for share in (_TRAIN, _TRAIN + _VALIDATION)]
    parts = np.split(x if table.signal else rng.permutation(x), ends)
    if table.signal:
        windows = np.lib.stride_tricks.sliding_window_view
        parts = [_noisy(windows(part, _WINDOW)[::_STEP], rng) for part in parts]
    columns = [Column(str(i), "numeric") for i in range(parts[0].shape[1])]
    options = {"columns": columns} if parts[0].ndim == 2 else {}
    train, validation, test = (
        Dataset(torch.from_numpy(part.astype(np.float32)).to(device), **options) for part in parts
    )
    return DataSplits(table.package, train, test, validation=validation)


def _noisy(whole: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return whole + rng.random(whole.shape)


def _bundled(name: str) -> Callable[[np.random.Generator], np.ndarray]:
    def read(_: np.random.Generator) -> np.ndarray:
        from sklearn import datasets

        return getattr(datasets, f"load_{name}")().data

    return read


def _diabetes(_: np.random.Generator) -> np.ndarray:
    """Without the sex, a column of two values."""
    from sklearn.datasets import load_diabetes

    return np.delete(load_diabetes(scaled=False).data, 1, axis=1)


def _digits(rng: np.random.Generator) -> np.ndarray:
    """The pixels that vary."""
    x = _bundled("digits")(rng)
    return _noisy(x[:, x.std(0) > 0.5], rng)


def _schools(_: np.random.Generator) -> np.ndarray:
    """What is known of the districts, without products of columns."""
    with shipped("statsmodels", "datasets/star98/star98.csv").open(newline="") as file:
        rows = csv.DictReader(file)
        return np.array([[float(row[name]) for name in _COLUMNS.split()] for row in rows])


def _cells(rng: np.random.Generator) -> np.ndarray:
    """log(1 + count) of the genes that most cells have.

    The file has log(1 + c / s) with s the size of a cell in 10,000 counts, whose least value of
    a cell is that of one count.
    """
    try:
        import h5py
    except ImportError as error:
        raise ModuleNotFoundError(
            "h5py: the table of single cells needs it: pip install h5py, or name other --tables"
        ) from error
    with h5py.File(shipped("scanpy", "datasets/10x_pbmc68k_reduced.h5ad")) as file:
        values, columns, starts = (file["raw.X"][k][:] for k in ("data", "indices", "indptr"))
        scaled = np.zeros((len(starts) - 1, len(file["raw.var"])))
    for cell, (start, end) in enumerate(itertools.pairwise(starts)):
        found = np.expm1(values[start:end].astype(float))
        scaled[cell, columns[start:end]] = np.rint(found / found.min())
    most = np.argsort(-(scaled > 0).mean(0), kind="stable")[:_GENES]
    return np.log1p(_noisy(scaled[:, most], rng))


def _pulse(_: np.random.Generator) -> np.ndarray:
    """Two minutes of a pulse wave at 117 Hz."""
    with shipped("heartpy", "data/data2.csv").open(newline="") as file:
        return np.array([float(row["hr"]) for row in csv.DictReader(file)])


def _photographs(rng: np.random.Generator) -> np.ndarray:
    """Colour patches (3, 16, 16) of two photographs, side by side, with values in [0, 1)."""
    from sklearn.datasets import load_sample_images

    patches = []
    for image in load_sample_images().images:
        h, w = (size // _PATCH for size in image.shape[:2])
        cut = image[: h * _PATCH, : w * _PATCH].reshape(h, _PATCH, w, _PATCH, 3)
        patches.append(cut.transpose(0, 2, 4, 1, 3).reshape(-1, 3, _PATCH, _PATCH))
    return _noisy(np.concatenate(patches), rng) / 256


def _pixels(rng: np.random.Generator) -> np.ndarray:
    """The same patches, each number of them a column."""
    patches = _photographs(rng)
    return patches.reshape(len(patches), -1)


TABLES = {
    "wine": RealTable("scikit-learn", _bundled("wine")),
    "breast cancer": RealTable("scikit-learn", _bundled("breast_cancer")),
    "diabetes": RealTable("scikit-learn", _diabetes),
    "digits": RealTable("scikit-learn", _digits, latents=16),
    "school districts": RealTable("statsmodels", _schools),
    "single cells": RealTable("scanpy", _cells, latents=16),
    "pulse waves": RealTable("heartpy", _pulse, latents=16, signal=True),
    "photographs": RealTable("scikit-learn", _photographs, latents=16),
    "photographs, columns": RealTable("scikit-learn", _pixels, latents=16),
}
