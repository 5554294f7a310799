"""A Gaussian likelihood of standardised data: the same model, in the units of the data."""

import pytest
import torch

from pyro_vae import Trainer, callbacks, diagnostics, guides, likelihoods, load
from pyro_vae.models import VAE, VQVAE

MEAN = torch.tensor([3e6, 0.0, 1.0, -2.0])
SCALE = torch.tensor([1e6, 1.0, 1e-3, 5.0])
STANDARD = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
STANDARD = (STANDARD - STANDARD.mean(0)) / STANDARD.std(0)
RAW = MEAN + SCALE * STANDARD


def trained(sigma, guide, x, hung=(), **options):
    torch.manual_seed(0)
    likelihood = likelihoods.Gaussian(sigma, **options)
    vae = VAE((4,), (3, 2), likelihood=likelihood, hidden=(8,))
    trainer = Trainer(vae, guide(vae), seed=0, lr=1e-2)
    return trainer.fit(x, epochs=3, batch_size=30, callbacks=hung, progress=False)


def bound(trainer, x):
    found = diagnostics.evaluate(trainer.model, trainer.guide, x, importance_samples=0)
    return found.terms.elbo


@pytest.mark.parametrize("guide", [guides.BottomUp, guides.Ladder], ids=lambda g: g.__name__)
@pytest.mark.parametrize("sigma", [0.5, "learned", "optimal", "per_pixel", "predicted"])
def test_training_is_that_on_standardised_data(sigma, guide):
    plain = trained(sigma, guide, STANDARD)
    raw = trained(sigma, guide, RAW, loc=MEAN, scale=SCALE)
    # The Jacobian of the change of units
    expected = bound(plain, STANDARD) - SCALE.log().sum()
    torch.testing.assert_close(bound(raw, RAW), expected, rtol=1e-3, atol=1e-3)
    torch.manual_seed(1)
    drawn = plain.model.sample(7)
    torch.manual_seed(1)
    found = (raw.model.sample(7) - MEAN) / SCALE
    torch.testing.assert_close(found, drawn, rtol=1e-3, atol=1e-3)


def test_the_density_is_a_normal_with_everything_that_belongs_to_it():
    p = likelihoods.Gaussian(2.0, loc=MEAN, scale=SCALE)(STANDARD)
    exact = torch.distributions.Normal(MEAN + SCALE * STANDARD, 2.0 * SCALE)
    torch.testing.assert_close(p.log_prob(RAW), exact.log_prob(RAW), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(p.expand([2, 60, 4]).log_prob(RAW)[1], p.log_prob(RAW))
    assert torch.equal(p.mean, exact.mean) and torch.equal(p.stddev, exact.stddev)


def test_a_mean_far_from_zero_costs_no_digits():
    far = likelihoods.Gaussian(loc=1e4, scale=1.0)(torch.full((1,), 0.3))
    near = likelihoods.Gaussian()(torch.full((1,), 0.3))
    x = torch.tensor([0.125])
    torch.testing.assert_close(far.log_prob(x + 1e4), near.log_prob(x), rtol=1e-6, atol=1e-6)


def test_a_file_holds_it(tmp_path):
    raw = trained("learned", guides.Ladder, RAW, loc=MEAN, scale=SCALE)
    raw.save(tmp_path / "a.pt")
    again = load(tmp_path / "a.pt")
    assert torch.equal(again.model.likelihood.loc, MEAN)
    assert torch.equal(bound(again, RAW), bound(raw, RAW))


def test_sigma_by_turns_is_in_units_of_the_scale():
    plain = trained("learned", guides.BottomUp, STANDARD, [callbacks.UpdateSigma(STANDARD)])
    hung = [callbacks.UpdateSigma(RAW)]
    raw = trained("learned", guides.BottomUp, RAW, hung, loc=MEAN, scale=SCALE)
    for model in (plain.model, raw.model):
        assert 0.5 < float(model.likelihood.sigma) < 1.5
    torch.testing.assert_close(
        raw.model.likelihood.sigma, plain.model.likelihood.sigma, rtol=1e-3, atol=0
    )


def test_codes_see_standardised_data():
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    codes = []
    for likelihood, data in (
        (likelihoods.Gaussian(), x),
        (likelihoods.Gaussian(loc=1e3, scale=100.0), 1e3 + 100 * x),
    ):
        torch.manual_seed(0)
        vae = VQVAE((1, 8, 8), 8, 4, likelihood=likelihood)
        codes.append(guides.NearestCode(vae).codes(data))
    assert torch.equal(*codes)


def test_calibration_is_that_of_standardised_data():
    plain = trained("learned", guides.BottomUp, STANDARD)
    raw = trained("learned", guides.BottomUp, RAW, loc=MEAN, scale=SCALE)
    found, expected = (
        diagnostics.calibration(t.model, t.guide, x) for t, x in ((raw, RAW), (plain, STANDARD))
    )
    assert found.inside == pytest.approx(expected.inside, abs=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": [1.0, 0.0]}, "scale: expected positive finite numbers, got values from 0 to 1"),
        ({"scale": -1.0}, "scale: expected positive finite"),
        ({"loc": float("nan")}, "loc: expected finite numbers"),
        (
            {"loc": [1.0, 2.0]},
            r"loc: expected a number or the shape of a datum, \(4,\), got \(2,\)",
        ),
    ],
)
def test_bad_scales(options, message):
    with pytest.raises(ValueError, match=message):
        VAE((4,), 2, likelihood=likelihoods.Gaussian(**options))
