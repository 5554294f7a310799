"""What a ladder takes from the prior of a latent: the normal to merge with, or its parameters."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Independent, Normal, TransformedDistribution, biject_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import (
    AffineTransform,
    ComposeTransform,
    IndependentTransform,
)

from .places import Place

_SAME = {"scale_tril": {"covariance_matrix", "precision_matrix"}, "logits": {"probs"}}


def normal_of(prior: Any, place: Place) -> tuple[Tensor, Tensor] | None:
    """Vectors mu and sigma (..., n, size) of a prior that is normal in a latent's coordinates.

    None for another one.
    """
    inner = _plain(prior)
    if isinstance(inner, TransformedDistribution) and not place.is_real:
        if _parts(inner.transforms) != _parts([place.transform]):
            return None
        inner = _plain(inner.base_dist)
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
    inner = _plain(prior)
    while hasattr(inner, "base_dist"):
        inner = _plain(inner.base_dist)
    names = {*inner.arg_constraints}
    # Of several ways to tell the same the one that takes no inversion
    for kept, others in _SAME.items():
        names -= others if kept in names else set()
    found = [
        _rows(value, inner.arg_constraints[name], inner, prior, place)
        for name in sorted(names)
        if isinstance(value := getattr(inner, name), Tensor) and value.is_floating_point()
    ]
    if not found:
        raise ValueError(
            f"site {place.site!r}: expected a prior whose parameters a ladder can see, got a "
            f"{type(inner).__name__} without: use guides.BottomUp"
        )
    return torch.cat(found, -1)


def _rows(value: Tensor, constraint: Constraint, inner: Any, prior: Any, place: Place) -> Tensor:
    """One parameter (..., n, k)."""
    event = constraint.event_dim
    try:
        transform = biject_to(constraint)
        value, event = transform.inv(value), transform.domain.event_dim
    except NotImplementedError:
        pass
    # What was declared as event dimensions of the site are dimensions of the parameter, too
    value = value.expand(*inner.batch_shape, *value.shape[value.dim() - event :])
    at = len(prior.batch_shape) - place.rank
    value = value.movedim(at + place.data, at)
    return value.reshape(*value.shape[: at + 1], -1)


def _plain(distribution: Any) -> Any:
    """Without dimensions, expansions and masks that were put around it."""
    while isinstance(distribution, Independent | ExpandedDistribution | MaskedDistribution):
        distribution = distribution.base_dist
    return distribution


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
