"""``load``: a name, a path or a tensor becomes a training and a test set."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..files import expanded
from . import sources
from .dataset import Dataset, DataSplits

READERS: dict[str, Callable[..., sources.Splits]] = {
    "digits": sources.read_digits,
    "mnist": sources.read_mnist,
    "fashion-mnist": sources.read_fashion_mnist,
    "omniglot": sources.read_omniglot,
    "cifar10": sources.read_cifar10,
    "shapes": sources.read_shapes,
}
NAMES: tuple[str, ...] = tuple(READERS)
TEST_FRACTION = 0.1


def load(
    source: str | Path | Tensor | np.ndarray | Dataset,
    *,
    binarize: Literal["auto", "dynamic", "static"] | None = "auto",
    root: str | Path | None = None,
    download: bool = False,
    test_fraction: float | None = None,
    size: int | tuple[int, int] | None = None,
    grey: bool = False,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> DataSplits:
    """Load a data set by name, from a folder or file, or from a tensor.

    Nothing is drawn from a global random number generator: the same arguments give the same data.

    Args:
        source: one of ``data.NAMES``; the path of a folder of images (with class folders or
            without, or with ``train`` and ``test`` in it), of an ``.npy`` file, or of an ``.npz``
            file with x[, y] or x_train, x_test[, y_train, y_test]; or a tensor, an array or a
            ``Dataset`` of shape (n, *event). 8-bit pixels become k / 255. Labels without names
            name their classes "0", "1", ... Of a folder, files that are no images by their name
            are left out; images of any colours are read, upright and without transparency;
            broken, empty and animated ones, grey ones of more than 8 bits, and those of more
            pixels than Pillow takes for safe are refused by name. Files of arrays are read without
            unpickling, and refused where they are shorter than their header says.
        binarize: ``"dynamic"`` binarises the training set afresh in each batch and the test set
            once, so that evaluation is repeatable (the protocol of Sonderby et al., 2016);
            ``"static"`` binarises both once, the test set as under ``"dynamic"``; None keeps the
            values. ``"auto"`` is ``"dynamic"`` for the grey images digits, mnist, fashion-mnist,
            omniglot and shapes, None for the rest.
        root: folder of downloaded data sets in torchvision's layout; by default the environment
            variable ``PYRO_VAE_DATA``, else ``~/.cache/pyro_vae``.
        download: fetch what is missing in ``root``.
        test_fraction: share of the data to hold out, 0.1 by default, for sources without a test
            set of their own.
        size: pixels of images of a folder, (h, w) or one number for both, by default those of the
            first image; of shapes, one number, by default 32.
        grey: turn images of a folder into one grey channel.
        device: where the tensors shall be.
        seed: of the split, of binarisation, and of the factors of shapes. The split of digits is
            always the same.

    Raises:
        FileNotFoundError: the data set or path is not there.
        TypeError: ``source`` is neither a string, a path, a tensor, an array nor a ``Dataset``.
        ValueError: an unknown name, an option that ``source`` does not have, files that cannot be
            read, or values that do not fit (see ``Dataset``).

    Example:
        >>> d = load(torch.rand(50, 3), test_fraction=0.2)
        >>> len(d.train), len(d.test), d.event_shape
        (40, 10, (3,))
        >>> load("digits", binarize="static").train.x.unique()
        tensor([0., 1.])
    """
    if binarize not in ("auto", "dynamic", "static", None):
        raise ValueError(
            f'binarize: expected "auto", "dynamic", "static" or None, got {binarize!r}: '
            "leave it out for the default of the data set"
        )
    if test_fraction is not None and not 0 < test_fraction < 1:
        raise ValueError(
            f"test_fraction: expected a number between 0 and 1, got {test_fraction}: "
            "use Dataset(x) to hold nothing out"
        )
    name, reader = _find(source)
    options = {
        "root": expanded("root", root or os.environ.get("PYRO_VAE_DATA") or "~/.cache/pyro_vae"),
        "download": download,
        "size": size,
        "grey": grey,
        "seed": seed,
    }
    accepted = inspect.signature(reader).parameters
    refused = [
        key
        for key in ("size", "grey")
        if options[key] not in (None, False) and key not in accepted
    ]
    if refused:
        raise ValueError(
            f"{refused[0]}: expected only for folders of images and, if size, for shapes, got "
            f"{options[refused[0]]!r} for {name}: leave it out"
        )
    train, test = reader(**{key: options[key] for key in accepted if key in options})
    if test is None:
        share = TEST_FRACTION if test_fraction is None else test_fraction
        train, test = _split(train, share, torch.Generator().manual_seed(seed))
    elif test_fraction is not None:
        raise ValueError(
            f"test_fraction: expected only for sources without a test set, got {test_fraction} "
            f"for {name}, which has its own of {len(test)}: leave it out"
        )
    train, test = _named(train, test)
    if binarize == "auto":
        binarize = train.binarize
    train, test = train.replace(binarize=None), test.replace(binarize=None)
    if binarize is not None:
        generator = torch.Generator().manual_seed(seed)
        test = test.binarized(generator)
        train = (
            train.binarized(generator)
            if binarize == "static"
            else train.replace(binarize="dynamic")
        )
    if device is not None:
        train, test = train.to(device), test.to(device)
    return DataSplits(name, train, test)


def _find(
    source: str | Path | Tensor | np.ndarray | Dataset,
) -> tuple[str, Callable[..., sources.Splits]]:
    if isinstance(source, str) and source in READERS:
        return source, READERS[source]
    if isinstance(source, Tensor | np.ndarray):
        source = Dataset(source)
    if isinstance(source, Dataset):
        return "tensor", partial(_as_it_is, source)
    if not isinstance(source, str | Path):
        raise TypeError(
            f"source: expected a name, a path, a tensor, a NumPy array or a Dataset, got "
            f"{type(source).__name__}: use torch.as_tensor(...), or Dataset(x, y) with labels"
        )
    if source == "":
        raise ValueError(
            f"source: expected a name or path, got {source!r}: name a file, a folder, or one of "
            f"{', '.join(NAMES)}"
        )
    path = expanded("source", source)
    if path.is_dir():
        return path.resolve().name, partial(sources.read_folder, path)
    if path.suffix in (".npy", ".npz") and path.is_file():
        return path.name, partial(sources.read_file, path)
    if path.is_file():
        table = path.suffix.lower() in (".csv", ".tsv", ".txt")
        advice = "read the table with numpy.loadtxt and " if table else ""
        raise ValueError(
            f"source: expected an .npy or .npz file or a folder of images, got {path}: "
            f"{advice}save the array with numpy.save, or name the folder"
        )
    if isinstance(source, Path) or path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(
            f"source: expected a file or folder, got {path}, which is not there "
            f"(seen from {Path.cwd()}): check the path"
        )
    close = difflib.get_close_matches(source.lower(), NAMES, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ":"
    raise ValueError(
        f"source: expected a path or one of {', '.join(NAMES)}, got {source!r}{guess} "
        "A folder, an .npy or .npz file, a tensor, an array or a Dataset will do, too"
    )


def _named(train: Dataset, test: Dataset) -> tuple[Dataset, Dataset]:
    """Name the classes "0", "1", ... where labels came without names."""
    if train.y is None or test.y is None or train.names or test.names:
        return train, test
    low = min(int(part.y.min()) for part in (train, test))
    high = max(int(part.y.max()) for part in (train, test))
    # Beyond this the labels are identifiers, which may be huge, and number no classes
    if low < 0 or high >= len(train) + len(test):
        return train, test
    names = tuple(map(str, range(high + 1)))
    return train.replace(names=names), test.replace(names=names)


def _as_it_is(whole: Dataset) -> sources.Splits:
    return whole, None


def _split(whole: Dataset, share: float, generator: torch.Generator) -> tuple[Dataset, Dataset]:
    if len(whole) < 2:
        raise ValueError(
            f"source: expected at least 2 data to split, got {len(whole)}: use Dataset(x) instead"
        )
    held_out = min(max(1, round(len(whole) * share)), len(whole) - 1)
    order = torch.randperm(len(whole), generator=generator)
    return whole[order[held_out:].sort().values], whole[order[:held_out].sort().values]
