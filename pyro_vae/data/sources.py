"""Where data comes from: each reader returns a training set and its own test set, if it has one.

The ``binarize`` of what a reader returns is the default of ``load``. A reader takes by keyword
those options of ``load`` that it needs.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, ImageOps

from .dataset import Dataset
from .sprites import shapes

Splits = tuple[Dataset, Dataset | None]
OMNIGLOT_SIZE = (28, 28)
DIGITS_TEST = 360
# Bytes that one byte of a deflated file can stand for
_MOST_DEFLATED = 1032


def read_digits() -> Splits:
    """scikit-learn's 1797 digits of 8 x 8 pixels, with one fixed stratified split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    rows = train_test_split(
        np.arange(len(digits.target)),
        test_size=DIGITS_TEST,
        stratify=digits.target,
        random_state=0,
    )
    train, test = (
        Dataset(
            digits.images[np.sort(chosen), None] / 16,
            digits.target[np.sort(chosen)],
            binarize="dynamic",
            names=digits.target_names,
        )
        for chosen in rows
    )
    return train, test


def read_mnist(*, root: Path, download: bool) -> Splits:
    """MNIST: handwritten digits, 60,000 and 10,000."""
    return _grey_images("mnist", "MNIST", root, download)


def read_fashion_mnist(*, root: Path, download: bool) -> Splits:
    """Fashion-MNIST: articles of clothing, 60,000 and 10,000."""
    return _grey_images("fashion-mnist", "FashionMNIST", root, download)


def _grey_images(name: str, torchvision_class: str, root: Path, download: bool) -> Splits:
    from torchvision import datasets

    make = getattr(datasets, torchvision_class)
    train, test = (
        Dataset(
            part.data[:, None],
            part.targets,
            binarize="dynamic",
            names=[label.split(" - ")[0] for label in part.classes],
        )
        for part in (_stored(make, name, root, download, train=train) for train in (True, False))
    )
    return train, test


def read_cifar10(*, root: Path, download: bool) -> Splits:
    """CIFAR-10: small colour photographs, 50,000 and 10,000."""
    from torchvision.datasets import CIFAR10

    train, test = (
        Dataset(
            torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(),
            torch.tensor(part.targets),
            names=part.classes,
        )
        for part in (_stored(CIFAR10, "cifar10", root, download, train=t) for t in (True, False))
    )
    return train, test


def read_omniglot(*, root: Path, download: bool) -> Splits:
    """Omniglot: characters by hand, ink 1, training on background and test on evaluation.

    The test characters are numbered after the training characters, for they are others.
    """
    from torchvision.datasets import Omniglot

    images, characters = [], []
    for background in (True, False):
        part = _stored(Omniglot, "omniglot", root, download, background=background)
        # torchvision's own list has the order of the file system, which differs by machine
        paths = sorted(Path(part.target_folder).glob("*/*/*.png"))
        images.append(255 - read_images(paths, size=OMNIGLOT_SIZE, grey=True))
        characters.append([f"{path.parent.parent.name}/{path.parent.name}" for path in paths])
    # one alphabet is background or evaluation, never both, so that names do not clash
    names = [name for part in characters for name in sorted(set(part))]
    number = {name: k for k, name in enumerate(names)}
    train, test = (
        Dataset(x, torch.tensor([number[name] for name in part]), binarize="dynamic", names=names)
        for x, part in zip(images, characters, strict=True)
    )
    return train, test


def _stored(make: Callable[..., Any], name: str, root: Path, download: bool, **part: bool) -> Any:
    try:
        return make(root, download=download, **part)
    except RuntimeError as error:
        if download:
            raise
        raise FileNotFoundError(
            f"{name}: expected the data set in {root}, in torchvision's layout, got nothing there "
            f'or not all of it: fetch it with data.load("{name}", download=True), or name the '
            "folder that has it with root= or the environment variable PYRO_VAE_DATA"
        ) from error


def read_shapes(*, size: int | None, seed: int) -> Splits:
    """Sprites with known factors; they are binary already, so that binarising changes nothing."""
    sprites = shapes(seed=seed) if size is None else shapes(size=size, seed=seed)
    return sprites.replace(binarize="dynamic"), None


def read_folder(path: Path, *, size: int | tuple[int, int] | None, grey: bool) -> Splits:
    """Images of a folder, of its class folders, or of ``train`` and ``test`` in it."""
    if not all((path / part).is_dir() for part in ("train", "test")):
        return _folder(path, size, grey), None
    train = _folder(path / "train", size, grey)
    test = _folder(path / "test", train.event_shape[1:], grey)
    if train.names != test.names:
        raise ValueError(
            f"{path}: expected the same class folders in train and test, got {list(train.names)} "
            f"and {list(test.names)}: add the missing ones"
        )
    return train, test


