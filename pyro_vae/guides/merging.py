"""What a ladder takes from the prior of a latent: the normal to merge with, or its parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal, TransformedDistribution, transform_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import (
    AffineTransform,
    ComposeTransform,
    IndependentTransform,
)

from ..distributions import AROUND, plain
from .places import Place

# Of several ways to tell the same the one that takes no inversion
_SAME = {"scale_tril": {"covariance_matrix", "precision_matrix"}, "logits": {"probs"}}


def normal_of(prior: Any, place: Place) -> tuple[Tensor, Tensor] | None:
    """Vectors mu and sigma (..., n, size) of a prior that is normal in a latent's coordinates.

    None for another one.
    """
    inner = plain(prior)
    if isinstance(inner, TransformedDistribution) and not place.is_real:
        if _parts(inner.transforms) != _parts([place.transform]):
            return None
        inner = plain(inner.base_dist)
    elif not place.is_real:
        return None
    if not isinstance(inner, Normal):
        return None
    shape = (*prior.batch_shape, *place.coordinates)
    return place.joined(inner.loc.expand(shape)), place.joined_scale(inner.scale.expand(shape))


def parameters_of(prior: Any, place: Place) -> Tensor:
    """Parameters of a prior in unconstrained coordinates, joined for each datum (..., n, k).

    Raises ``ValueError`` for a distribution that tells of none.
    """
    found = [_rows(value, inside, prior.batch_shape, place) for value, inside in _told(prior)]
    if not found:
        raise ValueError(
            f"site {place.site!r}: expected a prior whose parameters a ladder can see, got a "
            f"{type(plain(prior)).__name__} without: use guides.BottomUp"
        )
    return torch.cat(found, -1)


def _told(distribution: Any, inside: int = 0) -> list[tuple[Tensor, int]]:
    """Parameters, and how many of the dimensions of each are not of the batch.

    Those of the distribution, else of what it transforms and of the transforms.
    """
    while isinstance(distribution, AROUND):
        inside += getattr(distribution, "reinterpreted_batch_ndims", 0)
        distribution = distribution.base_dist
    names = {*distribution.arg_constraints}
    for kept, others in _SAME.items():
        names -= others if kept in names else set()
    found = []
    for name in sorted(names):
        value = getattr(distribution, name)
        if isinstance(value, Tensor) and value.is_floating_point():
            value, event = _free(value, distribution.arg_constraints[name])
            found.append((value, inside + event))
    if not found and isinstance(distribution, TransformedDistribution):
        found = _told(distribution.base_dist, inside)
        inside += distribution.event_dim
        for part in _parts(distribution.transforms):
            found += [
                (value, inside) for value in vars(part).values() if isinstance(value, Tensor)
            ]
    return found


def _free(value: Tensor, constraint: Constraint) -> tuple[Tensor, int]:
    """A parameter in coordinates without limits, and its event dimensions there."""
    try:
        transform = transform_to(constraint)
    except NotImplementedError:
        # Limits that depend on other parameters, those of numbers
        return value, 0
    return transform.inv(value), transform.domain.event_dim


def _rows(value: Tensor, inside: int, batch_shape: torch.Size, place: Place) -> Tensor:
    """One parameter (..., n, k)."""
    value = value.reshape(*(1,) * (inside - value.dim()), *value.shape)
    value = value.expand(*batch_shape, *value.shape[value.dim() - inside :])
    at = len(batch_shape) - place.rank
    value = value.movedim(at + place.data, at)
    return value.reshape(*value.shape[: at + 1], -1)


def _parts(transforms: Any) -> list[Any]:
    """The transforms that do something, one after the other."""
    found: list[Any] = []
    for transform in transforms:
        if isinstance(transform, IndependentTransform):
            found += _parts([transform.base_transform])
        elif isinstance(transform, ComposeTransform):
            found += _parts(transform.parts)
        elif transform != AffineTransform(0, 1):
            found.append(transform)
    return found
