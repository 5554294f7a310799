"""Sprites: drawn from their factors, to scale and in place."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyro_vae import data
from pyro_vae.data import load, render_shapes, shapes


def test_shapes_are_rendered_from_their_factors() -> None:
    d = load("shapes")
    assert (len(d.train), len(d.test), d.event_shape) == (5400, 600, (1, 32, 32))
    assert d.labels == ("square", "ellipse", "heart")
    assert d.train.factor_names == ("shape", "scale", "rotation", "x", "y")
    for part in (d.train, d.test):
        assert torch.equal(render_shapes(part.factors), part.x)
        assert torch.equal(part.factors[:, 0].long(), part.y)
    assert torch.equal(d.train.batch(torch.arange(9))[0], d.train.x[:9])
    assert d.train.binarize == "dynamic"
    whole = torch.cat([d.train.factors, d.test.factors])
    assert len(whole.unique(dim=0)) == 6000
    assert [len(column.unique()) for column in whole.T] == [3, 6, 40, 32, 32]


def test_shapes_follow_size_and_seed() -> None:
    assert load("shapes", size=16).event_shape == (1, 16, 16)
    assert not torch.equal(shapes(9).factors, shapes(9, seed=1).factors)
    assert torch.equal(shapes(9, seed=1).factors, shapes(9, seed=1).factors)
    assert len(load(shapes(50), test_fraction=0.5).test) == 25


def sprite(
    shape: float, scale: float = 1, rotation: float = 0, x: float = 0.5, y: float = 0.5
) -> Tensor:
    """One sprite of 256 x 256 pixels, radius 64 at scale 1."""
    return render_shapes(torch.tensor([[shape, scale, rotation, x, y]]), size=256)[0, 0]


def centre(image: Tensor) -> tuple[float, float]:
    """Mean column and row of the ink, in pixels from the upper left corner."""
    row, column = image.nonzero(as_tuple=True)
    return float(column.double().mean() + 0.5), float(row.double().mean() + 0.5)


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("rotation", [0.0, 1.0])
def test_areas_of_sprites(scale: float, rotation: float) -> None:
    radius = 64 * scale
    # the curve (a^2 + b^2 - 1)^3 = a^2 b^3 has area 3.66197 and is shrunk by 1.43
    for shape, unit_area in enumerate((2.0, math.pi / 2, 3.66197 / 1.43**2)):
        area = sprite(shape, scale, rotation).sum().item()
        assert area == pytest.approx(unit_area * radius**2, rel=0.04)


@pytest.mark.parametrize("shape", [0, 1])
def test_positions_of_sprites(shape: int) -> None:
    for x, y in ((0.0, 0.0), (1.0, 0.25), (0.5, 1.0)):
        assert centre(sprite(shape, 0.6, 0.4, x, y)) == pytest.approx(
            (64 + 128 * x, 64 + 128 * y), abs=0.5
        )


def test_sprites_stay_inside_the_picture() -> None:
    positions = [(0.5, 0.5), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]
    factors = [
        (shape, 1.0, rotation, x, y)
        for shape in range(3)
        for rotation in (0.0, math.pi / 4, 2.0)
        for x, y in positions
    ]
    area = render_shapes(torch.tensor(factors), size=64).sum((1, 2, 3)).view(-1, len(positions))
    assert ((area - area[:, :1]).abs() <= 4).all()


def test_rotation_is_clockwise_about_the_centre() -> None:
    upright = sprite(2)
    assert torch.equal(upright, upright.flip(1))
    # the lobes of a heart are above its centre, and on the right after a quarter turn
    assert centre(upright)[1] < 128 and centre(sprite(2, rotation=math.pi / 2))[0] > 128
    turned = sprite(2, rotation=math.pi / 2)
    assert (turned - upright.rot90(-1)).abs().sum() < 30
    row, column = sprite(1, rotation=0.3).nonzero(as_tuple=True)
    cov = torch.cov(torch.stack([column, row]).double())
    angle = 0.5 * math.atan2(2 * cov[0, 1], cov[0, 0] - cov[1, 1])
    assert angle == pytest.approx(0.3, abs=0.01)


def test_rendering_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    d = shapes(50)
    monkeypatch.setattr(data.sprites, "CHUNK", 7)
    assert torch.equal(render_shapes(d.factors), d.x)
