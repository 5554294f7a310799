"""``load``: a name, a path or a tensor becomes a training and a test set."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..ground.arguments import guess, known, whole
from ..ground.files import expanded
from ..ground.kinds import KINDS
from . import files, kinds, sound, sources
from .checks import layout, probabilities
from .conditions import classes_in
from .dataset import Dataset
from .given import as_dataset
from .images import Background
from .splits import DataSplits
from .tables import conditioned
from .tokens import Symbols, find_text, is_text

READERS: dict[str, Callable[..., sources.Splits]] = {
    "digits": sources.read_digits,
    "mnist-small": sources.read_mnist_small,
    "mnist": sources.read_mnist,
    "fashion-mnist": sources.read_fashion_mnist,
    "omniglot": sources.read_omniglot,
    "cifar10": sources.read_cifar10,
    "shapes": sources.read_shapes,
    "tones": sources.read_tones,
    "bouncing": sources.read_bouncing,
}
NAMES: tuple[str, ...] = tuple(READERS)
TEST_FRACTION = 0.1
_WHERE = {
    "size": "folders of images, and for shapes and bouncing",
    "length": "WAV files, tones and bouncing",
    "grey": "folders of images",
    "background": "folders of images",
    "channels": "arrays and files of arrays",
    "split": "omniglot",
    "whole": "tables",
}


class Indivisible(Exception):
    """A source of a single datum, ``data``: what is behind the ``ValueError`` of ``load``."""

    def __init__(self, data: Dataset) -> None:
        """Tell what to do."""
        super().__init__(
            f"source: expected at least 2 data to split, got {len(data)}: use Dataset(x) instead"
        )
        self.data = data


def load(
    source: Any,
    *,
    binarize: Literal["auto", "dynamic", "static"] | None = "auto",
    root: str | Path | None = None,
    download: bool = False,
    test_fraction: float | None = None,
    size: int | tuple[int, int] | None = None,
    grey: bool | None = False,
    background: Background | None = None,
    channels: Literal["first", "last"] | None = None,
    split: Literal["iwae"] | None = None,
    length: int | None = None,
    rate: int | None = None,
    kind: str | None = None,
    vocabulary: Symbols = "characters",
    stratify: bool = True,
    labels: Sequence[str] = (),
    numbers: Sequence[str] = (),
    exposure: str | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> DataSplits:
    """Load a data set by name, from a folder or file, or from a tensor.

    Nothing is drawn from a global random number generator: the same arguments give the same data.

    Args:
        source: one of ``data.NAMES``; the path of a folder of images (with class folders or
            without, or with ``train`` and ``test`` or ``val`` in it), likewise of ``.wav`` files,
            of scans (``.dcm``, ``.nii``), or of a file: ``.npy``; ``.npz``, ``.mat`` or ``.pt``
            with x[, y] or x_train, x_test[, x_val] and their y; a table ``.csv``, ``.tsv``,
            ``.txt`` or ``.parquet``; ``.h5ad``; ``.wav``, which is cut into clips; or an object
            of any kind of ``data.given.as_dataset``, such as a tensor, an array, a pair (x, y), a
            table or a data set of torchvision. 8-bit pixels become k / 255. Labels without names
            name their classes "0", "1", ..., and class folders that are whole numbers are in the
            order of these. Of a folder, files of none of these kinds by their name are left
            out, and those of two kinds in one folder are refused; images of any colours are read,
            upright; broken, empty and animated ones, grey ones of more than 8 bits, and those of
            more pixels than Pillow takes for safe are refused by name. Of a table the column of
            text, or of whole numbers by a name such as "label", are the labels. Files of arrays
            are read without unpickling, and refused where they are shorter than their header says.
        binarize: ``"dynamic"`` binarises the training set afresh in each batch and the test set
            once, so that evaluation is repeatable (the protocol of Sonderby et al., 2016);
            ``"static"`` binarises both once, the test set as under ``"dynamic"``; None keeps the
            values. ``"auto"`` is ``"dynamic"`` for the grey images digits, mnist, fashion-mnist,
            omniglot and shapes, and for bouncing, None for the rest.
        root: folder of downloaded data sets in torchvision's layout; by default the environment
            variable ``PYRO_VAE_DATA``, else ``~/.cache/pyro_vae``.
        download: fetch what is missing in ``root``.
        test_fraction: share of the data to hold out, 0.1 by default, for sources without a test
            set of their own; a folder's ``val`` is its test set where there is no ``test``.
        size: pixels of images of a folder, (h, w) or one number for both, by default those of the
            first image; of shapes and bouncing, one number, by default 32.
        grey: turn images of a folder into one grey channel; False does so where red, green and
            blue are equal in all, None nowhere.
        background: colour that shows through transparent pixels of a folder's images, a name or
            (red, green, blue); by default white, with a warning.
        channels: ``"last"`` for arrays of pictures (n, h, w, channels), see ``Dataset``.
        split: of omniglot, ``"iwae"`` for the 24,345 and 8,070 images of published bounds on
            log p(x) ("Importance Weighted Autoencoders", Burda, Grosse, Salakhutdinov 2016), from
            ``OMNIGLOT/chardata.mat`` of its authors in ``root``, which is not fetched; None for
            torchvision's, by alphabets.
        length: samples of a tone, by default 2048, or frames of bouncing, 16; of a folder of
            sounds, so many samples from the beginning of each, by default all where they are of
            one length; of one ``.wav``, those of each clip into which it is cut.
        rate: samples per second of signals in arrays, and of tones, by default 8000; of WAV files
            what they have to have. ``d.rate`` has it.
        kind: what the dimensions of a datum mean: "vector" (d,), "signal" (c, t) or (t,), "image"
            (c, h, w) or (h, w), "video" (c, t, h, w) or (t, h, w), "tokens" (t,), "sequence" of
            vectors (t, d), "array" for any other. Default: what the source tells, else a guess by
            the shape, which is printed: (2, 100) is an image. Pass ``d.kind`` to a model: it
            decides on the networks. With
            ``"tokens"`` each line of a text file, or of a list of lines, is a datum: the numbers
            of its characters or words, and zeros behind them.
        vocabulary: of tokens, ``"characters"`` or ``"words"`` for one of all lines, or a
            ``Vocabulary``, such as that of other data, ``d.vocabulary``.
        stratify: hold out as many of each class as its share, where there are labels; of several
            kinds, of the first.
        labels: names of columns of a table that are classes, text or whole numbers, of which y
            has one each, ``d.train.y["site"]``, for ``models.Covariates``. Their names are
            ``d.labels["site"]``.
        numbers: names of columns that are numbers of y.
        exposure: name of the column that is the "exposure" of y.
        device: where the tensors shall be.
        seed: of the split, of binarisation, and of the factors of shapes, tones and bouncing.
            The split of digits is always the same.

    Raises:
        FileNotFoundError: the data set or path is not there.
        TypeError: ``source`` holds no data, with what to pass in its place.
        ValueError: an unknown name or kind, an option that ``source`` does not have, files that
            cannot be read, or values that do not fit (see ``Dataset``).

    Warns:
        UserWarning: transparent pixels without a ``background``.

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
    if kind is not None:
        known("kind", kind, KINDS)
    text = kind == "tokens" and is_text(source)
    name, reader = find_text(source, vocabulary) if text else _find(source)
    options = {
        "root": expanded("root", root or os.environ.get("PYRO_VAE_DATA") or "~/.cache/pyro_vae"),
        "download": download,
        "size": size,
        "grey": grey,
        "background": background,
        "channels": channels,
        "split": split,
        "length": None if length is None else whole("length", length),
        "rate": rate,
        "seed": seed,
        "whole": bool(labels or numbers or exposure),
    }
    accepted = inspect.signature(reader).parameters
    for key, where in _WHERE.items():
        if options[key] not in (None, False) and key not in accepted:
            told = "labels, numbers, exposure" if key == "whole" else key
            got = (*labels, *numbers) or exposure if key == "whole" else options[key]
            raise ValueError(
                f"{told}: expected only for {where}, got {got!r} for {name}: leave it out"
            )
    parts = reader(**{key: options[key] for key in accepted if key in options})
    if options["whole"]:
        parts = tuple(conditioned(part, labels, numbers, exposure) for part in parts)
    if kind is not None:
        for part in parts:
            layout(kind, (len(part), *part.event_shape), channels)
        parts = tuple(part.replace(kind=kind) for part in parts)
    if rate is not None:
        parts = tuple(part.replace(rate=rate) for part in parts)
    for part in parts if binarize in ("dynamic", "static") else ():
        if part.missing:
            # Where values are counted as in the source
            probabilities(part.x)
    rows: tuple[Tensor, ...] = ()
    if len(parts) == 1:
        share = TEST_FRACTION if test_fraction is None else test_fraction
        generator = torch.Generator().manual_seed(seed)
        try:
            parts, rows = _split(parts[0], share, generator, stratify)
        except Indivisible as error:
            raise ValueError(str(error)) from None
    elif test_fraction is not None:
        raise ValueError(
            f"test_fraction: expected only for sources without a test set, got {test_fraction} "
            f"for {name}, which has its own of {len(parts[1])}: leave it out"
        )
    parts = _named(parts)
    if binarize == "auto":
        binarize = parts[0].binarize
    train, *others = (part.replace(binarize=None) for part in parts)
    if binarize is not None:
        generator = torch.Generator().manual_seed(seed)
        others = [part.binarized(generator) for part in others]
        train = (
            train.binarized(generator)
            if binarize == "static"
            else train.replace(binarize="dynamic")
        )
    if device is not None:
        train, *others = (part.to(device) for part in (train, *others))
    return DataSplits(name, train, *others, rows=rows)


