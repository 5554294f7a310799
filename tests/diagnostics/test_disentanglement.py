import json
import math
import sys

import numpy as np
import pytest
import torch
from torch import nn

from pyro_vae import data, diagnostics, guides, likelihoods
from pyro_vae.models import VAE

MODULE = sys.modules["pyro_vae.diagnostics.disentanglement"]
RNG = np.random.default_rng(0)
N = 600
FACTORS = RNG.integers(0, 8, (N, 3)).astype(float)
DCI = ("DCI disentanglement", "DCI completeness", "DCI informativeness")


def scores(codes, factors=FACTORS, **options):
    found = diagnostics.score_codes(codes, factors, folds=3, **options)
    return {name: mean for name, (mean, _) in found.scores.items()}, found


def test_one_unit_per_factor():
    factors = RNG.integers(0, 8, (2000, 3)).astype(float)
    noise = 0.01 * RNG.standard_normal((2000, 2))
    codes = np.concatenate([-3 * factors[:, [1, 0, 2]], noise], 1)
    found, result = scores(codes, factors)
    for name in ("MIG", "SAP", *DCI):
        assert found[name] > 0.95, name
        assert result.scores[name][1] < 0.05
    best = result.mutual_information.argmax(0)
    assert best.tolist() == [1, 0, 2] == result.importance.argmax(0).tolist()
    np.testing.assert_allclose(result.importance.sum(0), 1)


def test_mutual_information_is_that_of_equal_bins():
    """Two bins meet at the middle of a unit's range; log 2 is all that a coin can tell."""
    rng = np.random.default_rng(1)
    coin = rng.permutation(np.arange(40) % 2).astype(float)
    codes = np.stack([coin * 5 + rng.random(40), rng.permutation(np.arange(40.0))], 1)
    found = diagnostics.score_codes(codes, coin[:, None], bins=2, folds=2)
    upper = codes[:, 1] >= 20
    counts = np.array([[np.sum((coin == c) & (upper == u)) for u in (0, 1)] for c in (0, 1)])
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.nan_to_num(counts / 40 * np.log(counts / 40 / 0.25))
    expected = [[math.log(2)], [terms.sum()]]
    np.testing.assert_allclose(found.mutual_information, expected, atol=1e-12)


def test_codes_that_know_nothing():
    found, _ = scores(RNG.standard_normal((N, 5)))
    for name in ("MIG", "SAP", "DCI disentanglement", "DCI completeness"):
        assert abs(found[name]) < 0.06, name
    assert found["DCI informativeness"] < 0.05


def test_a_rotation_entangles():
    """Two factors in two units: at 45 degrees both units know both factors equally well."""
    factors = FACTORS[:, :2]
    centred = factors - factors.mean(0)
    by_angle = {}
    for degrees in (0, 20, 45):
        a = math.radians(degrees)
        turn = np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
        by_angle[degrees], _ = scores(centred @ turn, factors)
    for name in ("MIG", "SAP", "DCI disentanglement", "DCI completeness"):
        assert by_angle[0][name] > by_angle[20][name] + 0.05, name
        assert by_angle[20][name] > by_angle[45][name] + 0.05, name
        assert by_angle[45][name] < 0.1
    # Nothing is lost by a rotation
    assert by_angle[45]["DCI informativeness"] > 0.85


