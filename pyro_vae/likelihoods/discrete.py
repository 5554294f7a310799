"""Pixels of a given number of levels, and categories."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import embedding

from .. import distributions
from ..ground.arguments import whole
from ..programs.values import check_finite, refuse, span_of
from .base import Likelihood


class _Discrete(Likelihood):
    """Base of likelihoods for pixels k / (levels - 1), as 8-bit images scaled to [0, 1] have."""

    def __init__(self, levels: int = 256) -> None:
        """Keep the number of levels."""
        super().__init__()
        advice = "pass the number of values of an element, 256 for 8-bit pixels"
        self.levels = whole("levels", levels, 2, advice=advice)

    def check(self, x: Tensor) -> None:
        """Raise unless every value lies on the grid 0, 1/(levels-1), ..., 1."""
        check_finite(x)
        k = x * (self.levels - 1)
        if not ((x >= 0) & (x <= 1)).all() or not ((k - k.round()).abs() < 1e-2).all():
            raise ValueError(
                f"x: {type(self).__name__}(levels={self.levels}) expects values k / "
                f"{self.levels - 1} in [0, 1], got {span_of(x)} that are not all on this grid. "
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
        >>> import torch
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
        >>> import torch
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


class Nominal(Likelihood):
    """Categories without an order, numbered 0, ..., k - 1: a free probability for each.

    The networks of guides see k indicators of each element; what the model predicts is the most
    probable category. ``Categorical`` is for pixels, k / (levels - 1).

    Args:
        categories: how many there are, at least 2.

    Shapes:
        features (..., *event_shape, categories), logits; networks see (n, d * categories) of
        vectors, and a channel for each category of images.

    Raises:
        ValueError: categories that are no whole number of at least 2.

    Example:
        >>> import torch
        >>> nominal = Nominal(3)
        >>> nominal(torch.zeros(2, 3)).log_prob(torch.tensor([0.0, 2.0])).exp()
        tensor([0.3333, 0.3333])
        >>> nominal.inputs(torch.tensor([[2.0, 0.0]]))
        tensor([[0., 1., 0., 0., 1., 0.]])
    """

    def __init__(self, categories: int) -> None:
        """Keep the number of categories."""
        super().__init__()
        advice = "pass the number of different values; for two use likelihoods.Bernoulli()"
        self.categories = whole("categories", categories, 2, advice=advice)
        self.register_buffer("one_hot", torch.eye(self.categories), persistent=False)

    def feature_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """One logit per category: (*event_shape, categories)."""
        return (*event_shape, self.categories)

    def forward(self, features: Tensor) -> dist.Distribution:
        """Categories with these logits."""
        return distributions.Nominal(features)

    def input_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """An indicator per category, in the first dimension; (k, h, w) for images (h, w)."""
        first, *others = event_shape if len(event_shape) != 2 else (1, *event_shape)
        return (first * self.categories, *others)

    def inputs(self, x: Tensor) -> Tensor:
        """Indicators, of each element one beside the other."""
        indicators = embedding(x.nan_to_num(0.0).long(), self.one_hot)
        # What is missing is so in all indicators
        indicators = indicators.where(~x.isnan().unsqueeze(-1), torch.nan).movedim(-1, 1)
        return indicators.reshape(len(x), *self.input_shape(x.shape[1:]))

    def check(self, x: Tensor) -> None:
        """Raise unless every value is the number of a category."""
        check_finite(x)
        refuse(
            x,
            (x < 0) | (x > self.categories - 1) | (x != x.round()),
            f"Nominal({self.categories}) expects categories numbered 0 to {self.categories - 1}",
            "number them from 0, numpy.unique(column, return_inverse=True)[1], and pass their "
            "number; for other values use likelihoods.Gaussian()",
        )

    def extra_repr(self) -> str:
        """Show the number of categories."""
        return f"categories={self.categories}"
