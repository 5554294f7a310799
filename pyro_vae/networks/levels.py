"""Networks between images and several grids of vectors, each half as fine as the one before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..ground.recorded import Recorded
from .grids import GridDecoder, GridEncoder


class LevelEncoder(Recorded, nn.Module):
    """Outputs for each grid, from the coarsest on, given the vectors that stand for those above.

    Strided convolutions make features of all grids, the finest first; each grid's output is then
    a linear map of its features and of the vectors chosen for the grid above, which transposed
    convolutions bring to its size.

    Source: "Generating Diverse High-Fidelity Images with VQ-VAE-2", Razavi, van den Oord, Vinyals
    (2019).

    Args:
        event_shape: an image shape.
        grids: shape of each grid, the finest first.
        lengths: length of the vectors of each.
        channels: of the convolutions down to the finest grid.
        options: of all convolutional networks, as of ``GridEncoder``.

    Example:
        >>> encoder = LevelEncoder((1, 8, 8), [(4, 4), (2, 2)], [3, 5], channels=(6,))
        >>> seen = []
        >>> encoder(torch.zeros(7, 1, 8, 8), lambda level, z: seen.append(tuple(z.shape)) or z)
        >>> seen
        [(7, 2, 2, 5), (7, 4, 4, 3)]
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        grids: Sequence[Sequence[int]],
        lengths: Sequence[int],
        *,
        channels: Sequence[int] = (32, 64),
        **options: Any,
    ) -> None:
        """Build all layers."""
        super().__init__()
        width = channels[-1]
        coarser = range(1, len(grids))
        self.maps = nn.ModuleList(
            [GridEncoder(event_shape, width, channels=channels, **options)]
            + [
                GridEncoder((width, *grids[i - 1]), width, channels=(width,), **options)
                for i in coarser
            ]
        )
        self.up = nn.ModuleList(_up(lengths[i], width, grids[i - 1], options) for i in coarser)
        inputs = [2 * width] * len(coarser) + [width]
        self.last = nn.ModuleList(map(nn.Linear, inputs, lengths))

    def forward(self, x: Tensor, quantise: Callable[[int, Tensor], Tensor]) -> None:
        """Hand on the output of each grid.

        ``quantise(level, z)`` is given outputs (n, *grid, dim), level 0 being the finest, and
        returns the vectors of their codes, of the same shape.
        """
        found = [self.maps[0](x)]
        for network in self.maps[1:]:
            found.append(network(found[-1].movedim(-1, 1)))
        e = quantise(len(self.up), self.last[-1](found[-1]))
        for level in reversed(range(len(self.up))):
            above = self.up[level](e).movedim(1, -1)
            e = quantise(level, self.last[level](torch.cat([found[level], above], -1)))


class LevelDecoder(Recorded, nn.Module):
    """Features of an image from the vectors of one or several grids, and of labels.

    Vectors of a coarser grid are brought to the size of the next one by transposed convolutions,
    and joined with its own; one-hot labels are joined at every position of the finest.

    Args:
        lengths: length of the vectors of each grid, the finest first.
        out_shape, event_dim: as of ``GridDecoder``.
        grids: shape of each grid, the finest first.
        labels: number of classes, 0 for none.
        channels: as of ``LevelEncoder``.
        options: of all convolutional networks, as of ``GridDecoder``.

    Shapes:
        inputs (..., n, *grid_1, dim_1), (..., n, *grid_2, dim_2), ... [and (n, labels)]; result
        (..., n, *out_shape).

    Example:
        >>> decoder = LevelDecoder([3, 5], (1, 8, 8), [(4, 4), (2, 2)], event_dim=3, channels=(6,))
        >>> decoder(torch.zeros(7, 4, 4, 3), torch.zeros(7, 2, 2, 5)).shape
        torch.Size([7, 1, 8, 8])
    """

    def __init__(
        self,
        lengths: Sequence[int],
        out_shape: Sequence[int],
        grids: Sequence[Sequence[int]],
        *,
        event_dim: int,
        labels: int = 0,
        channels: Sequence[int] = (32, 64),
        **options: Any,
    ) -> None:
        """Build all layers."""
        super().__init__()
        width = channels[-1]
        top = len(grids) - 1
        self.up = nn.ModuleList(
            _up(lengths[i] + width * (i < top), width, grids[i - 1], options)
            for i in range(1, len(grids))
        )
        inputs = lengths[0] + width * (top > 0) + labels
        self.last = GridDecoder(
            inputs, out_shape, event_dim=event_dim, channels=channels, **options
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply all layers."""
        levels, dims = len(self.up) + 1, self.last.dims
        h = inputs[levels - 1]
        for level in reversed(range(levels - 1)):
            h = torch.cat([inputs[level], self.up[level](h).movedim(-dims - 1, -1)], -1)
        for labels in inputs[levels:]:
            rows = labels.reshape(*labels.shape[:-1], *(1,) * dims, labels.shape[-1])
            h = torch.cat([h, rows.expand(*h.shape[:-1], -1)], -1)
        return self.last(h)


def _up(inputs: int, width: int, grid: Sequence[int], options: Mapping[str, Any]) -> GridDecoder:
    """From a grid to maps of the grid that is twice as fine."""
    shape = (width, *grid)
    return GridDecoder(inputs, shape, event_dim=len(shape), channels=(width,), **options)
