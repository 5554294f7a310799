"""Videos of sprites that move on straight lines and bounce off the walls, from known factors.

A sprite is at x + dx t in frame t, reflected where it would leave the unit interval,

    p(t) = 1 - |1 - (x + dx t) mod 2|,

and likewise for y; at 0 and at 1 its circle touches a wall.

| factor | values | meaning |
|---|---|---|
| shape | 0, 1, 2 | square, ellipse, heart, see ``data.shapes`` |
| x, y | 16 from 0 to 1 | centre in the first frame, from left to right and from top to bottom |
| dx, dy | 9 from -0.2 to 0.2 | way per frame |
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..ground.arguments import whole
from .dataset import Dataset
from .sprites import RADIUS, SHAPES, check_factors, drawn_factors, render_shapes

SCALE = 0.7
FACTORS = {
    "shape": torch.arange(3.0),
    "x": torch.linspace(0, 1, 16),
    "y": torch.linspace(0, 1, 16),
    "dx": torch.linspace(-0.2, 0.2, 9),
    "dy": torch.linspace(-0.2, 0.2, 9),
}


def positions(factors: Tensor, frames: int) -> Tensor:
    """Where the sprites are: x and y of each frame, from 0 to 1.

    Args:
        factors: shape, x, y, dx and dy, shape (n, 5).
        frames: number of frames.

    Returns:
        Shape (n, frames, 2).

    Example:
        >>> positions(torch.tensor([[0, 0.5, 0, 0.2, 0]]), 5)[0, :, 0]  # off the right wall
        tensor([0.5000, 0.7000, 0.9000, 0.9000, 0.7000])
    """
    time = torch.arange(frames).to(factors)[:, None]
    way = factors[:, None, 1:3] + time * factors[:, None, 3:]
    return 1 - (1 - way % 2).abs()


def render_bouncing(factors: Tensor, frames: int = 16, size: int = 32) -> Tensor:
    """Draw one video for each row of factors.

    Args:
        factors: shape, x, y, dx and dy, shape (n, 5).
        frames: number of frames.
        size: height and width in pixels.

    Returns:
        0 or 1, ``float32``, shape (n, 1, frames, size, size).

    Raises:
        ValueError: ``factors`` has another shape, an unknown sprite or a start beyond the walls,
            or a number is out of range.

    Example:
        >>> render_bouncing(torch.tensor([[0, 0.5, 0, 0.2, 0]]), frames=4, size=16).shape
        torch.Size([1, 1, 4, 16, 16])
    """
    whole("frames", frames, advice="pass the frames of a video, 16 are usual")
    check_factors(factors, FACTORS, "video")
    if not ((factors[:, 1:3] >= 0) & (factors[:, 1:3] <= 1)).all():
        raise ValueError(
            "factors: expected x and y from 0 to 1, the walls, got "
            f"{factors[:, 1:3].min():g} to {factors[:, 1:3].max():g}: pass positions within"
        )
    # Those of a sprite of full size, which a smaller one exceeds before it touches a wall
    at = 0.5 + (positions(factors, frames) - 0.5) * (1 - RADIUS * SCALE) / (1 - RADIUS)
    shape = factors[:, None, :1].expand(-1, frames, 1)
    turn = torch.tensor([SCALE, 0.0]).to(at).expand(len(at), frames, 2)
    drawn = render_shapes(torch.cat([shape, turn, at], -1).flatten(0, 1), size)
    return drawn.unflatten(0, (-1, frames)).movedim(2, 1)


def bouncing(count: int = 1000, *, frames: int = 16, size: int = 32, seed: int = 0) -> Dataset:
    """Videos with distinct factors, drawn at random from the table.

    Args:
        count: number of videos, at most 62,208, all that there are.
        frames: number of frames.
        size: height and width in pixels.
        seed: of the choice of factors.

    Returns:
        A ``Dataset`` of shape (count, 1, frames, size, size) with ``y`` the shape and all
        ``factors``, ready for ``data.load(data.bouncing(...))``.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> d = bouncing(50, frames=8, size=16)
        >>> d, d.factor_names
        (Dataset(50 x (1, 8, 16, 16), labels=3, factors=5, binarize=None, kind='video'),
         ('shape', 'x', 'y', 'dx', 'dy'))
    """
    factors = drawn_factors(FACTORS, count, seed)
    return Dataset(
        render_bouncing(factors, frames, size) > 0,
        factors[:, 0].long(),
        names=SHAPES,
        factors=factors,
        factor_names=tuple(FACTORS),
        kind="video",
    )
