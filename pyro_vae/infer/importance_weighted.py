"""The importance-weighted bound as an objective."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Literal
from weakref import WeakKeyDictionary

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from .elbo import ELBOTerms, TraceELBO
from .importance import can_broadcast, guide_trace, repeated
from .traces import (
    check_sites,
    label_arguments,
    latent_sites,
    measuring,
    observed_sites,
    per_datum,
    unscaled,
)


class ImportanceWeightedELBO(TraceELBO):
    """A tighter bound from ``particles`` samples z_1..z_k of q(z|x) per datum.

    log p(x) >= E[log 1/k sum_j w_j], log w_j = log p(x|z_j) + sum_i beta_i (log p_i - log q_i),
    with p_i and q_i the densities of the i-th latent site. Beta (and any ``poutine.scale``) thus
    sits inside the log-weights; at beta = 1 they are log p(x, z_j) - log q(z_j|x). One particle
    is ``TraceELBO`` to the last bit; the bound rises with k to log p(x).

    The terms that it returns beside the loss are those of the ELBO, without beta, averaged over
    the particles: ``elbo`` is a k-sample estimate of E_q[log p(x|z)] - sum_i KL_i. In a trainer's
    history only ``objective`` is the importance-weighted bound.

    The guide encodes each datum once and draws k samples under an outer plate; one that cannot
    broadcast runs on data repeated k times instead. Sites that cannot be reparametrised get the
    score function, weighted with the datum's bound.

    Sources: "Importance Weighted Autoencoders", Burda, Grosse, Salakhutdinov (2016); "Ladder
    Variational Autoencoders", Sonderby et al. (2016) for beta and for fine-tuning with 10.

    Args:
        particles: samples per datum, k.
        reduction: "sum" over the data, as Pyro does, or "mean": nats per datum.

    Raises:
        ValueError: fewer than one particle; when called, a guide that is a point mass.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> loss, terms = ImportanceWeightedELBO(10)(vae, guides.BottomUp(vae), torch.zeros(5, 6))
        >>> bool(-loss > terms.elbo.sum())
        True
    """

    def __init__(self, particles: int, reduction: Literal["sum", "mean"] = "sum") -> None:
        """Check the number of particles."""
        super().__init__(reduction)
        if not isinstance(particles, Integral) or isinstance(particles, bool) or particles < 1:
            raise ValueError(
                f"particles: expected a whole number of at least 1, got {particles!r}: pass the "
                "samples per datum, such as 10"
            )
        self.particles = int(particles)
        self._vectorised: WeakKeyDictionary[Callable, bool] = WeakKeyDictionary()

    def prepare(
        self, model: Callable, guide: Callable, x: Tensor, y: Tensor | None = None
    ) -> None:
        """Find out, once, whether the guide can draw many samples from one encoding."""
        if guide not in self._vectorised:
            with measuring(guide, device=x.device), pyro.validation_enabled(False):
                self._vectorised[guide] = can_broadcast(guide, x, y)

    def __call__(
        self, model: Callable, guide: Callable, x: Tensor, y: Tensor | None = None
    ) -> tuple[Tensor, ELBOTerms]:
        """Loss with the pair's scales inside the weights, and the ELBO's terms, detached."""
        if self.particles == 1:
            return super().__call__(model, guide, x, y)
        self.prepare(model, guide, x, y)
        k, n = self.particles, len(x)
        q, shape = guide_trace(guide, x, y, k, vectorised=self._vectorised[guide])
        p = self._replayed(model, q, len(shape), *repeated(x, y, k))
        check_sites(latent_sites(p), latent_sites(q))
        for trace in (p, q):
            trace.compute_log_prob()

        def in_p(site: str, log_prob: Tensor) -> Tensor:
            return per_datum(log_prob, p.nodes[site], (k * n,)).reshape(k, n)

        def in_q(site: str, log_prob: Tensor) -> Tensor:
            return per_datum(log_prob, q.nodes[site], shape).reshape(k, n)

        log_w = sum(
            in_p(s, p.nodes[s]["log_prob"]) for s in (*observed_sites(p), *latent_sites(p))
        ) - sum(in_q(s, q.nodes[s]["log_prob"]) for s in (*latent_sites(q), *observed_sites(q)))
        bound = log_w.logsumexp(0) - math.log(k)
        for site in latent_sites(q):
            if not q.nodes[site]["fn"].has_rsample:
                score = in_q(site, unscaled(q.nodes[site])).sum(0)
                bound = bound + bound.detach() * (score - score.detach())
        loss = -bound.sum()
        with torch.no_grad():
            reconstruction = sum(in_p(s, unscaled(p.nodes[s])) for s in observed_sites(p))
            kl = {
                s: in_q(s, unscaled(q.nodes[s])) - in_p(s, unscaled(p.nodes[s]))
                for s in latent_sites(q)
            }
            terms = ELBOTerms(reconstruction.mean(0), {s: v.mean(0) for s, v in kl.items()})
        return (loss / n if self.reduction == "mean" else loss), terms

    @staticmethod
    def _replayed(
        model: Callable, q: Trace, dimensions: int, x: Tensor, y: Tensor | None
    ) -> Trace:
        """The model's trace on one row per particle and datum, which any model can run on."""
        rows = Trace()
        for site in latent_sites(q):
            value = q.nodes[site]["value"]
            value = value.flatten(0, 1) if dimensions == 2 else value
            rows.add_node(site, **{**q.nodes[site], "value": value})
        replayed = poutine.replay(model, trace=rows)
        return poutine.trace(replayed).get_trace(x, **label_arguments(model, y))
