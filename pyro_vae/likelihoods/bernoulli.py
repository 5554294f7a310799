"""Values of 0 and 1, and grey values between them."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from .. import distributions
from ..programs.values import check_finite, span_of
from .base import Likelihood


class Bernoulli(Likelihood):
    """Binary pixels: log p(x) = x log m + (1 - x) log(1 - m), m = sigmoid(features).

    Data: exactly 0 or 1.

    Example:
        >>> import torch
        >>> Bernoulli()(torch.zeros(2)).log_prob(torch.ones(2)).exp()
        tensor([0.5000, 0.5000])
    """

    def forward(self, features: Tensor) -> dist.Distribution:
        """Bernoulli with these logits."""
        return dist.Bernoulli(logits=features)

    def check(self, x: Tensor) -> None:
        """Raise unless every value is 0 or 1."""
        check_finite(x)
        if not ((x == 0) | (x == 1)).all():
            raise ValueError(
                f"x: Bernoulli expects only 0 and 1, got {span_of(x)}. For grey pixels use "
                'likelihoods.ContinuousBernoulli(), or binarize="dynamic" in data.load / Dataset; '
                "for other real values likelihoods.Gaussian()"
            )


class ContinuousBernoulli(Likelihood):
    """Grey pixels in [0, 1]: log p(x) = x log m + (1 - x) log(1 - m) + log C(m).

    Source: "The continuous Bernoulli: fixing a pervasive error in variational autoencoders",
    Loaiza-Ganem, Cunningham (2019).

    Example:
        >>> import torch
        >>> ContinuousBernoulli()(torch.zeros(1)).log_prob(torch.full((1,), 0.3)).abs() < 1e-5
        tensor([True])
    """

    def forward(self, features: Tensor) -> dist.Distribution:
        """Continuous Bernoulli with these logits."""
        return distributions.ContinuousBernoulli(features)

    def check(self, x: Tensor) -> None:
        """Raise unless every value lies in [0, 1]."""
        check_finite(x)
        if not ((x >= 0) & (x <= 1)).all():
            raise ValueError(
                f"x: ContinuousBernoulli expects values in [0, 1], got {span_of(x)}. Rescale the "
                "data (8-bit pixels: x / 255), or use likelihoods.Gaussian()"
            )