def _find(source: Any) -> tuple[str, Callable[..., sources.Splits]]:
    if isinstance(source, str) and source in READERS:
        return source, READERS[source]
    if isinstance(source, Dataset):
        return "tensor", lambda: (source,)
    if not isinstance(source, str | Path):
        return "tensor", partial(_given, source)
    if source == "":
        raise ValueError(
            f"source: expected a name or path, got {source!r}: name a file, a folder, or one of "
            f"{', '.join(NAMES)}"
        )
    path = expanded("source", source)
    if path.is_dir():
        return path.resolve().name, partial(_of_folder(path), path)
    if path.is_file() and path.suffix.lower() == sound.SUFFIX:
        return path.name, partial(sound.read_recording, path)
    if path.is_file():
        if path.suffix.lower() not in files.READERS:
            raise ValueError(
                f"source: expected a folder of images or a file {', '.join(files.READERS)}, .wav, "
                f"got {path}: {files.advice(path)}"
            )
        return path.name, partial(files.read_file, path)
    if isinstance(source, Path) or path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(
            f"source: expected a file or folder, got {path}, which is not there "
            f"(seen from {Path.cwd()}): check the path"
        )
    raise ValueError(
        f"source: expected a path or one of {', '.join(NAMES)}, got {source!r}"
        f"{guess(source, NAMES) or ':'} "
        "A folder, a file, a tensor, an array or a Dataset will do, too"
    )


