"""The networks that models and guides build where the user gave none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..ground.arguments import sizes, whole
from ..ground.kinds import KINDS, guessed, maps_of
from .arguments import Hidden, hidden_widths
from .convolutional import ConvDecoder, ConvEncoder, halved
from .dense import MLP

# Pictures up to this have the two layers that they have had since 0.1; of what is larger the
# resolution is halved until no more positions than these are left
_SMALL, _POSITIONS, _WIDEST = 32, 16, 128
# What 0.1 built for pictures of any size
FIRST = {"channels": (32, 64), "blocks": 0}


def is_image(event_shape: Sequence[int]) -> bool:
    """Whether data of this shape, (h, w) or (c, h, w), are taken for images by default."""
    return guessed(event_shape).dims == 2


def convolutions(
    kind: str,
    event_shape: Sequence[int],
    hidden: Hidden | None = None,
    channels: int | Sequence[int] | None = None,
    blocks: int | None = None,
) -> dict[str, Any]:
    """``dims``, ``channels`` and ``blocks`` of ``ConvEncoder`` for data of a kind.

    Nothing for dense networks: for kinds without dimensions to convolve, and where ``hidden`` is
    given. Without ``channels`` pictures up to 32 x 32 have two layers and no blocks, all else as
    many halvings as leave at most 16 positions, and a block after each.

    Raises:
        ValueError: channels or blocks that are no positive integers, or of dense networks; more
            halvings than the size of the data has.

    Example:
        >>> convolutions("image", (1, 28, 28))
        {'dims': 2, 'channels': (32, 64), 'blocks': 0}
        >>> convolutions("image", (3, 64, 64))
        {'dims': 2, 'channels': (32, 64, 128, 128), 'blocks': 1}
    """
    if blocks is not None:
        whole("blocks", blocks, 0, advice="pass 1, or 0 for none")
    dims = KINDS[kind].dims
    if hidden is not None or not dims:
        _refuse_maps(kind, event_shape, hidden, {"channels": channels, "blocks": blocks or None})
        return {}
    _, *size = maps_of(event_shape, dims)
    # As often as the defaults halve data that are as small as can be
    most = max((max(size) - 1).bit_length(), 2 if dims == 2 else 1)
    small = channels is None and dims == 2 and max(size) <= _SMALL
    if channels is None:
        times = 2 if small else min(halvings(size, _POSITIONS), most)
        found = tuple(min(32 * 2**i, _WIDEST) for i in range(times))
    else:
        found = sizes("channels", channels)
        if not 0 < len(found) <= most:
            raise ValueError(
                f"channels: expected one for each time that data of size "
                f"{' x '.join(map(str, size))} are halved, {most} at most, got {channels!r}: "
                f"pass such as {(*found, 32)[:most]}, or hidden= for dense networks"
            )
    return {
        "dims": dims,
        "channels": found,
        "blocks": (0 if small else 1) if blocks is None else int(blocks),
    }


def halvings(size: Sequence[int], positions: int) -> int:
    """How often a size is halved until at most so many positions are left, twice at the least."""
    times = 2
    while math.prod(halved(size, times)) > positions:
        times += 1
    return times


def _refuse_maps(
    kind: str, event_shape: Sequence[int], hidden: Any, given: Mapping[str, Any]
) -> None:
    for name, value in given.items():
        if value is not None and hidden is not None:
            raise ValueError(
                f"{name}: expected one of dense and convolutional networks, got {value!r} and "
                f"hidden={hidden!r}: leave one of them out"
            )
        if value is not None:
            raise ValueError(
                f"{name}: expected data that networks convolve, got {value!r} for a datum of "
                f"shape {tuple(event_shape)}, whose kind is {kind!r}: leave {name} out, or "
                'pass kind="signal", "image" or "video" for what is one'
            )


def guessed_maps(event_shape: Sequence[int]) -> dict[str, Any]:
    """``convolutions`` for data of which the shape is all that is known."""
    return convolutions(guessed(event_shape).name, event_shape)


def encoder(
    event_shape: Sequence[int],
    hidden: Sequence[int] | None,
    maps: Mapping[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """The default network from data to features, an MLP where ``hidden`` is given.

    ``maps`` are what ``convolutions`` tells, by default of data whose shape is all that is known.
    The options are ``extra``, ``activation`` and ``norm`` of either.
    """
    if maps is None:
        maps = guessed_maps(event_shape)
    if hidden is None and maps:
        return ConvEncoder(event_shape, **maps, **options)
    return MLP(event_shape, hidden_widths(hidden), **options)


def decoder(
    in_features: int,
    event_shape: Sequence[int],
    out_shape: Sequence[int],
    hidden: Sequence[int] | None,
    maps: Mapping[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """The default network from latents to the features that a likelihood takes.

    ``maps`` are as of ``encoder``; the options are ``skip``, ``activation`` and ``norm``, as of an
    ``MLP``.
    """
    if maps is None:
        maps = guessed_maps(event_shape)
    if hidden is None and maps:
        return ConvDecoder(in_features, out_shape, event_dim=len(event_shape), **maps, **options)
    return MLP((in_features,), hidden_widths(hidden)[::-1], out_shape, **options)
