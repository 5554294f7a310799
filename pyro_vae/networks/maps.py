"""Maps from maps of other sizes and from vectors: the networks of spatial ladders."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..ground.kinds import maps_of
from ..ground.recorded import Recorded
from .arguments import Activation
from .convolutional import CONVOLUTIONS, doubling, halved, halving, of_numbers, residuals
from .normalization import Norm, normalized
from .weights import weigh


@dataclass(frozen=True)
class Pyramid:
    """The sizes of maps of data: theirs, halved again and again, each rounded up.

    Attributes:
        sizes: that of the data, its half, ..., down to one position.
        channels: of networks after one halving, two, ...; the last ones of all that is smaller,
            the first ones of the size of the data, too.
        blocks: residual blocks of networks at each size.

    Example:
        >>> Pyramid.of((3, 9, 6), dims=2, channels=(32, 64), blocks=0).sizes
        ((9, 6), (5, 3), (3, 2), (2, 1), (1, 1))
    """

    sizes: tuple[tuple[int, ...], ...]
    channels: tuple[int, ...]
    blocks: int

    @classmethod
    def of(
        cls, event_shape: Sequence[int], *, dims: int, channels: Sequence[int], blocks: int
    ) -> Pyramid:
        """That of data of a shape."""
        _, *size = maps_of(event_shape, dims)
        times = (max(size) - 1).bit_length()
        sizes = tuple(halved(size, i) for i in range(times + 1))
        return cls(sizes, tuple(channels), blocks)

    def network(
        self,
        in_shapes: Sequence[Sequence[int]],
        size: Sequence[int],
        *,
        out_shape: Sequence[int] | None = None,
        event_dim: int = 0,
        **options: Any,
    ) -> MapNetwork:
        """A network from inputs of some shapes to maps of a size of the pyramid.

        The options are ``activation`` and ``norm``.
        """
        dims, end = len(size), self.sizes.index(tuple(size))
        maps = [self.sizes.index(maps_of(s, dims)[1:]) for s in in_shapes if len(s) > 1]
        start = min(maps, default=end)
        way = range(start, end + 1) if start <= end else range(start, end - 1, -1)
        last = len(self.channels) - 1
        return MapNetwork(
            in_shapes,
            [self.sizes[i] for i in way],
            [self.channels[min(max(i - 1, 0), last)] for i in way],
            out_shape=out_shape,
            event_dim=event_dim,
            blocks=self.blocks,
            **options,
        )


class AsVectors(nn.Module):
    """A network whose inputs after the first, maps among them, are joined to it as vectors.

    ``dims`` are the dimensions of each of these, besides the leading ones.
    """

    def __init__(self, network: nn.Module, dims: Sequence[int]) -> None:
        """Hold the network."""
        super().__init__()
        self.network, self.dims = network, tuple(dims)

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """Apply it."""
        flat = [v.flatten(-d) for v, d in zip(others, self.dims, strict=True)]
        return self.network(first, *flat)


class MapNetwork(Recorded, nn.Module):
    """Convolutions from maps and vectors to maps, step by step to twice or half the size.

    Inputs are joined at the first size: smaller maps as their nearest positions, vectors as maps
    that are the same everywhere; vectors alone by a dense layer. A way down is strided
    convolutions; any other begins with a convolution at the first size, and goes up by transposed
    ones. All have width 3.

    Args:
        in_shapes: shape of each input: (f,) for vectors; what is before the last dimensions of a
            map are channels.
        sizes: those of the maps on the way, of which each is half of the next one, rounded up,
            or the reverse.
        channels: of the maps of each size.
        out_shape: shape of the result, where it is no features: that of a datum, with a trailing
            dimension where the likelihood wants several numbers per element. The last
            convolution makes it.
        event_dim: number of dimensions of a datum in ``out_shape``.
        blocks: residual blocks at each size.
        activation: makes the module between layers.
        norm: makes the normalisation of hidden maps from their channels.

    Attributes:
        out_features: channels of the result, the last of ``channels``.

    Shapes:
        inputs (..., *in_shape) whose leading dimensions broadcast; result
        (..., channels[-1], *sizes[-1]), or (..., *out_shape).

    Example:
        >>> network = MapNetwork([(8, 4, 4), (5,)], [(4, 4), (7, 8)], [32, 16])
        >>> network(torch.zeros(2, 8, 4, 4), torch.zeros(2, 5)).shape
        torch.Size([2, 16, 7, 8])
    """

    def __init__(
        self,
        in_shapes: Sequence[Sequence[int]],
        sizes: Sequence[Sequence[int]],
        channels: Sequence[int],
        *,
        out_shape: Sequence[int] | None = None,
        event_dim: int = 0,
        blocks: int = 0,
        activation: Activation = nn.ReLU,
        norm: Norm | None = None,
    ) -> None:
        """Build all layers."""
        super().__init__()
        self.in_shapes = [tuple(shape) for shape in in_shapes]
        self.size, self.dims = tuple(sizes[0]), len(sizes[0])
        conv, options = CONVOLUTIONS[self.dims], {"activation": activation, "norm": norm}
        width = sum(self._maps(shape)[0] for shape in self.in_shapes)
        self.dense: nn.Module | None = None
        if all(len(shape) == 1 for shape in self.in_shapes):
            first = (channels[0], *self.size)
            dense = [nn.Linear(width, math.prod(first)), nn.Unflatten(-1, first)]
            self.dense = nn.Sequential(*dense, normalized(norm, first[0], dim=1), activation())
            width = channels[0]

        def stage(first: nn.Module, width: int) -> list[nn.Module]:
            blocked = residuals(width, blocks, dims=self.dims, **options)
            return [first, *blocked, normalized(norm, width, dim=1), activation()]

        layers: list[nn.Module] = []
        if len(sizes) > 1 and math.prod(sizes[1]) < math.prod(sizes[0]):
            for before, after in itertools.pairwise([width, *channels[1:]]):
                layers += halving(before, after, dims=self.dims, blocks=blocks, **options)
        else:
            layers += stage(conv(width, channels[0], 3, padding=1), channels[0])
            steps = zip(itertools.pairwise(channels), sizes[1:], strict=True)
            for (before, after), size in steps:
                layers += stage(doubling(before, after, size), after)
        self.layers = nn.Sequential(*layers)
        self.out_features, self.event_dim = channels[-1], event_dim
        self.out_shape = None if out_shape is None else tuple(out_shape)
        if self.out_shape is not None:
            outputs = maps_of(self.out_shape[:event_dim], self.dims)[0]
            outputs *= math.prod(self.out_shape[event_dim:])
            self.output_layer = conv(channels[-1], outputs, 1)
        weigh(self, norm)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply all layers."""
        shapes = self.in_shapes
        leads = [v.shape[: v.dim() - len(s)] for v, s in zip(inputs, shapes, strict=True)]
        lead = leads[0] if len(leads) == 1 else torch.broadcast_shapes(*leads)
        rows = [v.expand(*lead, *s).reshape(-1, *s) for v, s in zip(inputs, shapes, strict=True)]
        if self.dense is not None:
            h = self.dense(torch.cat(rows, -1))
        else:
            h = torch.cat([self._brought(v) for v in rows], 1)
        h = self.layers(h)
        if self.out_shape is None:
            return h.reshape(*lead, *h.shape[1:])
        h = of_numbers(self.output_layer(h), self.out_shape, self.event_dim)
        return h.reshape(*lead, *self.out_shape)

    def _maps(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Channels and size of an input, a vector's being one position."""
        return (*shape, *(1,) * self.dims) if len(shape) == 1 else maps_of(shape, self.dims)

    def _brought(self, value: Tensor) -> Tensor:
        """An input (rows, *shape) as maps of the first size."""
        value = value.reshape(value.shape[0], *self._maps(tuple(value.shape[1:])))
        if value.shape[2:] == self.size:
            return value
        return interpolate(value, size=self.size, mode="nearest")
