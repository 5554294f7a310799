"""Sites under ``handlers.free_bits``: their KL counts only above a free amount."""

from __future__ import annotations

import contextlib

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ...programs.reading import Contributions
from ...programs.sites import kinds, refuse_auxiliary
from .kl import closed_form, sampled_later


def clamp_free_sites(p: Contributions, q: Contributions, n: int) -> Tensor | None:
    """Replace the KL of every site below its free amount by that amount, as a constant.

    The site's scale becomes 0 in both traces, so that its log-probabilities leave the objective
    with a gradient of exactly 0; above its free amount nothing changes, bit for bit. To be called
    before the traces' log-probabilities are computed. Which side a site is on is decided by its
    KL averaged over the batch: the closed form where it is valid, else log q - log p at the draw.

    ``p`` is of the trace of the model replayed against the guide, ``q`` of that of the guide; with
    k samples per datum the KL is averaged over them, too. The result is the sum over the ``n``
    data of beta times the free amount of the sites below it, a 0-d tensor to subtract from the
    objective; None where no site has a free amount.
    """
    constant = None
    for site in kinds(q.trace).latent:
        if site not in p.trace.nodes:
            continue
        in_q, in_p = q.trace.nodes[site], p.trace.nodes[site]
        free = max(in_q.get("free_bits", 0.0), in_p.get("free_bits", 0.0))
        if free == 0:
            continue
        refuse_auxiliary(q.trace, "free_bits")
        in_q["free_bits"] = free
        with torch.no_grad():
            kl = _mean_kl(site, p, q)
            counts = (kl > free).to(kl.dtype)
            # The scale of what is in the data plate tells how often the program counts the data
            data = p.plate.objective if site in q.outside else n
            amount = (1 - counts) * free * data * _per_datum_scale(in_q["scale"]) / q.inside(site)
        in_q["scale"], in_p["scale"] = in_q["scale"] * counts, in_p["scale"] * counts
        constant = amount if constant is None else constant + amount
    return constant


def _per_datum_scale(scale: Tensor | float) -> Tensor | float:
    return scale.mean() if isinstance(scale, Tensor) and scale.dim() else scale


def _mean_kl(site: str, p: Contributions, q: Contributions) -> Tensor:
    """The KL in nats per datum, averaged over the batch."""
    in_q, in_p = q.trace.nodes[site], p.trace.nodes[site]
    if q.shape == p.shape and not sampled_later(site, p.trace, q.trace):
        with contextlib.suppress(NotImplementedError):
            return q.sum(site, closed_form(site, p.trace, q.trace)).mean()
    # The trace's own log-probabilities come later, with the scale that is settled here
    log_q, log_p = (
        side.sum(
            site, scale_and_mask(node["fn"].log_prob(node["value"]), 1.0, node["mask"])
        ).mean()
        for side, node in ((q, in_q), (p, in_p))
    )
    return log_q - log_p