def _of_folder(path: Path) -> Callable[..., sources.Splits]:
    """The reader of the files in a folder, which have to be of one kind."""
    of_kind = {
        "images": (sources.images_in(path), sources.read_folder),
        "sounds": (sound.sounds_in(path), sound.read_sounds),
        "scans": (files.scans_in(path), files.read_scans),
    }
    there = {kind: found for kind, (found, _) in of_kind.items() if found}
    if len(there) > 1:
        told = " and ".join(f"{len(found)} {kind}" for kind, found in there.items())
        fewest = min(there.values(), key=len)
        raise ValueError(
            f"source: expected a folder with files of one kind, got {told} in {path}, among them "
            f"{fewest[0].relative_to(path)}: move one kind into a folder of its own elsewhere"
        )
    return of_kind[next(iter(there), "images")][1]


def _given(
    source: Any, *, channels: Literal["first", "last"] | None = None, whole: bool = False
) -> sources.Splits:
    frame = whole and kinds.is_frame(source)
    return (Dataset(source) if frame else as_dataset(source, "source", channels=channels),)


def _named(parts: sources.Splits) -> sources.Splits:
    """Name the classes "0", "1", ... where labels came without names."""
    if any(not isinstance(part.y, Tensor) or part.names for part in parts):
        return parts
    low = min(int(part.y.min()) for part in parts)
    high = max(int(part.y.max()) for part in parts)
    # Beyond this the labels are identifiers, which may be huge, and number no classes
    if low < 0 or high >= sum(map(len, parts)):
        return parts
    names = tuple(map(str, range(high + 1)))
    return tuple(part.replace(names=names) for part in parts)


def _split(
    whole: Dataset, share: float, generator: torch.Generator, stratify: bool
) -> tuple[sources.Splits, tuple[Tensor, ...]]:
    """Training and test set, and which rows these are."""
    if len(whole) < 2:
        raise Indivisible(whole)
    held_out = min(max(1, round(len(whole) * share)), len(whole) - 1)
    order = torch.randperm(len(whole), generator=generator)
    classes = classes_in(whole.y)
    chosen = None if classes is None or not stratify else _stratified(classes[order], held_out)
    if chosen is None:
        chosen = torch.arange(len(whole)) < held_out
    rows = tuple(order[part].sort().values for part in (~chosen, chosen))
    return tuple(whole[part] for part in rows), rows


def _stratified(y: Tensor, held_out: int) -> Tensor | None:
    """Which of the data are held out: of each class its share, and one of two at the least.

    None where the labels are identifiers, of which most occur once.
    """
    _, label, counts = y.cpu().unique(return_inverse=True, return_counts=True)
    most = counts - 1
    if int(most.sum()) < held_out:
        return None
    ideal = counts.double() * held_out / len(y)
    # A class with two data or more is to be seen in both sets
    least = (most > 0).long() if int((most > 0).sum()) <= held_out else torch.zeros_like(most)
    take = ideal.floor().long().maximum(least).minimum(most)
    while (missing := held_out - int(take.sum())) != 0:
        step = 1 if missing > 0 else -1
        free = take < most if missing > 0 else take > least
        take[(step * (ideal - take)).masked_fill(~free, -torch.inf).argmax()] += step
    by_class = label.argsort(stable=True)
    place = torch.empty_like(label)
    place[by_class] = torch.arange(len(y)) - (counts.cumsum(0) - counts)[label[by_class]]
    return place < take[label]
