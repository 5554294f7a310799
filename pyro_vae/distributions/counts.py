"""Counts: probabilities that are exact in single precision, however large counts and means are.

log P(x) is the difference of numbers such as x log m and log x!, which agree in all digits of a
float for counts of a million. Here it is taken from what is left: how far x is from the mean, and
the probability of x under its best mean ("Fast and Accurate Computation of Binomial
Probabilities", Loader, 2000). Counts x broadcast against the parameters.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

# Where Stirling's series is exact in double precision
_LARGE = 16.0
# Its coefficients: B_2k / (2k (2k - 1))
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def remainder(y: Tensor) -> Tensor:
    """What Stirling's formula leaves of log Gamma(y): about 1 / (12 y), for y > 0.

    log Gamma(y) = (y - 1/2) log y - y + log(2 pi) / 2 + remainder(y).
    """
    large, small = 1 / y.clamp(min=_LARGE), y.clamp(max=_LARGE)
    square, series = large.square(), torch.zeros_like(large)
    for coefficient in reversed(_STIRLING):
        series = series * square + coefficient
    direct = small.lgamma() - (small - 0.5) * small.log() + small - _HALF_LOG_2PI
    return torch.where(y > _LARGE, series * large, direct)


def _at_best(x: Tensor) -> Tensor:
    """Log P(x) under the Poisson distribution of mean x."""
    seen = x.clamp(min=1)
    return torch.where(x > 0, -_HALF_LOG_2PI - 0.5 * seen.log() - remainder(seen), 0)


def _poisson(x: Tensor, log_rate: Tensor) -> Tensor:
    """Log P(x) for a rate of which the logarithm is given."""
    above = x.clamp(min=1).log() - log_rate
    deviance = x * (above + torch.expm1(-above))
    return torch.where(x > 0, _at_best(x) - deviance, -log_rate.exp())


class LogPoisson(dist.Poisson):
    """A Poisson distribution by its log-rate f: log P(x) = x f - e^f - log x!.

    Finite for every f whose e^f is.

    Args:
        log_rate: f, any shape, which is the batch shape.

    Example:
        >>> LogPoisson(torch.zeros(2)).log_prob(torch.tensor([0.0, 1.0]))
        tensor([-1., -1.])
    """

    def __init__(self, log_rate: Tensor, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.exp(), validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> LogPoisson:
        """The same distribution with another batch shape."""
        return LogPoisson(self.log_rate.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of ``value``, broadcast against the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        return _poisson(value, self.log_rate)


class MeanNegativeBinomial(TorchDistribution):
    """A negative binomial distribution by its log-mean f and dispersion a.

    It is a Poisson distribution whose rate is gamma distributed: mean m = e^f, variance
    m + a m^2. As a falls to 0 it becomes the Poisson distribution, in all digits.

    log P(x) = log Gamma(x + 1/a) - log Gamma(1/a) - log x!
               - log(1 + a m) / a + x log(a m / (1 + a m)).

    Args:
        log_mean: f, any shape.
        dispersion: a > 0, broadcast against it.

    Example:
        >>> p = MeanNegativeBinomial(torch.tensor(0.0), torch.tensor(1.0))
        >>> p.log_prob(torch.tensor([0.0, 1.0])).exp()  # geometric
        tensor([0.5000, 0.2500])
    """

    arg_constraints = {"log_mean": constraints.real, "dispersion": constraints.positive}
    support = constraints.nonnegative_integer

    def __init__(
        self, log_mean: Tensor, dispersion: Tensor, validate_args: bool | None = None
    ) -> None:
        self.log_mean, self.dispersion = torch.broadcast_tensors(log_mean, dispersion)
        super().__init__(self.log_mean.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> MeanNegativeBinomial:
        """The same distribution with another batch shape."""
        return MeanNegativeBinomial(
            self.log_mean.expand(batch_shape), self.dispersion.expand(batch_shape)
        )

    @property
    def mean(self) -> Tensor:
        """E[x]."""
        return self.log_mean.exp()

    @property
    def variance(self) -> Tensor:
        """E[(x - E[x])^2]."""
        return self.mean + self.dispersion * self.mean.square()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of ``value``, broadcast against the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        mean, r = self.mean, 1 / self.dispersion
        above = value.clamp(min=1).log() - self.log_mean
        # x - m, with the rounding of log x - f
        excess = torch.where(value > 0, -value * torch.expm1(-above), -mean)
        # x log(x / m) - (x + r) log((x + r) / (m + r)), for small r from what x and m have beyond
        small = (r < value) & (r < mean)
        weight = torch.where(small, -r, value)
        ratio = torch.where(small, r * torch.expm1(-above), excess) / (mean + r)
        near = torch.log1p(ratio.clamp(min=-0.5))
        log_ratio = torch.where(ratio >= -0.5, near, (value + r).log() - (mean + r).log())
        deviance = weight * above - (value + r) * log_ratio
        best = _at_best(value) - 0.5 * torch.log1p(self.dispersion * value)
        return best + remainder(value + r) - remainder(r) - deviance

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of shape ``sample_shape`` + batch shape."""
        shape = self._extended_shape(sample_shape)
        r = (1 / self.dispersion).expand(shape)
        return torch.poisson(self.mean * self.dispersion * dist.Gamma(r, 1.0).sample())


