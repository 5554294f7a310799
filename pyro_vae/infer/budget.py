"""When importance sampling of a data set ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..ground.arguments import at_least, whole
from ..ground.tables import standard_error
from .weights import monte_carlo_error

# Draws of the first rounds, below which there is no Pareto k, and draws from which on it has all
# of its tail, so that errors can be looked at
_FIRST, _LEAST = 25, 225


@dataclass(frozen=True)
class Budget:
    """Draws until the error over the data drowns that of Monte Carlo, or until time is up.

    It stands in the place of a number of samples. Draws go in rounds over all data: 25 of each
    datum, later a quarter of those that there are. After a round it is enough where there are 225
    of each, as Pareto k needs them, and

        sqrt((sum_i e_i^2) / n^2 + (sum_i e_i^2 / 2 n)^2) < error * s,

    e_i the standard error of log p(x_i), whose squares make the noise of the mean over the data
    and, a logarithm of a mean being too low by e_i^2 / 2 to first order, its bias; s the standard
    error of that mean over the data. No e_i is above 1, so that the bias may be larger where few
    weights outweigh all others, of which Pareto k tells. All data have as many draws, and none
    ends by its own estimate, which would bias it. After the same random state, the number of draws
    that there were (``ImportanceEstimate.samples``) gives the same numbers in place of the budget,
    to the bit.

    Args:
        seconds: how long it goes on: the first round that ends later is the last one. None does
            not look at the clock.
        error: share of the standard error over the data; 0 does not look at errors.
        samples: the most draws per datum.

    Raises:
        ValueError: negative numbers, or no samples.

    Example:
        >>> import torch
        >>> from pyro_vae import guides, infer, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> budget = Budget(seconds=0)
        >>> found = infer.importance(vae, guides.BottomUp(vae), torch.zeros(5, 6), samples=budget)
        >>> found.samples, found.stopped_by
        (25, 'time')
    """

    seconds: float | None = None
    error: float = 0.2
    samples: int = 5000

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.seconds is not None:
            at_least("seconds", self.seconds)
        at_least("error", self.error)
        whole("samples", self.samples)

    def rounds(self) -> Iterator[int]:
        """Draws of each round, which do not depend on how many rounds will follow."""
        drawn = 0
        while drawn < self.samples:
            draws = min(max(_FIRST, drawn // 4), self.samples - drawn)
            yield draws
            drawn += draws

    def foreseen(self, drawn: int, seconds: float) -> int:
        """Draws per datum at the end of the time, of which so many took so many seconds."""
        if self.seconds is None:
            return self.samples
        return min(self.samples, int(drawn * self.seconds / seconds))

    def stop(
        self, drawn: int, log_likelihood: Tensor, errors: Tensor, seconds: float
    ) -> Literal["error", "time"] | None:
        """What ends it after so many draws and seconds, at estimates (n,) with such errors."""
        over_data = float(standard_error(log_likelihood))
        if drawn >= _LEAST and monte_carlo_error(errors) < self.error * over_data:
            return "error"
        if self.seconds is not None and seconds >= self.seconds:
            return "time"
        return None
