import json
import math

import pytest
import torch
from chance import excess
from test_rarity import guide, model

from pyro_vae import diagnostics, guides, infer, likelihoods, models
from pyro_vae.diagnostics.outliers import area_under_roc


def test_area_under_roc_is_the_share_of_pairs_in_order():
    a, b = torch.randint(5, (60,)).float(), torch.randint(2, 7, (40,)).float()
    difference = b[:, None] - a
    share = ((difference > 0).double() + 0.5 * (difference == 0)).mean()
    assert area_under_roc(a, b)[0] == pytest.approx(float(share))


def test_standard_error_is_the_spread_over_samples():
    found = [area_under_roc(torch.randn(80), 1 + torch.randn(50)) for _ in range(400)]
    areas, errors = torch.tensor(found, dtype=torch.float64).T
    exact = 0.5 * (1 + math.erf(1 / 2))  # P(N(1, 2) > 0)
    assert excess((areas.mean() - exact) / (areas.std() / 20)) < 1
    assert float(errors.mean()) == pytest.approx(float(areas.std()), rel=0.15)


def test_scores_are_those_of_the_functions_in_infer():
    x, far = torch.randn(60, 2), 4 + torch.randn(30, 2)
    found = diagnostics.outliers(model, guide, x, {"far": far}, importance_samples=40)
    terms = infer.elbo_terms(model, guide, far)
    assert torch.equal(found.scores["far"]["-ELBO"], -terms.elbo)
    assert torch.equal(found.scores["far"]["KL"], terms.kl["z"])
    estimate = infer.importance(model, guide, far, samples=40)
    assert torch.equal(found.scores["far"]["-log p(x)"], -estimate.log_likelihood)
    rare = diagnostics.rarity(model, guide, far, reference=x)
    assert torch.equal(found.scores["far"]["rarity"], -rare.log_density)
    own = diagnostics.rarity(model, guide, x)
    assert torch.equal(found.scores["normal"]["rarity"], -own.log_density)
    for score, values in found.scores["far"].items():
        assert found.auroc["far"][score] == area_under_roc(found.scores["normal"][score], values)
        assert found.auroc["far"][score][0] > 0.95


def test_data_of_the_same_kind_are_not_told_apart():
    sets = [torch.randn(200, 2) for _ in range(3)]
    found = diagnostics.outliers(
        model, guide, sets[0], sets[1], reference=sets[2], importance_samples=0
    )
    assert set(found.scores["normal"]) == {"-ELBO", "KL", "rarity"}
    for area, error in found.auroc["outliers"].values():
        assert abs(area - 0.5) < 4 * error


def test_text_html_and_json():
    found = diagnostics.outliers(
        model, guide, torch.randn(20, 2), {"<a>": torch.randn(5, 2), "b": torch.randn(6, 2)}
    )
    area = found.auroc["b"]["KL"][0]
    assert f"{area:.2f}" in str(found) and "b (6)" in str(found)
    assert "&lt;a&gt; (5)" in found.to_html() and "<a>" not in found.to_html()
    assert json.loads(json.dumps(found.to_dict()))["b"]["KL"]["auroc"] == area


def test_bad_input():
    x = torch.randn(5, 2)
    with pytest.raises(ValueError, match="strange: 'normal' is the name"):
        diagnostics.outliers(model, guide, x, {"normal": x})
    with pytest.raises(ValueError, match="one: expected at least 2 data, got 1"):
        diagnostics.outliers(model, guide, x, {"one": x[:1]})


def test_data_that_the_model_cannot_have_produced_are_refused_in_every_batch():
    vae = models.VAE((6,), 2, hidden=(4,), likelihood=likelihoods.Bernoulli())
    x = torch.zeros(9, 6)
    grey = x.clone()
    grey[8] = 0.5
    with pytest.raises(ValueError, match="Bernoulli"):
        diagnostics.outliers(
            vae, guides.BottomUp(vae), x, grey, importance_samples=0, batch_size=3
        )
