"""Latents as any real numbers: coordinates in which no step leaves the support of a site."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Transform, biject_to

from .labels import checked_labels
from .means import ShowMeans, stand_in_data
from .running import traced, undisturbed
from .sites import is_latent, kinds


def transform_of(distribution: Any) -> Transform | None:
    """From real numbers to the support of a distribution; None for categories and the like.

    That is the identity for a real support, exp for a positive one, a sigmoid for an interval,
    stick breaking for a simplex, whose coordinates are one fewer than its values.
    """
    try:
        support = distribution.support
        while hasattr(support, "base_constraint"):
            support = support.base_constraint
        return biject_to(support)
    except NotImplementedError:
        return None


def coordinates(distribution: Any, z: Tensor) -> Tensor:
    """Unconstrained coordinates of a value; itself, the same object, where it needs none."""
    transform = transform_of(distribution)
    return z if transform is None else transform.inv(z)


def unconstrained(
    model: Callable, z: Mapping[str, Tensor], x: Tensor, y: Tensor | None, *, moved: str = ""
) -> dict[str, Tensor]:
    """Unconstrained coordinates of all latents of a model, in its sampling order.

    They are those of the values ``z``, site -> (n, *latent shape), or of one draw where there is
    none, in the supports that the sites have for n data x and labels y. What has no coordinates,
    such as a category, stays as it is; a ``ValueError`` where that is the site ``moved``.
    """
    y = checked_labels(model, y, len(x), x.device)
    with undisturbed(model, device=x.device), stand_in_data():
        trace = traced(poutine.condition(model, data=dict(z)), x, y)
    moving = {*z, *kinds(trace).latent} - {*kinds(trace).enumerated}
    found = {s: node for s, node in trace.nodes.items() if s in moving}
    if moved in found and transform_of(found[moved]["fn"]) is None:
        raise ValueError(
            f"site {moved!r}: expected one with continuous values to move along, got a "
            f"{type(found[moved]['fn']).__name__}: choose values of it yourself, and show "
            f"infer.decode(model, {{{moved!r}: z}}, x=x)"
        )
    return {s: coordinates(node["fn"], node["value"]) for s, node in found.items()}


def constrained(
    model: Callable, u: Mapping[str, Tensor], x: Tensor, y: Tensor | None
) -> dict[str, Tensor]:
    """The latents at unconstrained coordinates ``u``, in the supports that their sites have.

    Both are site -> (n, ...); x and y are n data and labels.
    """
    placing = Placing(u)
    with undisturbed(model, device=x.device), stand_in_data(), ShowMeans(), placing:
        traced(model, x, y)
    return placing.values


class Placing(Messenger):
    """Give latent sites the values at some coordinates."""

    def __init__(self, u: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.u, self.values = u, dict(u)

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        site = msg["name"]
        if site in self.u and is_latent(msg):
            u, transform = self.u[site], transform_of(msg["fn"])
            self.values[site] = msg["value"] = u if transform is None else transform(u)
            msg["done"] = True
