"""Loading by name, from tensors and from files: splits that repeat, labels, binarisation."""

from __future__ import annotations

import dataclasses
import os
import pickle
import random
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from test_dataset import GRID, pictures, rows, standard_errors
from test_images import save
from torch import Tensor

from pyro_vae import data
from pyro_vae.data import Dataset, load


def test_digits_are_those_of_scikit_learn() -> None:
    digits, d = load_digits(), load("digits", binarize=None)
    assert (len(d.train), len(d.test), d.event_shape, d.name) == (1437, 360, (1, 8, 8), "digits")
    assert d.labels == tuple("0123456789")
    x, y = torch.cat([d.train.x, d.test.x]), torch.cat([d.train.y, d.test.y])
    together = torch.cat([x.flatten(1), y[:, None]], dim=1)
    expected = torch.tensor(np.c_[digits.data / 16, digits.target], dtype=torch.float32)
    assert rows(together) == rows(expected)


def test_digits_split_is_stratified_and_fixed() -> None:
    d = load("digits", binarize=None, seed=5)
    share = torch.bincount(torch.tensor(load_digits().target)) * 360 / 1797
    assert (torch.bincount(d.test.y) - share).abs().max() < 1
    assert torch.equal(d.test.x, load("digits", binarize=None).test.x)
    digits = load_digits()
    _, rows = train_test_split(
        np.arange(1797), test_size=360, stratify=digits.target, random_state=0
    )
    rows = np.sort(rows)
    assert torch.equal(d.test.x.flatten(1), torch.tensor(digits.data[rows] / 16).float())
    assert torch.equal(d.test.y, torch.tensor(digits.target[rows]))


def test_dynamic_binarises_the_test_set_once() -> None:
    d, grey = load("digits"), load("digits", binarize=None)
    assert d.train.binarize == "dynamic" and torch.equal(d.train.x, grey.train.x)
    assert d.test.binarize is None and d.test.x.unique().tolist() == [0, 1]
    assert standard_errors(d.test.x, grey.test.x) < 5
    assert not d.test.x[grey.test.x == 0].any() and d.test.x[grey.test.x == 1].all()
    assert torch.equal(d.test.x, load("digits").test.x)
    assert not torch.equal(d.test.x, load("digits", seed=1).test.x)


def test_static_binarises_both_once() -> None:
    d, grey = load("digits", binarize="static"), load("digits", binarize=None)
    for part, source in ((d.train, grey.train), (d.test, grey.test)):
        assert part.binarize is None and part.x.unique().tolist() == [0, 1]
        assert standard_errors(part.x, source.x) < 5
    assert torch.equal(d.train.x, load("digits", binarize="static").train.x)
    assert torch.equal(d.test.x, load("digits").test.x)


def write_mnist(root: Path, name: str) -> dict[str, np.ndarray]:
    """A small data set in the files of MNIST."""
    folder, arrays = root / name / "raw", {}
    folder.mkdir(parents=True)
    for part, n in (("train", 20), ("t10k", 10)):
        arrays[part] = pictures(n, 28, 28, seed=n)
        images = struct.pack(">4i", 2051, n, 28, 28) + arrays[part].tobytes()
        labels = struct.pack(">2i", 2049, n) + bytes(i % 10 for i in range(n))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    return arrays


