"""A data set: exact values, whatever selects from it, and fresh binarisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pyro_vae.data import Dataset, DataSplits, load, shapes

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
        "DataSplits('mine', event_shape=(1, 2, 2), kind='image' (guessed), labels=0\n"
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