class SharedTotal(TorchDistribution):
    """A multinomial distribution of counts x in (..., d) whose total N = sum_k x_k is given.

    log P(x | N) = log N! + sum_k (x_k log p_k - log x_k!), N that of each x; p = softmax(logits).
    What is drawn has the ``total``.

    Args:
        logits: (..., d).
        total: whole numbers (...), of what is drawn.

    Example:
        >>> p = SharedTotal(torch.zeros(2), torch.tensor(9.0))
        >>> p.log_prob(torch.tensor([1.0, 1.0])).exp(), p.sample().sum()
        (tensor(0.5000), tensor(9.))
    """

    arg_constraints = {"logits": constraints.real_vector}
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, logits: Tensor, total: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits.log_softmax(-1)
        self.total = total.expand(logits.shape[:-1])
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> SharedTotal:
        """The same distribution with another batch shape."""
        logits = self.logits.expand(*batch_shape, *self.event_shape)
        return SharedTotal(logits, self.total.expand(batch_shape))

    @property
    def probs(self) -> Tensor:
        """Of each element, (..., d)."""
        return self.logits.exp()

    @property
    def mean(self) -> Tensor:
        """Total times probabilities."""
        return self.total.unsqueeze(-1) * self.probs

    @property
    def variance(self) -> Tensor:
        """E[(x - E[x])^2] of each element."""
        return self.mean * -torch.expm1(self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of ``value`` (..., d) among all counts of its total."""
        if self._validate_args:
            self._validate_sample(value)
        total = value.sum(-1, keepdim=True)
        # Poisson counts of any rates p_k N, given their total
        joint = _poisson(value, self.logits + total.clamp(min=1).log()).sum(-1)
        total = total.squeeze(-1)
        return torch.where(total > 0, joint - _at_best(total), 0)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of shape ``sample_shape`` + batch shape + (d,): one element after the other."""
        probs = self.probs.double()
        # Those of an element and of all behind it
        rest = probs.flip(-1).cumsum(-1).flip(-1)
        shares = (probs / rest).nan_to_num(0.0).clamp(max=1.0)
        shares[..., -1] = 1.0
        shares = shares.expand(self._extended_shape(sample_shape))
        left, drawn = self.total.double().expand(shares.shape[:-1]).clone(), []
        for share in shares.unbind(-1):
            drawn.append(torch.binomial(left, share.contiguous()))
            left = left - drawn[-1]
        return torch.stack(drawn, -1).to(self.logits.dtype)
