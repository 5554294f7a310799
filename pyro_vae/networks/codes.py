"""Logits of each code of a grid from the codes before it: grids of any dimension, and stacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from .masked import PixelCNN


def _folded(grid: Sequence[int]) -> tuple[int, int, int]:
    """A grid as frames of rows: all dimensions before the last two are one."""
    return (math.prod(grid[:-2]), *(1, *grid)[-2:])


def _convolution(inputs: int, outputs: int, sizes: Sequence[int]) -> nn.Module:
    """Of three to each side of a map (frames, rows, columns), where there is more than one."""
    kernel = [3 if size > 1 else 1 for size in sizes]
    return nn.Conv3d(inputs, outputs, tuple(kernel), padding=tuple(k // 2 for k in kernel))


class _Past(nn.Module):
    """Features of each frame from the frames before it, (n, f, frames, h, w) of the same size."""

    def __init__(self, channels: int, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv3d(width if i else channels, width, (2, 3, 3), padding=(0, 1, 1))
            for i in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        # The first layer sees the two frames before, the others their own and the one before
        h = self.layers[0](pad(x, (0, 0, 0, 0, 2, 0))[:, :, :-1])
        for layer in self.layers[1:]:
            h = h + layer(pad(h.relu(), (0, 0, 0, 0, 1, 0)))
        return h.relu()


class _Above(nn.Module):
    """Maps of a grid from the codes of a coarser one."""

    def __init__(
        self, above: Sequence[int], channels: int, grid: Sequence[int], width: int
    ) -> None:
        super().__init__()
        self.sizes = _folded(above), _folded(grid)
        self.first = nn.Linear(channels, width)
        self.layers = nn.Sequential(
            _convolution(width, width, self.sizes[1]),
            nn.ReLU(),
            _convolution(width, width, self.sizes[1]),
        )

    def forward(self, z: Tensor) -> Tensor:
        """From one-hot codes (n, *above, [depth,] codes) to (n, width, frames, h, w)."""
        vectors = self.first(z.reshape(len(z), *self.sizes[0], self.first.in_features))
        return self.layers(interpolate(vectors.movedim(-1, 1), size=self.sizes[1]))


class _Depth(nn.Module):
    """Logits of the codes of a stack, each from features and the codes before it."""

    def __init__(self, width: int, depth: int, codes: int) -> None:
        super().__init__()
        self.before = nn.ModuleList(
            nn.Linear(d * codes, width, bias=False) for d in range(1, depth)
        )
        self.last = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, codes))
            for _ in range(depth)
        )

    def step(self, d: int, features: Tensor, z: Tensor) -> Tensor:
        """Logits (..., codes) of code d, from one-hot codes (..., depth, codes)."""
        if d:
            features = features + self.before[d - 1](z[..., :d, :].flatten(-2))
        return self.last[d](features)


class CodeCNN(PixelCNN):
    """A ``PixelCNN`` over grids of codes: p(z) = prod_i p(z_i | z_<i, context).

    Positions are ordered by rows. A grid of one dimension is one row; of three, each frame is an
    image whose context are features of the frames before it, made by convolutions that look back.
    Several codes per position, a stack (n,), follow one another: each sees those of its stack
    before it, and the positions before.

    Args:
        grid: shape of the grid.
        codes: number of codes.
        stack: () for one code per position, (n,) for n.
        width: channels.
        layers: gated layers; each lets a code see one position further to each side.
        labels: number of classes that all codes see, 0 for none.
        above: grid, channels of one-hot codes (depth times codes) of each grid that is seen
            whole, such as the coarser one of a hierarchy.

    Example:
        >>> network = CodeCNN((2, 2, 2), 3, stack=(2,), width=8, layers=2)
        >>> network.logits(torch.zeros(5, 2, 2, 2, 2, 3)).shape
        torch.Size([5, 2, 2, 2, 2, 3])
    """

    def __init__(
        self,
        grid: Sequence[int],
        codes: int,
        *,
        stack: Sequence[int] = (),
        width: int = 64,
        layers: int = 8,
        labels: int = 0,
        above: Sequence[tuple[Sequence[int], int]] = (),
    ) -> None:
        """Build all layers."""
        frames, depth = _folded(grid)[0], math.prod(stack)
        super().__init__(
            depth * codes,
            width if stack else codes,
            width=width,
            layers=layers,
            context=labels + width * (len(above) + (frames > 1)),
        )
        self.sizes, self.codes, self.depth = _folded(grid), codes, depth
        self.past = _Past(depth * codes, width, layers) if frames > 1 else None
        self.stacked = _Depth(width, depth, codes) if stack else None
        self.above = nn.ModuleList(_Above(*seen, grid, width) for seen in above)

    def _given(self, context: Sequence[Tensor]) -> list[Tensor]:
        """Maps (n, c, frames, h, w) of the grids above and of labels."""
        above, labels = context[: len(self.above)], context[len(self.above) :]
        maps = [network(z) for network, z in zip(self.above, above, strict=True)]
        return maps + [y[..., None, None, None].expand(-1, -1, *self.sizes) for y in labels]

    def logits(self, z: Tensor, context: Sequence[Tensor] = ()) -> Tensor:
        """Logits of all codes, in one pass.

        Args:
            z: one-hot codes (n, *grid, *stack, codes).
            context: one-hot codes of the grids above, then one-hot labels (n, labels).

        Returns:
            As z.
        """
        images = z.reshape(len(z), *self.sizes, -1).movedim(-1, 1)
        maps = self._given(context)
        if self.past is not None:
            maps.append(self.past(images))
        frames = [m.movedim(2, 1).flatten(0, 1) for m in (images, *maps)]
        features = self(frames[0], torch.cat(frames[1:], 1) if maps else None)
        features = features.movedim(1, -1)
        if self.stacked is not None:
            codes = z.reshape(*features.shape[:-1], self.depth, self.codes)
            steps = [self.stacked.step(d, features, codes) for d in range(self.depth)]
            features = torch.stack(steps, -2)
        return features.reshape(z.shape)

    @torch.no_grad()
    def fill(
        self,
        z: Tensor,
        context: Sequence[Tensor] = (),
        *,
        start: int,
        draw: Callable[[Tensor], Tensor],
    ) -> Iterator[int]:
        """Draw all codes from number ``start`` on, given those before; in place.

        Args:
            z: one-hot codes (n, *grid, *stack, codes), contiguous, zero from there on.
            context: as of ``logits``.
            start: so many codes are given.
            draw: from logits (n, codes) to one-hot codes (n, codes).

        Yields:
            The number of positions done.
        """
        frames, rows, columns = self.sizes
        codes = z.view(len(z), frames, rows, columns, self.depth, self.codes)
        images = z.view(len(z), frames, rows, columns, -1).movedim(-1, 1)
        given = self._given(context)
        for frame in range(start // (rows * columns * self.depth), frames):
            maps = [m[:, :, frame] for m in given]
            if self.past is not None:
                maps.append(self.past(images[:, :, : frame + 1])[:, :, frame])
            seen = torch.cat(maps, 1) if maps else None
            for row, column, features in self.walk(images[:, :, frame], seen):
                position = (frame * rows + row) * columns + column
                here = codes[:, frame, row, column]
                for d in range(self.depth):
                    if position * self.depth + d >= start:
                        logits = features
                        if self.stacked is not None:
                            logits = self.stacked.step(d, features, here)
                        here[:, d] = draw(logits)
                yield position + 1
