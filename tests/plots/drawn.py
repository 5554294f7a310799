"""Pairs to draw, and what is seen on axes."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae.guides import BottomUp
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.models import VAE
from pyro_vae.plots import drawing


def pair(event_shape=(1, 4, 5), latents=2, **kwargs):
    kwargs = {"likelihood": Bernoulli(), "hidden": ()} | kwargs
    vae = VAE(event_shape, latents=latents, **kwargs)
    return vae, BottomUp(vae)


def binary(*shape):
    return (torch.rand(shape) < 0.5).float()


def functions(event_shape=(1, 4, 5), labelled=False):
    """A pair of plain functions with a latent "code" (3,) and data at "pixels"."""
    size = math.prod(event_shape)
    encoder, decoder = nn.Linear(size, 6), nn.Linear(3 + labelled, size)

    def model(x, y=None):
        with pyro.plate("rows", len(x)):
            code = pyro.sample("code", dist.Normal(torch.zeros(len(x), 3), 1.0).to_event(1))
            given = torch.cat([code, y[:, None].float()], 1) if labelled else code
            means = decoder(given).sigmoid().reshape(len(x), *event_shape)
            pyro.sample("pixels", dist.Normal(means, 0.1).to_event(len(event_shape)), obs=x)

    def guide(x, y=None):
        with pyro.plate("rows", len(x)):
            loc, raw = encoder(x.flatten(1)).chunk(2, -1)
            pyro.sample("code", dist.Normal(loc, raw.exp()).to_event(1))

    if labelled:
        return model, guide
    return (lambda x: model(x)), (lambda x: guide(x))


def cells(ax, rows, columns, event_shape):
    """The images of a grid, (rows, columns, 3, h, w), or its vectors, (rows, columns, d)."""
    (drawn,) = ax.images
    array = torch.as_tensor(np.ma.getdata(drawn.get_array()))
    if array.dim() == 2:
        size = math.prod(event_shape)
        step = size if columns == 1 else size + 1
        assert array.shape == (rows, step * columns)
        return array.reshape(rows, columns, step)[..., :size]
    h, w = event_shape[-2:]
    if rows * columns == 1:
        return array.permute(2, 0, 1)[None, None]
    gap = (array.shape[0] - rows * h) // (rows + 1)
    assert array.shape == (rows * (h + gap) + gap, columns * (w + gap) + gap, 3)
    return torch.stack(
        [
            torch.stack(
                [
                    array[
                        gap + r * (h + gap) : (r + 1) * (h + gap),
                        gap + c * (w + gap) : (c + 1) * (w + gap),
                    ].permute(2, 0, 1)
                    for c in range(columns)
                ]
            )
            for r in range(rows)
        ]
    )


def assert_drawn(ax, x, rows, columns):
    """The grid on ``ax`` shows exactly ``x`` (rows * columns, *event), row by row."""
    event_shape = x.shape[1:]
    got = cells(ax, rows, columns, event_shape).flatten(0, 1)
    if not drawing.is_image(event_shape):
        torch.testing.assert_close(got, x.flatten(1), rtol=0, atol=1e-6)
        return
    expected = x.clamp(0, 1).reshape(len(x), -1, *event_shape[-2:]).expand_as(got)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def texts(labels):
    return [label.get_text() for label in labels]


def assert_written_beside(ax, rows, columns):
    """Row and column labels are evenly spaced about the middle of the image."""
    height, width, _ = ax.images[0].get_array().shape
    for ticks, count, length in (
        (ax.get_yticks(), rows, height),
        (ax.get_xticks(), columns, width),
    ):
        assert len(ticks) == count
        np.testing.assert_allclose(np.diff(ticks), ticks[1] - ticks[0])
        assert np.mean(ticks) == pytest.approx((length - 1) / 2)
