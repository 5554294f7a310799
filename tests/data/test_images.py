"""Folders of pictures: every pixel, classes, sizes, and which of them cannot be read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_dataset import GRID, pictures, rows

from pyro_vae import data
from pyro_vae.data import load


def save(pixels: np.ndarray, path: Path) -> None:
    """Write pixels (h, w) or (h, w, channels) as an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_flat_folder_round_trip(tmp_path: Path) -> None:
    pixels = pictures(10, 5, 7, 3)
    for i, image in enumerate(pixels):
        save(image, tmp_path / f"{9 - i}.png")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image")
    d = load(tmp_path)
    assert (d.name, d.event_shape, d.labels) == (tmp_path.name, (3, 5, 7), ())
    assert (len(d.train), len(d.test), d.train.binarize) == (9, 1, None)
    expected = GRID[torch.from_numpy(pixels[::-1].copy()).long()].permute(0, 3, 1, 2)
    assert rows(torch.cat([d.train.x, d.test.x])) == rows(expected)
    in_order = [
        i for i in range(10) if (expected[i] == d.train.x[:, None]).flatten(2).all(2).any()
    ]
    assert torch.equal(d.train.x, expected[in_order])


def test_class_folders(tmp_path: Path) -> None:
    pixels = pictures(12, 4, 4)
    for i, image in enumerate(pixels):
        save(image, tmp_path / ("dog", "cat")[i % 2] / f"{i:02}.png")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    d = load(tmp_path, grey=True, test_fraction=0.25)
    assert d.labels == ("cat", "dog") and d.event_shape == (1, 4, 4) and len(d.test) == 3
    expected = GRID[torch.from_numpy(pixels).long()][:, None]
    for part in (d.train, d.test):
        for x, y in part:
            (i,) = (expected == x).flatten(1).all(1).nonzero()[0].tolist()
            assert d.labels[y] == ("dog", "cat")[i % 2]


def test_train_and_test_folders(tmp_path: Path) -> None:
    for part, n in (("train", 4), ("test", 2)):
        for name in ("a", "b"):
            for i in range(n):
                save(pictures(1, 6, 6 + i)[0], tmp_path / part / name / f"{i}.png")
    d = load(tmp_path)
    assert (len(d.train), len(d.test), d.event_shape) == (8, 4, (1, 6, 6))
    save(pictures(1, 6, 6)[0], tmp_path / "test" / "c" / "0.png")
    with pytest.raises(ValueError, match="same class folders in train and test"):
        load(tmp_path)


def test_size_and_grey(tmp_path: Path) -> None:
    for i, (h, w) in enumerate(((4, 6), (8, 8), (5, 9))):
        save(np.full((h, w, 3), (255, 0, 51), dtype=np.uint8), tmp_path / f"{i}.png")
    assert load(tmp_path).event_shape == (3, 4, 6)
    assert load(tmp_path, size=5).event_shape == (3, 5, 5)
    grey = load(tmp_path, size=(2, 3), grey=True)
    assert grey.event_shape == (1, 2, 3)
    # ITU-R 601: 0.299 red + 0.587 green + 0.114 blue, whole numbers from 0 to 255
    assert torch.equal(grey.train.x, GRID[round(0.299 * 255 + 0.114 * 51)].expand(2, 1, 2, 3))
    with pytest.raises(ValueError, match=re.escape("size: expected pixels (h, w)")):
        load(tmp_path, size=0)


def test_palette_transparency_and_orientation(tmp_path: Path) -> None:
    image = Image.new("P", (2, 2))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "0.png", transparency=b"\x00\xff")
    sideways = Image.new("RGB", (4, 2), (9, 9, 9))
    exif = sideways.getexif()
    exif[0x0112] = 6
    sideways.save(tmp_path / "1.png", exif=exif)
    read = data.sources.read_images(
        [tmp_path / "0.png"], size=None, grey=False, background=(1, 2, 3)
    )
    assert read[0, :, 0, 0].tolist() == [1, 2, 3]
    read = data.sources.read_images([tmp_path / "1.png"], size=None, grey=False)
    assert read.shape == (1, 3, 4, 2)


def test_broken_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got no image: check the folder"):
        load(tmp_path)
    save(pictures(1, 4, 4)[0], tmp_path / "a" / "0.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match=re.escape("no image in the class folders ['b']")):
        load(tmp_path)
    save(pictures(1, 4, 4)[0], tmp_path / "loose.png")
    with pytest.raises(ValueError, match="got 1 beside 2 folders"):
        load(tmp_path)


def test_broken_images_are_all_named(tmp_path: Path) -> None:
    for i in range(3):
        save(pictures(1, 40, 40)[0], tmp_path / f"{i}.png")
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "3.jpg").write_text("no image")
    save((pictures(1, 4, 4)[0] * 200.0).astype(np.uint16), tmp_path / "4.png")
    with pytest.raises(ValueError, match=r"images: .* got 3 others") as raised:
        load(tmp_path)
    for name in ("1.png", "3.jpg", "4.png", "more than 8 bits"):
        assert name in str(raised.value)
    assert "0.png" not in str(raised.value)
