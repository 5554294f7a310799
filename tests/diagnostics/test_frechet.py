"""The distance against the closed form for normals and against scipy's matrix square root."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn

from pyro_vae.data import Dataset, DataSplits
from pyro_vae.diagnostics import ClassifierFeatures, FrechetDistance, frechet_distance
from pyro_vae.diagnostics.frechet import distance_of_normals


def covariance(d, *, seed):
    root = torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T / d + 0.1 * torch.eye(d, dtype=torch.float64)


def by_scipy(m, s, m2, s2):
    root = sqrtm(s.numpy() @ s2.numpy())
    return float((m - m2).square().sum()) + np.trace(s.numpy() + s2.numpy() - 2 * root.real)


@pytest.mark.parametrize("d", [1, 3, 20])
def test_two_normals_as_by_scipy(d):
    m, m2 = torch.randn(2, d, dtype=torch.float64)
    s, s2 = covariance(d, seed=1), covariance(d, seed=2)
    assert distance_of_normals(m, s, m2, s2) == pytest.approx(by_scipy(m, s, m2, s2), rel=1e-9)


def test_commuting_normals_have_a_closed_form():
    """|m - m'|^2 + sum (sd - sd')^2, in any rotation of both."""
    m, m2 = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 0.5]], dtype=torch.float64)
    sd, sd2 = torch.tensor([[0.5, 2.0, 0.0], [1.5, 1.0, 0.25]], dtype=torch.float64)
    expected = float((m - m2).square().sum() + (sd - sd2).square().sum())
    q = torch.linalg.qr(covariance(3, seed=3)).Q
    for turn in (torch.eye(3, dtype=torch.float64), q):
        s, s2 = (turn @ torch.diag(v.square()) @ turn.T for v in (sd, sd2))
        assert distance_of_normals(turn @ m, s, turn @ m2, s2) == pytest.approx(expected)


def test_the_features_moments_are_taken():
    x, y = torch.randn(200, 4), torch.randn(300, 4) * 2 + 1
    project = nn.Linear(4, 3)
    found = frechet_distance(x, y, features=project)
    values = [project(v).detach().numpy().astype(np.float64) for v in (x, y)]
    (m, s), (m2, s2) = ((v.mean(0), np.cov(v.T)) for v in values)
    expected = by_scipy(*map(torch.from_numpy, (m, s, m2, s2)))
    assert float(found) == pytest.approx(expected, rel=1e-6)
    assert (found.real, found.generated, found.dimensions) == (200, 300, 3)
    assert (found.split, found.resize) == ("given", None)
    assert "300 generated against 200 given, grey, not resized, 3 features of Linear(" in repr(
        found
    )


def test_a_set_has_no_distance_from_itself():
    x = torch.randn(50, 4)
    assert float(frechet_distance(x, x.clone(), features=nn.Identity())) < 1e-12


def test_features_without_spread_do_not_become_complex():
    x = torch.cat([torch.randn(50, 4), torch.ones(50, 4)], dim=1)
    found = float(frechet_distance(x, x + 1e-3, features=nn.Identity()))
    assert found == pytest.approx(8e-6, abs=1e-8)


def test_splits_bring_their_features_and_their_test_set(monkeypatch):
    d = DataSplits("mine", Dataset(torch.rand(40, 3)), Dataset(torch.rand(30, 3)))
    monkeypatch.setattr(
        ClassifierFeatures, "fit", lambda data, **_: nn.Identity() if data is d else 0
    )
    generated = torch.rand(20, 3)
    found = frechet_distance(d, generated)
    assert isinstance(found, FrechetDistance)
    assert found.value == frechet_distance(d.test, generated, features=nn.Identity()).value
    assert found.split == "of the test set of mine"


def test_binary_data_are_compared_with_draws():
    grey = torch.rand(300, 4)
    d = Dataset(grey, binarize="dynamic")
    draws, before = torch.bernoulli(grey), torch.get_rng_state()
    found = frechet_distance(d, draws, features=nn.Identity())
    assert torch.equal(torch.get_rng_state(), before)
    assert found.values == "binary"
    assert found.value == frechet_distance(d, draws, features=nn.Identity()).value
    assert found.value < 0.05
    with pytest.raises(ValueError, match="generated: expected 0 and 1 like the real data"):
        frechet_distance(d, grey, features=nn.Identity())
    assert frechet_distance(grey, draws, features=nn.Identity()).values == "grey"


def test_refusals():
    x, plain = torch.randn(30, 4), nn.Identity()
    with pytest.raises(ValueError, match="generated: expected more data than the 4 features, got"):
        frechet_distance(x, x[:4], features=plain)
    with pytest.raises(ValueError, match="real: expected more data than the 4 features, got 3"):
        frechet_distance(x[:3], x, features=plain)
    with pytest.raises(ValueError, match="features: expected a map from data to features"):
        frechet_distance(x, x)
    with pytest.raises(ValueError, match=r"generated: expected data of shape \(4,\)"):
        frechet_distance(x, torch.randn(30, 5), features=plain)
    with pytest.raises(ValueError, match="features: expected a row per datum"):
        frechet_distance(torch.randn(30, 2, 2), torch.randn(30, 2, 2), features=plain)
    with pytest.raises(ValueError, match="generated: its features are NaN"):
        frechet_distance(x, x * float("nan"), features=plain)
