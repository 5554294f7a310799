"""Importance weights of data: their mean, its error, and how far to trust it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Above, the mean of weights is not to be trusted
TRUSTED_PARETO_K = 0.7


class Weights:
    """Log-weights that come a few draws at a time, of which the largest alone are kept.

    Args:
        most: the most draws per datum that there may be.
    """

    def __init__(self, most: int) -> None:
        self.samples, self._kept = 0, _tail(most) + 1
        self._sum = self._squares = torch.tensor(-math.inf)
        self._largest: list[Tensor] = []

    def add(self, log_weights: Tensor) -> None:
        """Further draws, (k, n)."""
        self.samples += len(log_weights)
        self._sum = torch.logaddexp(self._sum, log_weights.logsumexp(0))
        self._squares = torch.logaddexp(self._squares, (2 * log_weights).logsumexp(0))
        self._largest.append(log_weights)
        # Now and then, for finding the largest takes longer than adding
        if sum(map(len, self._largest)) > 2 * self._kept:
            self._largest = [torch.cat(self._largest).topk(self._kept, dim=0).values]

    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log mean, its standard error by the delta method, effective sample size, each (n,)."""
        k = self.samples
        ess = (2 * self._sum - self._squares).exp()
        error = ((k / ess - 1).clamp(min=0) / (k - 1 or math.nan)).sqrt()
        return self._sum - math.log(k), error, ess

    def pareto_shape(self) -> Tensor:
        """That of ``pareto_shape``, (n,)."""
        return pareto_shape(torch.cat(self._largest), self.samples)


def weight_statistics(log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log mean, its standard error, effective sample size and Pareto k of (samples, n)."""
    weights = Weights(len(log_weights))
    weights.add(log_weights)
    estimate, error, ess = weights.statistics()
    return estimate.to(torch.get_default_dtype()), error, ess, weights.pareto_shape()


def monte_carlo_error(errors: Tensor) -> float:
    """Of the mean of log-means with standard errors (n,): root mean square of noise and bias.

    The logarithm of a mean with error e is too low by e^2 / 2, to first order.
    """
    noise = float(errors.square().sum().sqrt()) / len(errors)
    return math.hypot(noise, float(errors.square().mean()) / 2)


def _tail(samples: int) -> int:
    """How many of so many weights count as the largest."""
    return min(samples // 5, math.ceil(3 * math.sqrt(samples)))


def pareto_shape(log_weights: Tensor, samples: int | None = None) -> Tensor:
    """Shape k of a generalised Pareto distribution fitted to the largest importance weights.

    k < 0.5: finite variance; k < 0.7: usable; above, the estimate of the mean is unreliable.
    The fit is the empirical-Bayes one with the weak prior that pulls k to 0.5.

    Sources: "A New and Efficient Estimation Method for the Generalized Pareto Distribution",
    Zhang, Stephens (2009); "Pareto Smoothed Importance Sampling", Vehtari et al. (2015).

    Of log-weights (samples, n), or the largest of ``samples``, it is (n,); NaN with fewer than 25
    samples, and for weights that are NaN, infinite or all 0.
    """
    tail = _tail(samples or len(log_weights))
    if tail < 5:
        return torch.full_like(log_weights[0], math.nan)
    largest = log_weights.topk(tail + 1, dim=0).values
    weights = (largest - largest[0]).exp()
    excess = (weights[:-1] - weights[-1]).flip(0)
    k = (_generalised_pareto_shape(excess) * tail + 0.5 * 10) / (tail + 10)
    # All weights equal up to rounding: there is no tail, and importance sampling is exact.
    return torch.where(excess[-1] <= 1e-3, -math.inf, k)


def _generalised_pareto_shape(excess: Tensor) -> Tensor:
    """Zhang and Stephens' estimate for sorted excesses (m, n) over the threshold."""
    m = len(excess)
    grid = 30 + int(math.sqrt(m))
    steps = torch.arange(1, grid + 1, dtype=excess.dtype, device=excess.device)[:, None]
    quartile = excess[int(m / 4 + 0.5) - 1].clamp(min=torch.finfo(excess.dtype).tiny)
    largest = excess[-1].clamp(min=torch.finfo(excess.dtype).tiny)
    theta = 1 / largest + (1 - (grid / (steps - 0.5)).sqrt()) / (3 * quartile)
    shapes = torch.stack([torch.log1p(-t * excess).mean(0) for t in theta])
    log_likelihood = m * ((-theta / shapes).log() - shapes - 1)
    weights = torch.softmax(log_likelihood, 0)
    best = (theta * weights).sum(0)
    return torch.log1p(-best * excess).mean(0)
