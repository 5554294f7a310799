"""The KL of a latent site in closed form: where it exists, and where it is right."""

from __future__ import annotations

import math

import torch
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from ...programs.sites import is_masked, is_point_mass, kinds


def closed_form(site: str, model_trace: Trace, guide_trace: Trace) -> Tensor:
    """KL(q(z_i|x) || p(z_i|parents)) of a site, of its batch shape.

    ``NotImplementedError`` says why there is none.
    """
    q, p = guide_trace.nodes[site], model_trace.nodes[site]
    if is_masked(q) or is_masked(p):
        raise NotImplementedError("elbo='analytic' knows no masks")
    try:
        # Pyro calls -log p(z) the KL of a point mass
        if is_point_mass(q["fn"]):
            raise NotImplementedError
        return kl_divergence(q["fn"], p["fn"])
    except NotImplementedError:
        raise NotImplementedError(
            f"there is no closed-form KL between {type(q['fn']).__name__} and "
            f"{type(p['fn']).__name__}"
        ) from None


def sampled_later(site: str, model_trace: Trace, guide_trace: Trace) -> list[str]:
    """Possible parents of a site's prior that the guide samples after the site.

    The prior then depends on draws that come later, and the closed form is wrong.
    """
    model_order, guide_order = kinds(model_trace).latent, kinds(guide_trace).latent
    later = guide_order[guide_order.index(site) + 1 :]
    return [parent for parent in model_order[: model_order.index(site)] if parent in later]


def check_order(model_trace: Trace, guide_trace: Trace, by: str = "elbo='analytic'") -> None:
    """Raise ``ValueError`` where the closed form of a site, which ``by`` takes, is wrong."""
    order = kinds(model_trace).latent
    for site in order:
        if parents := sampled_later(site, model_trace, guide_trace):
            raise ValueError(
                f"site {site!r}: {by} is wrong here, because the guide samples {parents[0]!r}, "
                f"which the prior of {site!r} may depend on, after {site!r}: "
                "use elbo='trace', or a guide that samples in the model's order "
                f"{tuple(order)}"
            )


def check_scales(site: str, model_trace: Trace, guide_trace: Trace) -> None:
    """Raise ``ValueError`` unless model and guide scale a site alike."""
    p, q = (trace.nodes[site]["scale"] for trace in (model_trace, guide_trace))
    # As Pyro does: what has to look at a tensor is checked with the first step only
    if isinstance(p, Tensor) or isinstance(q, Tensor):
        equal = not is_validation_enabled() or bool((torch.as_tensor(p) == q).all())
    else:
        equal = math.isclose(p, q)
    if not equal:
        raise ValueError(
            f"site {site!r}: elbo='analytic' needs one scale for model and guide, got {p} and "
            f"{q}: scale both alike, or use elbo='trace'"
        )
