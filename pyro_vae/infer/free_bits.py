"""Sites under ``handlers.free_bits``: their KL counts only above a free amount."""

from __future__ import annotations

import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from .auxiliary import refuse_auxiliary
from .traces import is_point_mass, latent_sites, unscaled


def clamp_free_sites(model_trace: Trace, guide_trace: Trace, n: int) -> Tensor | None:
    """Replace the KL of every site below its free amount by that amount, as a constant.

    The site's scale becomes 0 in both traces, so that its log-probabilities leave the objective
    with a gradient of exactly 0; above its free amount nothing changes, bit for bit. To be called
    before the traces' log-probabilities are computed. Which side a site is on is decided by its
    KL averaged over the batch: the closed form where it is valid, else log q - log p at the draw.

    Args:
        model_trace: trace of the model replayed against the guide.
        guide_trace: trace of the guide.
        n: data in the batch.

    Returns:
        The sum over the data of beta times the free amount of the sites below it, a 0-d tensor to
        subtract from the objective; None where no site has a free amount.
    """
    constant = None
    for site in latent_sites(guide_trace):
        q, p = guide_trace.nodes[site], model_trace.nodes[site]
        free = max(q.get("free_bits", 0.0), p.get("free_bits", 0.0))
        if free == 0:
            continue
        refuse_auxiliary(guide_trace, "free_bits")
        with torch.no_grad():
            kl = _kl(site, model_trace, guide_trace).sum() / n
            counts = (kl > free).to(kl.dtype)
            amount = (1 - counts) * free * n * q["scale"]
        q["scale"], p["scale"] = q["scale"] * counts, p["scale"] * counts
        constant = amount if constant is None else constant + amount
    return constant


def _kl(site: str, model_trace: Trace, guide_trace: Trace) -> Tensor:
    q, p = guide_trace.nodes[site], model_trace.nodes[site]
    if not _prior_sampled_later(site, model_trace, guide_trace) and q["mask"] is None:
        try:
            if not is_point_mass(q["fn"]):
                return kl_divergence(q["fn"], p["fn"])
        except NotImplementedError:
            pass
    both = []
    for node in (q, p):
        log_prob = node["fn"].log_prob(node["value"])
        both.append(unscaled({"unscaled_log_prob": log_prob, "mask": node["mask"]}))
    return both[0] - both[1]


def _prior_sampled_later(site: str, model_trace: Trace, guide_trace: Trace) -> bool:
    """Whether the guide samples a possible parent of the site's prior after the site."""
    model_order, guide_order = latent_sites(model_trace), latent_sites(guide_trace)
    later = guide_order[guide_order.index(site) + 1 :]
    return any(parent in later for parent in model_order[: model_order.index(site)])
