"""Convolutional networks between images and grids of vectors, for models with discrete codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import pad

from ..ground.recorded import Recorded
from .arguments import Activation
from .convolutional import images


def grid_shape(event_shape: Sequence[int], halvings: int) -> tuple[int, int]:
    """Height and width of an image after so many halvings, each rounded up.

    Example:
        >>> grid_shape((1, 28, 28), 2), grid_shape((9, 7), 1)
        ((7, 7), (5, 4))
    """
    h, w = event_shape[-2:]
    return math.ceil(h / 2**halvings), math.ceil(w / 2**halvings)


class _Residual(nn.Module):
    """h + 1x1(3x3(h)), each convolution after an activation."""

    def __init__(self, channels: int, activation: Activation) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            activation(),
            nn.Conv2d(channels, channels, 3, padding=1),
            activation(),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, h: Tensor) -> Tensor:
        return h + self.layers(h)


class GridEncoder(Recorded, nn.Module):
    """Strided 4x4 convolutions, residual blocks, then one vector per position.

    Each of ``channels`` comes with a halving of the resolution: images (..., *event_shape), of any
    size, (h, w) or (c, h, w), become grids
    (..., *grid_shape(event_shape, len(channels)), features).

    Source: "Neural Discrete Representation Learning", van den Oord, Vinyals, Kavukcuoglu (2017),
    section 4.1.

    Example:
        >>> import torch
        >>> GridEncoder((1, 9, 7), 16)(torch.zeros(5, 1, 9, 7)).shape
        torch.Size([5, 3, 2, 16])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        features: int,
        *,
        channels: Sequence[int] = (32, 64),
        blocks: int = 2,
        activation: Activation = nn.ReLU,
    ) -> None:
        """Build all layers."""
        super().__init__()
        self.event_dim = len(event_shape)
        self.image_shape = (1, *event_shape)[-3:]
        widths = [self.image_shape[0], *channels]
        self.strided = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairwise(widths)
        )
        self.blocks = nn.Sequential(*(_Residual(widths[-1], activation) for _ in range(blocks)))
        self.activation = activation()
        self.last = nn.Conv2d(widths[-1], features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply all layers; the vectors are the last dimension."""
        lead = x.shape[: -self.event_dim]
        h = x.reshape(-1, *self.image_shape)
        for convolution in self.strided:
            # One more row or column makes an odd size even
            h = convolution(pad(h, (0, h.shape[-1] % 2, 0, h.shape[-2] % 2)))
            h = self.activation(h)
        h = self.last(self.activation(self.blocks(h))).movedim(1, -1)
        return h.reshape(*lead, *h.shape[1:])


class GridDecoder(Recorded, nn.Module):
    """The mirror image of ``GridEncoder``: residual blocks, then transposed convolutions.

    A grid (..., *grid_shape(out_shape[:event_dim], len(channels)), features) becomes
    (..., *out_shape): an image shape of ``event_dim`` dimensions, 2 or 3, with one more where the
    likelihood wants several numbers per pixel. The channels are the encoder's, used in reverse.

    Example:
        >>> import torch
        >>> GridDecoder(16, (1, 9, 7), event_dim=3)(torch.zeros(5, 3, 2, 16)).shape
        torch.Size([5, 1, 9, 7])
    """

    def __init__(
        self,
        features: int,
        out_shape: Sequence[int],
        *,
        event_dim: int,
        channels: Sequence[int] = (32, 64),
        blocks: int = 2,
        activation: Activation = nn.ReLU,
    ) -> None:
        """Build all layers."""
        super().__init__()
        self.event_dim, self.out_shape = event_dim, tuple(out_shape)
        c, h, w = (1, *out_shape[:event_dim])[-3:]
        widths = [*reversed(channels), c * math.prod(out_shape[event_dim:])]
        self.sizes = [grid_shape((h, w), i) for i in reversed(range(len(channels)))]
        self.first = nn.Conv2d(features, widths[0], 3, padding=1)
        self.blocks = nn.Sequential(*(_Residual(widths[0], activation) for _ in range(blocks)))
        self.activation = activation()
        self.strided = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in pairwise(widths)
        )

    def forward(self, grid: Tensor) -> Tensor:
        """Apply all layers."""
        lead = grid.shape[:-3]
        h = self.blocks(self.first(grid.reshape(-1, *grid.shape[-3:]).movedim(-1, 1)))
        for convolution, (height, width) in zip(self.strided, self.sizes, strict=True):
            h = convolution(self.activation(h))[..., :height, :width]
        return images(h, self.out_shape, self.event_dim).reshape(*lead, *self.out_shape)
