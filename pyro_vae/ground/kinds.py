"""Kinds of data: what the dimensions of a datum mean, and so which networks suit it.

| kind | shape of a datum | default networks |
|---|---|---|
| ``"vector"`` | (d,) | dense |
| ``"signal"`` | (c, t), (t,) for one channel | convolutions along time |
| ``"image"`` | (c, h, w), (h, w) for one channel | convolutions along height and width |
| ``"video"`` | (c, t, h, w), (t, h, w) for one channel | convolutions along all three |
| ``"tokens"`` | (t,) whole numbers | causal, a token after the other |
| ``"sequence"`` | (t, d), a vector per place | causal, a place after the other |
| ``"array"`` | any | dense, of its elements as one vector |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .arguments import known


@dataclass(frozen=True)
class Kind:
    """One of the table.

    Attributes:
        name: what a person calls it.
        dims: number of the last dimensions along which networks convolve, 0 for dense networks.
        shapes: letters of the dimensions of a datum, for each form that it may have; none for any.
    """

    name: str
    dims: int
    shapes: tuple[str, ...]

    def fits(self, event_shape: Sequence[int]) -> bool:
        """Whether a datum may have this shape."""
        return not self.shapes or len(event_shape) in map(len, self.shapes)

    def has_channels(self, event_shape: Sequence[int]) -> bool:
        """Whether the first dimension of a datum is that of channels, or of all elements.

        Example:
            >>> KINDS["image"].has_channels((8, 8)), KINDS["signal"].has_channels((2, 100))
            (False, True)
        """
        return len(event_shape) != self.dims


def maps_of(shape: Sequence[int], dims: int) -> tuple[int, ...]:
    """(c, *size) of a shape whose last ``dims`` dimensions are sizes, all others channels.

    Example:
        >>> maps_of((100,), 1), maps_of((3, 8, 32, 32), 3), maps_of((5, 3, 32, 32), 2)
        ((1, 100), (3, 8, 32, 32), (15, 32, 32))
    """
    split = len(shape) - dims
    return (math.prod(shape[:split]), *shape[split:])


KINDS = {
    kind.name: kind
    for kind in (
        Kind("vector", 0, ("d",)),
        Kind("signal", 1, ("ct", "t")),
        Kind("image", 2, ("chw", "hw")),
        Kind("video", 3, ("cthw", "thw")),
        Kind("tokens", 0, ("t",)),
        Kind("sequence", 0, ("td",)),
        Kind("array", 0, ()),
    )
}
_GUESSES = {1: "vector", 2: "image", 3: "image"}


def guessed(event_shape: Sequence[int]) -> Kind:
    """The kind of data of which a shape is all that is known.

    Example:
        >>> [guessed(shape).name for shape in ((5,), (28, 28), (3, 32, 32), (3, 8, 32, 32))]
        ['vector', 'image', 'image', 'array']
    """
    return KINDS[_GUESSES.get(len(event_shape), "array")]


def unsure(event_shape: Sequence[int]) -> bool:
    """Whether data of a shape that are taken for images may as well be something else.

    Example:
        >>> [unsure(shape) for shape in ((5,), (28, 28), (3, 32, 32), (8, 32, 32))]
        [False, True, False, True]
    """
    return len(event_shape) == 2 or (len(event_shape) == 3 and event_shape[0] not in (1, 3))


def kind_of(kind: str | None, event_shape: Sequence[int], *, name: str = "kind") -> Kind:
    """The kind of this name, or by a guess where none is named; errors call it ``name``.

    Raises:
        ValueError: an unknown name, or a shape that such data cannot have.

    Example:
        >>> kind_of("signal", (2, 100)).dims, kind_of(None, (2, 100)).name
        (1, 'image')
    """
    if kind is None:
        return guessed(event_shape)
    found = KINDS[known(name, kind, KINDS)]
    if not found.fits(event_shape):
        forms = " or ".join(f"({', '.join(s)}{',' * (len(s) == 1)})" for s in found.shapes)
        fitting = [name for name, other in KINDS.items() if other.fits(event_shape)]
        raise ValueError(
            f"{name}: expected a datum of shape {forms} for {kind!r}, got {tuple(event_shape)}: "
            f"reshape the data, or pass one of {', '.join(map(repr, fitting))}"
        )
    return found
