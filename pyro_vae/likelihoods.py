"""p(x | features): modules from the decoder's features to an elementwise distribution.

| likelihood | data | features per element | source |
|---|---|---|---|
| ``Bernoulli`` | 0 or 1 | 1 logit | |
| ``ContinuousBernoulli`` | [0, 1] | 1 logit | Loaiza-Ganem, Cunningham (2019) |
| ``Gaussian`` | real | 1 mean | |
| ``Categorical`` | k / (levels - 1) | ``levels`` logits | |
| ``DiscretizedLogistic`` | k / (levels - 1) | mean, log scale | Kingma et al. (2016) |

The distribution is elementwise; the model declares its event dimensions with ``.to_event``. Where
a likelihood takes several numbers per element, they are the last dimension of the features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from .recorded import Recorded


class Likelihood(Recorded, nn.Module):
    """Base class: ``likelihood(features)`` is p(x | features), elementwise.

    Attributes:
        levels: number of values per element for 8-bit and other discrete pixels, else None.
    """

    levels: int | None = None

    def feature_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the decoder's output for one datum of ``event_shape``."""
        return tuple(event_shape)

    def forward(self, features: Tensor) -> dist.Distribution:
        """The elementwise distribution, batch shape that of the data (n, *event_shape)."""
        raise NotImplementedError

    def mean(self, features: Tensor) -> Tensor:
        """E[x | features], what a person looks at."""
        return self(features).mean

    def check(self, x: Tensor) -> None:
        """Raise ``ValueError`` if ``x`` has values that this likelihood gives no probability."""
        if not x.isfinite().all():
            raise ValueError(
                f"x: expected finite values, got {int((~x.isfinite()).sum())} NaN or infinite: "
                "remove or fill these entries"
            )


def _range(x: Tensor) -> str:
    return f"values from {float(x.min()):.4g} to {float(x.max()):.4g}"


class Bernoulli(Likelihood):
    """Binary pixels: log p(x) = x log m + (1 - x) log(1 - m), m = sigmoid(features).

    Data: exactly 0 or 1.

    Example:
        >>> Bernoulli()(torch.zeros(2)).log_prob(torch.ones(2)).exp()
        tensor([0.5000, 0.5000])
    """

    def forward(self, features: Tensor) -> dist.Distribution:
        """Bernoulli with these logits."""
        return dist.Bernoulli(logits=features)

    def check(self, x: Tensor) -> None:
        """Raise unless every value is 0 or 1."""
        super().check(x)
        if not ((x == 0) | (x == 1)).all():
            raise ValueError(
                f"x: Bernoulli expects only 0 and 1, got {_range(x)}. For grey pixels use "
                'likelihoods.ContinuousBernoulli(), or binarize="dynamic" in data.load / Dataset; '
                "for other real values likelihoods.Gaussian()"
            )


