"""Learning rates of long trainings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .. import callbacks

RATE = 1e-3


class Rate(callbacks.Callback):
    """A learning rate that is a function of the epochs done: a run that goes on has it, too."""

    def __init__(self, rate: Callable[[int], float]) -> None:
        self.rate = rate

    def on_fit_begin(self, trainer: Any, **kwargs: Any) -> None:
        """The rate of the first epoch of these."""
        trainer.lr = self.rate(len(trainer.history))

    def on_epoch_end(self, trainer: Any, row: dict[str, Any], **kwargs: Any) -> None:
        """The rate of the next epoch."""
        trainer.lr = self.rate(row["epoch"])


def cosine(epochs: int) -> Rate:
    """Along half a wave, from ``RATE`` in the first epoch to nearly 0 in the last of so many."""

    def rate(done: int) -> float:
        return RATE * (1 + math.cos(math.pi * min(done, epochs - 1) / epochs)) / 2

    return Rate(rate)


def steps(start: int, epochs: int, rate: float = RATE) -> Rate:
    """``rate`` from epoch ``start`` on, times 0.75 after each tenth of so many."""
    return Rate(lambda done: rate * 0.75 ** (10 * max(0, done - start) // epochs))


RATES: dict[str, Callable[[int], list[Rate]]] = {
    "constant": lambda epochs: [],
    "cosine": lambda epochs: [cosine(epochs)],
}
