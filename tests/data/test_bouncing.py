"""Sprites that bounce: where they are, by hand and in the picture."""

import pytest
import torch

from pyro_vae.data import bouncing, load, render_bouncing, render_shapes
from pyro_vae.data.bouncing import positions


@pytest.mark.parametrize(
    ("start", "way", "expected"),
    [
        (0.5, 0.2, [0.5, 0.7, 0.9, 0.9, 0.7, 0.5]),
        (0.1, -0.3, [0.1, 0.2, 0.5, 0.8, 0.9, 0.6]),
        (1.0, 0.0, [1.0] * 6),
        (0.0, 0.5, [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]),
    ],
)
def test_walls_reflect(start, way, expected):
    found = positions(torch.tensor([[0, start, 0.3, way, 0.1], [0, 0.3, start, 0.1, way]]), 6)
    torch.testing.assert_close(found[0, :, 0], torch.tensor(expected), rtol=0, atol=1e-6)
    torch.testing.assert_close(found[1, :, 1], torch.tensor(expected), rtol=0, atol=1e-6)


def test_sprites_are_where_their_positions_say():
    factors = torch.tensor([[0, 0.2, 0.9, 0.2, -0.1], [0, 0.0, 1.0, 0.2, 0.2]])
    x = render_bouncing(factors, frames=6, size=128)[:, 0]
    n, t, row, column = x.nonzero(as_tuple=True)
    counts = x.sum((2, 3))
    centre = torch.stack([column, row], -1).float() + 0.5
    sums = torch.zeros(*counts.shape, 2).index_put((n, t), centre, accumulate=True)
    radius = 128 / 2 * 0.5 * 0.7
    expected = radius + positions(factors, 6) * (128 - 2 * radius)
    torch.testing.assert_close(sums / counts[..., None], expected, rtol=0, atol=0.6)
    # A square as wide as its circle, all of it within the picture
    assert (counts - 2 * radius**2).abs().max() < 0.06 * 2 * radius**2


def test_frames_are_sprites():
    still = torch.tensor([[k, 0.5, 0.5, 0, 0] for k in range(3)])
    x = render_bouncing(still, frames=2, size=16)
    alone = render_shapes(torch.tensor([[k, 0.7, 0, 0.5, 0.5] for k in range(3)]), 16)
    assert torch.equal(x[:, :, 0], alone) and torch.equal(x[:, :, 1], alone)


def test_videos_are_loaded_by_name():
    d = load("bouncing", length=3, size=8)
    assert (d.event_shape, d.kind, d.rate) == ((1, 3, 8, 8), "video", None)
    assert d.labels == ("square", "ellipse", "heart") and d.train.binarize == "dynamic"
    assert torch.equal(render_bouncing(d.train.factors, 3, 8), d.train.x)
    assert torch.equal(d.train.batch(torch.arange(9))[0], d.train.x[:9])
    assert torch.equal(bouncing(20, seed=2).factors, bouncing(20, frames=3, seed=2).factors)
    assert len(bouncing(50, frames=1, size=8).factors.unique(dim=0)) == 50
