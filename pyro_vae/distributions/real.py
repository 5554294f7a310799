"""Real numbers in units of their own, heavy tails, and logarithms that are normal."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.transforms import ExpTransform

from .counts import remainder


class ExactStudentT(dist.StudentT):
    """Student's t whose density is exact in single precision for any degrees of freedom.

    With v = df and y = (x - loc) / scale it is -(v + 1)/2 log(1 + y^2 / v) - log scale
    - log(2 pi) / 2 + c(v), with c(v) = log Gamma((v + 1)/2) - log Gamma(v/2) - log(v/2) / 2, which
    falls to 0, the normal distribution, and is not found from two large numbers here.

    Example:
        >>> p = ExactStudentT(torch.tensor(1.0), 0.0, 1.0)
        >>> p.log_prob(torch.tensor(0.0)).exp()  # Cauchy: 1 / pi
        tensor(0.3183)
    """

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> ExactStudentT:
        """The same distribution with another batch shape."""
        found = (v.expand(batch_shape) for v in (self.df, self.loc, self.scale))
        return ExactStudentT(*found, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of ``value``, broadcast against the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        half, y = self.df / 2, (value - self.loc) / self.scale
        # By Stirling's formula: (a log((a + 1/2) / a) - 1/2 + what that leaves)
        constant = half * torch.log1p(0.5 / half) - 0.5 + remainder(half + 0.5) - remainder(half)
        tail = (half + 0.5) * torch.log1p(y.square() / self.df)
        return constant - tail - self.scale.log() - 0.5 * math.log(2 * math.pi)


class ExpNormal(dist.TransformedDistribution):
    """The distribution of e^u, u of a normal distribution.

    Example:
        >>> p = ExpNormal(dist.Normal(torch.tensor(1.0), 0.1))
        >>> p.mean.log()  # 1 + 0.1^2 / 2
        tensor(1.0050)
    """

    def __init__(self, normal: dist.Normal) -> None:
        super().__init__(normal, [ExpTransform()])

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> ExpNormal:
        """The same distribution with another batch shape."""
        return ExpNormal(self.base_dist.expand(batch_shape))

    def fit_to(self, value: Tensor, seen: Tensor) -> None:
        """Have sigma taken from the values that are ``seen``, where it is taken from any."""
        if hasattr(self.base_dist, "fit_to"):
            self.base_dist.fit_to(value.log(), seen)

    @property
    def mean(self) -> Tensor:
        """E[e^u]."""
        return (self.base_dist.mean + self.base_dist.variance / 2).exp()

    @property
    def variance(self) -> Tensor:
        """E[(e^u - E[e^u])^2]."""
        return self.mean.square() * torch.expm1(self.base_dist.variance)


class _Rescaled:
    """Densities are those of the standardised value, which is exact where loc is far from 0."""

    def __init__(self, standard: Any, loc: Tensor, scale: Tensor) -> None:
        self._standard, self._shift, self._factor = standard, loc, scale
        freedom = (standard.df,) if isinstance(standard, dist.StudentT) else ()
        moved = (loc + scale * standard.loc, scale * standard.scale)
        super().__init__(*freedom, *moved, validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> Any:
        """The same distribution with another batch shape."""
        return rescaled(self._standard.expand(batch_shape), self._shift, self._factor)

    def fit_to(self, value: Tensor, seen: Tensor) -> None:
        """Have sigma taken from the values that are ``seen``, where it is taken from any."""
        if hasattr(self._standard, "fit_to"):
            self._standard.fit_to((value - self._shift) / self._factor, seen)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of ``value``, broadcast against the batch shape."""
        standard = (value - self._shift) / self._factor
        return self._standard.log_prob(standard) - self._factor.log()


class _RescaledNormal(_Rescaled, dist.Normal):
    pass


class _RescaledLaplace(_Rescaled, dist.Laplace):
    pass


class _RescaledStudentT(_Rescaled, dist.StudentT):
    pass


_RESCALED = {
    dist.Normal: _RescaledNormal,
    dist.Laplace: _RescaledLaplace,
    dist.StudentT: _RescaledStudentT,
}


def rescaled(standard: Any, loc: Tensor, scale: Tensor) -> Any:
    """The distribution of loc + scale * u, u normal, Laplace, or Student's t.

    Example:
        >>> p = rescaled(dist.Normal(torch.zeros(1), 2.0), torch.tensor(5.0), torch.tensor(100.0))
        >>> p.mean, p.stddev
        (tensor([5.]), tensor([200.]))
    """
    cls = next(made for kind, made in _RESCALED.items() if isinstance(standard, kind))
    return cls(standard, loc, scale)
