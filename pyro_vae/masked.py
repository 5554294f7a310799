"""Gated masked convolutions: distributions over images, one pixel given the ones before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from .networks import is_whole
from .recorded import Recorded


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


def _gate(features: Tensor) -> Tensor:
    a, b = features.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


class PixelCNN(Recorded, nn.Module):
    """Features for each pixel from the pixels before it: p(x) = prod_p p(x_p | x_<p, context).

    Pixels are ordered by rows, each from left to right. A stack of vertical convolutions over the
    rows above and one of horizontal convolutions over the row itself leave no blind spot: with
    enough layers a pixel sees every pixel before it, ``layers * (kernel // 2)`` of them to each
    side. All channels of a pixel are predicted together, given the pixels before it: the model
    has no dependence among the channels of one pixel.

    Source: "Conditional Image Generation with PixelCNN Decoders", van den Oord, Kalchbrenner,
    Vinyals, Espeholt, Graves, Kavukcuoglu (2016).

    Args:
        channels: channels of the data.
        outputs: features per pixel.
        width: channels of each stack.
        layers: gated layers; the first leaves out the pixel itself (mask A).
        kernel: width of the convolutions, an odd number of at least 3.
        context: channels of the maps that condition every pixel, 0 for none.
        skip_context: feed the context into every layer, not only into the first.

    Shapes:
        x (n, channels, h, w) and context (n, context, h, w); result (n, outputs, h, w).

    Raises:
        ValueError: sizes that are not positive integers or an even kernel; when called, a
            context of another shape.

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
        numbers = {"channels": channels, "outputs": outputs, "width": width, "layers": layers}
        for name, value in numbers.items():
            if not is_whole(value) or value < 1:
                raise ValueError(f"{name}: expected a positive integer, got {value!r}")
        if not is_whole(kernel) or kernel < 3 or kernel % 2 == 0:
            raise ValueError(f"kernel: expected an odd number of at least 3, got {kernel!r}")
        if not is_whole(context) or context < 0:
            raise ValueError(
                f"context: expected the number of channels of the context, got {context!r}: "
                "pass 0 for none"
            )
        self.channels, self.outputs, self.context = int(channels), int(outputs), int(context)
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
        """Features of every pixel at once; those of a pixel do not depend on it or later ones.

        Args:
            x: (n, channels, h, w).
            context: (n, context, h, w), given in full: any pixel may see any of it.

        Returns:
            (n, outputs, h, w).
        """
        self._check(x, context)
        v = h = x
        for layer in self.layers:
            v, h = layer(v, h, context)
        h = self.hidden(h.relu())
        if self.hidden_context is not None:
            h = h + self.hidden_context(context)
        return self.last(h.relu())

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
