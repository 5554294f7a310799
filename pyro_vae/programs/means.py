"""What stands for a random value where one number is to be shown: its mean."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from pyro.infer.util import validation_enabled
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ..distributions import base_of
from .sites import is_latent

_DRAWS = 1000
# Numbers drawn at once
_DRAWN = 2**22


def mean_of(distribution: Any, site: str) -> Tensor:
    """The mean of a distribution; of 1,000 draws where there is no formula.

    The draws are the same at each call, and the RNG is restored. A category is no number: the most
    probable one stands for a ``Categorical``. Raises ``ValueError``, naming ``site``, for a
    distribution that has no mean.

    Example:
        >>> import pyro.distributions as dist
        >>> moved = [dist.transforms.AffineTransform(2.0, 1.0)]
        >>> mean_of(dist.TransformedDistribution(dist.Normal(0.0, 1.0), moved), "z").round()
        tensor(2.)
    """
    base = base_of(distribution)
    if isinstance(base, torch.distributions.Categorical):
        return base.logits.argmax(-1).expand(distribution.shape())
    try:
        mean = distribution.mean
    except NotImplementedError:
        mean = _average(distribution)
    if not mean.isfinite().all():
        raise ValueError(
            f"site {site!r}: expected a distribution that has a mean, got a {type(base).__name__} "
            "whose mean is NaN or infinite: show draws, such as guide(x), model.sample(n) or "
            "decode(z).sample(), or use another distribution"
        )
    return mean


def _average(distribution: Any) -> Tensor:
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.no_grad(), torch.random.fork_rng(devices):
        torch.manual_seed(0)
        total = distribution.sample().double()
        at_once = max(1, _DRAWN // max(1, total.numel()))
        for drawn in range(1, _DRAWS, at_once):
            draws = distribution.sample((min(at_once, _DRAWS - drawn),))
            total = total + draws.double().sum(0)
    return (total / _DRAWS).to(draws.dtype)


class FillWithMeans(Messenger):
    """Give each latent site that has no value yet the mean of its distribution."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["value"] is None and is_latent(msg):
            msg["value"] = self._mean(msg)
            msg["done"] = True

    def _mean(self, msg: dict[str, Any]) -> Tensor:
        return msg["fn"].mean


class ShowMeans(FillWithMeans):
    """The same for any distribution, as ``mean_of``: not for programs that are recorded."""

    def _mean(self, msg: dict[str, Any]) -> Tensor:
        return mean_of(msg["fn"], msg["name"])


def stand_in_data() -> contextlib.AbstractContextManager[None]:
    """Run models on data that stand for their shape alone: a likelihood's range goes unchecked."""
    # Distributions keep checking their parameters
    return validation_enabled(False)
