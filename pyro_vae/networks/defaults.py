"""The networks that models and guides build where the user gave none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from .arguments import hidden_widths
from .convolutional import ConvDecoder, ConvEncoder
from .dense import MLP


def is_image(event_shape: Sequence[int]) -> bool:
    """Whether data of this shape, (h, w) or (c, h, w), get convolutional networks by default."""
    return len(event_shape) in (2, 3)


def encoder(event_shape: Sequence[int], hidden: Sequence[int] | None, **options: Any) -> nn.Module:
    """The default network from data to features: an MLP if ``hidden`` is given, else by shape.

    The options are ``extra``, ``activation`` and ``norm`` of either.
    """
    if hidden is None and is_image(event_shape):
        return ConvEncoder(event_shape, **options)
    return MLP(event_shape, hidden_widths(hidden), **options)


def decoder(
    in_features: int,
    event_shape: Sequence[int],
    out_shape: Sequence[int],
    hidden: Sequence[int] | None,
    **options: Any,
) -> nn.Module:
    """The default network from latents to the features that a likelihood takes.

    The options are ``skip``, ``activation`` and ``norm``, as of an ``MLP``.
    """
    if hidden is None and is_image(event_shape):
        return ConvDecoder(in_features, out_shape, event_dim=len(event_shape), **options)
    return MLP((in_features,), hidden_widths(hidden)[::-1], out_shape, **options)
