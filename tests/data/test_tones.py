"""Tones: each harmonic, the pitch and the envelope by their formulas."""

import cmath
import math

import pytest
import torch

from pyro_vae.data import load, render_tones, tones

# What a man's mouth lets through, and how wide
FORMANTS = {0: (730, 1090, 2440), 2: (270, 2290, 3010)}
FLAT = (1e-9, 1e9)


def passed(vowel, k, pitch):
    """How loud a harmonic is, one resonance after another."""
    loud = 1 / k
    for formant, width in zip(FORMANTS[vowel], (60, 90, 150), strict=True):
        loud *= abs(formant**2 / complex(formant**2 - (k * pitch) ** 2, width * k * pitch))
    return loud


@pytest.mark.parametrize("vowel", [0, 2])
@pytest.mark.parametrize("pitch", [100, 160])
def test_harmonics_are_those_of_the_formants(vowel, pitch):
    x = render_tones(torch.tensor([[vowel, pitch, *FLAT]]), length=8000)[0, 0].double()
    found = torch.fft.fft(x)[:4000]
    at = torch.arange(pitch, 4000, pitch)
    expected = torch.tensor([passed(vowel, k + 1, pitch) for k in range(len(at))]).double()
    torch.testing.assert_close(
        found[at].abs() / found[at].abs().sum(), expected / expected.sum(), rtol=1e-3, atol=1e-6
    )
    # A sine has an imaginary transform, and there is nothing between harmonics
    assert cmath.isclose(found[pitch] / abs(found[pitch]), -1j, abs_tol=1e-3)
    found[at] = 0
    assert found.abs().max() < 1e-3 * 8000 / 2 * 0.2
    assert x.square().mean().sqrt().item() == pytest.approx(0.2, rel=1e-4)


def test_pitch_is_found_in_the_spectrum():
    d = tones(30, length=8000, seed=3)
    power = torch.fft.rfft(d.x[:, 0].double(), n=16_384).abs().square()
    # The transform of the power is largest at the period; a lag is an eighth of a sample
    period = torch.fft.irfft(power, n=8 * 16_384)[:, 64_000 // 260 : 64_000 // 90].argmax(1)
    found = 64_000 / (period + 64_000 // 260)
    assert (found - d.factors[:, 1]).abs().max() < 1


def test_envelopes_rise_and_fall():
    flat, shaped = render_tones(torch.tensor([[1, 120.0, *FLAT], [1, 120.0, 0.05, 0.1]]))[:, 0]
    time = torch.arange(2048) / 8000
    expected = torch.where(time < 0.05, time / 0.05, (-(time - 0.05) / 0.1).exp())
    torch.testing.assert_close(shaped, expected * flat, rtol=1e-4, atol=1e-6)


def test_tones_follow_length_rate_and_seed():
    d = tones(40, length=100, rate=16_000, seed=1)
    assert d.x.shape == (40, 1, 100) and d.rate == 16_000 and d.kind == "signal"
    assert torch.equal(d.x, render_tones(d.factors, 100, 16_000))
    assert torch.equal(d.x, tones(40, length=100, rate=16_000, seed=1).x)
    assert not torch.equal(d.factors, tones(40, length=100).factors)
    assert torch.equal(d.factors[:, 0].long(), d.y) and d.names == ("a", "e", "i", "o", "u")
    assert len(d.factors.unique(dim=0)) == 40
    half = render_tones(d.factors, 50, 8000)
    # The same tone at half the rate, but for what is above a quarter of it
    assert (half - d.x[..., ::2]).abs().max() < 0.1


def test_tones_are_loaded_by_name():
    d = load("tones", length=64)
    assert (d.event_shape, d.kind, d.rate, len(d.labels)) == ((1, 64), "signal", 8000, 5)
    assert (len(d.train), len(d.test), d.train.binarize) == (1800, 200, None)
    assert torch.equal(d.train[:5].x, render_tones(d.train.factors[:5], 64))
    assert d.train.replace(x=d.train.x / 2).rate == d.train[3:5].to("cpu").rate == 8000
    assert load("tones", length=32, rate=4000).rate == 4000
    assert math.isclose(d.train.factors[:, 1].max(), 250, rel_tol=1e-5)
