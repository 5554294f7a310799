"""Where data comes from: each reader returns a training set and its own other sets, if any.

The ``binarize`` of what a reader returns is the default of ``load``. A reader takes by keyword
those options of ``load`` that it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .bouncing import bouncing
from .dataset import Dataset
from .folders import divided
from .images import Background, one_channel_if_grey, read_images
from .sprites import shapes
from .tones import tones

# Training data, then test and validation data where a source has its own
Splits = tuple[Dataset, ...]
OMNIGLOT_SIZE = (28, 28)
DIGITS_TEST = 360
_BUNDLED = Path(__file__).parent / "bundled"


def read_digits() -> Splits:
    """scikit-learn's 1797 digits of 8 x 8 pixels, with one fixed stratified split."""
    # Which takes seconds to import, so that they come with the library
    with np.load(_BUNDLED / "digits.npz") as arrays:
        x, y, test = arrays["x"][:, None] / 16, arrays["y"], arrays["test"]
    return tuple(
        Dataset(x[rows], y[rows], binarize="dynamic", names=[*map(str, range(10))], kind="image")
        for rows in (np.setdiff1d(np.arange(len(x)), test), test)
    )


def read_mnist(*, root: Path, download: bool) -> Splits:
    """MNIST: handwritten digits, 60,000 and 10,000."""
    return _grey_images("mnist", "MNIST", root, download)


def read_mnist_small() -> Splits:
    """The first 4000 training and 1000 test images of MNIST, which come with the library."""
    with np.load(_BUNDLED / "mnist-small.npz") as arrays:
        return tuple(
            Dataset(
                arrays[f"x_{part}"][:, None],
                arrays[f"y_{part}"],
                binarize="dynamic",
                names=[*map(str, range(10))],
                kind="image",
            )
            for part in ("train", "test")
        )


def read_fashion_mnist(*, root: Path, download: bool) -> Splits:
    """Fashion-MNIST: articles of clothing, 60,000 and 10,000."""
    return _grey_images("fashion-mnist", "FashionMNIST", root, download)


def _grey_images(name: str, torchvision_class: str, root: Path, download: bool) -> Splits:
    from torchvision import datasets

    make = getattr(datasets, torchvision_class)
    return tuple(
        Dataset(
            part.data[:, None],
            part.targets,
            binarize="dynamic",
            names=[label.split(" - ")[0] for label in part.classes],
            kind="image",
        )
        for part in (_stored(make, name, root, download, train=train) for train in (True, False))
    )


def read_cifar10(*, root: Path, download: bool) -> Splits:
    """CIFAR-10: small colour photographs, 50,000 and 10,000."""
    from torchvision.datasets import CIFAR10

    return tuple(
        Dataset(
            part.data,
            torch.tensor(part.targets),
            channels="last",
            names=part.classes,
            kind="image",
        )
        for part in (_stored(CIFAR10, "cifar10", root, download, train=t) for t in (True, False))
    )


def read_omniglot(*, root: Path, download: bool, split: str | None) -> Splits:
    """Omniglot: characters by hand, ink 1, training on background and test on evaluation.

    The test characters are numbered after the training characters, for they are others. The split
    "iwae" is that of Burda, Grosse, Salakhutdinov (2016), whose labels are the alphabets.
    """
    if split is not None:
        return _read_iwae(root / "OMNIGLOT" / "chardata.mat", split)
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
    return tuple(
        Dataset(
            x,
            torch.tensor([number[name] for name in part]),
            binarize="dynamic",
            names=names,
            kind="image",
        )
        for x, part in zip(images, characters, strict=True)
    )


def _read_iwae(path: Path, split: str) -> Splits:
    """What a file has under (pixels, n), those of an image by columns, and (alphabets, n)."""
    from scipy.io import loadmat

    if split != "iwae":
        raise ValueError(
            f'split: expected "iwae" or None, got {split!r}: leave it out for torchvision\'s'
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"omniglot: expected {path}, got no such file: put that of github.com/yburda/iwae, "
            "datasets/OMNIGLOT/chardata.mat, there, or name the folder that holds OMNIGLOT with "
            "root= or the environment variable PYRO_VAE_DATA"
        )
    try:
        held = loadmat(path)
        return tuple(
            Dataset(
                held[x].T.reshape(-1, 1, *OMNIGLOT_SIZE).swapaxes(2, 3),
                held[y].argmax(0),
                binarize="dynamic",
                kind="image",
            )
            for x, y in (("data", "target"), ("testdata", "testtarget"))
        )
    except Exception as error:  # whatever a broken file provokes in the reader
        raise ValueError(
            f"{path}: expected data, target, testdata and testtarget, (784, n) and "
            f"(alphabets, n), got: {str(error) or type(error).__name__}. Fetch it anew"
        ) from error


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
    return (sprites.replace(binarize="dynamic"),)


def read_tones(*, length: int | None, rate: int | None, seed: int) -> Splits:
    """Tones like speech with known factors."""
    given = {"length": length, "rate": rate}
    return (tones(seed=seed, **{k: v for k, v in given.items() if v is not None}),)


def read_bouncing(*, size: int | None, length: int | None, seed: int) -> Splits:
    """Videos of sprites that move, with known factors; binary already."""
    given = {"size": size, "frames": length}
    videos = bouncing(seed=seed, **{k: v for k, v in given.items() if v is not None})
    return (videos.replace(binarize="dynamic"),)


def read_folder(
    path: Path,
    *,
    size: int | tuple[int, int] | None,
    grey: bool | None,
    background: Background | None,
) -> Splits:
    """Images of a folder, of its class folders, or of ``train``, ``test`` and ``val`` in it."""
    parts = divided(path, images_in, "images")
    pixels: list[torch.Tensor] = []
    for paths, _, _ in parts:
        shape = tuple(pixels[0].shape[2:]) if pixels else size
        pixels.append(read_images(paths, size=shape, grey=bool(grey), background=background))
    if max(int(x.max()) for x in pixels) == 1:
        raise ValueError(
            f"{path}: expected 8-bit pixels from 0 to 255, got pictures of 0 and 1 alone, as "
            "masks are: store them as black and white, Image.fromarray(255 * pixels)"
        )
    if grey is False:
        pixels = one_channel_if_grey(pixels)
    return tuple(
        Dataset(x, y, names=names, kind="image")
        for x, (_, y, names) in zip(pixels, parts, strict=True)
    )


def images_in(folder: Path, recursive: bool = True) -> list[Path]:
    """Files of a folder, and of those inside it, that are images by their name."""
    from torchvision.datasets.folder import is_image_file

    found = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(
        p
        for p in found
        if p.is_file()
        and not p.name.startswith(".")
        and (is_image_file(p.name) or p.suffix.lower() == ".gif")
    )
