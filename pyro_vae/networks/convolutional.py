"""Strided convolutions down to features, and transposed ones back up, along 1 to 3 dimensions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ground.kinds import maps_of
from ..ground.recorded import Recorded
from .arguments import Activation
from .dense import concatenate
from .normalization import Norm, normalized
from .weights import weigh

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def halved(size: Sequence[int], times: int) -> tuple[int, ...]:
    """A size after so many halvings, each rounded up: an axis of length 1 stays.

    Example:
        >>> halved((28, 28), 2), halved((9, 1), 3)
        ((7, 7), (2, 1))
    """
    return tuple(-(-length // 2**times) for length in size)


def of_numbers(h: Tensor, out_shape: Sequence[int], event_dim: int) -> Tensor:
    """Maps (n, c, *size), of several numbers per element with these last."""
    numbers = out_shape[event_dim:]
    return h.unflatten(1, (-1, *numbers)).movedim(2, -1) if numbers else h


class Residual(nn.Module):
    """h + conv1(conv3(h)), each convolution after its normalisation and an activation.

    Convolutions of width 3 and 1 along ``dims`` dimensions: maps (n, channels, *size) stay so.

    Example:
        >>> sum(p.numel() for p in Residual(8, dims=2).parameters())  # 8*8*9+8 and 8*8+8
        656
    """

    def __init__(
        self,
        channels: int,
        *,
        dims: int,
        activation: Activation = nn.ReLU,
        norm: Norm | None = None,
    ) -> None:
        """Build both convolutions."""
        super().__init__()
        conv, layers = CONVOLUTIONS[dims], []
        for kernel in (3, 1):
            layers += [] if norm is None else [normalized(norm, channels, dim=1)]
            layers += [activation(), conv(channels, channels, kernel, padding=kernel // 2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, h: Tensor) -> Tensor:
        """Apply both convolutions."""
        return h + self.layers(h)


def halving(
    channels: int,
    out: int,
    *,
    dims: int = 2,
    blocks: int = 0,
    activation: Activation = nn.ReLU,
    norm: Norm | None = None,
) -> list[nn.Module]:
    """The layers from maps (n, channels, *size) to (n, out, *halved(size, 1)), in turn.

    A strided convolution of width 3, residual blocks, normalisation and activation.

    Example:
        >>> stage = nn.Sequential(*halving(1, 8, dims=3, blocks=1))
        >>> stage(torch.zeros(5, 1, 9, 7, 1)).shape
        torch.Size([5, 8, 5, 4, 1])
    """
    strided = CONVOLUTIONS[dims](channels, out, 3, stride=2, padding=1)
    residual = residuals(out, blocks, dims=dims, activation=activation, norm=norm)
    return [strided, *residual, normalized(norm, out, dim=1), activation()]


def doubling(channels: int, out: int, size: Sequence[int]) -> nn.Module:
    """The transposed convolution from maps (n, channels, *halved(size, 1)) to (n, out, *size).

    Example:
        >>> doubling(8, 1, (9, 7))(torch.zeros(5, 8, 5, 4)).shape
        torch.Size([5, 1, 9, 7])
    """
    padding = tuple(1 - length % 2 for length in size)
    options = {"stride": 2, "padding": 1, "output_padding": padding}
    return TRANSPOSED[len(size)](channels, out, 3, **options)


def residuals(
    channels: int, blocks: int, *, dims: int, activation: Activation, norm: Norm | None
) -> list[nn.Module]:
    """So many residual blocks."""
    options = {"dims": dims, "activation": activation, "norm": norm}
    return [Residual(channels, **options) for _ in range(blocks)]


class ConvEncoder(Recorded, nn.Module):
    """Strided convolutions of width 3, then one dense layer that also sees the labels.

    Args:
        event_shape: shape of a datum, any size; what is before its last ``dims`` dimensions are
            channels: (h, w), (c, h, w); (t,), (c, t) along one; (t, h, w), (c, t, h, w) along
            three.
        channels: channels after each halving of the resolution.
        features: width of the result.
        extra: total width of the inputs after the first.
        activation: makes the module between layers.
        norm: makes the normalisation of each hidden layer from its channels or width, before the
            activation.
        dims: number of the last dimensions along which it convolves, 1 to 3.
        blocks: residual blocks after each halving.

    Shapes:
        inputs (..., *event_shape), (..., extra_1), ...; result (..., features).

    Example:
        >>> ConvEncoder((1, 9, 7))(torch.zeros(5, 1, 9, 7)).shape
        torch.Size([5, 256])
        >>> ConvEncoder((2, 100), dims=1, blocks=1)(torch.zeros(5, 2, 100)).shape
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
        dims: int = 2,
        blocks: int = 0,
    ) -> None:
        """Build all layers."""
        super().__init__()
        self.event_dim = len(event_shape)
        self.maps_shape = c, *size = maps_of(event_shape, dims)
        layers: list[nn.Module] = []
        for out in channels:
            options = {"dims": dims, "blocks": blocks, "activation": activation, "norm": norm}
            layers += halving(c, out, **options)
            c = out
        self.convolutions = nn.Sequential(*layers)
        self.dense = nn.Linear(c * math.prod(halved(size, len(channels))) + extra, features)
        self.norm = normalized(norm, features)
        self.activation = activation()
        self.out_features = features
        weigh(self, norm)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply the convolutions and the dense layer."""
        x = inputs[0]
        lead = x.shape[: -self.event_dim]
        h = self.convolutions(x.reshape(-1, *self.maps_shape)).flatten(1)
        h = h.reshape(*lead, h.shape[-1])
        return self.activation(self.norm(self.dense(concatenate((h, *inputs[1:])))))


class ConvDecoder(Recorded, nn.Module):
    """One dense layer, then transposed convolutions up to any size, odd ones too.

    Args:
        in_features: total width of the inputs.
        out_shape: shape of the result: that of a datum, with a trailing dimension where the
            likelihood wants several numbers per element.
        event_dim: number of dimensions of a datum in ``out_shape``, ``dims`` or one more.
        channels: as in the encoder; used in reverse.
        features: width of the dense layer.
        skip: feed the inputs into every later layer, as one more map made by a linear layer
            (Skip-VAE); residual blocks see it by way of these layers.
        activation, norm, dims: as in the encoder.
        blocks: residual blocks at each resolution but the last.

    Source: the skip maps are those of "Avoiding Latent Variable Collapse with Generative Skip
    Models", Dieng, Kim, Rush, Blei (2019).

    Shapes:
        inputs (..., f_1), (..., f_2), ...; result (..., *out_shape).

    Example:
        >>> ConvDecoder(4, (1, 9, 7), event_dim=3)(torch.zeros(5, 4)).shape
        torch.Size([5, 1, 9, 7])
        >>> ConvDecoder(4, (3, 5, 9, 7), event_dim=4, dims=3)(torch.zeros(5, 4)).shape
        torch.Size([5, 3, 5, 9, 7])
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
        dims: int = 2,
        blocks: int = 0,
    ) -> None:
        """Build all layers."""
        super().__init__()
        self.event_dim, self.out_shape, self.skip = event_dim, tuple(out_shape), skip
        c, *size = maps_of(out_shape[:event_dim], dims)
        outputs = c * math.prod(out_shape[event_dim:])
        sizes = [halved(size, i) for i in reversed(range(len(channels) + 1))]
        self.first = nn.Linear(in_features, features)
        self.small_shape = (channels[-1], *sizes[0])
        self.dense = nn.Linear(
            features + (in_features if skip else 0), math.prod(self.small_shape)
        )
        self.activation = activation()
        self.first_norm = normalized(norm, features)
        self.dense_norm = normalized(norm, channels[-1], dim=1)
        self.norms = nn.ModuleList(normalized(norm, c, dim=1) for c in reversed(channels[:-1]))
        self.convolutions, self.maps = nn.ModuleList(), nn.ModuleList()
        self.blocks = nn.ModuleList()
        widths = [*reversed(channels), outputs]
        for i, (c_in, c_out) in enumerate(itertools.pairwise(widths)):
            options = {"dims": dims, "activation": activation, "norm": norm}
            self.blocks.append(nn.Sequential(*residuals(c_in, blocks, **options)))
            self.convolutions.append(doubling(c_in + skip, c_out, sizes[i + 1]))
            if skip:
                elements = nn.Linear(in_features, math.prod(sizes[i]))
                self.maps.append(nn.Sequential(elements, nn.Unflatten(-1, (1, *sizes[i]))))
        weigh(self, norm)

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
        h = self.activation(self.dense_norm(self.blocks[0](h)))
        for i, convolution in enumerate(self.convolutions):
            h = convolution(torch.cat([h, self.maps[i](z)], 1) if self.skip else h)
            if i < len(self.convolutions) - 1:
                h = self.activation(self.norms[i](self.blocks[i + 1](h)))
        return of_numbers(h, self.out_shape, self.event_dim).reshape(*lead, *self.out_shape)
