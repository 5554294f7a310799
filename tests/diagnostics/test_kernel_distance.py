"""The kernel distance against a double loop, and against the moments of normals."""

import statistics

import pytest
import torch
from torch import nn

from pyro_vae.data import Dataset, DataSplits
from pyro_vae.diagnostics import ClassifierFeatures, KernelDistance, kernel_distance
from pyro_vae.diagnostics.kernel import squared_discrepancy

SAME = nn.Identity()


def by_loops(x, y):
    """The mean of each kernel over all pairs of two different data, one pair at a time."""

    def k(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    x, y = x.tolist(), y.tolist()
    among = [
        statistics.fmean(k(a, b) for i, a in enumerate(side) for j, b in enumerate(side) if i != j)
        for side in (x, y)
    ]
    return sum(among) - 2 * statistics.fmean(k(a, b) for a in x for b in y)


def moments(m, s):
    """E[x], E[x x^T] and E[x x x] of N(m, s)."""
    third = torch.einsum("i,j,k->ijk", m, m, m)
    for pattern in ("i,jk->ijk", "j,ik->ijk", "k,ij->ijk"):
        third = third + torch.einsum(pattern, m, s)
    return m, s + torch.outer(m, m), third


@pytest.mark.parametrize(("n", "m", "d"), [(2, 2, 1), (7, 4, 3), (5, 9, 2)])
def test_a_block_as_by_a_double_loop(n, m, d):
    x, y = torch.randn(n, d, dtype=torch.float64), torch.randn(m, d, dtype=torch.float64) + 1
    assert float(squared_discrepancy(x, y)) == pytest.approx(by_loops(x, y), rel=1e-12)


def test_the_value_is_the_mean_over_blocks_that_share_no_data():
    """One-hot features tell which data were in a block together."""
    x, y = torch.eye(12, dtype=torch.float64)[:7], torch.eye(12, dtype=torch.float64)[7:]
    seen = []

    class Seen(nn.Module):
        def forward(self, rows):
            seen.append(len(rows))
            return rows

    found = kernel_distance(x, y, features=Seen(), blocks=2)
    # Two different one-hot vectors have the kernel 1, so that all cancels
    assert seen == [7, 5]
    assert (float(found), found.standard_error) == (pytest.approx(0.0, abs=1e-12), 0.0)
    x, y = torch.randn(6, 2), torch.randn(4, 2)
    found = kernel_distance(x, y, features=SAME, blocks=2)
    every = {
        round(by_loops(x[[*a]], y[[*b]]) + by_loops(x[[*_rest(a, 6)]], y[[*_rest(b, 4)]]), 5)
        for a in torch.combinations(torch.arange(6), 3).tolist()
        for b in torch.combinations(torch.arange(4), 2).tolist()
    }
    assert round(2 * float(found), 5) in every


def _rest(chosen, n):
    return [i for i in range(n) if i not in chosen]


def test_equal_distributions_have_the_distance_zero_on_average():
    torch.manual_seed(0)
    x, y = torch.randn(2, 40_000, 4).double() + 0.5
    found = kernel_distance(x, y, features=SAME, blocks=2000)
    assert abs(float(found)) < 3 * found.standard_error < 0.05
    # The mean over all pairs, of a datum with itself too, would be far from it
    biased = [
        ((a @ a.T / 4 + 1) ** 3).mean()
        + ((b @ b.T / 4 + 1) ** 3).mean()
        - 2 * ((a @ b.T / 4 + 1) ** 3).mean()
        for a, b in zip(x.split(20), y.split(20), strict=True)
    ]
    assert torch.stack(biased).mean() > 20 * found.standard_error


@pytest.mark.parametrize("blocks", [20, 1000])
def test_normals_have_a_closed_form_whatever_the_blocks(blocks):
    torch.manual_seed(1)
    d, n = 3, 20_000
    m, m2 = torch.tensor([[0.2, 0.5, -0.3], [0.0, 1.0, 0.2]], dtype=torch.float64)
    root, root2 = 0.8 * torch.eye(d).double(), torch.tensor([[1.0, 0, 0], [0.5, 1, 0], [0, 0, 2]])
    root2 = root2.double()
    sides = zip(moments(m, root @ root.T), moments(m2, root2 @ root2.T), strict=True)
    exact = sum(
        float((a - b).square().sum()) * weight
        for (a, b), weight in zip(sides, (3 / d, 3 / d**2, 1 / d**3), strict=True)
    )
    x = m + torch.randn(n, d).double() @ root.T
    y = m2 + torch.randn(n, d).double() @ root2.T
    found = kernel_distance(x, y, features=SAME, blocks=blocks)
    assert abs(float(found) - exact) < 3 * found.standard_error < 0.1 * exact


def test_the_standard_error_is_that_of_repetitions():
    torch.manual_seed(2)
    runs = [
        kernel_distance(torch.randn(200, 2), torch.randn(300, 2) + 1, features=SAME)
        for _ in range(200)
    ]
    spread = statistics.stdev(map(float, runs))
    told = statistics.fmean(run.standard_error for run in runs)
    assert told == pytest.approx(spread, rel=0.15)


def test_it_is_the_same_each_time_and_leaves_the_global_stream():
    x, y = torch.randn(40, 3), torch.randn(60, 3)
    before = torch.get_rng_state()
    runs = [kernel_distance(x, y, features=SAME) for _ in range(2)]
    assert runs[0] == runs[1] and torch.equal(torch.get_rng_state(), before)
    # Data in the order of their classes are divided at random all the same
    ordered = torch.cat([torch.zeros(500, 1), torch.ones(500, 1)])
    mixed = ordered[torch.randperm(1000)]
    found = kernel_distance(ordered, mixed, features=SAME)
    assert abs(float(found)) < 3 * found.standard_error


def test_protocol_and_splits(monkeypatch):
    d = DataSplits("mine", Dataset(torch.rand(40, 3)), Dataset(torch.rand(30, 3)))
    monkeypatch.setattr(ClassifierFeatures, "fit", lambda data, **_: SAME if data is d else 0)
    generated = torch.rand(20, 3)
    found = kernel_distance(d, generated, blocks=5)
    assert isinstance(found, KernelDistance) and found.blocks == 5
    assert found.value == kernel_distance(d.test, generated, features=SAME, blocks=5).value
    assert repr(found).startswith("kernel distance ") and " +- " in repr(found)
    assert "20 generated against 30 of the test set of mine, grey, not resized, 3" in repr(found)
    numbers = found.table().rows[0][0].numbers
    assert numbers == {"": found.value, "error": found.standard_error}


def test_refusals():
    x = torch.randn(30, 4)
    with pytest.raises(ValueError, match="blocks: expected a whole number of at least 2, got 1"):
        kernel_distance(x, x, features=SAME, blocks=1)
    with pytest.raises(ValueError, match="generated: expected at least two data in each of 10"):
        kernel_distance(x, x[:19], features=SAME)
    with pytest.raises(ValueError, match="real: expected at least two data in each of 10 blocks"):
        kernel_distance(x[:19], x, features=SAME)
    with pytest.raises(ValueError, match="features: expected a map from data to features"):
        kernel_distance(x, x)
    # More features than data are no obstacle
    x, y = torch.randn(2, 20, 50)
    assert kernel_distance(x, y, features=SAME).dimensions == 50
