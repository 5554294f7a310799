"""Data sets: exact values, repeatable splits and binarisation, and errors that name the fix."""

from __future__ import annotations

import math
import os
import pickle
import random
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader

from pyro_vae import data
from pyro_vae.data import Dataset, DataSplits, load, render_shapes, shapes

GRID = (torch.arange(256, dtype=torch.float64) / 255).float()


def rows(x: Tensor) -> list[tuple[float, ...]]:
    """Rows of ``x`` in sorted order, to compare sets of data."""
    return sorted(map(tuple, x.flatten(1).tolist()))


def pictures(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Random 8-bit pixels, shape (n, *shape)."""
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def standard_errors(x: Tensor, probabilities: Tensor) -> float:
    """How far the sum of Bernoulli draws is from its mean, in standard errors."""
    spread = (probabilities.double() * (1 - probabilities.double())).sum().sqrt()
    return float((x.double().sum() - probabilities.double().sum()).abs() / spread)


# Dataset


def test_uint8_lies_on_the_exact_grid() -> None:
    x = torch.arange(256, dtype=torch.uint8)[:, None]
    assert torch.equal(Dataset(x).x[:, 0], GRID)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float64, torch.float16])
def test_other_types_keep_their_values(dtype: torch.dtype) -> None:
    x = Dataset(torch.tensor([[0, 3], [7, 300]]).to(dtype)).x
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert x.dtype == expected and x.tolist() == [[0, 3], [7, 300]]


def test_booleans_are_zero_and_one() -> None:
    assert Dataset(torch.tensor([[True, False]])).x.tolist() == [[1, 0]]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(3, 2)[::-1],
        np.arange(6.0).astype(">f4").reshape(3, 2)[::-1],
        np.broadcast_to(np.arange(2.0), (3, 2)),
        np.arange(6, dtype=np.uint16).reshape(3, 2),
    ],
)
def test_arrays_of_any_layout(array: np.ndarray) -> None:
    assert Dataset(array).x.tolist() == array.tolist()


def test_float32_is_not_copied_and_gradients_are_left_behind() -> None:
    x = torch.rand(3, 2, requires_grad=True)
    stored = Dataset(x).x
    assert stored.data_ptr() == x.data_ptr() and not stored.requires_grad


@pytest.mark.parametrize("binarize", ["dynamic", None])
def test_8_bit_pixels_take_a_byte_and_train_like_floats(binarize: str | None) -> None:
    pixels = torch.as_tensor(pictures(50, 3, 4, 4))
    stored = Dataset(pixels, torch.arange(50), binarize=binarize)
    floats = Dataset(pixels / 255, torch.arange(50), binarize=binarize)
    assert floats.nbytes == 4 * stored.nbytes == 4 * pixels.numel()
    assert stored.dtype == stored.x.dtype == torch.float32
    for select in (
        lambda d: d.x,
        lambda d: d[10:20].x,
        lambda d: d.replace(binarize=None)[3],
        lambda d: torch.cat([x for x, _ in d.batches(7, shuffle=True)]),
        lambda d: torch.cat([x for x, _ in DataLoader(d, batch_size=7, shuffle=True)]),
        lambda d: d.to("cpu").binarized(torch.Generator().manual_seed(0)).x,
    ):
        torch.manual_seed(0)
        found = select(stored)
        torch.manual_seed(0)
        expected = select(floats)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other) and one.dtype == other.dtype


def test_dark_parts_of_8_bit_pixels_stay_pixels() -> None:
    d = Dataset(torch.tensor([[0, 1], [1, 0], [255, 3]], dtype=torch.uint8))
    assert d[:2].x.tolist() == [[0, GRID[1]], [GRID[1], 0]]
    assert d[:2].replace(binarize="dynamic").to("cpu")[1:].x.tolist() == [[GRID[1], 0]]


def test_values_binarised_once_take_a_byte() -> None:
    grey = Dataset(torch.rand(20, 3))
    once = grey.binarized(torch.Generator().manual_seed(3))
    assert once.nbytes == 60 and once.x.dtype == torch.float32
    double = Dataset(torch.rand(20, 3).double()).binarized(torch.Generator().manual_seed(3))
    assert double.x.dtype == double.dtype == torch.float64


def test_selection_keeps_everything() -> None:
    d = Dataset(
        torch.rand(6, 2),
        torch.tensor([0, 1, 0, 1, 0, 1]),
        binarize="dynamic",
        names=("even", "odd"),
        factors=torch.arange(6.0)[:, None],
        factor_names=("position",),
    )
    for index, expected in (
        (slice(1, 3), [1, 2]),
        (torch.tensor([5, 0]), [5, 0]),
        ([5, -6], [5, 0]),
        (np.array([3, 4])[::-1], [4, 3]),
        (d.y == 1, [1, 3, 5]),
    ):
        part = d[index]
        assert isinstance(part, Dataset)
        assert torch.equal(part.x, d.x[expected]) and torch.equal(part.y, d.y[expected])
        assert part.factors[:, 0].tolist() == expected
        assert (part.binarize, part.names, part.factor_names) == (
            "dynamic",
            ("even", "odd"),
            ("position",),
        )


def test_an_item_is_x_or_x_and_y() -> None:
    x = torch.rand(4, 2)
    assert torch.equal(Dataset(x)[3], x[3]) and torch.equal(Dataset(x)[np.int64(-1)], x[3])
    item, label = Dataset(x, np.array([4, 5, 6, 7]))[torch.tensor(2)]
    assert torch.equal(item, x[2]) and label == 6
    with pytest.raises(IndexError):
        Dataset(x)[4]


def test_iteration_ends() -> None:
    x = torch.rand(4, 2)
    assert torch.equal(torch.stack(list(Dataset(x))), x)


def test_a_torch_data_loader_takes_it() -> None:
    d = Dataset(torch.full((10, 3), 0.5), torch.arange(10), binarize="dynamic")
    batches = list(DataLoader(d, batch_size=4))
    assert torch.equal(torch.cat([y for _, y in batches]), d.y)
    assert torch.cat([x for x, _ in batches]).unique().tolist() == [0, 1]


def test_batch_gathers_rows() -> None:
    d = Dataset(torch.rand(9, 2, 3), torch.arange(9))
    index = torch.tensor([8, 0, 0])
    x, y = d.batch(index)
    assert torch.equal(x, d.x[index]) and torch.equal(y, index)
    assert Dataset(d.x).batch(index)[1] is None


def test_dynamic_binarisation_has_the_stored_probabilities() -> None:
    torch.manual_seed(0)
    p, n = torch.tensor([0.0, 1e-3, 0.2, 0.5, 0.9, 1.0]), 40_000
    d = Dataset(p[None], binarize="dynamic")
    x, _ = d.batch(torch.zeros(n, dtype=torch.long))
    assert x.dtype == torch.float32 and x.unique().tolist() == [0, 1]
    assert ((x.mean(0) - p).abs() <= 5 * (p * (1 - p) / n).sqrt()).all()
    assert torch.equal(d.x, p[None])


def test_dynamic_binarisation_is_fresh_and_follows_the_global_seed() -> None:
    d, index = Dataset(torch.full((5, 50), 0.5), binarize="dynamic"), torch.arange(5)
    torch.manual_seed(1)
    first, second = d.batch(index)[0], d.batch(index)[0]
    torch.manual_seed(1)
    assert torch.equal(d.batch(index)[0], first) and not torch.equal(first, second)


def test_batches_visit_every_row_once() -> None:
    d = Dataset(torch.rand(10, 2), torch.arange(10))
    ordered = list(d.batches(4))
    assert [len(x) for x, _ in ordered] == [4, 4, 2]
    assert torch.equal(torch.cat([x for x, _ in ordered]), d.x)
    torch.manual_seed(0)
    shuffled = torch.cat([y for _, y in d.batches(4, shuffle=True)])
    again = torch.cat([y for _, y in d.batches(4, shuffle=True)])
    assert shuffled.sort().values.tolist() == list(range(10))
    assert shuffled.tolist() != list(range(10)) and not torch.equal(shuffled, again)
    torch.manual_seed(0)
    assert torch.equal(torch.cat([y for _, y in d.batches(4, shuffle=True)]), shuffled)


def test_binarized_has_the_stored_probabilities_and_repeats() -> None:
    grey = Dataset(torch.rand(200, 50), binarize="dynamic")
    once = grey.binarized(torch.Generator().manual_seed(3))
    assert once.binarize is None and once.x.unique().tolist() == [0, 1]
    assert standard_errors(once.x, grey.x) < 5
    assert torch.equal(once.x, grey.binarized(torch.Generator().manual_seed(3)).x)
    assert not torch.equal(once.x, grey.binarized(torch.Generator().manual_seed(4)).x)


def test_reprs() -> None:
    x = torch.rand(4, 1, 2, 2)
    labelled = Dataset(x, torch.tensor([0, 1, 0, 7]), binarize="dynamic")
    assert repr(Dataset(x)) == "Dataset(4 x (1, 2, 2), labels=None, binarize=None)"
    assert repr(labelled) == "Dataset(4 x (1, 2, 2), labels=3, binarize='dynamic')"
    assert repr(DataSplits("mine", labelled, Dataset(x))) == (
        "DataSplits('mine', event_shape=(1, 2, 2), labels=0\n"
        "  train=Dataset(4 x (1, 2, 2), labels=3, binarize='dynamic')\n"
        "  test=Dataset(4 x (1, 2, 2), labels=None, binarize=None))"
    )
    assert "factors=5" in repr(shapes(3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    d = load("digits", device="cuda")
    assert d.train.device.type == d.test.y.device.type == "cuda"
    assert torch.equal(d.test.x.cpu(), load("digits").test.x)
    (x, y), *_ = d.train.batches(100, shuffle=True)
    assert x.device.type == y.device.type == "cuda" and x.unique().tolist() == [0, 1]
    pixels = torch.arange(256, dtype=torch.uint8, device="cuda")[:, None]
    assert torch.equal(Dataset(pixels).x[:, 0].cpu(), GRID)


def with_holes() -> Tensor:
    """Data with one NaN and one infinity."""
    x = torch.zeros(5, 2, 3)
    x[3, 1, 2], x[4, 0, 0] = math.nan, math.inf
    return x


X = torch.linspace(0, 1, 8).view(4, 2)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Dataset(torch.zeros(0, 3)), ValueError, "at least one datum .* (0, 3)"),
        (lambda: Dataset(torch.zeros(3, 0)), ValueError, "at least one element, got shape (3, 0)"),
        (lambda: Dataset(X)[X[:, 0] > 2], ValueError, "check .* the rows that were selected"),
        (lambda: Dataset(torch.zeros(7)), ValueError, "got (7,): pass x[:, None]"),
        (lambda: Dataset(torch.tensor(1.0)), ValueError, "got (): pass x[:, None]"),
        (lambda: Dataset(with_holes()), ValueError, "got 2 NaN or infinite, .* at x[3, 1, 2]"),
        (lambda: Dataset(X.to(torch.cfloat)), TypeError, "x: .* got Tensor of torch.complex64"),
        (lambda: Dataset([]), TypeError, "got list: there is nothing in it"),
        (lambda: Dataset(np.array([["a"]])), TypeError, "got ndarray of <U1"),
        (lambda: Dataset(np.array([[None]])), TypeError, "got ndarray of object"),
        (lambda: Dataset((X > 0).byte()), ValueError, "no value above 1: pass x > 0"),
        (lambda: Dataset(X, torch.zeros(3)), ValueError, "y: .* (4,), .* got (3,)"),
        (
            lambda: Dataset(X, torch.zeros(4)),
            ValueError,
            "y: .* got torch.float32.* pass y.long()",
        ),
        (lambda: Dataset(X, torch.eye(4)), ValueError, "got (4, 4): .* y.argmax(1)"),
        (
            lambda: Dataset(X, torch.tensor([0, 1.5, math.nan, math.inf])),
            ValueError,
            "got torch.float32 with NaN or infinite values, the first y[2] = nan: drop the rows",
        ),
        (
            lambda: Dataset(X, torch.tensor([0, 1.5, 2, 2.5])),
            ValueError,
            "whole numbers, got 2 other values, the first y[1] = 1.5",
        ),
        (
            lambda: Dataset(X, torch.arange(4), names=("a", "b")),
            ValueError,
            "label 0 to 3, got 2 for 0 to 1",
        ),
        (
            lambda: Dataset(X, -torch.ones(4).long(), names=("a",)),
            ValueError,
            "label -1 to -1, got 1",
        ),
        (lambda: Dataset(X * 3 - 1, binarize="dynamic"), ValueError, "[0, 1] .* x / 255"),
        (lambda: Dataset(X + 1).binarized(torch.Generator()), ValueError, "[0, 1] to binarise"),
        (
            lambda: Dataset(X, binarize="static"),
            ValueError,
            "got 'static': .*binarized(generator)",
        ),
        (
            lambda: Dataset(X, factors=X),
            ValueError,
            "factors: expected shape (4, 0), .* got (4, 2)",
        ),
        (
            lambda: Dataset(X).batches(0),
            ValueError,
            "batch_size: expected a whole number of at least 1, got 0",
        ),
        (lambda: Dataset(X)[torch.zeros(1, 1).long()], ValueError, "index: .* got shape (1, 1)"),
        (
            lambda: DataSplits("a", Dataset(X), Dataset(X[:, :1])),
            ValueError,
            "event shape of train, (2,), got (1,)",
        ),
        (lambda: load([1.0]), ValueError, "x: expected shape (n, *event), .* got (1,)"),
        (lambda: load(None), TypeError, "x: .* got NoneType: make an array of it"),
        (lambda: load("minst"), ValueError, "got 'minst'; did you mean 'mnist'? A folder"),
        (lambda: load("MNIST"), ValueError, "did you mean 'mnist'?"),
        (lambda: load("wxyz"), ValueError, "one of digits, mnist, .*, shapes, got 'wxyz': A"),
        (lambda: load("no/such/folder"), FileNotFoundError, "got no/such/folder, .* check the"),
        (lambda: load(Path("digits")), FileNotFoundError, "got digits, which is not there"),
        (lambda: load("gone.npy"), FileNotFoundError, "got gone.npy"),
        (lambda: load(__file__), ValueError, "a folder of images or a file .npy, .*test_data.py"),
        (lambda: load(X, binarize=True), ValueError, 'binarize: expected "auto", .* got True'),
        (lambda: load(X, test_fraction=1.0), ValueError, "test_fraction: .* 0 and 1, got 1.0"),
        (lambda: load(X[:1]), ValueError, "at least 2 data to split, got 1"),
        (lambda: load(X + 1, binarize="dynamic"), ValueError, "[0, 1] to binarise"),
        (lambda: load("digits", test_fraction=0.2), ValueError, "for digits, .* own of 360"),
        (lambda: load("digits", size=16), ValueError, "size: expected only .* 16 for digits"),
        (lambda: load(X, grey=True), ValueError, "grey: expected only .* got True for tensor"),
        (
            lambda: load("shapes", size=(8, 8)),
            ValueError,
            "size: .* whole number .* (8, 8)",
        ),
        (lambda: shapes(0), ValueError, "count: expected an int from 1 to 737280, got 0"),
        (lambda: render_shapes(X), ValueError, "(n, 5) with columns shape, .*, y, got (4, 2)"),
        (lambda: render_shapes(torch.full((1, 5), 0.5)), ValueError, "column 0, got [0.5]"),
    ],
)
def test_errors_name_argument_and_fix(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    pattern = ".*".join(re.escape(part) for part in message.split(".*"))
    with pytest.raises(error, match=pattern) as raised:
        make()
    assert type(raised.value) is error


# load: names


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


# shapes


def test_shapes_are_rendered_from_their_factors() -> None:
    d = load("shapes")
    assert (len(d.train), len(d.test), d.event_shape) == (5400, 600, (1, 32, 32))
    assert d.labels == ("square", "ellipse", "heart")
    assert d.train.factor_names == ("shape", "scale", "rotation", "x", "y")
    for part in (d.train, d.test):
        assert torch.equal(render_shapes(part.factors), part.x)
        assert torch.equal(part.factors[:, 0].long(), part.y)
    assert torch.equal(d.train.batch(torch.arange(9))[0], d.train.x[:9])
    assert d.train.binarize == "dynamic"
    whole = torch.cat([d.train.factors, d.test.factors])
    assert len(whole.unique(dim=0)) == 6000
    assert [len(column.unique()) for column in whole.T] == [3, 6, 40, 32, 32]


def test_shapes_follow_size_and_seed() -> None:
    assert load("shapes", size=16).event_shape == (1, 16, 16)
    assert not torch.equal(shapes(9).factors, shapes(9, seed=1).factors)
    assert torch.equal(shapes(9, seed=1).factors, shapes(9, seed=1).factors)
    assert len(load(shapes(50), test_fraction=0.5).test) == 25


def sprite(
    shape: float, scale: float = 1, rotation: float = 0, x: float = 0.5, y: float = 0.5
) -> Tensor:
    """One sprite of 256 x 256 pixels, radius 64 at scale 1."""
    return render_shapes(torch.tensor([[shape, scale, rotation, x, y]]), size=256)[0, 0]


def centre(image: Tensor) -> tuple[float, float]:
    """Mean column and row of the ink, in pixels from the upper left corner."""
    row, column = image.nonzero(as_tuple=True)
    return float(column.double().mean() + 0.5), float(row.double().mean() + 0.5)


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("rotation", [0.0, 1.0])
def test_areas_of_sprites(scale: float, rotation: float) -> None:
    radius = 64 * scale
    # the curve (a^2 + b^2 - 1)^3 = a^2 b^3 has area 3.66197 and is shrunk by 1.43
    for shape, unit_area in enumerate((2.0, math.pi / 2, 3.66197 / 1.43**2)):
        area = sprite(shape, scale, rotation).sum().item()
        assert area == pytest.approx(unit_area * radius**2, rel=0.04)


@pytest.mark.parametrize("shape", [0, 1])
def test_positions_of_sprites(shape: int) -> None:
    for x, y in ((0.0, 0.0), (1.0, 0.25), (0.5, 1.0)):
        assert centre(sprite(shape, 0.6, 0.4, x, y)) == pytest.approx(
            (64 + 128 * x, 64 + 128 * y), abs=0.5
        )


def test_sprites_stay_inside_the_picture() -> None:
    positions = [(0.5, 0.5), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]
    factors = [
        (shape, 1.0, rotation, x, y)
        for shape in range(3)
        for rotation in (0.0, math.pi / 4, 2.0)
        for x, y in positions
    ]
    area = render_shapes(torch.tensor(factors), size=64).sum((1, 2, 3)).view(-1, len(positions))
    assert ((area - area[:, :1]).abs() <= 4).all()


def test_rotation_is_clockwise_about_the_centre() -> None:
    upright = sprite(2)
    assert torch.equal(upright, upright.flip(1))
    # the lobes of a heart are above its centre, and on the right after a quarter turn
    assert centre(upright)[1] < 128 and centre(sprite(2, rotation=math.pi / 2))[0] > 128
    turned = sprite(2, rotation=math.pi / 2)
    assert (turned - upright.rot90(-1)).abs().sum() < 30
    row, column = sprite(1, rotation=0.3).nonzero(as_tuple=True)
    cov = torch.cov(torch.stack([column, row]).double())
    angle = 0.5 * math.atan2(2 * cov[0, 1], cov[0, 0] - cov[1, 1])
    assert angle == pytest.approx(0.3, abs=0.01)


def test_rendering_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    d = shapes(50)
    monkeypatch.setattr(data.sprites, "CHUNK", 7)
    assert torch.equal(render_shapes(d.factors), d.x)


# load: tensors, files, folders


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


def test_an_empty_name() -> None:
    with pytest.raises(ValueError, match="source: expected a name or path, got ''"):
        load("")


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
    assert data.NAMES == ("digits", "mnist", "fashion-mnist", "omniglot", "cifar10", "shapes")
