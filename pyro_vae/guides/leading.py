"""Running a program whose latents are drawn from something else than their priors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

# From a site and its prior to the distribution that it is drawn from
Posterior = Callable[[str, Any], Any]


class Drawn(Exception):
    """All latents are drawn, so that nothing in the rest of a program matters."""


class Drawing(Messenger):
    """Draws latents of a program from posteriors, in what is a guide to all handlers outside.

    Args:
        posterior: makes the distribution of a site.
        sites: these latents.
        given: values of other latents.
    """

    def __init__(
        self, posterior: Posterior, sites: Collection[str], given: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self.posterior, self.sites, self.given = posterior, sites, given
        self.values: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        site = msg["name"]
        if site in self.given:
            msg["value"], msg["done"] = self.given[site], True
        elif site in self.sites and not msg["is_observed"]:
            msg["fn"] = _as_wide(self.posterior(site, msg["fn"]), msg["fn"])

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        site = msg["name"]
        if site in self.sites and not msg["is_observed"]:
            self.values[site] = msg["value"]
            if len(self.values) == len(self.sites):
                raise Drawn

    def run(self, program: Callable, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Run a program up to the last of the latents, which alone are seen from outside."""

        def hidden(msg: dict[str, Any]) -> bool:
            return msg["name"] not in self.sites and not site_is_subsample(msg)

        with contextlib.suppress(Drawn), poutine.block(hide_fn=hidden), self:
            program(*args, **kwargs)
        return self.values


class Leading(Messenger):
    """Gives the latents of a model draws from posteriors, and keeps both for the guide.

    Args:
        posterior: makes the distribution of a site.
        sites: these latents.
    """

    def __init__(self, posterior: Posterior, sites: Collection[str]) -> None:
        super().__init__()
        self.posterior, self.sites = posterior, sites
        self.drawn: dict[str, tuple[Any, Tensor]] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        site = msg["name"]
        if site in self.sites and not msg["is_observed"] and msg["value"] is None:
            q = _as_wide(self.posterior(site, msg["fn"]), msg["fn"])
            msg["value"], msg["done"] = q(), True
            self.drawn[site] = q, msg["value"]


class Following(Messenger):
    """Gives the sites of a guide the values that the model was led to."""

    def __init__(self, leading: Leading) -> None:
        super().__init__()
        self.drawn = leading.drawn

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.drawn:
            msg["value"], msg["done"] = self.drawn[msg["name"]][1], True


def _as_wide(q: Any, prior: Any) -> Any:
    """With the batch shape of a prior that plates have expanded."""
    return q if q.batch_shape == prior.batch_shape else q.expand(prior.batch_shape)
