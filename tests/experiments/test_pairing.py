"""Means over data and seeds have the errors that they claim."""

import math

import numpy as np
import pytest

from pyro_vae.experiments.pairing import compared, estimate, seed_by_seed
from pyro_vae.experiments.running import Results


def drawn(rng, seeds, data, a, b, e, mean=0.0):
    """Values with variances a over seeds, b over data and e of the rest."""
    return (
        mean
        + a**0.5 * rng.standard_normal((seeds, 1))
        + b**0.5 * rng.standard_normal(data)
        + e**0.5 * rng.standard_normal((seeds, data))
    )


@pytest.mark.parametrize(
    "a, b, e", [(1.0, 0.0, 0.0), (0.0, 30.0, 0.0), (1.0, 60.0, 20.0), (2.0, 5.0, 5.0)]
)
def test_the_error_is_that_of_new_seeds_and_new_data(a, b, e):
    rng, seeds, data, runs = np.random.default_rng(0), 4, 30, 4000
    found = [estimate(drawn(rng, seeds, data, a, b, e, mean=3.0)) for _ in range(runs)]
    truth = a / seeds + b / data + e / (seeds * data)
    means = np.array([f.mean for f in found])
    # Means are normal: their variance has the relative error sqrt(2 / runs)
    assert abs(means.mean() - 3) < 5 * (truth / runs) ** 0.5
    assert abs(means.var() / truth - 1) < 5 * (2 / runs) ** 0.5
    squares = np.array([f.standard_error**2 for f in found])
    assert abs(squares.mean() - truth) < 5 * squares.std() / runs**0.5
    for part, expected in (
        ("over_data", b / data + e / (seeds * data)),
        ("over_seeds", a / seeds + e / (seeds * data)),
    ):
        squares = np.array([getattr(f, part) ** 2 for f in found])
        assert abs(squares.mean() - expected) <= 5 * squares.std() / runs**0.5 + 1e-12


def test_where_seeds_and_data_explain_little_the_error_is_cautious():
    rng, truth = np.random.default_rng(0), 40 / (4 * 30)
    found = [estimate(drawn(rng, 4, 30, 0.0, 0.0, 40.0)) for _ in range(2000)]
    squares = np.array([f[1:] for f in found]) ** 2
    assert (squares[:, 0] >= squares[:, 1:].max(1)).all()
    # The sum of both parts would be twice as much
    assert truth < squares[:, 0].mean() < 1.5 * truth
    assert squares[:, 1:].sum(1).mean() > 1.9 * truth


def test_one_seed_has_the_error_over_the_data():
    values = np.random.default_rng(0).standard_normal(50)
    found = estimate([values])
    assert found.mean == pytest.approx(values.mean())
    assert found.standard_error == found.over_data == pytest.approx(values.std(ddof=1) / 50**0.5)
    assert math.isnan(found.over_seeds)
    for bad in ([1.0, 2.0], [[1.0], [2.0]]):
        with pytest.raises(ValueError, match="expected seeds x data"):
            estimate(bad)


def test_pairing_takes_off_what_systems_have_in_common(tmp_path):
    rng = np.random.default_rng(1)
    common = 10 * rng.standard_normal(400)
    results = Results(tmp_path, {})
    for layers in (1, 2):
        for seed in range(3):
            for system, better in (("VAE", 0.0), ("LVAE", layers)):
                values = common + better + 0.1 * rng.standard_normal(400)
                key = {"system": system, "layers": layers, "seed": seed}
                results.row(
                    key, lambda v=values: {"x": float(v.mean()), "per datum": {"log p(x)": v}}
                )
    results.row({"system": "LVAE", "layers": 3, "seed": 0}, lambda: {"x": 0.0})
    # Written by a process that has not come to the row itself
    np.savez(tmp_path / "rows" / "VAE-3-0.npz", **{"log p(x)": common})
    rows = results.estimates(["system", "layers"], {"VAE": {"system": "VAE"}})
    assert len(rows) == 4 and all(row["seeds"] == 3 for row in rows)
    for row in rows:
        mean, error = row["log p(x)"]
        assert 0.3 < error < 0.7
        if row["system"] == "VAE":
            assert "log p(x) - VAE" not in row
            continue
        mean, error = row["log p(x) - VAE"]
        assert error < 0.01 and abs(mean - row["layers"]) < 5 * error
    # Rows themselves stay JSON-able
    assert all(set(row) == {"system", "layers", "seed", "x"} for row in results.rows())


def test_differences_are_over_the_seeds_that_both_have():
    a = {0: {"v": np.array([1.0, 2.0])}, 1: {"v": np.array([5.0, 6.0]), "w": np.zeros(2)}}
    b = {1: {"v": np.array([7.0, 9.0])}, 2: {"v": np.array([0.0, 0.0])}}
    systems = {("a",): a, ("b",): b, ("c",): {4: {"v": np.zeros(2)}}}
    rows = {row["system"]: row for row in compared(systems, ["system"], {"a": {"system": "a"}})}
    assert rows["b"]["v - a"] == pytest.approx((2.5, 0.5))
    assert "v - a" not in rows["c"] and "v - a" not in rows["a"]


def test_numbers_of_seeds_are_paired_by_seed():
    """A system that has other seeds, one alone, or no such number, is compared where it can be."""
    measured = {
        "VAE": {0: 5.0, 1: 9.0, 2: 1.0},
        "better": {2: 2.0, 1: 12.0, 3: 100.0},
        "once": {1: 8.0},
        "without": {0: None, 1: None},
    }
    rows = [
        {"system": name, "seed": seed, "distance": value}
        for name, found in measured.items()
        for seed, value in found.items()
    ]
    better, once = seed_by_seed(rows, ["system"], {"VAE": {"system": "VAE"}}, ["distance"])
    assert better == {"system": "better", "distance - VAE": pytest.approx((2.0, 1.0))}  # 3, 1
    assert once["system"] == "once" and once["distance - VAE"][0] == -1.0
    assert math.isnan(once["distance - VAE"][1])
    assert not seed_by_seed(rows, ["system"], {"VAE": {"system": "none"}}, ["distance"])
