"""Latents that are maps: their shapes, and the pyramid of sizes that they are taken from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..ground.arguments import is_whole, sizes
from ..ground.kinds import KINDS
from ..networks import Pyramid

Shape = tuple[int, ...]


def latent_shapes(latents: int | Sequence[int | Sequence[int]]) -> tuple[Shape, ...]:
    """Shapes of z1, z2, ..., given those of maps and sizes of vectors.

    Raises:
        ValueError: none, or numbers that are not positive integers.

    Example:
        >>> latent_shapes(20), latent_shapes(((8, 14, 14), 32))
        (((20,),), ((8, 14, 14), (32,)))
    """
    items = [*latents] if isinstance(latents, Iterable) else [latents]
    if not items:
        raise ValueError(
            f"latents: expected positive integers, got {latents!r}: pass at least one"
        )
    if not [item for item in items if isinstance(item, Iterable)]:
        return tuple(zip(sizes("latents", latents), strict=True))
    for item in items:
        shape = [*item] if isinstance(item, Iterable) else [item]
        if not shape or not all(is_whole(n) and n > 0 for n in shape):
            raise ValueError(
                f"latents: expected positive integers, or shapes of them, got {item!r} among "
                f"{latents!r}: pass such as ((8, 14, 14), (16, 7, 7), 32)"
            )
    return tuple(sizes("latents", item) for item in items)


def pyramid(
    shapes: Sequence[Shape], kind: str, event_shape: Shape, maps: Mapping[str, Any]
) -> Pyramid:
    """The sizes and channels of a ladder whose latents are maps, or vectors above these.

    ``maps`` are ``networks.convolutions`` of data of that shape and kind.

    Raises:
        ValueError: maps for data that networks do not convolve, of other dimensions, of a size
            that halving the data does not reach, larger than one below, or above a vector.
    """
    dims = KINDS[kind].dims
    if not dims:
        shape = max(shapes, key=len)
        raise ValueError(
            f"latents: expected sizes of vectors for data of shape {event_shape}, whose kind is "
            f'{kind!r}, got {shape}: pass such as {math.prod(shape)}, or kind="signal", '
            '"image" or "video" for what is one'
        )
    if len(event_shape) == 1:
        raise ValueError(
            f"event_shape: expected channels first, (1, {event_shape[0]}), for latents that are "
            f"maps, got {event_shape}: pass these, and data (n, 1, {event_shape[0]})"
        )
    found = Pyramid.of(event_shape, **maps)
    before: Shape = (1, *found.sizes[0])
    for number, shape in enumerate(shapes, start=1):
        site = f"latents: z{number}: "
        if len(shape) == 1:
            before = shape
            continue
        if len(before) == 1:
            raise ValueError(
                f"{site}expected a vector above vectors, in which there are no positions, got "
                f"the map {shape}: pass maps first, from the data to the top, then vectors"
            )
        reached = [size for size in found.sizes if math.prod(size) <= math.prod(before[1:])]
        if len(shape) != dims + 1 or shape[1:] not in reached:
            such = " or ".join(str((shape[0], *size)) for size in reached[:4])
            form = ", ".join(KINDS[kind].shapes[0])
            raise ValueError(
                f"{site}expected a map ({form}) of the size of the data, {event_shape}, halved as "
                f"often as you like, rounded up, and no larger than the map below, got {shape}: "
                f"pass such as {such}"
            )
        before = shape
    return found
