"""Signal to noise ratios, by their formula."""

import math

import pytest
import torch

from pyro_vae import data, diagnostics, guides, infer, likelihoods, models
from pyro_vae.diagnostics.noise import decibels


def test_decibels_are_those_of_known_noise():
    x = torch.tensor([[[3.0, 4.0]], [[0.0, 2.0]], [[1.0, 1.0]]])
    scaled = x * torch.tensor([0.9, 2.0, 1.0])[:, None, None]
    assert decibels(x, scaled).tolist() == pytest.approx([20.0, 0.0, math.inf], abs=1e-4)
    assert decibels(x[:1], torch.zeros(1, 1, 2)).item() == 0


def test_the_ratio_of_a_pair_has_its_standard_error():
    torch.manual_seed(0)
    d = data.tones(30, length=32)
    vae = models.VAE(d.event_shape, 2, likelihood=likelihoods.Gaussian(), kind="signal")
    guide = guides.BottomUp(vae)
    found = diagnostics.signal_to_noise(vae, guide, d, batch_size=7)
    noise = d.x - infer.reconstruct(vae, guide, d.x)
    expected = 10 * (d.x.square().sum((1, 2)) / noise.square().sum((1, 2))).log10()
    torch.testing.assert_close(found.decibels, expected, rtol=1e-4, atol=1e-4)
    mean, error = found.mean
    assert mean == pytest.approx(expected.double().mean().item(), rel=1e-3)
    assert error == pytest.approx(expected.double().std().item() / 30**0.5, rel=1e-3)
    assert "30 signals" in str(found) and found.to_dict()["SNR"]["unit"] == "dB"
    rows = diagnostics.evaluate(vae, guide, d, importance_samples=0).to_dict()
    assert rows["SNR of reconstructions"]["mean"] == pytest.approx(mean, rel=1e-3)


def test_digital_silence_has_no_ratio_and_is_told():
    torch.manual_seed(0)
    x = data.tones(6, length=32).x
    x[:2] = 0
    assert decibels(x[:1], x[:1]).isnan().all() and decibels(x[:1], x[3:4]).isnan().all()
    vae = models.VAE((1, 32), 2, likelihood=likelihoods.Gaussian(), kind="signal")
    guide = guides.BottomUp(vae)
    found = diagnostics.signal_to_noise(vae, guide, x)
    heard = diagnostics.signal_to_noise(vae, guide, x[2:])
    assert found.decibels[:2].isnan().all() and found.mean == pytest.approx(heard.mean)
    told = "2 of the data are digital silence, which has no ratio"
    assert told in str(found) and told not in str(heard)
    assert (found.to_dict()["SNR"]["silent"], heard.to_dict()["SNR"]["silent"]) == (2, 0)
    result = diagnostics.evaluate(vae, guide, x, importance_samples=0)
    assert result.to_dict()["SNR of reconstructions"]["mean"] == pytest.approx(heard.mean[0])
    assert told in str(result)


def test_what_is_missing_is_neither_signal_nor_noise():
    x, found = torch.randn(3, 1, 8), torch.randn(3, 1, 8)
    holes = x.clone()
    holes[0, 0, 5:] = torch.nan
    whole, seen = decibels(x[:, :, :5], found[:, :, :5]), decibels(holes, found)
    torch.testing.assert_close(seen, torch.cat([whole[:1], decibels(x, found)[1:]]))


def test_of_silence_alone_there_is_no_mean():
    vae = models.VAE((1, 16), 2, likelihood=likelihoods.Gaussian(), kind="signal")
    guide, x = guides.BottomUp(vae), torch.zeros(3, 1, 16)
    found = diagnostics.signal_to_noise(vae, guide, x)
    expected = {"mean": None, "standard_error": None, "unit": "dB", "silent": 3}
    assert found.to_dict() == {"SNR": expected}
    result = diagnostics.evaluate(vae, guide, x, importance_samples=0)
    assert "SNR of reconstructions" not in result.to_dict() and "3 of the data" in str(result)


def test_data_that_are_no_signals_have_none():
    vae = models.VAE((6,), 2, likelihood=likelihoods.Gaussian())
    found = diagnostics.evaluate(
        vae, guides.BottomUp(vae), torch.randn(5, 6), importance_samples=0
    )
    assert found.decibels is None and "SNR of reconstructions" not in found.to_dict()
