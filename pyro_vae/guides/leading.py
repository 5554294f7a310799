"""Running a program whose latents are drawn from something else than their priors."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import MaskedDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, broadcast_shapes
from torch.distributions import Independent

from ..ground.internals import mask_of

# From a site, its prior and the latents drawn so far to the distribution that it is drawn from
Posterior = Callable[[str, Any, Mapping[str, Tensor]], Any]


class Drawn(BaseException):
    """All latents are drawn, so that nothing in the rest of a program matters.

    No error that a program would catch.
    """


class _FromPosteriors(Messenger):
    """Draws latents of a program from posteriors; ``values`` are those so far.

    Args:
        posterior: makes the distribution of a site.
        sites: these latents.
    """

    def __init__(self, posterior: Posterior, sites: Collection[str]) -> None:
        super().__init__()
        self.posterior, self.sites = posterior, sites
        self.values: dict[str, Tensor] = {}
        self._priors: dict[str, Any] = {}

    @abstractmethod
    def _keep(self, msg: dict[str, Any], prior: Any) -> None: ...

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if (site := msg["name"]) in self.sites and not msg["is_observed"]:
            self._priors[site] = prior = msg["fn"]
            posterior = self.posterior(site, prior, self.values)
            msg["fn"] = _as_wide(_hidden_as(posterior, prior, site), prior)

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        # Handlers outside may have observed it
        if (prior := self._priors.pop(msg["name"], None)) is not None:
            self.values[msg["name"]] = msg["value"]
            self._keep(msg, prior)


class Drawing(_FromPosteriors):
    """Makes of a program a guide, to all handlers outside.

    Args:
        posterior: makes the distribution of a site.
        sites: these latents.
        given: values of other latents.
    """

    def __init__(
        self, posterior: Posterior, sites: Collection[str], given: Mapping[str, Tensor]
    ) -> None:
        super().__init__(posterior, sites)
        self.given = given

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.given:
            msg["value"], msg["done"] = self.given[msg["name"]], True
        super()._pyro_sample(msg)

    def _keep(self, msg: dict[str, Any], prior: Any) -> None:
        if len(self.values) == len(self.sites):
            raise Drawn

    def run(self, program: Callable, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Run a program up to the last of the latents, which alone are seen from outside."""

        def hidden(msg: dict[str, Any]) -> bool:
            return msg["name"] not in self.sites and not site_is_subsample(msg)

        with contextlib.suppress(Drawn), poutine.block(hide_fn=hidden), self:
            program(*args, **kwargs)
        return self.values


class Leading(_FromPosteriors):
    """Draws the latents of a model from posteriors, and keeps both for ``Following``.

    Handlers inside see the model's own sites, before and after; those outside see the guide's
    while the value is drawn.

    Args:
        posterior: makes the distribution of a site.
        sites: these latents.
        n: number of data.
    """

    def __init__(self, posterior: Posterior, sites: Collection[str], n: int) -> None:
        super().__init__(posterior, sites)
        self.n = n
        self.drawn: dict[str, Any] = {}

    def _keep(self, msg: dict[str, Any], prior: Any) -> None:
        self.drawn[msg["name"]] = q = msg["fn"]
        msg["fn"] = _as_wide(prior, q)


class Following(Messenger):
    """Gives the sites of a guide the values that the model was led to."""

    def __init__(self, leading: Leading) -> None:
        super().__init__()
        self.values = leading.values

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True


def _hidden_as(one: Any, other: Any, site: str) -> Any:
    """A distribution with the masks that another has of its own."""
    if isinstance(other, MaskedDistribution):
        return _hidden_as(one, other.base_dist, site).mask(mask_of(other))
    if not isinstance(other, Independent):
        return one
    if isinstance(one, Independent):
        below = _hidden_as(one.base_dist, other.base_dist, site)
        return below.to_event(one.reinterpreted_batch_ndims)
    inner = other.base_dist
    if not isinstance(inner, MaskedDistribution):
        return _hidden_as(one, inner, site)
    # All numbers of a value are one draw here, which is hidden or not
    mask = torch.as_tensor(mask_of(inner)).expand(inner.batch_shape)
    mask = mask.flatten(-other.reinterpreted_batch_ndims)
    if (mask.any(-1) != mask.all(-1)).any():
        raise ValueError(
            f"site {site!r}: expected a mask that hides all numbers of a value or none of them, "
            f"got one that hides some of a {type(inner.base_dist).__name__}: draw each of them "
            "at a site or in a plate of its own"
        )
    return _hidden_as(one, inner.base_dist, site).mask(mask.all(-1))


def _as_wide(one: Any, other: Any) -> Any:
    """A distribution with the batch dimensions of another, which plates have expanded."""
    shape = broadcast_shapes(one.batch_shape, other.batch_shape)
    return one if one.batch_shape == shape else one.expand(shape)
