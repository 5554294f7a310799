"""Binary sprites drawn from known factors of variation, after dSprites.

Source: "dSprites: Disentanglement testing Sprites dataset", Matthey, Higgins, Hassabis, Lerchner
(2017), https://github.com/google-deepmind/dsprites-dataset.

| factor | values | meaning |
|---|---|---|
| shape | 0, 1, 2 | square, ellipse, heart |
| scale | 6 from 0.5 to 1 | radius of the circle around the sprite, relative to the largest |
| rotation | 40 from 0 below 2 pi | clockwise; a square looks the same after 10 steps |
| x, y | 32 from 0 to 1 | centre, from left to right and from top to bottom |
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ..ground.arguments import is_whole, whole
from .dataset import Dataset

SHAPES = ("square", "ellipse", "heart")
FACTORS = {
    "shape": torch.arange(3.0),
    "scale": torch.linspace(0.5, 1, 6),
    "rotation": torch.arange(40) * (2 * math.pi / 40),
    "x": torch.linspace(0, 1, 32),
    "y": torch.linspace(0, 1, 32),
}
RADIUS = 0.5
HEART_RADIUS = 1.43
CHUNK = 4096


def render_shapes(factors: Tensor, size: int = 32) -> Tensor:
    """Draw one sprite for each row of factors.

    Args:
        factors: shape, scale, rotation, x and y, shape (n, 5). Values between those of the table
            are legal, except for the shape.
        size: height and width in pixels.

    Returns:
        0 or 1, ``float32``, shape (n, 1, size, size).

    Raises:
        ValueError: ``factors`` has another shape or an unknown sprite, or ``size`` is below 8.

    Example:
        >>> square = torch.tensor([[0, 1, 0, 0.5, 0.5]])
        >>> render_shapes(square, size=16)[0, 0, 4:8, 4:12].int()
        tensor([[0, 0, 0, 0, 0, 0, 0, 0],
                [0, 1, 1, 1, 1, 1, 1, 0],
                [0, 1, 1, 1, 1, 1, 1, 0],
                [0, 1, 1, 1, 1, 1, 1, 0]], dtype=torch.int32)
    """
    whole("size", size, 8, advice="pass the pixels of a side, 32 and 64 are usual")
    check_factors(factors, FACTORS, "sprite")
    if not torch.isin(factors[:, 0], FACTORS["shape"].to(factors)).all():
        raise ValueError(
            f"factors: expected 0, 1 or 2 ({', '.join(SHAPES)}) in column 0, got "
            f"{factors[:, 0].unique().tolist()}: round the shape"
        )
    return torch.cat([_render(rows, size) for rows in factors.float().split(CHUNK)])


def _render(factors: Tensor, size: int) -> Tensor:
    shape, scale, rotation, x, y = factors.T[..., None, None]
    pixels = (2 * torch.arange(size, device=factors.device) + 1) / size - 1
    across = (pixels - (2 * x - 1) * (1 - RADIUS)) / (RADIUS * scale)
    down = (pixels[:, None] - (2 * y - 1) * (1 - RADIUS)) / (RADIUS * scale)
    u = rotation.cos() * across + rotation.sin() * down
    v = rotation.cos() * down - rotation.sin() * across
    square = torch.maximum(u.abs(), v.abs()) <= math.sqrt(0.5)
    ellipse = u**2 + (2 * v) ** 2 <= 1
    a, b = HEART_RADIUS * u, -HEART_RADIUS * v
    heart = (a**2 + b**2 - 1) ** 3 <= a**2 * b**3
    inside = torch.where(shape == 0, square, torch.where(shape == 1, ellipse, heart))
    return inside.float()[:, None]


def check_factors(factors: Tensor, names: Collection[str], what: str) -> None:
    """Raise ``ValueError`` unless there is a row for each datum, with a column for each factor."""
    if factors.ndim != 2 or factors.shape[1] != len(names):
        raise ValueError(
            f"factors: expected shape (n, {len(names)}) with columns {', '.join(names)}, got "
            f"{tuple(factors.shape)}: pass one row for each {what}"
        )


def drawn_factors(table: Mapping[str, Tensor], count: int, seed: int) -> Tensor:
    """Rows of factors (count, f), no two alike, of all that a table of their values has.

    Raises:
        ValueError: the table has fewer rows.
    """
    lengths = tuple(map(len, table.values()))
    total = math.prod(lengths)
    if not is_whole(count) or not 1 <= count <= total:
        raise ValueError(f"count: expected an int from 1 to {total}, got {count!r}: ask for fewer")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(total, generator=generator)[:count]
    columns = torch.unravel_index(chosen, lengths)
    return torch.stack([values[i] for values, i in zip(table.values(), columns, strict=True)], 1)


def shapes(count: int = 6000, *, size: int = 32, seed: int = 0) -> Dataset:
    """Sprites with distinct factors, drawn at random from the table.

    Args:
        count: number of sprites, at most 737,280, all that there are.
        size: height and width in pixels.
        seed: of the choice of factors.

    Returns:
        A ``Dataset`` of shape (count, 1, size, size) with ``y`` the shape and all ``factors``,
        ready for ``data.load(data.shapes(...))``.

    Raises:
        ValueError: ``count`` or ``size`` is out of range.

    Example:
        >>> d = shapes(100)
        >>> d, d.factor_names
        (Dataset(100 x (1, 32, 32), labels=3, factors=5, binarize=None),
         ('shape', 'scale', 'rotation', 'x', 'y'))
    """
    factors = drawn_factors(FACTORS, count, seed)
    return Dataset(
        render_shapes(factors, size),
        factors[:, 0].long(),
        names=SHAPES,
        factors=factors,
        factor_names=tuple(FACTORS),
        kind="image",
    )
