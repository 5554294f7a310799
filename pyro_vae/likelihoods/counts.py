"""Counts: whole numbers from 0 on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from ..distributions import LogPoisson, MeanNegativeBinomial, SharedTotal
from ..ground.arguments import whole
from ..programs.values import check_finite, refuse
from .base import Likelihood, NumbersLike, check_numbers, hold_numbers
from .dispersion import (
    Dispersion,
    FixedDispersion,
    LearnedDispersion,
    PerColumnDispersion,
    PredictedDispersion,
)
from .positive import in_slot

# Single precision counts no further than e^17
_LINEAR = 20.0
_NAMES: dict[str, type[Dispersion]] = {
    "learned": LearnedDispersion,
    "per_column": PerColumnDispersion,
    "predicted": PredictedDispersion,
}


def _log_rate(features: Tensor, offset: Tensor | None) -> Tensor:
    """Features and offset as a log-rate, whose exponential does not overflow."""
    if offset is not None:
        features = features + _laid(offset, features)
    beyond = _LINEAR + torch.log1p((features - _LINEAR).clamp(min=0))
    return torch.where(features > _LINEAR, beyond, features)


def _laid(offset: Tensor, features: Tensor) -> Tensor:
    """An offset with the dimensions of the features."""
    shape, got = tuple(features.shape), tuple(offset.shape)
    if offset.dim() == 1:
        offset = offset.reshape(-1, *(1,) * (features.dim() - 1))
    fits = len(got) in (1, len(shape)) and all(
        have in (1, wanted) for have, wanted in zip(offset.shape, shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"offset: expected a number per datum, (n,) or (n, 1), for features of shape {shape}, "
            f"got {got}: pass the log of the exposure of each of these data"
        )
    if is_validation_enabled() and not offset.isfinite().all():
        raise ValueError(
            f"offset: expected finite logarithms, got {int((~offset.isfinite()).sum())} others: "
            "leave out data whose exposure is 0"
        )
    return offset.to(features.dtype)


class Counts(Likelihood):
    """Base class: whole numbers from 0 on, of which networks see log(1 + x)."""

    def forward(self, features: Tensor, offset: Tensor | None = None) -> dist.Distribution:
        """The distribution of each element; ``offset`` is the log of each datum's exposure."""
        raise NotImplementedError

    def mean(self, features: Tensor, offset: Tensor | None = None) -> Tensor:
        """E[x | features], what a person looks at."""
        return self(features, offset).mean

    def inputs(self, x: Tensor) -> Tensor:
        """log(1 + x)."""
        return x.log1p()

    def check(self, x: Tensor) -> None:
        """Raise unless every value is a whole number from 0 on."""
        check_finite(x)
        refuse(
            x,
            (x < 0) | (x != x.round()),
            f"{type(self).__name__} expects counts, whole numbers from 0 on",
            "pass the counts as they were before they were normalised or logged; for positive "
            "values use likelihoods.LogNormal(), for others likelihoods.Gaussian()",
        )


class Rates(Counts):
    """Base class: counts by their log-rate, which is ``loc`` where the features are 0.

    Attributes:
        loc: as given, in a tensor, or None.
    """

    def _begin_at(self, loc: NumbersLike) -> None:
        self.register_buffer("loc", None)
        if loc is not None:
            hold_numbers(self, "loc", loc, above=-math.inf)

    @classmethod
    def standardized(
        cls, x: Tensor, *args: Any, offset: Tensor | None = None, **options: Any
    ) -> Rates:
        """One whose ``loc`` is the log of the mean of each element of ``x``, half a count added.

        NaN is left out.

        Where counts are large, such as a hundred, a decoder would be long on its way to them.

        Args:
            x: training data (n, *event_shape).
            offset: log exposures (n,), with which ``loc`` is the log of counts per exposure.
            *args: passed to the class.
            **options: passed to the class.

        Example:
            >>> import torch
            >>> from pyro_vae import likelihoods
            >>> x = torch.tensor([[0.0, 100.0], [1.0, 300.0]])
            >>> likelihoods.Poisson.standardized(x).mean(torch.zeros(2))
            tensor([  0.7500, 200.2500])
        """
        if offset is None:
            return cls(*args, loc=(x.double().nanmean(0) + 0.5 / len(x)).log(), **options)
        exposure = _laid(offset, x).double().exp().expand_as(x).where(~x.isnan(), 0.0)
        loc = (x.double().nansum(0) + 0.5).log() - exposure.sum(0).log()
        return cls(*args, loc=loc, **options)

    def feature_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """One log-rate per element.

        Raises:
            ValueError: a loc of another shape.
        """
        check_numbers(self, "loc", event_shape, "x.mean(0).log()")
        return tuple(event_shape)

    def _rate(self, features: Tensor, offset: Tensor | None) -> Tensor:
        """The log-rate of features (..., *event_shape)."""
        return _log_rate(features if self.loc is None else features + self.loc, offset)

    def inputs(self, x: Tensor) -> Tensor:
        """log(1 + x), beside that of the mean where there is a ``loc``."""
        seen = super().inputs(x)
        return seen if self.loc is None else seen - self.loc.exp().log1p()


