"""One argument of a program as networks see it: numbers near one, or tokens."""

from __future__ import annotations

import math

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from ..ground.kinds import Kind, guessed

# Up to how many different whole numbers have an indicator each
_CLASSES = 32


class Measure(nn.Module):
    """One argument (n, *event) as (a - m) / s, with mean m and scale s of ``like``.

    m and s are those of each element of a vector, of all elements of what networks convolve, of
    each column of a sequence. s is the standard deviation, or a tenth of the range where that is
    more, so that no value of ``like`` is above ten. Whole numbers of a datum, where ``like`` has
    at most 32 different ones, are followed by an indicator for each of these.

    Args:
        name: what errors call it.
        like: values (n, *event).
        kind: of the data; default a guess by the shape.
    """

    def __init__(self, name: str, like: Tensor, kind: Kind | None = None) -> None:
        """Measure ``like``, what of it is no NaN."""
        super().__init__()
        kind = kind or guessed(like.shape[1:])
        self.name, self.event_shape = name, tuple(like.shape[1:])
        whole = not like.is_floating_point()
        values = _exact(like).detach()
        elements = values.flatten(1) if values.dim() > 1 else values.unsqueeze(1)
        shape = self.event_shape or (1,)
        if kind.dims:
            shape = (1,) * len(shape)
        elif kind.name == "sequence":
            shape = shape[-1:]
        loc, scale = _measured(elements.reshape(-1, math.prod(shape)))
        dtype = torch.get_default_dtype() if whole else like.dtype
        self.register_buffer("loc", loc.reshape(shape).to(dtype))
        self.register_buffer("scale", scale.reshape(shape).to(dtype))
        found = like.unique() if whole and math.prod(self.event_shape) == 1 else like[:0].flatten()
        classes = found if len(found) <= _CLASSES else found[:0]
        self.register_buffer("classes", classes)
        one = (1 + len(classes),) if len(classes) else self.event_shape or (1,)
        self.shape: tuple[int, ...] = one

    def check(self, value: object) -> None:
        """Raise ``ValueError`` for another shape of a datum."""
        _check_shape(self.name, value, self.event_shape)

    def forward(self, value: Tensor) -> Tensor:
        """The numbers (n, *shape) of values (n, *event)."""
        if not self.event_shape:
            value = value.unsqueeze(-1)
        numbers = ((_exact(value) - self.loc) / self.scale).to(self.loc.dtype)
        if not len(self.classes):
            return numbers
        indicators = value.flatten(1) == self.classes
        return torch.cat([numbers.flatten(1), indicators.to(numbers.dtype)], -1)


class Told(nn.Module):
    """One argument of tokens (n, t), as they are; where a row is missing, a token of its own.

    Args:
        name: what errors call it.
        like: values (n, t).
        tokens: how many tokens there are, their end, 0, too.
        missing: whether rows may be NaN throughout.
    """

    def __init__(self, name: str, like: Tensor, tokens: int, *, missing: bool = False) -> None:
        """Keep what there may be."""
        super().__init__()
        self.name, self.known, self.tokens = name, tokens, tokens + missing
        self.event_shape = self.shape = tuple(like.shape[1:])
        self.check(like)

    def check(self, value: object) -> None:
        """Raise ``ValueError`` for another length, and where Pyro validates, unknown tokens."""
        _check_shape(self.name, value, self.event_shape)
        if is_validation_enabled():
            seen = value[~value.isnan()]
            if (bad := seen[(seen < 0) | (seen >= self.known) | (seen != seen.round())]).numel():
                raise ValueError(
                    f"{self.name}: expected tokens numbered 0 to {self.known - 1}, got "
                    f"{bad[0].item():g}: number text by one vocabulary, or build the guide for "
                    "like=data with all tokens"
                )

    def forward(self, value: Tensor) -> Tensor:
        """Tokens (n, t) of a floating type."""
        value = value.to(torch.get_default_dtype()) if not value.is_floating_point() else value
        if self.tokens == self.known:
            return value
        first = torch.arange(value.shape[1], device=value.device) == 0
        return value.where(~value.isnan(), first.to(value.dtype) * self.known)


def _check_shape(name: str, value: object, event_shape: tuple[int, ...]) -> None:
    if not isinstance(value, Tensor) or tuple(value.shape[1:]) != event_shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else repr(value)
        raise ValueError(
            f"{name}: expected shape {('n', *event_shape)}, as in the data that "
            f"this guide was built for, got {got}: pass such, or build the guide for "
            "like=these data"
        )


def _exact(value: Tensor) -> Tensor:
    """Whole numbers, such as times in seconds, in a type that tells large ones apart."""
    return value if value.is_floating_point() else value.double()


def _measured(elements: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale of each column of (n, columns)."""
    gone, share = elements.isnan(), 1.0
    if gone.any():
        # At the mean of the others they move neither mean nor range
        elements = elements.where(~gone, elements.nanmean(0).nan_to_num(0.0))
        share = (~gone).to(elements.dtype).mean(0).clamp(min=1 / len(elements)).sqrt()
    loc = elements.mean(0)
    spread = elements.amax(0) - elements.amin(0)
    scale = torch.maximum(elements.std(0, correction=0) / share, spread / 10)
    # What never changes here may change elsewhere, about as much as the rest
    typical = scale[scale > 0].median() if (scale > 0).any() else scale.new_ones(())
    return loc, torch.where(scale > 0, scale, typical)
