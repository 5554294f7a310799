"""Convolutional networks between data and grids of vectors, for models with discrete codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import pad

from ..ground.kinds import maps_of
from ..ground.recorded import Recorded
from .arguments import Activation
from .convolutional import CONVOLUTIONS, TRANSPOSED, halved, of_numbers, residuals
from .normalization import Norm, normalized
from .weights import weigh


def grid_shape(event_shape: Sequence[int], halvings: int, dims: int = 2) -> tuple[int, ...]:
    """Size of the last ``dims`` dimensions of a datum after so many halvings, each rounded up.

    Example:
        >>> grid_shape((1, 28, 28), 2), grid_shape((9, 7), 1), grid_shape((2, 100), 3, dims=1)
        ((7, 7), (5, 4), (13,))
    """
    return halved(event_shape[-dims:], halvings)


class GridEncoder(Recorded, nn.Module):
    """Strided convolutions of width 4, residual blocks, then one vector per position.

    Each of ``channels`` comes with a halving of the resolution: data (..., *event_shape), of any
    size, become grids (..., *grid_shape(event_shape, len(channels), dims), features). Convolutions
    are along the last ``dims`` dimensions, those before are channels.

    Source: "Neural Discrete Representation Learning", van den Oord, Vinyals, Kavukcuoglu (2017),
    section 4.1.

    Example:
        >>> import torch
        >>> GridEncoder((1, 9, 7), 16)(torch.zeros(5, 1, 9, 7)).shape
        torch.Size([5, 3, 2, 16])
        >>> GridEncoder((2, 100), 16, dims=1)(torch.zeros(5, 2, 100)).shape
        torch.Size([5, 25, 16])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        features: int,
        *,
        channels: Sequence[int] = (32, 64),
        blocks: int = 2,
        activation: Activation = nn.ReLU,
        norm: Norm | None = None,
        dims: int = 2,
    ) -> None:
        """Build all layers."""
        super().__init__()
        self.event_dim, conv = len(event_shape), CONVOLUTIONS[dims]
        self.maps_shape = maps_of(event_shape, dims)
        widths = [self.maps_shape[0], *channels]
        self.strided = nn.ModuleList(
            conv(a, b, 4, stride=2, padding=1) for a, b in pairwise(widths)
        )
        self.norms = nn.ModuleList(normalized(norm, width, dim=1) for width in channels)
        options = {"dims": dims, "activation": activation, "norm": norm}
        self.blocks = nn.Sequential(*residuals(widths[-1], blocks, **options))
        self.activation = activation()
        self.last = conv(widths[-1], features, 1)
        weigh(self, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Apply all layers; the vectors are the last dimension."""
        lead = x.shape[: -self.event_dim]
        h = x.reshape(-1, *self.maps_shape)
        for convolution, norm in zip(self.strided, self.norms, strict=True):
            # One more position along it makes an odd axis even
            h = convolution(pad(h, [v for size in h.shape[:1:-1] for v in (0, size % 2)]))
            h = self.activation(norm(h))
        h = self.last(self.activation(self.blocks(h))).movedim(1, -1)
        return h.reshape(*lead, *h.shape[1:])


class GridDecoder(Recorded, nn.Module):
    """The mirror image of ``GridEncoder``: residual blocks, then transposed convolutions.

    A grid (..., *grid_shape(out_shape[:event_dim], len(channels), dims), features) becomes
    (..., *out_shape): the shape of a datum of ``event_dim`` dimensions, with one more where the
    likelihood wants several numbers per element. The channels are the encoder's, used in reverse.

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
        norm: Norm | None = None,
        dims: int = 2,
    ) -> None:
        """Build all layers."""
        super().__init__()
        self.event_dim, self.out_shape, self.dims = event_dim, tuple(out_shape), dims
        c, *size = maps_of(out_shape[:event_dim], dims)
        widths = [*reversed(channels), c * math.prod(out_shape[event_dim:])]
        self.sizes = [halved(size, i) for i in reversed(range(len(channels)))]
        self.first = CONVOLUTIONS[dims](features, widths[0], 3, padding=1)
        options = {"dims": dims, "activation": activation, "norm": norm}
        self.blocks = nn.Sequential(*residuals(widths[0], blocks, **options))
        self.activation = activation()
        self.norms = nn.ModuleList(normalized(norm, width, dim=1) for width in widths[:-1])
        self.strided = nn.ModuleList(
            TRANSPOSED[dims](a, b, 4, stride=2, padding=1) for a, b in pairwise(widths)
        )
        weigh(self, norm)

    def forward(self, grid: Tensor) -> Tensor:
        """Apply all layers."""
        lead, maps = grid.shape[: -self.dims - 1], grid.shape[-self.dims - 1 :]
        h = self.blocks(self.first(grid.reshape(-1, *maps).movedim(-1, 1)))
        for norm, convolution, size in zip(self.norms, self.strided, self.sizes, strict=True):
            h = convolution(self.activation(norm(h)))[(..., *map(slice, size))]
        return of_numbers(h, self.out_shape, self.event_dim).reshape(*lead, *self.out_shape)