class _ContinuousBernoulli(TorchDistribution):
    """Density proportional to e^(l x) on [0, 1], exact for every logit l in single precision.

    The formulas of ``torch.distributions.ContinuousBernoulli`` clamp |l| at 16 and cancel near 0.
    """

    arg_constraints = {"logits": constraints.real}
    support = constraints.unit_interval

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> _ContinuousBernoulli:
        return _ContinuousBernoulli(self.logits.expand(batch_shape))

    def _small(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where series are better, the logits there (else 0), and |logits| elsewhere (else 1)."""
        small = self.logits.abs() < 0.5
        return small, self.logits.masked_fill(~small, 0), self.logits.abs().masked_fill(small, 1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        small, l, m = self._small()  # noqa: E741
        series = l * (value - 0.5) - l**2 / 24 + l**4 / 2880 - l**6 / 181440
        falling = torch.where(self.logits < 0, value, 1 - value)
        return torch.where(small, series, -m * falling - (-torch.expm1(-m) / m).log())

    @property
    def mean(self) -> Tensor:
        small, l, m = self._small()  # noqa: E741
        falling = 1 / m - 1 / torch.expm1(m)
        mean = torch.where(self.logits < 0, falling, 1 - falling)
        return torch.where(small, 0.5 + l / 12 - l**3 / 720 + l**5 / 30240, mean)

    @property
    def variance(self) -> Tensor:
        small, l, m = self._small()  # noqa: E741
        series = 1 / 12 - l**2 / 240 + l**4 / 6048 - l**6 / 172800
        return torch.where(small, series, m**-2 - (2 * torch.sinh(m / 2)) ** -2)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        shape = self._extended_shape(sample_shape)
        u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        m = self.logits.abs().clamp(min=torch.finfo(u.dtype).tiny)
        falling = (-torch.log1p(u * torch.expm1(-m)) / m).clamp(0, 1)
        return torch.where(self.logits < 0, falling, 1 - falling)


class ContinuousBernoulli(Likelihood):
    """Grey pixels in [0, 1]: log p(x) = x log m + (1 - x) log(1 - m) + log C(m).

    Source: "The continuous Bernoulli: fixing a pervasive error in variational autoencoders",
    Loaiza-Ganem, Cunningham (2019).

    Example:
        >>> ContinuousBernoulli()(torch.zeros(1)).log_prob(torch.full((1,), 0.3)).abs() < 1e-5
        tensor([True])
    """

    def forward(self, features: Tensor) -> dist.Distribution:
        """Continuous Bernoulli with these logits."""
        return _ContinuousBernoulli(features)

    def check(self, x: Tensor) -> None:
        """Raise unless every value lies in [0, 1]."""
        super().check(x)
        if not ((x >= 0) & (x <= 1)).all():
            raise ValueError(
                f"x: ContinuousBernoulli expects values in [0, 1], got {_range(x)}. Rescale the "
                "data (8-bit pixels: x / 255), or use likelihoods.Gaussian()"
            )


class Gaussian(Likelihood):
    """Real values: log p(x) = -(x - m)^2 / (2 sigma^2) - log sigma - log(2 pi) / 2.

    Args:
        sigma: the standard deviation, a positive number.

    Raises:
        ValueError: sigma is not a positive finite number.

    Example:
        >>> Gaussian(sigma=2.0)(torch.zeros(1)).stddev
        tensor([2.])
    """

    def __init__(self, sigma: float = 1.0) -> None:
        """Keep sigma as a buffer."""
        super().__init__()
        if isinstance(sigma, bool | str) or not 0 < sigma < math.inf:
            raise ValueError(f"sigma: expected a positive finite number, got {sigma!r}")
        self.register_buffer("sigma", torch.tensor(float(sigma)), persistent=False)

    def forward(self, features: Tensor) -> dist.Distribution:
        """Normal with these means."""
        return dist.Normal(features, self.sigma)

    def extra_repr(self) -> str:
        """Show sigma."""
        return f"sigma={float(self.sigma):g}"


class _Grid(TorchDistribution):
    """Base of distributions on the grid 0, 1/(levels-1), ..., 1."""

    levels: int

    @property
    def support(self) -> Any:
        return constraints.unit_interval

    @property
    def grid(self) -> Tensor:
        like = self._parameter
        return torch.linspace(0, 1, self.levels, dtype=like.dtype, device=like.device)

    @property
    def _parameter(self) -> Tensor:
        raise NotImplementedError

    def _probs(self) -> Tensor:
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        """Sum of value times probability over the grid."""
        return self._probs() @ self.grid

    @property
    def variance(self) -> Tensor:
        """Mean squared distance from the mean."""
        return (self._probs() * (self.grid - self.mean.unsqueeze(-1)).square()).sum(-1)


class _GridCategorical(_Grid):
    arg_constraints = {"logits": constraints.real_vector}

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits.log_softmax(-1)
        self.levels = logits.shape[-1]
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> _GridCategorical:
        return _GridCategorical(self.logits.expand(*batch_shape, self.levels))

    @property
    def _parameter(self) -> Tensor:
        return self.logits

    def _probs(self) -> Tensor:
        return self.logits.exp()

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        index = (value * (self.levels - 1)).round().long().unsqueeze(-1)
        shape = torch.broadcast_shapes(index.shape[:-1], self.logits.shape[:-1])
        logits = self.logits.expand(*shape, self.levels)
        return logits.gather(-1, index.expand(*shape, 1)).squeeze(-1)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        index = dist.Categorical(logits=self.logits).sample(sample_shape)
        return index.to(self.logits.dtype) / (self.levels - 1)


class _GridLogistic(_Grid):
    """A logistic density integrated over bins of width 1/(levels-1), the outer ones open."""

    arg_constraints = {"loc": constraints.real, "log_scale": constraints.real}

    def __init__(
        self, loc: Tensor, log_scale: Tensor, levels: int, validate_args: bool | None = None
    ) -> None:
        self.loc, self.log_scale, self.levels = loc, log_scale, levels
        super().__init__(loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> _GridLogistic:
        return _GridLogistic(
            self.loc.expand(batch_shape), self.log_scale.expand(batch_shape), self.levels
        )

    @property
    def _parameter(self) -> Tensor:
        return self.loc

    def _probs(self) -> Tensor:
        moved = _GridLogistic(self.loc.unsqueeze(-1), self.log_scale.unsqueeze(-1), self.levels)
        return moved.log_prob(self.grid).exp()

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        half, inverse = 0.5 / (self.levels - 1), torch.exp(-self.log_scale)
        upper, lower = (value + half - self.loc) * inverse, (value - half - self.loc) * inverse
        # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)), free of cancellation
        inside = torch.log(-torch.expm1(-2 * half * inverse))
        left, right = logsigmoid(upper), logsigmoid(-lower)
        middle = left + right + inside
        return torch.where(value < half, left, torch.where(value > 1 - half, right, middle))

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        shape = self._extended_shape(sample_shape)
        u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).clamp(1e-7, 1 - 1e-7)
        x = self.loc + self.log_scale.exp() * (u.log() - torch.log1p(-u))
        return (x.clamp(0, 1) * (self.levels - 1)).round() / (self.levels - 1)


class _Discrete(Likelihood):
    """Base of likelihoods for pixels k / (levels - 1), as 8-bit images scaled to [0, 1] have."""

    def __init__(self, levels: int = 256) -> None:
        """Keep the number of levels."""
        super().__init__()
        if levels < 2:
            raise ValueError(f"levels: expected at least 2, got {levels}")
        self.levels = levels

    def check(self, x: Tensor) -> None:
        """Raise unless every value lies on the grid 0, 1/(levels-1), ..., 1."""
        super().check(x)
        k = x * (self.levels - 1)
        if not ((x >= 0) & (x <= 1)).all() or not ((k - k.round()).abs() < 1e-2).all():
            raise ValueError(
                f"x: {type(self).__name__}(levels={self.levels}) expects values k / "
                f"{self.levels - 1} in [0, 1], got {_range(x)} that are not all on this grid. "
                "Load 8-bit images with binarize=None, or pass the data's own levels="
            )

    def extra_repr(self) -> str:
        """Show the number of levels."""
        return f"levels={self.levels}"


class Categorical(_Discrete):
    """Discrete pixels with a free probability for each level.

    Args:
        levels: number of values per element (256 for 8-bit pixels).

    Raises:
        ValueError: fewer than 2 levels.

    Example:
        >>> Categorical(levels=4)(torch.zeros(3, 4)).log_prob(torch.ones(3)).exp()
        tensor([0.2500, 0.2500, 0.2500])
    """

    def feature_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """One logit per level: (*event_shape, levels)."""
        return (*event_shape, self.levels)

    def forward(self, features: Tensor) -> dist.Distribution:
        """Categorical on the grid, with these logits."""
        return _GridCategorical(features)


class DiscretizedLogistic(_Discrete):
    """Discrete pixels: a logistic density integrated over each pixel value's bin.

    P(x) = s((x + h - m) / e^t) - s((x - h - m) / e^t), s the sigmoid, h half a bin; the first and
    the last bin reach to infinity, so that the probabilities sum to one.

    Source: "Improved Variational Inference with Inverse Autoregressive Flow", Kingma, Salimans,
    Jozefowicz, Chen, Sutskever, Welling (2016).

    Args:
        levels: number of values per element (256 for 8-bit pixels).

    Example:
        >>> p = DiscretizedLogistic(levels=3)(torch.zeros(2)).log_prob(torch.tensor([0, 0.5, 1]))
        >>> bool(torch.isclose(p.exp().sum(), torch.ones(())))
        True
    """

    min_log_scale = -7.0

    def feature_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Location and log scale: (*event_shape, 2)."""
        return (*event_shape, 2)

    def forward(self, features: Tensor) -> dist.Distribution:
        """Discretised logistic: features 0 and 0 give mean 1/2 and scale e^-1.5."""
        loc, log_scale = features.unbind(-1)
        log_scale = (log_scale - 1.5).clamp(self.min_log_scale, 5.0)
        return _GridLogistic(loc + 0.5, log_scale, self.levels)