@pytest.mark.parametrize(
    ("name", "folder", "last"),
    [("mnist", "MNIST", "9"), ("fashion-mnist", "FashionMNIST", "Ankle boot")],
)
def test_mnist_files(
    name: str, folder: str, last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = write_mnist(tmp_path, folder)
    d = load(name, root=tmp_path, binarize=None)
    for part, key in ((d.train, "train"), (d.test, "t10k")):
        assert torch.equal(part.x, GRID[torch.from_numpy(arrays[key]).long()][:, None])
        assert part.y.tolist() == [i % 10 for i in range(len(part))]
    assert len(d.labels) == 10 and d.labels[-1] == last
    monkeypatch.setenv("PYRO_VAE_DATA", str(tmp_path))
    assert load(name).train.binarize == "dynamic"


def test_cifar10_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    pixels = pictures(6, 2, 3, 32, 32)
    for batch, name in zip(pixels, names, strict=True):
        content = {"data": batch.reshape(2, -1), "labels": [3, 1]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcd")}, protocol=2))
    d = load("cifar10", root=tmp_path)
    assert d.train.binarize is None and d.labels == tuple("abcd")
    expected = GRID[torch.from_numpy(pixels).long()]
    assert torch.equal(d.train.x, expected[:5].flatten(0, 1))
    assert torch.equal(d.test.x, expected[5]) and d.test.y.tolist() == [3, 1]


def test_omniglot_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.omniglot, "check_integrity", lambda *_: True)
    for part, characters in (
        ("images_background", ("Greek/character02", "Greek/character01", "Latin/character01")),
        ("images_evaluation", ("Runes/character01",)),
    ):
        for character in characters:
            folder = tmp_path / "omniglot-py" / part / character
            folder.mkdir(parents=True)
            page = np.ones((105, 105), dtype=bool)
            page[:60, :60] = False
            for i in range(2):
                Image.fromarray(page).save(folder / f"{i}.png")
    d = load("omniglot", root=tmp_path, binarize=None)
    assert d.labels == (
        "Greek/character01",
        "Greek/character02",
        "Latin/character01",
        "Runes/character01",
    )
    assert d.train.y.tolist() == [0, 0, 1, 1, 2, 2] and d.test.y.tolist() == [3, 3]
    assert d.event_shape == (1, 28, 28)
    # ink (black, 60 of 105 pixels) is 1, and 16 of 28 pixels after resizing
    expected = torch.zeros(28, 28)
    expected[:16, :16] = 1
    inside = torch.ones(28, 28, dtype=torch.bool)
    inside[14:18], inside[:, 14:18] = False, False
    assert torch.equal(d.test.x[0, 0][inside], expected[inside])
    assert torch.isin(d.train.x, GRID).all()
    assert load("omniglot", root=tmp_path).train.binarize == "dynamic"


def test_omniglot_of_published_bounds(tmp_path: Path) -> None:
    (tmp_path / "OMNIGLOT").mkdir()
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 2, (n, 28, 28)).astype(float) for n in (5, 3))
    alphabets = np.array([2, 0, 1, 2, 2]), np.array([1, 0, 2])
    # As MATLAB lays them out: an image in a column, its pixels by columns
    columns = [np.stack([x.flatten("F") for x in part], 1) for part in (train, test)]
    targets = [np.eye(50)[:, part] for part in alphabets]
    names = ("data", "testdata", "target", "testtarget")
    held = dict(zip(names, (*columns, *targets), strict=True))
    scipy.io.savemat(tmp_path / "OMNIGLOT" / "chardata.mat", held)
    d = load("omniglot", split="iwae", root=tmp_path, binarize=None)
    for part, x, y in ((d.train, train, alphabets[0]), (d.test, test, alphabets[1])):
        assert torch.equal(part.x, torch.from_numpy(x[:, None]).float())
        assert part.y.tolist() == y.tolist()
    assert load("omniglot", split="iwae", root=tmp_path).train.binarize == "dynamic"
    with pytest.raises(FileNotFoundError, match="download=True"):
        load("omniglot", root=tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "omniglot", "cifar10"])
def test_missing_data_says_where_and_how(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYRO_VAE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "nowhere"))) as raised:
        load(name)
    assert f'data.load("{name}", download=True)' in str(raised.value)
    assert "PYRO_VAE_DATA" in str(raised.value)
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        load(name, root=tmp_path / "elsewhere")
    monkeypatch.delenv("PYRO_VAE_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / ".cache/pyro_vae"))):
        load(name)


def test_download_is_torchvisions_and_its_failure_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(self: torchvision.datasets.MNIST) -> None:
        raise RuntimeError(f"cannot download to {self.root}")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", offline)
    with pytest.raises(RuntimeError, match=re.escape(f"cannot download to {tmp_path}")):
        load("mnist", root=tmp_path, download=True)


@pytest.mark.skipif(
    not (Path(os.environ.get("PYRO_VAE_DATA") or os.devnull) / "MNIST").is_dir(),
    reason="needs PYRO_VAE_DATA with MNIST",
)
def test_real_mnist() -> None:
    d, grey = load("mnist"), load("mnist", binarize=None)
    assert (len(d.train), len(d.test), d.event_shape) == (60_000, 10_000, (1, 28, 28))
    assert d.train.y[:5].tolist() == [5, 0, 4, 1, 9] and d.test.y[:5].tolist() == [7, 2, 1, 0, 4]
    # the mean and standard deviation that everybody normalises MNIST with
    assert grey.train.x.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert grey.train.x.std().item() == pytest.approx(0.3081, abs=5e-5)
    assert torch.equal(grey.test.x, GRID[(grey.test.x * 255).round().long()])
    assert standard_errors(d.test.x, grey.test.x) < 5


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: x.numpy(), Dataset])
def test_tensors_are_split_without_loss(wrap: Callable[[Tensor], object]) -> None:
    x = torch.rand(30, 4)
    d = load(wrap(x), test_fraction=0.2)
    assert (len(d.train), len(d.test), d.labels, d.name) == (24, 6, (), "tensor")
    assert rows(torch.cat([d.train.x, d.test.x])) == rows(x)
    assert d.train.binarize is None
    assert torch.equal(d.test.x, load(x, test_fraction=0.2).test.x)
    assert not torch.equal(d.test.x, load(x, test_fraction=0.2, seed=1).test.x)
    assert len(load(x).test) == 3 and len(load(x[:2]).test) == 1


def test_a_dataset_brings_labels_and_binarisation() -> None:
    whole = Dataset(torch.rand(40, 9), torch.arange(40) % 2, binarize="dynamic", names="ab")
    d = load(whole)
    assert d.labels == ("a", "b") and d.train.binarize == "dynamic"
    assert d.test.x.unique().tolist() == [0, 1]
    assert load(whole, binarize=None).train.binarize is None and whole.binarize == "dynamic"


