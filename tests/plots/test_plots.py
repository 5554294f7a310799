"""What holds for all pictures."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pytest
import torch
from drawn import binary, pair, texts
from torch import nn

from pyro_vae import infer, plots
from pyro_vae.data import Dataset
from pyro_vae.guides import BottomUp
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.models import VAE


def every_axes_picture(vae, guide, x, y):
    return {
        "images": lambda ax: plots.images(x, ax=ax),
        "samples": lambda ax: plots.samples(vae, 4, y=1, ax=ax),
        "conditional": lambda ax: plots.conditional(vae, n=2, ax=ax),
        "interpolation": lambda ax: plots.interpolation(vae, guide, x[0], x[1], y=y[:2], ax=ax),
        "traversals": lambda ax: plots.traversals(vae, guide, x[0], y=y[0], ax=ax),
        "latent_grid": lambda ax: plots.latent_grid(vae, like=x, y=1, steps=2, ax=ax),
        "latent_scatter": lambda ax: plots.latent_scatter(guide, x, y=y, ax=ax),
    }


def every_figure_picture(vae, guide, x, y):
    return {
        "reconstructions": lambda: plots.reconstructions(vae, guide, x, y=y),
        "denoising": lambda: plots.denoising(vae, guide, x, 0.1, y=y),
        "outliers": lambda: plots.outliers(vae, guide, x, y=y, n=2, importance_samples=5),
    }


@pytest.mark.parametrize("event_shape", [(1, 4, 5), (6,)])
def test_given_axes_are_used_and_no_others(event_shape):
    vae, guide = pair(event_shape, condition=2)
    x, y = binary(4, *event_shape), torch.tensor([0, 1, 0, 1])
    for name, picture in every_axes_picture(vae, guide, x, y).items():
        figure, (left, right) = plt.subplots(1, 2)
        before = plt.get_fignums()
        assert picture(left) is left, name
        assert plt.get_fignums() == before, name
        assert not right.has_data(), name
        plt.close(figure)


class Noisy(nn.Module):
    """A linear map behind batch normalisation and dropout."""

    def __init__(self, size_in, size_out):
        super().__init__()
        self.linear = nn.Linear(size_in, size_out)
        self.norm, self.dropout = nn.BatchNorm1d(size_out), nn.Dropout(0.5)

    def forward(self, x, *labels):
        return self.dropout(self.norm(self.linear(x.flatten(1))))


def test_pictures_change_no_state():
    decoder = nn.Sequential(Noisy(3, 20), nn.Unflatten(1, (1, 4, 5)))

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = decoder

        def forward(self, z, label):
            return self.inner(torch.cat([z, label[:, :1]], 1))

    vae = VAE((1, 4, 5), 2, likelihood=Bernoulli(), hidden=(), condition=2, decoder=Decoder())
    guide = BottomUp(vae, encoder=Noisy(20, 4))
    vae.train()
    guide.train()
    vae.decoder.inner[0].dropout.eval()
    modes = {m: m.training for program in (vae, guide) for m in program.modules()}
    state = [{k: v.clone() for k, v in program.state_dict().items()} for program in (vae, guide)]
    x, y = binary(4, 1, 4, 5), torch.tensor([0, 1, 0, 1])
    axes_pictures = every_axes_picture(vae, guide, x, y)
    figure_pictures = every_figure_picture(vae, guide, x, y)
    draws = {"samples", "conditional", "denoising"}
    for name, picture in (axes_pictures | figure_pictures).items():
        random = torch.get_rng_state()
        picture(None) if name in axes_pictures else picture()
        assert torch.equal(torch.get_rng_state(), random) == (name not in draws), name
        assert {m: m.training for m in modes} == modes, name
        for program, before in zip((vae, guide), state, strict=True):
            for key, value in program.state_dict().items():
                assert torch.equal(value, before[key]), (name, key)
            assert all(p.grad is None for p in program.parameters()), name
        plt.close("all")
    assert not list(pyro.get_param_store().keys())


def test_labels_stay_on_the_figure():
    vae, guide = pair(latents=4)
    x = binary(2, 1, 4, 5)
    for figure in (
        plots.reconstructions(vae, guide, x),
        plots.denoising(vae, guide, x, 0.1),
        plots.traversals(vae, guide, x[0]).figure,
    ):
        figure.draw_without_rendering()
        left, bottom, right, top = figure.bbox.extents
        for ax in figure.axes:
            for text in [
                *ax.get_xticklabels(),
                *ax.get_yticklabels(),
                ax.xaxis.label,
                ax.yaxis.label,
            ]:
                if text.get_text():
                    box = text.get_window_extent()
                    assert left <= box.x0 and box.x1 <= right, text
                    assert bottom <= box.y0 and box.y1 <= top, text


def test_every_public_picture_is_exported():
    assert sorted(plots.__all__) == plots.__all__
    named = re.findall(r"``(\w+)``", plots.__doc__.split("A datum of shape")[0])
    assert sorted(n for n in named if n not in ("Axes", "Figure")) == plots.__all__
    assert all(callable(getattr(plots, n)) for n in plots.__all__)


# arguments in other forms


@pytest.mark.parametrize("as_y", [list, np.array])
def test_labels_in_other_forms(as_y):
    vae, guide = pair(condition=3)
    x, y = binary(3, 1, 4, 5), torch.tensor([2, 0, 1])
    other = as_y(y.tolist())

    def shown(labels):
        torch.manual_seed(3)
        drawn = [
            plots.samples(vae, 3, y=labels),
            plots.samples(vae, 3, y=labels[0]),
            plots.reconstructions(vae, guide, x, y=labels).axes[1],
            plots.denoising(vae, guide, x, 0.1, y=labels).axes[2],
            plots.outliers(vae, guide, x, y=labels, importance_samples=2).axes[0],
            plots.interpolation(vae, guide, x[0], x[1], y=labels[:2], steps=3),
            plots.traversals(vae, guide, x[0], y=labels[0], dims=[0, 1]),
            plots.latent_grid(vae, like=x, y=int(labels[0]), steps=3),
        ]
        return [ax.images[0].get_array() for ax in drawn]

    for a, b in zip(shown(y), shown(other), strict=True):
        np.testing.assert_array_equal(a, b)
    points = [plots.latent_scatter(guide, x, y=labels) for labels in (y, other)]
    for a, b in zip(*(ax.collections for ax in points), strict=True):
        np.testing.assert_array_equal(a.get_offsets(), b.get_offsets())


def test_pairs_in_double_precision():
    vae, guide = pair()
    x = binary(5, 1, 4, 5)
    expected = guide.encode(x).mean["z1"]
    vae.double(), guide.double()
    offsets = plots.latent_scatter(guide, Dataset(x)).collections[0].get_offsets()
    np.testing.assert_allclose(offsets, expected, rtol=1e-4, atol=1e-5)
    log_p = infer.log_likelihood(vae, guide, x.double(), importance_samples=100)
    axes = plots.outliers(vae, guide, Dataset(x)).axes[0]
    assert texts(axes.texts)[0].startswith(f"{float(log_p.min()):.1f} nats")
