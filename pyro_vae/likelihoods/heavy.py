"""Real values with outliers, and positive ones that span orders of magnitude."""

from __future__ import annotations

from typing import Literal

import pyro.distributions as dist
from torch import Tensor

from ..distributions import ExactStudentT, ExpNormal
from ..ground.arguments import positive
from ..programs.values import check_finite, refuse
from .base import NumbersLike
from .located import Located, SigmaLike
from .optimal import OptimalSigma
from .positive import Fixed, Learned, Positive

# A mean exists above 1
_LEAST_FREEDOM = 1.01


def _not_optimal(likelihood: Located) -> None:
    if isinstance(likelihood.noise, OptimalSigma):
        raise ValueError(
            f"sigma: {type(likelihood).__name__} expected a number, 'learned', 'per_pixel' or "
            "'predicted', got 'optimal', the closed form of a normal distribution: use "
            'sigma="learned"'
        )


class Laplace(Located):
    """Real values with outliers: log p(x_k) = -|x_k - m_k| / sigma - log(2 sigma).

    An error counts in proportion to its size, not to its square. Sigma is the mean absolute
    error; the standard deviation is sqrt(2) sigma.

    Args:
        sigma: a positive number, "learned", "per_pixel", "predicted", or an object of one of these
            kinds, as of ``Gaussian``.
        loc, scale: what the data are standardised by, as of ``Gaussian``.

    Raises:
        ValueError: as ``Gaussian``, and a sigma that is "optimal".

    Example:
        >>> import torch
        >>> Laplace(sigma=1.0)(torch.zeros(1)).log_prob(torch.ones(1)).exp()  # e^-1 / 2
        tensor([0.1839])
    """

    def __init__(
        self, sigma: SigmaLike = 1.0, *, loc: NumbersLike = None, scale: NumbersLike = None
    ) -> None:
        super().__init__(sigma, loc=loc, scale=scale)
        _not_optimal(self)

    def _standard(self, normal: dist.Normal) -> dist.Distribution:
        return dist.Laplace(normal.loc, normal.scale)


class _FixedFreedom(Fixed):
    called = "df"

    def __init__(self, df: float) -> None:
        super().__init__()
        self._fix(df)


class _LearnedFreedom(Learned):
    called = "df"


class StudentT(Located):
    """Real values with outliers: Student's t around m_k, its scale sigma, v degrees of freedom.

    log p(x_k) = -(v + 1)/2 log(1 + y^2 / v) - log sigma + c(v), y = (x_k - m_k) / sigma. The fewer
    degrees of freedom, the less an outlier counts: v = 1 is the Cauchy distribution, which has no
    mean, and as v grows it becomes ``Gaussian(sigma)``. The standard deviation is
    sigma sqrt(v / (v - 2)) for v > 2.

    Source: "Robust Statistical Modeling Using the t Distribution", Lange, Little, Taylor (1989).

    Args:
        sigma: a positive number, "learned", "per_pixel", "predicted", or an object of one of these
            kinds, as of ``Gaussian``.
        df: degrees of freedom, a positive number, or "learned": one parameter, which begins at 4
            and stays above 1.
        loc, scale: what the data are standardised by, as of ``Gaussian``.

    Attributes:
        freedom: the object that gives the degrees of freedom: ``freedom.value``.

    Raises:
        ValueError: as ``Gaussian``, a sigma that is "optimal", and another ``df``.

    Example:
        >>> import torch
        >>> StudentT(df=1.0)(torch.zeros(1)).log_prob(torch.zeros(1)).exp()  # 1 / pi
        tensor([0.3183])
        >>> [name for name, _ in StudentT("learned", df="learned").named_parameters()]
        ['noise.raw', 'freedom.raw']
    """

    def __init__(
        self,
        sigma: SigmaLike = 1.0,
        *,
        df: float | Literal["learned"] = 4.0,
        loc: NumbersLike = None,
        scale: NumbersLike = None,
    ) -> None:
        super().__init__(sigma, loc=loc, scale=scale)
        _not_optimal(self)
        self.freedom: Positive
        if isinstance(df, str) and df == "learned":
            self.freedom = _LearnedFreedom(4.0, _LEAST_FREEDOM)
        else:
            self.freedom = _FixedFreedom(positive("df", df, advice='pass 4.0, or "learned"'))

    def _standard(self, normal: dist.Normal) -> dist.Distribution:
        _, df = self.freedom.read(normal.loc)
        return ExactStudentT(df, normal.loc, normal.scale)


class LogNormal(Located):
    """Positive values: log x_k is normal, log p(x_k) = log N(log x_k; m_k, sigma^2) - log x_k.

    For sizes, prices, times and concentrations, whose errors are in proportion to their size. The
    networks of guides see log x. What the model predicts is E[x_k] = exp(m_k + sigma^2 / 2).

    Args:
        sigma: of log x, as of ``Gaussian``.
        loc, scale: what log x is standardised by, as of ``Gaussian``.

    Raises:
        ValueError: as ``Gaussian``.

    Example:
        >>> import torch
        >>> LogNormal(sigma=0.1)(torch.tensor([0.0, 3.0])).mean  # e^(m + 0.1^2 / 2)
        tensor([ 1.0050, 20.1862])
    """

    def forward(self, features: Tensor) -> dist.Distribution:
        """The distribution of each element."""
        return ExpNormal(super().forward(features))

    @staticmethod
    def _seen(x: Tensor) -> Tensor:
        return x.log()

    def check(self, x: Tensor) -> None:
        """Raise unless every value is positive and finite."""
        check_finite(x)
        refuse(
            x,
            ~(x > 0),
            "LogNormal expects positive values",
            "for counts use likelihoods.Poisson() or likelihoods.NegativeBinomial(), for values "
            "of any sign likelihoods.Gaussian()",
        )
