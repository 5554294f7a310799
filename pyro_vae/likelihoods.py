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
from numbers import Integral

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from . import distributions
from .programs import check_finite
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
        check_finite(x)


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
        return distributions.ContinuousBernoulli(features)

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


class _Discrete(Likelihood):
    """Base of likelihoods for pixels k / (levels - 1), as 8-bit images scaled to [0, 1] have."""

    def __init__(self, levels: int = 256) -> None:
        """Keep the number of levels."""
        super().__init__()
        if not isinstance(levels, Integral) or isinstance(levels, bool) or levels < 2:
            raise ValueError(
                f"levels: expected an integer of at least 2, got {levels!r}: pass the number of "
                "values of an element, 256 for 8-bit pixels"
            )
        self.levels = int(levels)

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
        ValueError: levels that are no integer of at least 2.

    Example:
        >>> Categorical(levels=4)(torch.zeros(3, 4)).log_prob(torch.ones(3)).exp()
        tensor([0.2500, 0.2500, 0.2500])
    """

    def feature_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """One logit per level: (*event_shape, levels)."""
        return (*event_shape, self.levels)

    def forward(self, features: Tensor) -> dist.Distribution:
        """Categorical on the grid, with these logits."""
        return distributions.GridCategorical(features)


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
        return distributions.GridLogistic(loc + 0.5, log_scale, self.levels)
