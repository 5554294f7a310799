"""Fractions within w sigma, where the truth is a closed form or can be counted by hand."""

import json
import math

import pytest
import torch
from chance import LEVEL, chance_of

from pyro_vae import diagnostics, guides, infer, likelihoods, plots
from pyro_vae.models import VAE


def test_a_pair_that_is_right_is_calibrated(linear):
    """z ~ p(z|x) makes (x, z) a joint draw, so that x given z is normal with the model's sigma."""
    x = linear.data(4000)
    result = diagnostics.calibration(linear.vae, linear.guide(), x, batch_size=1500)
    assert (result.data, result.elements) == (4000, 6)
    for inside, expected in zip(result.inside, result.expected, strict=True):
        assert chance_of([round(24_000 * inside)], 24_000, [expected]) > LEVEL
    assert result.widths == pytest.approx([0.1 * i for i in range(1, 31)])
    rows = {name: row for name, *row in result.rows()}
    assert rows["within 1 sigma"][2] == pytest.approx(0.6827, abs=1e-4)
    assert rows["within 2 sigma"][2] == pytest.approx(0.9545, abs=1e-4)
    assert rows["within 1 sigma"][1] == pytest.approx(math.sqrt(0.68 * 0.32 / 24_000), rel=0.2)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_sigma_that_is_wrong_shows(linear, factor):
    x, guide = linear.data(4000), linear.guide()
    linear.vae.likelihood = likelihoods.Gaussian(linear.sigma * factor)
    result = diagnostics.calibration(linear.vae, guide, x)
    for width, (_, inside, *_) in zip((1, 2), result.rows(), strict=True):
        expected = math.erf(width * factor / math.sqrt(2))
        assert chance_of([round(24_000 * inside)], 24_000, [expected]) > LEVEL


def test_elements_are_counted_one_by_one():
    vae = VAE((3,), 2, likelihood=likelihoods.Gaussian(0.5), hidden=())
    with torch.no_grad():
        vae.decoder.layers[0].weight.zero_()
        vae.decoder.layers[0].bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    x = torch.tensor([[0.5, 1.0, 3.1], [-0.6, 1.9, 2.0]])  # 1, 0, 2.2 and 1.2, 1.8, 0 sigma
    result = diagnostics.calibration(vae, guides.BottomUp(vae), x)
    (_, one, se_one, _), (_, two, se_two, _) = result.rows()
    assert (one, two) == pytest.approx((3 / 6, 5 / 6))
    assert se_one == pytest.approx((2 / 3 - 1 / 3) / 2)
    assert se_two == pytest.approx((1 - 2 / 3) / 2)


@pytest.mark.parametrize("sigma", [0.5, "learned", "optimal", "per_pixel", "predicted"])
def test_nothing_changes_and_the_numbers_come_again(sigma):
    vae = VAE((1, 8, 8), 2, likelihood=likelihoods.Gaussian(sigma))
    guide, x = guides.BottomUp(vae), torch.rand(20, 1, 8, 8)
    before = [t.clone() for t in (*vae.parameters(), *vae.buffers())]
    state = torch.get_rng_state()
    first = diagnostics.calibration(vae, guide, x, batch_size=7)
    assert first == diagnostics.calibration(vae, guide, x, batch_size=7)
    assert torch.equal(torch.get_rng_state(), state)
    after = (*vae.parameters(), *vae.buffers())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_text_html_and_json(linear):
    result = diagnostics.calibration(linear.vae, linear.guide(), linear.data(100))
    name, inside, error, _ = result.rows()[0]
    assert f"{name}     {100 * inside:.1f} +-" in str(result)
    cells = f"<td>{100 * inside:.1f} %</td><td>&plusmn; {100 * error:.2g}</td>"
    assert cells + "<td>normal: 68.3 %</td>" in result.to_html()
    assert f"{100 * inside:.1f} +- {100 * error:<5.2g} %   (normal: 68.3 %)" in str(result)
    assert json.loads(json.dumps(result.to_dict()))[name]["fraction"] == inside
    one = diagnostics.calibration(linear.vae, linear.guide(), linear.data(1))
    assert one.to_dict()[name]["standard_error"] is None
    assert "+-" not in str(one) and "&plusmn;" not in one.to_html()


def test_the_picture_shows_the_fractions(linear):
    result = diagnostics.calibration(linear.vae, linear.guide(), linear.data(100))
    ax = result.plot()
    assert tuple(ax.lines[1].get_ydata()) == result.inside
    assert tuple(ax.lines[1].get_xdata()) == result.expected
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert f"within 1 sigma: {100 * result.rows()[0][1]:.1f} %" in texts
    assert plots.calibration(result, ax=ax) is ax


def test_other_likelihoods_are_refused():
    vae = VAE((3,), 2, likelihood=likelihoods.Bernoulli(), hidden=())
    with pytest.raises(ValueError, match="expected a Gaussian likelihood, got a Bernoulli"):
        diagnostics.calibration(vae, guides.BottomUp(vae), torch.ones(4, 3))


def test_labels_are_passed_on():
    vae = VAE((3,), 2, likelihood=likelihoods.Gaussian(), hidden=(4,), condition=2)
    x, y = torch.randn(10, 3), torch.arange(10) % 2
    assert diagnostics.calibration(vae, guides.BottomUp(vae), (x, y)).data == 10


# The picture of sigma(z)


@pytest.mark.parametrize("event_shape", [(8, 6), (1, 8, 6), (3, 8, 6), (5,)])
@pytest.mark.parametrize("sigma", ["learned", "predicted"])
def test_uncertainty_shows_data_mean_and_sigma(sigma, event_shape):
    vae = VAE(event_shape, 2, likelihood=likelihoods.Gaussian(sigma))
    guide, x = guides.BottomUp(vae), torch.rand(4, *event_shape)
    figure = plots.uncertainty(vae, guide, x)
    p = infer.decode(vae, guide.encode(x).mean)
    shown = figure.axes[2].images[0].get_array()
    expected = p.stddev
    if expected.dim() == 4:
        expected = expected.square().mean(1).sqrt()
    if len(event_shape) > 1:
        # The first image, inside its frame
        rows = shown[1:9, 1:7]
        assert tuple(shown.shape) == (10, 29)
        torch.testing.assert_close(torch.tensor(rows.filled()), expected[0])
    else:
        torch.testing.assert_close(torch.tensor(shown.filled()), expected)
    assert figure.axes[2].images[0].get_clim() == pytest.approx((0, float(expected.max())))
    assert "sigma(z)" in [ax.get_ylabel() for ax in figure.axes[3:]]


def test_uncertainty_leaves_all_as_it_was():
    vae = VAE((5,), 2, likelihood=likelihoods.Gaussian("optimal"))
    guide, x = guides.BottomUp(vae), torch.rand(3, 5)
    state = torch.get_rng_state()
    plots.uncertainty(vae, guide, x)
    assert vae.training and vae.likelihood.noise.batches == 0
    assert torch.equal(torch.get_rng_state(), state)
