"""Gated masked convolutions: distributions over images, one pixel given the ones before it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..ground.arguments import is_whole, whole
from ..ground.recorded import Recorded


class _GatedLayer(nn.Module):
    """One layer of the vertical and the horizontal stack, masked by one-sided padding.

    The vertical stack sees the rows above a pixel in full width, the horizontal one the pixels
    to the left in its row and the vertical stack. ``first`` is mask A: without the pixel itself.
    """

    def __init__(
        self, channels: int, width: int, *, kernel: int, context: int, first: bool
    ) -> None:
        super().__init__()
        self.reach, self.first = kernel // 2, first
        length = self.reach + (not first)
        self.vertical = nn.Conv2d(channels, 2 * width, (length, kernel))
        self.horizontal = nn.Conv2d(channels, 2 * width, (1, length))
        self.down = nn.Conv2d(2 * width, 2 * width, 1)
        self.mix = nn.Conv2d(width, width, 1)
        self.context = nn.Conv2d(context, 4 * width, 1, bias=False) if context else None

    def forward(self, v: Tensor, h: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        r = self.reach
        above = self.vertical(pad(v, (r, r, r, 0))[:, :, : v.shape[-2] + r - self.first])
        left = self.horizontal(pad(h, (r, 0))[..., : h.shape[-1] + r - self.first])
        left = left + self.down(above)
        if self.context is not None:
            to_vertical, to_horizontal = self.context(context).chunk(2, 1)
            above, left = above + to_vertical, left + to_horizontal
        mixed = self.mix(_gate(left))
        return _gate(above), mixed if self.first else h + mixed


class _Rows:
    """What one layer needs to remember in order to go on by one row, and by one pixel in it.

    Images ``x`` (n, channels, h, w) are for their number, width and kind.
    """

    def __init__(self, layer: _GatedLayer, x: Tensor) -> None:
        self.layer = layer
        channels, reach = layer.vertical.in_channels, layer.reach
        rows, columns = layer.vertical.kernel_size[0], x.shape[-1] + reach
        self._above = x.new_zeros(len(x), channels, rows, x.shape[-1] + 2 * reach)
        self._left = x.new_zeros(len(x), channels, 1, columns)

    def above(self, row: Tensor) -> None:
        """Take the next row of the vertical stack's input, (n, channels, 1, w)."""
        reach = self.layer.reach
        self._above = torch.cat([self._above[:, :, 1:], pad(row, (reach, reach))], 2)

    def put(self, pixel: Tensor, column: int) -> None:
        """Take the horizontal stack's input at a column, (n, channels, 1, 1)."""
        at = column + self.layer.reach
        self._left[..., at : at + 1] = pixel

    @torch.no_grad()
    def down(self, v: Tensor | None, context: Tensor | None) -> Tensor:
        """The vertical stack's next row from that of the layer before; the first has its own."""
        if v is not None:
            self.above(v)
        above = self.layer.vertical(self._above)
        self._down = self.layer.down(above)
        if self.layer.context is not None:
            to_vertical, to_horizontal = self.layer.context(context).chunk(2, 1)
            above, self._down = above + to_vertical, self._down + to_horizontal
        return _gate(above)

    def right(self, h: Tensor | None, column: int) -> Tensor:
        """The horizontal stack at the next column, from that of the layer before."""
        if h is not None:
            self.put(h, column)
        length = self.layer.horizontal.kernel_size[1]
        left = self.layer.horizontal(self._left[..., column : column + length])
        mixed = self.layer.mix(_gate(left + self._down[..., column : column + 1]))
        return mixed if h is None else h + mixed


def _gate(features: Tensor) -> Tensor:
    a, b = features.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


