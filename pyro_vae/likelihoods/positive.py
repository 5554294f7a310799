"""A positive number in a slot of a likelihood: one kind, one module."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..ground.arguments import positive
from ..ground.recorded import Recorded

FLOOR = 1e-4
# From e^10 on, a number grows in proportion to its parameter: no exponential overflows
_LINEAR = 10.0
# Adam moves each parameter by about its learning rate per step: this often as fast, log sigma
# follows the errors of a decoder from 1 to 0.1 within an epoch or two
_SPEED = 10.0


def floored(log: Tensor, log_floor: float | Tensor) -> Tensor:
    """A logarithm, reflected at its floor; exactly the argument from there to 10.

    Below the floor the argument counts upwards again, so that the number never falls below it, the
    gradient never vanishes, and a parameter that is pushed against the floor stays near it.
    """
    v = torch.where(log < log_floor, 2 * log_floor - log, log)
    return torch.where(v > _LINEAR, _LINEAR + torch.log1p((v - _LINEAR).clamp(min=0)), v)


class Positive(Recorded, nn.Module):
    """Base class: a positive number for every element, in a slot of a likelihood.

    Attributes:
        called: its name in the training history and in errors; a table has one per column.
        floor: the least value that it can take.
    """

    called = "number"
    floor: float = 0.0

    def feature_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the decoder's output for one datum: one number for each element."""
        return tuple(event_shape)

    def read(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's own number for each element, and this one."""
        raise NotImplementedError

    @property
    def value(self) -> Tensor:
        """The number as it is now, without gradient."""
        raise NotImplementedError

    def logged(self) -> dict[str, float]:
        """What a row of the training history tells: the geometric mean, and the range of many."""
        log = self.value.log()
        values = torch.stack([log.mean(), log.min(), log.max()])
        return self._logged(*values.exp().tolist(), many=log.dim() > 0)

    def _logged(self, mean: float, least: float, most: float, *, many: bool) -> dict[str, float]:
        name = self.called
        return {name: mean, **({f"{name}_min": least, f"{name}_max": most} if many else {})}

    def extra_repr(self) -> str:
        """Show the arguments."""
        return ", ".join(f"{k}={v}" for k, v in self.arguments.items())


class Fixed(Positive):
    """A given number."""

    def _fix(self, number: float) -> None:
        held = torch.tensor(positive(self.called, number))
        self.register_buffer("number", held, persistent=False)

    def read(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features and the given number."""
        return features, self.number

    @property
    def value(self) -> Tensor:
        """The given number, ()."""
        return self.number

    def logged(self) -> dict[str, float]:
        """Nothing: it never changes."""
        return {}


class _Bounded(Positive):
    """A number with a starting value and a floor."""

    def __init__(self, initial: float = 1.0, floor: float = FLOOR) -> None:
        super().__init__()
        self.floor = positive("floor", floor)
        self.initial = positive("initial", initial, self.floor)


class Trained(_Bounded):
    """A number whose parameter ``raw`` is a tenth of its logarithm."""

    raw: nn.Parameter | None

    def _start(self, shape: Sequence[int]) -> nn.Parameter:
        return nn.Parameter(torch.full(tuple(shape), math.log(self.initial) / _SPEED))

    def _number(self) -> Tensor:
        if self.raw is None:
            raise ValueError(_unbuilt(self))
        return floored(_SPEED * self.raw, math.log(self.floor)).exp()

    def read(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features and the number."""
        return features, self._number()

    @property
    def value(self) -> Tensor:
        """The number: (), or for each element (*event_shape)."""
        return self._number().detach()

    @torch.no_grad()
    def set_to(self, value: Tensor) -> None:
        """Have this value, which is to be above the floor."""
        self.raw.copy_(value.log() / _SPEED)


class Learned(Trained):
    """One number for all elements, a parameter trained with the others."""

    def __init__(self, initial: float = 1.0, floor: float = FLOOR) -> None:
        super().__init__(initial, floor)
        self.raw = self._start(())


class PerElement(Trained):
    """One number per element, whose parameters a model makes when it is built."""

    def __init__(self, initial: float = 1.0, floor: float = FLOOR) -> None:
        super().__init__(initial, floor)
        self.register_parameter("raw", None)

    def feature_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the decoder's output, as the data; makes the parameters."""
        shape = tuple(event_shape)
        if self.raw is None:
            self.raw = self._start(shape)
        _check_shape(self, tuple(self.raw.shape), shape)
        return shape


class Predicted(_Bounded):
    """start_k exp(h_k(z)): the decoder gives a second number h_k per element."""

    def __init__(self, initial: float = 1.0, floor: float = FLOOR) -> None:
        super().__init__(initial, floor)
        self.register_buffer("start", None)
        # Of the logarithm in the last training batch: mean, least, most
        self.register_buffer("last", torch.full((3,), math.log(self.initial)), persistent=False)

    def feature_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the decoder's output: its own number and h."""
        shape = tuple(event_shape)
        if self.start is None:
            self.register_buffer("start", torch.full(shape, self.initial))
        _check_shape(self, tuple(self.start.shape), shape)
        return (*shape, 2)

    def begin_at(self, value: Tensor) -> None:
        """Let the number be ``value``, (*event_shape) or (), where h is 0."""
        self.start = value.detach().clamp(min=self.floor).expand(self.start.shape).clone()
        log = self.start.log()
        self.last = torch.stack([log.mean(), log.min(), log.max()])

    def read(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's own number, and the one that it predicts."""
        if self.start is None:
            raise ValueError(_unbuilt(self))
        expected = (*self.start.shape, 2)
        if tuple(features.shape[-len(expected) :]) != expected:
            raise ValueError(
                f"features: expected (..., {', '.join(map(str, expected))}), mean and log "
                f"{self.called} of each element, got {tuple(features.shape)}: was the decoder "
                "built for another likelihood?"
            )
        own, h = features.unbind(-1)
        h = floored(h, (self.floor / self.start).log())
        if self.training and torch.is_grad_enabled():
            log = (self.start.log() + h).detach()
            self.last.copy_(torch.stack([log.mean(), log.min(), log.max()]))
        return own, self.start * h.exp()

    @property
    def value(self) -> Tensor:
        """Geometric mean over the last training batch, ()."""
        return self.last[0].exp()

    def logged(self) -> dict[str, float]:
        """Geometric mean and range in the last training batch."""
        return self._logged(*self.last.exp().tolist(), many=True)


def in_slot(argument: str, value: Any, base: type, fixed: type, names: Mapping[str, type]) -> Any:
    """What a likelihood was given for a slot: an object of ``base``, a name, or a number.

    ``ValueError`` for anything else.
    """
    if isinstance(value, base):
        return value
    if isinstance(value, str) and value in names:
        return names[value]()
    try:
        return fixed(positive(argument, value))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{argument}: expected a positive finite number, {', '.join(map(repr, names))}, or an "
            f"object such as likelihoods.{names['learned'].__name__}(initial=0.5), got {value!r}"
        ) from error


def _unbuilt(number: Positive) -> str:
    return (
        f"{number.called}: {type(number).__name__} has one number per element, whose shape a "
        "model tells it: build the model first, models.VAE(event_shape, "
        "likelihood=...)"
    )


def _check_shape(number: Positive, has: tuple[int, ...], asked: tuple[int, ...]) -> None:
    if has != asked:
        raise ValueError(
            f"{number.called}: this {type(number).__name__} belongs to a model of data {has}, got "
            f"data {asked}: give each model a likelihood of its own"
        )