class Poisson(Rates):
    """Counts: log P(x_k) = x_k f_k - e^(f_k) - log x_k!, the features being log-rates f.

    From f = 20 on, beyond all counts that single precision tells apart, the rate grows in
    proportion to f, so that it does not overflow: e^20 (f - 19).

    Args:
        loc: what is added to the features, a number or (*event_shape), such as the log of mean
            counts: ``Poisson.standardized(x)``. Default: nothing.

    Shapes:
        features (..., *event_shape); offset, the log of what the rate is a multiple of, such as
        an exposure or the total of a datum: (n,) for features (n, *event_shape), or with one
        dimension for each of theirs, such as (n, 1): the log-rate is features + offset.

    Example:
        >>> import torch
        >>> Poisson()(torch.zeros(2)).log_prob(torch.tensor([0.0, 1.0]))
        tensor([-1., -1.])
        >>> Poisson().mean(torch.zeros(2, 3), offset=torch.tensor([1.0, 10.0]).log())[:, 0]
        tensor([ 1., 10.])
    """

    def __init__(self, *, loc: NumbersLike = None) -> None:
        """Keep the log-rate of features that are 0."""
        super().__init__()
        self._begin_at(loc)

    def forward(self, features: Tensor, offset: Tensor | None = None) -> dist.Distribution:
        """Poisson with these log-rates."""
        return LogPoisson(self._rate(features, offset))


class NegativeBinomial(Rates):
    """Counts that vary more than Poisson counts of their mean: the variance is m + a m^2.

    The features are log-means f, m = e^f; a is the dispersion, of which 0 is ``Poisson``. With
    r = 1 / a, log P(x_k) = log Gamma(x_k + r) - log Gamma(r) - log x_k! + r log(r / (r + m_k))
    + x_k log(m_k / (r + m_k)). From f = 20 on m grows in proportion to f, as of ``Poisson``.

    Source: "Deep generative modeling for single-cell transcriptomics", Lopez, Regier, Cole,
    Jordan, Yosef (2018), for this likelihood of a decoder; r is their inverse dispersion.

    Args:
        dispersion: a positive number; "learned", one parameter; "per_column", one parameter per
            element; "predicted", a(z) from the decoder; or an object of one of these kinds, such
            as ``LearnedDispersion(initial=0.1)``.
        loc: what is added to the log-means, as of ``Poisson``.

    Attributes:
        overdispersion: the object that gives the dispersion: ``overdispersion.value``.

    Shapes:
        features (..., *event_shape), log-means; with "predicted" (..., *event_shape, 2), log-mean
        and log dispersion; offset as of ``Poisson``.

    Raises:
        ValueError: a dispersion that is none of these.

    Example:
        >>> import torch
        >>> p = NegativeBinomial(dispersion=0.5)(torch.tensor([2.0]).log())
        >>> p.mean, p.variance  # 2 + 0.5 * 2^2
        (tensor([2.]), tensor([4.]))
    """

    def __init__(
        self,
        dispersion: float | Literal["learned", "per_column", "predicted"] | Dispersion = "learned",
        *,
        loc: NumbersLike = None,
    ) -> None:
        """Put the kind of dispersion into its slot."""
        super().__init__()
        self.overdispersion = in_slot(
            "dispersion", dispersion, Dispersion, FixedDispersion, _NAMES
        )
        self._begin_at(loc)

    @property
    def dispersion(self) -> Tensor:
        """The dispersion as it is now, without gradient; of "predicted" the geometric mean."""
        return self.overdispersion.value

    def feature_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """(*event_shape), or (*event_shape, 2) with a predicted dispersion."""
        return self.overdispersion.feature_shape(super().feature_shape(event_shape))

    def forward(self, features: Tensor, offset: Tensor | None = None) -> dist.Distribution:
        """Negative binomial with these log-means."""
        log_mean, dispersion = self.overdispersion.read(features)
        return MeanNegativeBinomial(self._rate(log_mean, offset), dispersion)