@pytest.mark.parametrize("device", [None, "cpu"])
def test_labels_without_names_name_their_classes(tmp_path: Path, device: str | None) -> None:
    x, y = np.random.default_rng(0).random((20, 2)), np.arange(20) % 3
    np.savez(tmp_path / "whole.npz", x=x, y=y)
    # the class that only the test set has counts too
    np.savez(tmp_path / "parts.npz", x_train=x, x_test=x, y_train=y % 2, y_test=y)
    for source in (tmp_path / "whole.npz", tmp_path / "parts.npz", Dataset(x, y)):
        d = load(source, device=device)
        assert d.labels == d.test.names == ("0", "1", "2")
        assert "labels=3" in repr(d)


@pytest.mark.parametrize("y", [torch.arange(20) - 1, torch.arange(20) * 10**12])
def test_labels_that_number_no_classes_get_no_names(y: Tensor) -> None:
    d = load(Dataset(torch.rand(20, 2), y))
    assert d.labels == () and d.train.y is not None


def test_npy_round_trip(tmp_path: Path) -> None:
    pixels = pictures(20, 3, 4, 4)
    np.save(tmp_path / "pixels.npy", pixels)
    d = load(tmp_path / "pixels.npy")
    assert d.name == "pixels.npy" and d.test.y is None
    expected = GRID[torch.from_numpy(pixels).long()]
    assert rows(torch.cat([d.train.x, d.test.x])) == rows(expected)


def test_npz_round_trips(tmp_path: Path) -> None:
    x, y, path = np.arange(40.0).reshape(20, 2), np.arange(20), tmp_path / "arrays.npz"
    np.savez(path, x=x, y=y)
    d = load(str(path))
    for part in (d.train, d.test):
        assert torch.equal(part.x[:, 0].long(), 2 * part.y)
    assert torch.cat([d.train.y, d.test.y]).sort().values.tolist() == y.tolist()
    np.savez_compressed(path, x_train=x[:15], x_test=x[15:], y_train=y[:15], y_test=y[15:])
    d = load(path)
    assert d.train.x.tolist() == x[:15].tolist() and d.test.x.tolist() == x[15:].tolist()
    assert d.train.y.tolist() == y[:15].tolist() and d.test.y.tolist() == y[15:].tolist()
    np.savez(path, x_train=x[:15], x_test=x[15:])
    assert load(path).test.y is None


def test_broken_files(tmp_path: Path) -> None:
    x = np.zeros((4, 2))
    for arrays, message in (
        ({"x": x, "labels": x}, "got labels, x: rename"),
        ({"x_train": x}, "got x_train"),
        ({"x_train": x, "x_test": x, "y_train": x[:, 0]}, "got x_test, x_train, y_train"),
        ({"x": np.array([[None]])}, "Objects are never unpickled"),
        ({}, "got none: rename"),
    ):
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(ValueError, match=message) as raised:
            load(tmp_path / "a.npz")
        assert "a.npz" in str(raised.value)
    for content in (b"", b"no array"):
        for name in ("b.npy", "b.npz"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=f"{name}: expected numeric arrays"):
                load(tmp_path / name)
    np.save(tmp_path / "c.npy", np.full((3, 2), np.nan))
    with pytest.raises(ValueError, match=r"^x: expected finite values"):
        load(tmp_path / "c.npy")


@pytest.mark.parametrize(
    ("source", "binarize"),
    [
        ("digits", "auto"),
        ("digits", "static"),
        ("shapes", "auto"),
        ("mnist", "dynamic"),
        ("folder", "static"),
        ("npy", None),
        ("tensor", "dynamic"),
    ],
)
def test_loading_leaves_global_random_numbers_alone(
    source: str, binarize: str | None, tmp_path: Path
) -> None:
    write_mnist(tmp_path, "MNIST")
    np.save(tmp_path / "a.npy", pictures(9, 4))
    for i in range(3):
        save(pictures(1, 4, 4)[0], tmp_path / "images" / f"{i}.png")
    paths = {"folder": tmp_path / "images", "npy": tmp_path / "a.npy", "tensor": torch.rand(9, 2)}
    before = torch.get_rng_state(), np.random.get_state()[1:3], random.getstate()
    load(paths.get(source, source), binarize=binarize, root=tmp_path)
    after = torch.get_rng_state(), np.random.get_state()[1:3], random.getstate()
    assert torch.equal(before[0], after[0]) and before[2] == after[2]
    assert np.array_equal(before[1][0], after[1][0]) and before[1][1] == after[1][1]


def test_names_are_all_that_load_takes() -> None:
    others = ("mnist", "fashion-mnist", "omniglot", "cifar10", "shapes", "tones", "bouncing")
    assert data.NAMES == ("digits", "mnist-small", *others)


def test_all_data_are_in_their_order_unless_others_took_their_place() -> None:
    d = load(torch.arange(20.0)[:, None])
    assert d.whole().x.flatten().tolist() == [*range(20)]
    few = dataclasses.replace(d, train=d.train[:5])
    assert few.whole().x.equal(torch.cat([d.train.x[:5], d.test.x]))