def test_gaps_against_closed_forms():
    """v uniform on 0..3, units v and v // 2: I = log 4 and log 2; R^2 = 1 and 0.8."""
    v = np.tile(np.arange(4.0), 50)[:, None]
    codes = np.concatenate([v, v // 2, 0 * v], 1)
    result = diagnostics.score_codes(codes, v, folds=2)
    np.testing.assert_allclose(
        result.mutual_information[:, 0], [math.log(4), math.log(2), 0], atol=1e-9
    )
    assert result.per_factor["MIG"] == pytest.approx([0.5])
    assert result.per_factor["SAP"] == pytest.approx([0.2])


def test_categories_are_classified():
    """Balanced accuracy 1 of the one unit, 1/3 (chance) of the others."""
    v = np.tile(np.arange(3.0), 200)[:, None]
    codes = np.concatenate([v, np.zeros((N, 1))], 1)
    result = diagnostics.score_codes(
        codes, v, factor_names=["shape"], categorical=["shape"], folds=2
    )
    assert result.per_factor["SAP"] == pytest.approx([2 / 3], abs=1e-6)
    assert result.per_factor["DCI informativeness"] == pytest.approx([1.0])


def test_dci_shares_by_hand():
    """Rows (1/2, 1/2) and (1, 0): concentration 0 and 1."""
    from pyro_vae.diagnostics.disentanglement import _concentration

    importance = np.array([[0.3, 0.3], [0.7, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(_concentration(importance), [0, 1, 0], atol=1e-9)
    p = np.array([0.3, 0.7])
    entropy = -(p * np.log(p)).sum() / math.log(3)
    np.testing.assert_allclose(_concentration(importance.T), [1 - entropy, 1], atol=1e-9)


def test_standard_error_of_the_mig_is_the_spread_over_data(monkeypatch):
    """Codes of one noisy unit per factor, drawn again and again."""
    monkeypatch.setattr(MODULE, "_TREES", 1)
    values, errors = [], []
    for _ in range(30):
        factors = RNG.integers(0, 4, (200, 1)).astype(float)
        codes = np.concatenate(
            [factors + 0.7 * RNG.standard_normal((200, 1)), RNG.standard_normal((200, 1))], 1
        )
        found = diagnostics.score_codes(codes, factors, folds=10, bins=6)
        values.append(found.scores["MIG"][0])
        errors.append(found.scores["MIG"][1])
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.5)


def test_a_pair_on_shapes_uses_its_posterior_means(monkeypatch):
    monkeypatch.setattr(MODULE, "_TREES", 5)
    d = data.shapes(120, size=16)
    vae = VAE(d.event_shape, (3, 2), likelihood=likelihoods.Bernoulli(), hidden=(8,))
    guide = guides.BottomUp(vae)
    for head in guide.conditionals.values():
        nn.init.normal_(head.loc.weight)
    result = diagnostics.disentanglement(vae, guide, d, site="z1", folds=2)
    codes = guide.encode(d.x).mean["z1"].double().numpy()
    expected = diagnostics.score_codes(
        codes,
        d.factors.double().numpy(),
        factor_names=d.factor_names,
        categorical=["shape"],
        folds=2,
    )
    np.testing.assert_allclose(result.mutual_information, expected.mutual_information)
    assert result.scores["SAP"] == expected.scores["SAP"]
    assert result.scores["DCI completeness"] == expected.scores["DCI completeness"]
    together = diagnostics.disentanglement(vae, guide, d, folds=2)
    assert together.importance.shape == (5, 5)
    text, html = str(result), result.to_html()
    for name in d.factor_names:
        assert name in text and name in html
    assert f"{result.scores['MIG'][0]:.2f}" in text or "e-" in text
    assert json.loads(json.dumps(result.to_dict()))["MIG"]["mean"] == result.scores["MIG"][0]


@pytest.mark.parametrize(
    ("codes", "factors", "options", "message"),
    [
        (np.zeros((N, 1)), FACTORS, {}, "at least 2 units"),
        (np.zeros((N - 1, 3)), FACTORS, {}, "codes and factors: expected shapes"),
        (
            np.zeros((N, 3)),
            FACTORS,
            {"bins": 1},
            "bins: expected a whole number of at least 2, got 1",
        ),
        (
            np.zeros((N, 3)),
            FACTORS,
            {"categorical": ["shape"]},
            "categorical: expected one of 0, 1.*, got 'shape'",
        ),
        (np.zeros((N, 3)), np.ones((N, 2)), {}, "'0' is constant"),
    ],
)
def test_bad_input(codes, factors, options, message):
    with pytest.raises(ValueError, match=message):
        diagnostics.score_codes(codes, factors, **options)


def test_data_without_factors():
    vae = VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(4,))
    with pytest.raises(ValueError, match="data: expected a Dataset with factors"):
        diagnostics.disentanglement(vae, guides.BottomUp(vae), torch.randn(9, 6))
    d = data.shapes(100, size=16)
    vae = VAE(d.event_shape, 2, likelihood=likelihoods.Bernoulli(), hidden=(4,))
    with pytest.raises(ValueError, match="site: expected one of z1, got 'z2'"):
        diagnostics.disentanglement(vae, guides.BottomUp(vae), d, site="z2")
