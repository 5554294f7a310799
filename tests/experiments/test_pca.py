"""The comparison with linear models on real tables."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine

from pyro_vae.experiments import NAMES, real_tables
from pyro_vae.experiments import pca as experiment
from pyro_vae.experiments.real_tables import TABLES, RealTable

BUNDLED = [name for name, real in TABLES.items() if real.package == "scikit-learn"]


@pytest.fixture
def small(monkeypatch):
    """Linear data of few columns in place of a table."""

    def read(rng):
        z, noise = rng.normal(size=(120, 2)), rng.normal(size=(120, 6))
        return z @ rng.normal(size=(2, 6)) + noise * np.linspace(0.2, 0.5, 6)

    monkeypatch.setitem(TABLES, "wine", RealTable("scikit-learn", read, latents=2))


def test_quick_run_compares_pairs_with_linear_models(small, tmp_path, capsys):
    argv = ["--quick", "--tables", "wine", "--seeds", "0", "1", "--threads", "1"]
    assert experiment.main([*argv, "--out", str(tmp_path)]) == 0
    assert experiment.main([*argv, "--out", str(tmp_path)]) == 0  # from its rows
    text = (tmp_path / "table.md").read_text()
    assert text in capsys.readouterr().out
    held = json.loads((tmp_path / "results.json").read_text())
    assert len(held["rows"]) == 2 * len(experiment.SYSTEMS) - 1
    found = {line["system"]: line for line in held["estimates"]}
    for system, line in found.items():
        mean, error = line["log p(x) - PCA"]
        assert mean == pytest.approx(line["log p(x)"][0] - line["PCA"][0], abs=1e-6)
        assert error > 0
        assert line["PCA"] == pytest.approx(found["factor analysis"]["PCA"])
        if system != "factor analysis":
            # Of one draw, and of 20
            assert line["ELBO"][0] < line["log p(x)"][0] + 0.5
    # After five epochs of one step networks are nowhere, and a linear start is where it was
    assert found["linear start"]["log p(x)"][0] > found["sigma per column"]["log p(x)"][0] + 1
    assert f"linear start on {int(found['linear start']['log p(x) - PCA'][0] > 0)} of 1" in text
    assert all(row["rows"] == "72 + 24 + 24" for row in held["rows"])
    assert "pca" in NAMES and "real-tables" not in NAMES


def test_linear_models_are_those_of_the_standardised_columns(small):
    splits = real_tables.load(TABLES["wine"])
    pca, factors = (experiment.linear(splits, 2, columns=columns) for columns in (False, True))
    seen = torch.cat([splits.train.x, splits.validation.x]).double()
    mean, scale = seen.mean(0), seen.std(0, correction=0)
    values, axes = torch.linalg.eigh(((seen - mean) / scale).T.cov())
    values = torch.cat([values[:-2].mean().expand(4), values[-2:]])
    turned = axes @ values.diag() @ axes.T
    covariance = scale[:, None] * turned * scale
    exact = torch.distributions.MultivariateNormal(mean, covariance)
    torch.testing.assert_close(pca, exact.log_prob(splits.test.x.double()), atol=1e-3, rtol=0)
    # One noise for all columns is a poorer description of these
    assert factors.mean() > pca.mean()


@pytest.mark.parametrize("name", BUNDLED)
def test_tables_are_the_same_each_time_and_vary_in_each_column(name):
    splits, again = (real_tables.load(TABLES[name]) for _ in range(2))
    parts = [splits.train.x, splits.validation.x, splits.test.x]
    assert torch.equal(splits.train.x, again.train.x) and torch.equal(parts[2], again.test.x)
    assert all((part.flatten(1).std(0) > 0).all() for part in parts[:1])
    n = sum(map(len, parts))
    assert [len(part) / n for part in parts] == pytest.approx([0.6, 0.2, 0.2], abs=0.01)
    assert TABLES[name].latents < splits.train.x[0].numel()


def test_rows_of_a_table_are_shuffled_and_none_is_lost():
    splits = real_tables.load(TABLES["wine"])
    rows = torch.cat([splits.train.x, splits.validation.x, splits.test.x])
    original = torch.from_numpy(load_wine().data).float()
    assert not torch.equal(rows, original)
    assert torch.equal(rows.sort(0).values, original.sort(0).values)


def test_windows_of_a_signal_do_not_cross_its_parts():
    splits = real_tables.load(RealTable("mine", lambda rng: np.arange(1000.0), signal=True))
    for part, (low, high) in zip(
        (splits.train.x, splits.validation.x, splits.test.x),
        ((0, 600), (600, 800), (800, 1000)),
        strict=True,
    ):
        assert part.shape[1] == 64 and part.min() >= low and part.max() <= high


@pytest.mark.parametrize(
    ("package", "path", "error"),
    [
        ("no_such_package", "table.csv", r"no_such_package: .* pip install no_such_package"),
        ("sklearn", "datasets/none.csv", r"sklearn: expected a version that ships datasets/none"),
    ],
)
def test_a_table_that_is_not_there_is_told(package, path, error):
    with pytest.raises((ModuleNotFoundError, FileNotFoundError), match=error):
        real_tables.shipped(package, path)


@pytest.mark.parametrize("name", ["school districts", "single cells", "pulse waves"])
def test_tables_of_optional_packages_are_read(name):
    real = TABLES[name]
    if find_spec(real.package) is None:
        pytest.skip(f"no {real.package}")
    splits = real_tables.load(real)
    assert splits.train.x.isfinite().all() and (splits.train.x.std(0) > 0).all()
