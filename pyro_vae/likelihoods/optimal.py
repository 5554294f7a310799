"""The sigma of a Gaussian likelihood in closed form."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from .. import ranks
from ..ground.arguments import positive
from .sigma import FLOOR, Sigma


class OptimalSigma(Sigma):
    """The sigma of highest likelihood, sigma*^2 = E[sum_k (x_k - g_k(z))^2] / d.

    In training, the first ``log_prob`` of each distribution takes sigma* from the batch that it
    scores, and moves the estimate for the training set (once, however often it is called); the
    first batch ever sets it. In evaluation and for sampling sigma is that estimate, frozen, so
    that p(x|z) is a density. "In training" means in training mode with gradients enabled.

    Sigma* counts as a constant for the gradient. This is exact (envelope theorem): at sigma* the
    derivative of the likelihood with respect to sigma is zero, so that what sigma* contributes to
    the gradient vanishes. It holds where all elements of the batch have the same weight.

    Source: "Simple and Effective VAE Training with Calibrated Decoders", Rybkin, Daniilidis,
    Levine (2021).

    Args:
        momentum: weight of a new batch in the moving average of sigma*^2, which is a plain
            average over the first 1 / momentum batches.
        floor: sigma stays above it.

    Raises:
        ValueError: a momentum outside (0, 1], a floor that is not positive and finite.

    Example:
        >>> sigma = OptimalSigma()
        >>> x = torch.tensor([3.0, -4.0])
        >>> _ = sigma(torch.zeros(2)).log_prob(x)
        >>> sigma.value.square()  # (9 + 16) / 2
        tensor(12.5000)
    """

    def __init__(self, momentum: float = 0.05, floor: float = FLOOR) -> None:
        super().__init__()
        if isinstance(momentum, bool | str) or not 0 < momentum <= 1:
            raise ValueError(f"momentum: expected a number in (0, 1], got {momentum!r}")
        self.momentum, self.floor = float(momentum), positive("floor", floor)
        self.register_buffer("variance", torch.ones(()))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, features: Tensor) -> dist.Distribution:
        """N(features, sigma*^2)."""
        if self.training and torch.is_grad_enabled():
            return _FittedNormal(features, self, [])
        return dist.Normal(features, self.value)

    @property
    def value(self) -> Tensor:
        """The estimate for the training set, ()."""
        return self.variance.clamp(min=self.floor**2).sqrt()

    def fit(self, residual: Tensor, seen: Tensor | None = None) -> Tensor:
        """Sigma* of a batch, of what is seen, with which the estimate for all data moves."""
        # Detached first: a recorded graph knows nothing of torch.no_grad
        squares = residual.detach().square()
        if seen is None:
            batch = ranks.mean(squares)
        else:
            batch = ranks.mean(squares.where(seen, 0.0)) / ranks.mean(seen.to(squares.dtype))
        rate = (1 / (self.batches + 1)).clamp(min=self.momentum)
        self.variance.lerp_(batch, rate)
        self.batches.add_(1)
        return batch.clamp(min=self.floor**2).sqrt()

    @torch.no_grad()
    def maximise(self, mean_square: Tensor) -> None:
        """Set the estimate for the training set to the mean over the elements."""
        self.variance.copy_(mean_square.mean())


class _FittedNormal(dist.Normal):
    """A normal whose sigma is fitted to the first values that it scores."""

    def __init__(self, loc: Tensor, sigma: OptimalSigma, fitted: list[Tensor]) -> None:
        super().__init__(loc, sigma.value, validate_args=False)
        self._sigma = sigma
        # Shared with what ``expand`` makes
        self._fitted = fitted

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> _FittedNormal:
        return _FittedNormal(self.loc.expand(batch_shape), self._sigma, self._fitted)

    def fit_to(self, value: Tensor, seen: Tensor | None = None) -> None:
        """Take sigma from the values that are ``seen``, unless it has been."""
        if not self._fitted:
            self._fitted.append(self._sigma.fit(value - self.loc, seen))

    def log_prob(self, value: Tensor) -> Tensor:
        self.fit_to(value)
        return dist.Normal(self.loc, self._fitted[0], validate_args=False).log_prob(value)
