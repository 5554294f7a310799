"""The networks that models and guides build where the user gave none."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .arguments import Activation, hidden_widths
from .convolutional import ConvDecoder, ConvEncoder
from .dense import MLP
from .normalization import Norm


def is_image(event_shape: Sequence[int]) -> bool:
    """Whether data of this shape, (h, w) or (c, h, w), get convolutional networks by default."""
    return len(event_shape) in (2, 3)


def encoder(
    event_shape: Sequence[int],
    hidden: Sequence[int] | None,
    *,
    extra: int = 0,
    activation: Activation = nn.ReLU,
    norm: Norm | None = None,
) -> nn.Module:
    """The default network from data to features: an MLP if ``hidden`` is given, else by shape."""
    if hidden is None and is_image(event_shape):
        return ConvEncoder(event_shape, extra=extra, activation=activation, norm=norm)
    return MLP(event_shape, hidden_widths(hidden), extra=extra, activation=activation, norm=norm)


def decoder(
    in_features: int,
    event_shape: Sequence[int],
    out_shape: Sequence[int],
    hidden: Sequence[int] | None,
    *,
    skip: bool = False,
    activation: Activation = nn.ReLU,
    norm: Norm | None = None,
) -> nn.Module:
    """The default network from latents to the features that a likelihood takes."""
    if hidden is None and is_image(event_shape):
        return ConvDecoder(
            in_features,
            out_shape,
            event_dim=len(event_shape),
            skip=skip,
            activation=activation,
            norm=norm,
        )
    widths = tuple(reversed(hidden_widths(hidden)))
    return MLP((in_features,), widths, out_shape, skip=skip, activation=activation, norm=norm)
