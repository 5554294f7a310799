"""Strided convolutions down to features, and transposed ones back up to images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ground.recorded import Recorded
from .arguments import Activation
from .dense import concatenate
from .normalization import Norm, normalized


def _halvings(size: tuple[int, int], times: int) -> list[tuple[int, int]]:
    """Image sizes from full resolution down, each half of the one before, rounded up."""
    sizes = [size]
    for _ in range(times):
        h, w = sizes[-1]
        sizes.append(((h + 1) // 2, (w + 1) // 2))
    return sizes


def images(h: Tensor, out_shape: Sequence[int], event_dim: int) -> Tensor:
    """Maps (n, c, h, w), of several numbers per pixel with these last."""
    numbers = out_shape[event_dim:]
    return h.unflatten(1, (-1, *numbers)).movedim(2, -1) if numbers else h


class ConvEncoder(Recorded, nn.Module):
    """Strided 3x3 convolutions, then one dense layer that also sees the labels.

    Args:
        event_shape: (h, w) or (c, h, w), any size.
        channels: channels after each halving of the resolution.
        features: width of the result.
        extra: total width of the inputs after the first.
        activation: makes the module between layers.
        norm: makes the normalisation of each hidden layer from its channels or width, before the
            activation.

    Shapes:
        inputs (..., *event_shape), (..., extra_1), ...; result (..., features).

    Example:
        >>> ConvEncoder((1, 9, 7))(torch.zeros(5, 1, 9, 7)).shape
        torch.Size([5, 256])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        channels: Sequence[int] = (32, 64),
        features: int = 256,
        extra: int = 0,
        activation: Activation = nn.ReLU,
        norm: Norm | None = None,
    ) -> None:
        """Build all layers."""
        super().__init__()
        self.event_dim = len(event_shape)
        c, h, w = (1, *event_shape)[-3:]
        self.image_shape = (c, h, w)
        layers: list[nn.Module] = []
        for out in channels:
            layers.append(nn.Conv2d(c, out, 3, stride=2, padding=1))
            layers += [normalized(norm, out, dim=1), activation()]
            c = out
        self.convolutions = nn.Sequential(*layers)
        small = _halvings((h, w), len(channels))[-1]
        self.dense = nn.Linear(c * math.prod(small) + extra, features)
        self.norm = normalized(norm, features)
        self.activation = activation()
        self.out_features = features

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply the convolutions and the dense layer."""
        x = inputs[0]
        lead = x.shape[: -self.event_dim]
        h = self.convolutions(x.reshape(-1, *self.image_shape)).flatten(1)
        h = h.reshape(*lead, h.shape[-1])
        return self.activation(self.norm(self.dense(concatenate((h, *inputs[1:])))))


class ConvDecoder(Recorded, nn.Module):
    """One dense layer, then transposed convolutions up to any image size, odd ones too.

    Args:
        in_features: total width of the inputs.
        out_shape: shape of the result: an image shape, with a trailing dimension where the
            likelihood wants several numbers per pixel.
        event_dim: number of image dimensions in ``out_shape``, 2 or 3.
        channels: as in the encoder; used in reverse.
        features: width of the dense layer.
        skip: feed the inputs into every later layer, as one more map made by a linear layer
            (Skip-VAE).
        activation, norm: as in the encoder.

    Source: the skip maps are those of "Avoiding Latent Variable Collapse with Generative Skip
    Models", Dieng, Kim, Rush, Blei (2019).

    Shapes:
        inputs (..., f_1), (..., f_2), ...; result (..., *out_shape).

    Example:
        >>> ConvDecoder(4, (1, 9, 7), event_dim=3)(torch.zeros(5, 4)).shape
        torch.Size([5, 1, 9, 7])
    """

    def __init__(
        self,
        in_features: int,
        out_shape: Sequence[int],
        *,
        event_dim: int,
        channels: Sequence[int] = (32, 64),
        features: int = 256,
        skip: bool = False,
        activation: Activation = nn.ReLU,
        norm: Norm | None = None,
    ) -> None:
        """Build all layers."""
        super().__init__()
        self.event_dim, self.out_shape, self.skip = event_dim, tuple(out_shape), skip
        c, h, w = (1, *out_shape[:event_dim])[-3:]
        outputs = c * math.prod(out_shape[event_dim:])
        sizes = _halvings((h, w), len(channels))
        self.first = nn.Linear(in_features, features)
        self.small_shape = (channels[-1], *sizes[-1])
        self.dense = nn.Linear(
            features + (in_features if skip else 0), math.prod(self.small_shape)
        )
        self.activation = activation()
        self.first_norm = normalized(norm, features)
        self.dense_norm = normalized(norm, channels[-1], dim=1)
        self.norms = nn.ModuleList(normalized(norm, c, dim=1) for c in reversed(channels[:-1]))
        self.convolutions, self.maps = nn.ModuleList(), nn.ModuleList()
        widths = [*reversed(channels), outputs]
        pairs = list(itertools.pairwise(widths))
        for i, (c_in, c_out) in enumerate(pairs):
            size, target = sizes[len(pairs) - i], sizes[len(pairs) - i - 1]
            padding = tuple(t - (2 * s - 1) for s, t in zip(size, target, strict=True))
            options = {"stride": 2, "padding": 1, "output_padding": padding}
            self.convolutions.append(nn.ConvTranspose2d(c_in + skip, c_out, 3, **options))
            if skip:
                pixels = nn.Linear(in_features, math.prod(size))
                self.maps.append(nn.Sequential(pixels, nn.Unflatten(-1, (1, *size))))

    @property
    def output_layer(self) -> nn.Module:
        """The layer that gives the result."""
        return self.convolutions[-1]

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply the dense layers and the transposed convolutions."""
        z = concatenate(inputs)
        lead = z.shape[:-1]
        z = z.reshape(-1, z.shape[-1])
        h = self.activation(self.first_norm(self.first(z)))
        h = self.dense(torch.cat([h, z], -1) if self.skip else h).unflatten(-1, self.small_shape)
        h = self.activation(self.dense_norm(h))
        for i, convolution in enumerate(self.convolutions):
            h = convolution(torch.cat([h, self.maps[i](z)], 1) if self.skip else h)
            if i < len(self.convolutions) - 1:
                h = self.activation(self.norms[i](h))
        return images(h, self.out_shape, self.event_dim).reshape(*lead, *self.out_shape)
