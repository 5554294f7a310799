"""Another distribution at the top latent site of a generative program while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.poutine.messenger import Messenger

from ..distributions import as_pyro
from .sites import is_latent


def check_prior(prior: Any) -> None:
    """Raise for what cannot be a prior, and for one that is yet to be fitted."""
    if not callable(prior):
        raise TypeError(
            f"prior: expected a module that returns a distribution, got {prior!r}: pass one of "
            "priors, such as priors.AggregatePosterior().fit(model, guide, data)"
        )
    if check_fitted := getattr(prior, "check_fitted", None):
        check_fitted()


class ReplacedPrior(Messenger):
    """Give one latent site the distribution ``prior()`` in place of the program's own.

    Without a ``site`` it is the first latent that the program samples. A prior that has ``sites``
    and ``at(site, context)`` stands for all of these, each given the context that the program
    tells in the ``infer`` of the site. Raises ``ValueError``, when run, for a prior of another
    event shape, or a site that never came.
    """

    def __init__(self, prior: Callable, site: str | None = None) -> None:
        super().__init__()
        self.prior, self.site = prior, site
        self.found: str | None = None

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        name, at = msg["name"], getattr(self.prior, "at", None)
        if at is not None and is_latent(msg) and name in getattr(self.prior, "sites", ()):
            prior = as_pyro(at(name, msg["infer"].get("context", ())), name)
        elif self.found or (name != self.site if self.site else not is_latent(msg)):
            return
        else:
            prior = as_pyro(self.prior(), name)
        self.found, own = name, msg["fn"]
        if prior.event_shape != own.event_shape:
            raise ValueError(
                f"site {name!r}: expected a prior of event shape {tuple(own.event_shape)}, "
                f"got {tuple(prior.event_shape)}: build or fit the prior for this model"
            )
        # The plates of the program have expanded its own distribution already
        msg["fn"] = prior.expand(own.batch_shape)

    def __exit__(self, *error: Any) -> None:
        """Raise ``ValueError`` if the program has no such site."""
        super().__exit__(*error)
        if self.found is None and error[0] is None:
            site = "latent site" if self.site is None else f"latent site {self.site!r}"
            raise ValueError(f"prior: the program has no {site} whose prior could be replaced")