class PixelCNN(Recorded, nn.Module):
    """Features for each pixel from the pixels before it: p(x) = prod_p p(x_p | x_<p, context).

    Pixels are ordered by rows, each from left to right. A stack of vertical convolutions over the
    rows above and one of horizontal convolutions over the row itself leave no blind spot: with
    enough layers a pixel sees every pixel before it, ``layers * (kernel // 2)`` of them to each
    side. All channels of a pixel are predicted together, given the pixels before it: the model has
    no dependence among the channels of one pixel.

    Source: "Conditional Image Generation with PixelCNN Decoders", van den Oord, Kalchbrenner,
    Vinyals, Espeholt, Graves, Kavukcuoglu (2016).

    Each stack has ``width`` channels; the first of the gated layers leaves out the pixel itself
    (mask A); ``kernel`` is odd and at least 3. Maps of ``context`` channels, 0 for none, condition
    every pixel, by way of every layer or, without ``skip_context``, of the first alone. From
    x (n, channels, h, w) and context (n, context, h, w) comes (n, outputs, h, w).

    Raises ``ValueError`` for sizes that are not positive integers or an even kernel and, when
    called, for a context of another shape.

    Example:
        >>> PixelCNN(3, 256, layers=2)(torch.zeros(5, 3, 8, 8)).shape
        torch.Size([5, 256, 8, 8])
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        width: int = 32,
        layers: int = 8,
        kernel: int = 3,
        context: int = 0,
        skip_context: bool = True,
    ) -> None:
        """Build all layers."""
        super().__init__()
        self.channels, self.outputs = whole("channels", channels), whole("outputs", outputs)
        whole("width", width)
        whole("layers", layers)
        if not is_whole(kernel) or kernel < 3 or kernel % 2 == 0:
            raise ValueError(f"kernel: expected an odd number of at least 3, got {kernel!r}")
        self.context = whole("context", context, 0, advice="pass its channels, 0 for none")
        self.layers = nn.ModuleList(
            _GatedLayer(
                channels if i == 0 else width,
                width,
                kernel=kernel,
                context=context if i == 0 or skip_context else 0,
                first=i == 0,
            )
            for i in range(layers)
        )
        self.hidden = nn.Conv2d(width, width, 1)
        self.hidden_context = (
            nn.Conv2d(context, width, 1, bias=False) if context and skip_context else None
        )
        self.last = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Features (n, outputs, h, w) of every pixel, which do not depend on it or later ones.

        The context (n, context, h, w) is given in full: any pixel may see any of it.
        """
        self._check(x, context)
        v = h = x
        for layer in self.layers:
            v, h = layer(v, h, context)
        return self._head(h, context)

    def _head(self, h: Tensor, context: Tensor | None) -> Tensor:
        h = self.hidden(h.relu())
        if self.hidden_context is not None:
            h = h + self.hidden_context(context)
        return self.last(h.relu())

    def walk(self, x: Tensor, context: Tensor | None = None) -> Iterator[tuple[int, int, Tensor]]:
        """Row, column and features (n, outputs) of each pixel in order, given those before it.

        ``x`` is filled in while walking: a pixel is read after its features were given out. What a
        layer made of earlier pixels is kept, so that the whole walk costs about as much arithmetic
        as one call of the network. Without gradients.

        Example:
            >>> network, x = PixelCNN(1, 2, layers=2), torch.zeros(5, 1, 3, 3)
            >>> for row, column, logits in network.walk(x):
            ...     x[:, 0, row, column] = logits.argmax(1).float()
            >>> bool((network(x).argmax(1) == x[:, 0]).all())
            True
        """
        self._check(x, context)
        return self._walk(x, context)

    def _walk(self, x: Tensor, context: Tensor | None) -> Iterator[tuple[int, int, Tensor]]:
        width = x.shape[-1]
        stacks = [_Rows(layer, x) for layer in self.layers]
        for row in range(x.shape[-2]):
            maps = None if context is None else context[..., row : row + 1, :]
            v = None
            for stack in stacks:
                v = stack.down(v, maps)
            for column in range(width):
                # At each position, because what is kept is no one else's while we wait
                with torch.no_grad():
                    h = None
                    for stack in stacks:
                        h = stack.right(h, column)
                    seen = None if maps is None else maps[..., column : column + 1]
                    features = self._head(h, seen)[..., 0, 0]
                yield row, column, features
                stacks[0].put(x[..., row : row + 1, column : column + 1], column)
            stacks[0].above(x[..., row : row + 1, :])

    def _check(self, x: Tensor, context: Tensor | None) -> None:
        if x.dim() != 4 or x.shape[1] != self.channels:
            raise ValueError(f"x: expected shape (n, {self.channels}, h, w), got {tuple(x.shape)}")
        expected = (len(x), self.context, *x.shape[2:])
        if self.context and (context is None or tuple(context.shape) != expected):
            got = "none" if context is None else f"shape {tuple(context.shape)}"
            raise ValueError(f"context: expected shape {expected}, got {got}: pass context=")
        if not self.context and context is not None:
            raise ValueError(
                f"context: expected none, got shape {tuple(context.shape)}: build the network "
                f"with context={context.shape[1]}"
            )