class ZeroInflated(Counts):
    """Counts with more zeros: 0 with probability s(g), else as the likelihood inside says.

    P(x_k) = s(g_k) [x_k = 0] + (1 - s(g_k)) P'(x_k), s the sigmoid of a last feature g.

    Source: "Zero-Inflated Poisson Regression", Lambert (1992).

    Args:
        likelihood: ``Poisson()`` or a ``NegativeBinomial``.

    Shapes:
        features (..., *event_shape, k + 1), the k features of the likelihood and g.

    Raises:
        TypeError: a likelihood of another type.

    Example:
        >>> import torch
        >>> p = ZeroInflated(Poisson())(torch.zeros(2))  # rate 1, and a half that is 0
        >>> p.log_prob(torch.zeros(())).exp()  # 1/2 + e^-1 / 2
        tensor(0.6839)
    """

    def __init__(self, likelihood: Counts) -> None:
        """Hold the likelihood inside."""
        super().__init__()
        if not isinstance(likelihood, Poisson | NegativeBinomial):
            raise TypeError(
                f"likelihood: expected counts to inflate, got {likelihood!r}: pass "
                "likelihoods.ZeroInflated(likelihoods.Poisson()), or NegativeBinomial()"
            )
        self.likelihood = likelihood

    def inputs(self, x: Tensor) -> Tensor:
        """As of the likelihood inside."""
        return self.likelihood.inputs(x)

    def feature_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """(*event_shape, 2), or one more with a predicted dispersion."""
        inside = self.likelihood.feature_shape(event_shape)
        return (*event_shape, 2) if inside == tuple(event_shape) else (*event_shape, 3)

    def forward(self, features: Tensor, offset: Tensor | None = None) -> dist.Distribution:
        """The mixture of 0 and the likelihood inside."""
        inside, gate = features[..., :-1], features[..., -1]
        p = self.likelihood(inside if inside.shape[-1] > 1 else inside.squeeze(-1), offset)
        return dist.ZeroInflatedDistribution(p, gate_logits=gate)


class Multinomial(Counts):
    """Counts x of d kinds, of which the total N is given: p = softmax(features).

    log P(x | N) = log N! + sum_k (x_k log p_k - log x_k!), N that of each datum: what a model
    learns are shares, whatever the length of a document. What is drawn needs a total of its own.

    Args:
        total: counts of a datum that is drawn, for which the likelihood of data has no number:
            such as ``int(x.sum(1).mean())`` of the training data.

    Shapes:
        features (..., d), logits; offset, the log of the total of each datum that is drawn, as of
        ``Poisson``, in place of ``total``.

    Raises:
        ValueError: a total that is no whole number of at least 1, data that are no vectors.

    Example:
        >>> import torch
        >>> p = Multinomial(total=80)(torch.zeros(4))
        >>> p.mean, p.log_prob(torch.tensor([1.0, 1.0, 0.0, 0.0])).exp()  # 2! / 4^2
        (tensor([20., 20., 20., 20.]), tensor(0.1250))
    """

    def __init__(self, total: int) -> None:
        """Keep the total."""
        super().__init__()
        advice = "pass such as int(x.sum(1).mean())"
        self.total = whole("total", total, advice=advice)

    def feature_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """A logit per kind."""
        if len(event_shape) != 1:
            raise ValueError(
                f"event_shape: Multinomial expects vectors of counts, got {tuple(event_shape)}: "
                "pass x.flatten(1), or use likelihoods.Poisson()"
            )
        return tuple(event_shape)

    def forward(self, features: Tensor, offset: Tensor | None = None) -> dist.Distribution:
        """Multinomial with these logits."""
        if offset is None:
            return SharedTotal(features, features.new_full((), self.total))
        return SharedTotal(features, _laid(offset, features).exp().round().squeeze(-1))

    def extra_repr(self) -> str:
        """Show the total."""
        return f"total={self.total}"
