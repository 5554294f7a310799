"""What is put around a distribution, and the event that it declares."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin

# What changes no more than the shape of a distribution, and where it counts
AROUND = (torch.distributions.Independent, dist.ExpandedDistribution, dist.MaskedDistribution)


def as_pyro(distribution: Any, site: str) -> TorchDistributionMixin:
    """A distribution of ``torch.distributions`` as Pyro's of the same name; Pyro's as it is.

    ``TypeError`` for what is no distribution.
    """
    if isinstance(distribution, TorchDistributionMixin):
        return distribution
    if not isinstance(distribution, torch.distributions.Distribution):
        raise TypeError(
            f"site {site!r}: expected a module that returns a distribution, got "
            f"{type(distribution).__name__}: return such as pyro.distributions.Normal(loc, scale)"
        )
    if isinstance(distribution, torch.distributions.Independent):
        base = as_pyro(distribution.base_dist, site)
        return base.to_event(distribution.reinterpreted_batch_ndims)
    result = copy.copy(distribution)
    result.__class__ = _pyro_class(type(distribution))
    return result


def base_of(distribution: Any) -> Any:
    """What a distribution is made of, without event dimensions, masks and transforms."""
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return distribution


def plain(distribution: Any) -> Any:
    """A distribution without dimensions, expansions and masks that were put around it."""
    while isinstance(distribution, AROUND):
        distribution = distribution.base_dist
    return distribution


@functools.cache
def _pyro_class(cls: type) -> type:
    return type(cls.__name__, (cls, TorchDistributionMixin), {})


def declared(
    distribution: Any, event_shape: Sequence[int], site: str = "x"
) -> TorchDistributionMixin:
    """A distribution whose event is one datum: dimensions that are not declared yet become it.

    From the batch shape (..., *undeclared dimensions), of Pyro or of torch, to the batch shape
    (...) and the event shape ``event_shape``. ``TypeError`` for what is no distribution, and
    ``ValueError`` for one whose last dimensions are not ``event_shape``; both name the ``site``.

    Example:
        >>> noise = dist.MultivariateNormal(torch.zeros(5, 3, 2), torch.eye(2))
        >>> declared(noise, (3, 2)).event_shape
        torch.Size([3, 2])
    """
    result = distribution
    if not isinstance(result, TorchDistributionMixin):
        result = as_pyro(result, site)
    missing = len(event_shape) - result.event_dim
    if 0 < missing <= len(result.batch_shape):
        result = result.to_event(missing)
    if result.event_shape != tuple(event_shape):
        raise ValueError(
            f"site {site!r}: expected a distribution over values of shape {tuple(event_shape)} "
            f"per datum, got a {type(distribution).__name__} of batch shape "
            f"{tuple(distribution.batch_shape)} and event shape "
            f"{tuple(distribution.event_shape)}: give it the batch shape (n, ...) and, in all, "
            "one dimension for each of a datum"
        )
    return result
