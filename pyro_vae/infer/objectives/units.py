"""The KL of a latent site unit by unit, where both of its densities are products over units."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import (
    Independent,
    IndependentTransform,
    OneHotCategorical,
    Transform,
    TransformedDistribution,
    kl_divergence,
)

from ...distributions import AROUND, plain
from ...ground.internals import mask_of
from ...programs.reading import Contributions
from ...programs.sites import auxiliary_sites, is_point_mass, kinds

OfUnits = Callable[[str, Contributions, Contributions], tuple[Tensor, int]]


class PerUnit(dict[str, Tensor]):
    """Latent site -> KL of each of its units, (n, *plates inside a datum, *units), in nats.

    Their sum over units is the site's term. A unit is what both densities of the site are a
    product over: an element of a normal with independent ones, a code of a grid of codes. A site
    whose units have one density together has no KL per unit, and asking for it tells why.

    Attributes:
        without: such a site -> why.
    """

    without: Mapping[str, str] = MappingProxyType({})

    @classmethod
    def of(cls, found: Mapping[str, Tensor], without: Mapping[str, str]) -> PerUnit:
        """Those of some sites, and why others have none."""
        units = cls(found)
        units.without = without
        return units

    def __missing__(self, site: str) -> NoReturn:
        """Say why a site has no KL per unit."""
        if site in self.without:
            raise KeyError(
                f"site {site!r}: {self.without[site]}, so that no unit has a KL of its own: "
                f"read kl[{site!r}], that of all together"
            )
        if not (self or self.without):
            raise KeyError(f"site {site!r}: expected terms per unit: pass per_unit=True")
        raise KeyError(f"expected one of {(*self, *self.without)}, got {site!r}")


def kl_per_unit(
    p: Contributions, q: Contributions, of_units: OfUnits, *, tied: Collection[str] = ()
) -> PerUnit:
    """The KL of each latent's units, found by ``at_draw`` or ``in_closed_form``.

    ``p`` is of the trace of the model replayed against the guide, ``q`` of that of the guide;
    ``tied`` are latents that depend on some that are summed out.
    """
    found: dict[str, Tensor] = {}
    without: dict[str, str] = {}
    hidden = {site: aux for aux, site in auxiliary_sites(q.trace).items()}
    for site in kinds(q.trace).latent:
        in_q, in_p = (side.trace.nodes[site]["fn"] for side in (q, p))
        if site in tied:
            without[site] = "its densities are sums over the values of a discrete latent"
        elif site in hidden or (hidden and is_point_mass(in_q)):
            aux = hidden.get(site, next(iter(hidden.values())))
            without[site] = f"the guide draws it by way of {aux!r}"
        elif is_point_mass(in_q):
            without[site] = "the guide is a point mass, which has no density"
        else:
            kl, depth = of_units(site, p, q)
            if why := _tied(in_q, in_p, depth, math.prod(kl.shape[1:])):
                without[site] = why
            else:
                found[site] = kl
    return PerUnit.of(found, without)


def joined_units(parts: Sequence[tuple[PerUnit, int]]) -> PerUnit:
    """Those of all data by those of batches of so many; 0 for a site that a batch does not have.

    A site of other units in one batch than in another, as for sequences, has none.
    """
    found: dict[str, Tensor] = {}
    without = {s: why for part, _ in parts for s, why in part.without.items()}
    for site in dict.fromkeys(site for part, _ in parts for site in part):
        shape, *others = {part[site].shape[1:] for part, _ in parts if site in part}
        if others:
            without[site] = "batches have it in several shapes"
        elif site not in without:
            like = next(part[site] for part, _ in parts if site in part)
            found[site] = torch.cat(
                [part[site] if site in part else like.new_zeros(n, *shape) for part, n in parts]
            )
    return PerUnit.of(found, without)


def at_draw(site: str, p: Contributions, q: Contributions) -> tuple[Tensor, int]:
    """Log q - log p of each unit, and how many dimensions of units there are."""
    nodes = [side.trace.nodes[site] for side in (q, p)]
    depth = min(_depth(node["fn"]) for node in nodes)
    parts = []
    for side, node in zip((q, p), nodes, strict=True):
        value = log_prob_per_unit(node["fn"], node["value"])
        if (deeper := _depth(node["fn"]) - depth) > 0:
            value = value.flatten(-deeper).sum(-1)
        value = scale_and_mask(value, 1.0, _widened(node["mask"], depth))
        parts.append(side.units(site, value, depth))
    return parts[0] - parts[1], depth


def in_closed_form(site: str, p: Contributions, q: Contributions) -> tuple[Tensor, int]:
    """The same as ``closed_form``, which has to be right here, of each unit."""
    pairs = [_undeclared(side.trace.nodes[site]["fn"]) for side in (q, p)]
    depth = min(k for _, k in pairs)
    bases = [Independent(base, k - depth) if k > depth else base for base, k in pairs]
    return q.units(site, kl_divergence(*bases), depth), depth


def _undeclared(distribution: Any) -> tuple[Any, int]:
    """A distribution before dimensions were declared as one event, and how many these are."""
    depth = 0
    while isinstance(distribution, Independent):
        depth += distribution.reinterpreted_batch_ndims
        distribution = distribution.base_dist
    return distribution, depth


def log_prob_per_unit(distribution: Any, value: Tensor) -> Tensor:
    """The log-density before it is summed over units, of the batch shape and those of units."""
    if isinstance(distribution, AROUND):
        found = log_prob_per_unit(distribution.base_dist, value)
        if isinstance(distribution, MaskedDistribution):
            mask = _widened(mask_of(distribution), _depth(distribution.base_dist))
            found = scale_and_mask(found, 1.0, mask)
        return found
    if not _is_elementwise(distribution):
        return distribution.log_prob(value)
    slopes: Tensor | float = 0.0
    for transform in reversed(distribution.transforms):
        before = transform.inv(value)
        slopes = slopes + _each(transform).log_abs_det_jacobian(before, value)
        value = before
    return log_prob_per_unit(distribution.base_dist, value) - slopes


def _depth(distribution: Any) -> int:
    """How many dimensions of units ``log_prob_per_unit`` has."""
    if isinstance(distribution, AROUND) or _is_elementwise(distribution):
        own = getattr(distribution, "reinterpreted_batch_ndims", 0)
        return own + _depth(distribution.base_dist)
    return 0


def _is_elementwise(distribution: Any) -> bool:
    """Whether it is of transforms, each of one element, of a distribution over several."""
    return (
        # Others, such as a half-normal, have more in their density than transforms
        getattr(type(distribution), "log_prob", None) is TransformedDistribution.log_prob
        and len(distribution.event_shape) > 0
        and all(
            each.domain.event_dim == 0 == each.codomain.event_dim
            for each in map(_each, distribution.transforms)
        )
    )


def _each(transform: Transform) -> Transform:
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return transform


def _widened(mask: Any, depth: int) -> Any:
    """A mask of a batch shape for what has ``depth`` more dimensions."""
    return mask.reshape(*mask.shape, *(1,) * depth) if isinstance(mask, torch.Tensor) else mask


def _tied(in_q: Any, in_p: Any, depth: int, parts: int) -> str | None:
    """What keeps units together, where the KL was found in so many parts; None where nothing."""
    # What is a product over fewer of them is to blame
    for role, density in sorted((("guide", in_q), ("model", in_p)), key=lambda r: _depth(r[1])):
        inner, block = plain(density), density.event_shape[depth:]
        if isinstance(inner, OneHotCategorical):
            block = block[:-1]
        joint = getattr(inner, "is_joint", False)
        if joint or (parts == 1 and math.prod(block) > 1):
            name = type(getattr(inner, "base", inner) if joint else inner).__name__
            return f"the {role} has one density for all of its units, a {name}"
    return None
