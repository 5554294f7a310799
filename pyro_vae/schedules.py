"""Beta as a pure function of the training step.

| symbol | meaning | name in code |
|---|---|---|
| beta_t | weight of the KL at step t | ``schedule(step, steps_per_epoch)`` |
| t | optimizer steps taken so far, from 0 | ``step`` |
"""

from __future__ import annotations

from dataclasses import dataclass

from .ground.arguments import at_least, positive
from .ground.recorded import Recorded

__all__ = ["Constant", "Cyclical", "Schedule", "WarmUp", "as_schedule"]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)


# A step this close to the end of a period, as a part of it, begins the next one: the number of
# steps of a part of an epoch may be above the whole number it should be
_ROUNDING = 1e-9


class Schedule(Recorded):
    """A pure function of the step: ``schedule(step, steps_per_epoch) -> beta``."""

    def __call__(self, step: int, steps_per_epoch: int = 1) -> float:
        """Beta at optimizer step ``step`` (from 0)."""
        raise NotImplementedError


def _length(epochs: float | None, steps: int | None, steps_per_epoch: int) -> float:
    return epochs * steps_per_epoch if epochs is not None else float(steps or 0)


def _check_length(name: str, epochs: float | None, steps: int | None) -> None:
    if (epochs is None) == (steps is None):
        raise ValueError(
            f"{name}: expected one of epochs= and steps=, got epochs={epochs}, steps={steps}"
        )
    positive(name, steps if epochs is None else epochs)


@dataclass(frozen=True)
class Constant(Schedule):
    """The same beta at every step.

    Args:
        value: beta >= 0.

    Example:
        >>> Constant(4.0)(1000)
        4.0
    """

    value: float = 1.0

    def __post_init__(self) -> None:
        """Reject a beta that is negative or not finite."""
        at_least("beta", self.value)

    def __call__(self, step: int, steps_per_epoch: int = 1) -> float:
        """Beta, whatever the step."""
        return float(self.value)


@dataclass(frozen=True)
class WarmUp(Schedule):
    """Beta rises linearly from ``start`` to ``end``, then stays.

    beta_t = start + (end - start) min(1, t / T), T = ``steps`` or ``epochs * steps_per_epoch``.

    Source: "Ladder Variational Autoencoders", Sonderby, Raiko, Maaloe, Sonderby, Winther (2016),
    which raises beta once per epoch; here it rises at each step.

    Args:
        epochs: length in epochs, or
        steps: length in optimizer steps.
        start: beta at step 0.
        end: beta from step T on.

    Raises:
        ValueError: not exactly one length, a length <= 0, a negative or non-finite beta.

    Example:
        >>> [WarmUp(epochs=2)(step, steps_per_epoch=10) for step in (0, 10, 20, 99)]
        [0.0, 0.5, 1.0, 1.0]
    """

    epochs: float | None = None
    steps: int | None = None
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        """Check the length and both ends."""
        _check_length("WarmUp", self.epochs, self.steps)
        at_least("start", self.start)
        at_least("end", self.end)

    def __call__(self, step: int, steps_per_epoch: int = 1) -> float:
        """Beta at ``step``."""
        fraction = min(1.0, step / _length(self.epochs, self.steps, steps_per_epoch))
        return self.start + (self.end - self.start) * fraction


@dataclass(frozen=True)
class Cyclical(Schedule):
    """A warm-up that starts again every period: rise during ``ratio`` of it, then hold.

    beta_t = start + (end - start) min(1, u / ratio), u = (t mod T) / T.

    Source: "Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing",
    Fu, Li, Liu, Gao, Celikyilmaz, Carin (2019).

    Args:
        epochs: period T in epochs, or
        steps: period in optimizer steps.
        ratio: part of the period in which beta rises, in (0, 1].
        start: beta at the start of each period.
        end: beta at the end of each period.

    Raises:
        ValueError: not exactly one period, a ratio outside (0, 1], a bad beta.

    Example:
        >>> [Cyclical(steps=4)(step) for step in range(6)]
        [0.0, 0.5, 1.0, 1.0, 0.0, 0.5]
    """

    epochs: float | None = None
    steps: int | None = None
    ratio: float = 0.5
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        """Check the period, the ratio and both ends."""
        _check_length("Cyclical", self.epochs, self.steps)
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio: expected a number in (0, 1], got {self.ratio}")
        at_least("start", self.start)
        at_least("end", self.end)

    def __call__(self, step: int, steps_per_epoch: int = 1) -> float:
        """Beta at ``step``."""
        period = _length(self.epochs, self.steps, steps_per_epoch)
        position = (step % period) / period
        if position > 1 - _ROUNDING:
            position = 0.0
        return self.start + (self.end - self.start) * min(1.0, position / self.ratio)


def as_schedule(beta: float | Schedule, where: str = "beta") -> Schedule:
    """A schedule as it is, a number as ``Constant``."""
    return beta if isinstance(beta, Schedule) else Constant(at_least(where, beta))
