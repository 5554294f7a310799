"""Pictures of where in a map its KL is."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from pyro_vae import guides, infer, likelihoods, plots
from pyro_vae.models import VAE


def units(event_shape, latents, **options):
    torch.manual_seed(0)
    vae = VAE(event_shape, latents, likelihood=likelihoods.Gaussian(), **options)
    x = torch.randn(5, *event_shape)
    return infer.elbo_terms(vae, guides.Ladder(vae), x, per_unit=True)


def test_a_panel_per_site_adds_up_to_its_kl():
    terms = units((1, 9, 7), ((2, 5, 4), (3, 3, 2), 4))
    figure = plots.kl_maps(terms.per_unit)
    panels = [ax for ax in figure.axes if ax.images]
    for ax, site in zip(panels, ("z1", "z2", "z3"), strict=True):
        drawn, kl = ax.images[0].get_array(), float(terms.kl[site].mean())
        assert ax.get_title() == f"{site}: {kl:.2f} nats"
        np.testing.assert_allclose(drawn.sum(), kl, rtol=1e-4)
    assert [ax.images[0].get_array().shape for ax in panels] == [(5, 4), (3, 2), (1, 4)]
    of_first = terms.per_unit["z1"].mean(0).sum(0)
    np.testing.assert_allclose(panels[0].images[0].get_array(), of_first.numpy(), rtol=1e-4)
    plt.close(figure)


def test_signals_are_curves_and_video_frames_side_by_side():
    terms = units((2, 12), ((2, 6), 3), kind="signal")
    figure = plots.kl_maps(terms.per_unit)
    (line,) = figure.axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), terms.per_unit["z1"].mean(0).sum(0), rtol=1e-4)
    plt.close(figure)
    terms = units((1, 3, 4, 6), ((2, 2, 2, 3),), kind="video")
    figure = plots.kl_maps(terms.per_unit)
    drawn = figure.axes[0].images[0].get_array()
    assert drawn.shape == (2, 3 + 1 + 3) and np.isnan(np.asarray(drawn)[:, 3]).all()
    frames = terms.per_unit["z1"].mean(0).sum(0)
    np.testing.assert_allclose(np.asarray(drawn)[:, 4:], frames[1].numpy(), rtol=1e-4)
    plt.close(figure)


@pytest.mark.parametrize("given", [{}, {"z1": torch.zeros(5)}])
def test_terms_without_units_are_told(given):
    with pytest.raises(ValueError, match="unit_kl: expected the KL of units"):
        plots.kl_maps(given)
