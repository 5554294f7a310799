"""Diagonal normals in the coordinates of a latent's support, moved and drawn from."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from pyro.distributions import MaskedDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import Independent, Normal, TransformedDistribution

from ..conditionals.flow import FlowDistribution
from ..ground.internals import mask_of

_AROUND = Independent | TransformedDistribution | MaskedDistribution


def normal_below(q: Any) -> Normal | None:
    """The normal N(mu, sigma^2) of which a distribution is the image; None for any other.

    A flow is another: it makes the elements of a latent depend on each other.
    """
    while isinstance(q, _AROUND) and not isinstance(q, FlowDistribution):
        q = q.base_dist
    return q if isinstance(q, Normal) else None


def moved(q: Any, shift: Tensor, log_scale: Tensor) -> TorchDistributionMixin:
    """The same image of N(mu + shift, (sigma exp(log_scale))^2)."""
    if isinstance(q, Normal):
        return dist.Normal(q.loc + shift, q.scale * log_scale.exp())
    below = moved(q.base_dist, shift, log_scale)
    if isinstance(q, Independent):
        return below.to_event(q.reinterpreted_batch_ndims)
    if isinstance(q, TransformedDistribution):
        return dist.TransformedDistribution(below, q.transforms)
    return below.mask(mask_of(q))


def image(q: Any, noise: Tensor | float) -> Tensor:
    """The value of such an image at mu + sigma noise."""
    if isinstance(q, Normal):
        return q.loc + q.scale * noise
    value = image(q.base_dist, noise)
    for transform in q.transforms if isinstance(q, TransformedDistribution) else ():
        value = transform(value)
    return value