def _folder(path: Path, size: int | tuple[int, ...] | None, grey: bool) -> Dataset:
    classes = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    loose = _images_in(path, recursive=False)
    inside = [_images_in(folder, recursive=True) for folder in classes]
    if loose and any(inside):
        raise ValueError(
            f"{path}: expected images either in class folders or beside each other, got "
            f"{len(loose)} beside {len(classes)} folders: move them into one"
        )
    if not loose and not (classes and all(inside)):
        empty = [p.name for p, images in zip(classes, inside, strict=True) if not images]
        where = f"no image in the class folders {empty}" if any(inside) else "no image"
        raise ValueError(
            f"{path}: expected images (.png, .jpg, ...), in class folders or not, got {where}: "
            "check the folder; .npy and .npz files are loaded by their own path"
        )
    if loose:
        return Dataset(read_images(loose, size=size, grey=grey))
    y = np.repeat(np.arange(len(classes)), [len(images) for images in inside])
    paths = [image for images in inside for image in images]
    return Dataset(
        read_images(paths, size=size, grey=grey), y, names=[folder.name for folder in classes]
    )


def _images_in(folder: Path, *, recursive: bool) -> list[Path]:
    from torchvision.datasets.folder import is_image_file

    found = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(
        p
        for p in found
        if p.is_file()
        and not p.name.startswith(".")
        and (is_image_file(p.name) or p.suffix.lower() == ".gif")
    )


def read_images(
    paths: Sequence[Path], *, size: int | tuple[int, ...] | None, grey: bool
) -> torch.Tensor:
    """Read images as 8-bit pixels, upright, without transparency, all of one size.

    Palettes, CMYK, grey, black and white become red, green and blue (or grey); an alpha channel
    is dropped, and the orientation of a camera (EXIF) applied. Refused, since a part of them
    would be lost: animations, and grey pixels of more than 8 bits. Refused unread: images of more
    than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels, which are made to fill a memory.

    Args:
        paths: n image files.
        size: pixels (h, w), or one number for both; None for the size of the first image. Images
            of another size are resized, and squashed if their proportions differ.
        grey: one grey channel in place of red, green and blue.

    Returns:
        ``uint8``, shape (n, 1 or 3, h, w).

    Raises:
        ValueError: files that are no image, broken or refused, the first five of them named.
    """
    if isinstance(size, int):
        size = (size, size)
    if size is not None and not (
        len(size) == 2 and all(isinstance(s, int) and s > 0 for s in size)
    ):
        raise ValueError(
            f"size: expected pixels (h, w) or one number, both at least 1, got {size}: "
            "leave it out for the size of the first image"
        )
    pixels: list[np.ndarray] = []
    broken: list[str] = []
    for path in paths:
        try:
            image = _read_image(path, "L" if grey else "RGB")
        except Exception as error:  # whatever a broken file provokes in a decoder
            broken.append(f"{path} ({str(error) or type(error).__name__})")
            continue
        if size is None:
            size = (image.height, image.width)
        height, width = size
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels.append(np.atleast_3d(np.asarray(image)).transpose(2, 0, 1))
    if broken:
        more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
        raise ValueError(
            f"images: expected whole files of one picture each, got {len(broken)} others: "
            f"{', '.join(broken[:5])}{more}: remove or replace them"
        )
    return torch.from_numpy(np.stack(pixels))


def _read_image(path: Path, mode: str) -> Image.Image:
    with warnings.catch_warnings():
        # A large image is a warning of Pillow's, and an error from twice the size on
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        opened = Image.open(path)
    with opened:
        if (frames := getattr(opened, "n_frames", 1)) > 1:
            raise ValueError(f"an animation of {frames} frames; save those you want one by one")
        image = ImageOps.exif_transpose(opened)
        if image.mode[0] in "IF":
            raise ValueError(
                f"pixels of more than 8 bits, mode {image.mode}, would be clipped; "
                "use an .npy file"
            )
        if "transparency" in image.info:
            image = image.convert("RGBA")
        return image.convert(mode)


def read_file(path: Path) -> Splits:
    """An array from ``.npy``; x[, y] or x_train, x_test[, y_train, y_test] from ``.npz``."""
    try:
        arrays = _arrays(path)
    except Exception as error:  # whatever a broken file provokes in the readers
        raise ValueError(
            f"{path}: expected numeric arrays written by numpy.save or numpy.savez, got: "
            f"{str(error) or type(error).__name__}. Objects are never unpickled; save plain arrays"
        ) from error
    suffixes = {"x": ("",), "x_train": ("_train", "_test")}
    parts = next((parts for key, parts in suffixes.items() if key in arrays), ())
    needed = {f"x{part}" for part in parts}
    labels = {f"y{part}" for part in parts}
    if not parts or set(arrays) not in (needed, needed | labels):
        raise ValueError(
            f"{path}: expected the arrays x[, y] or x_train, x_test[, y_train, y_test], got "
            f"{', '.join(sorted(arrays)) or 'none'}: rename them, and drop others"
        )
    train, *test = (Dataset(arrays[f"x{part}"], arrays.get(f"y{part}")) for part in parts)
    return train, test[0] if test else None


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            file.seek(0)
            return {"x": _array(file, path.stat().st_size)}
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
