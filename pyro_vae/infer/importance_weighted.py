"""The importance-weighted bound as an objective."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any, Literal
from weakref import WeakKeyDictionary

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from .elbo import ELBOTerms, TraceELBO
from .importance import (
    CANNOT_BROADCAST,
    can_broadcast,
    guide_trace,
    repeated,
    samples_plate,
)
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

    The guide encodes each datum once and draws k samples under an outer plate, where the model
    runs, too; a program that cannot broadcast runs on data repeated k times instead. Sites that
    cannot be reparametrised get the score function, weighted with the datum's bound.

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

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_vectorised"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _vectorised=WeakKeyDictionary())

    def prepare(
        self, model: Callable, guide: Callable, x: Tensor, y: Tensor | None = None
    ) -> None:
        """Find out, once per program, whether it can run on many samples of one datum."""
        if guide in self._vectorised and model in self._vectorised:
            return
        with measuring(model, guide, device=x.device), pyro.validation_enabled(False):
            x, y = x[:2], None if y is None else y[:2]
            self._vectorised[guide] = can_broadcast(guide, x, y)
            self._vectorised[model] = self._vectorised[guide] and _model_can(model, guide, x, y)

    def __call__(
        self, model: Callable, guide: Callable, x: Tensor, y: Tensor | None = None
    ) -> tuple[Tensor, ELBOTerms]:
        """Loss with the pair's scales inside the weights, and the ELBO's terms, detached."""
        if self.particles == 1:
            return super().__call__(model, guide, x, y)
        self.prepare(model, guide, x, y)
        k, n = self.particles, len(x)
        vectorised = self._vectorised[guide]
        q, q_shape = guide_trace(guide, x, y, k, vectorised=vectorised)
        p, p_shape = _model_trace(
            model, q, x, y, k, drawn=vectorised, vectorised=vectorised and self._vectorised[model]
        )
        check_sites(latent_sites(p), latent_sites(q))
        for trace in (p, q):
            trace.compute_log_prob()

        def in_p(site: str, log_prob: Tensor) -> Tensor:
            return per_datum(log_prob, p.nodes[site], p_shape).reshape(k, n)

        def in_q(site: str, log_prob: Tensor) -> Tensor:
            return per_datum(log_prob, q.nodes[site], q_shape).reshape(k, n)

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


def _model_trace(
    model: Callable,
    q: Trace,
    x: Tensor,
    y: Tensor | None,
    k: int,
    *,
    drawn: bool,
    vectorised: bool,
) -> tuple[Trace, tuple[int, ...]]:
    """The model's trace at the latents of ``q``, and the shape of its log-probabilities.

    Args:
        model: generative program.
        q: trace of the guide with ``k`` samples per datum.
        x: (n, *event_shape).
        y: (n,) labels for a conditional pair.
        k: samples per datum.
        drawn: whether the latents in ``q`` are (k, n, ...), else (k * n, ...).
        vectorised: run the model under the plate of samples, else on a row per sample.
    """
    if vectorised:
        with samples_plate(k):
            replayed = poutine.replay(model, trace=q)
            return poutine.trace(replayed).get_trace(x, **label_arguments(model, y)), (k, len(x))
    rows = Trace()
    for site in latent_sites(q):
        value = q.nodes[site]["value"]
        rows.add_node(site, **{**q.nodes[site], "value": value.flatten(0, 1) if drawn else value})
    x, y = repeated(x, y, k)
    replayed = poutine.replay(model, trace=rows)
    return poutine.trace(replayed).get_trace(x, **label_arguments(model, y)), (len(x),)


def _model_can(model: Callable, guide: Callable, x: Tensor, y: Tensor | None) -> bool:
    """Whether the model gives the same densities under the plate as on a row per sample."""
    k, densities = 3, []
    q, _ = guide_trace(guide, x, y, k, vectorised=True)
    for vectorised in (True, False):
        try:
            p, shape = _model_trace(model, q, x, y, k, drawn=True, vectorised=vectorised)
            p.compute_log_prob()
            sites = (*observed_sites(p), *latent_sites(p))
            log_p = sum(per_datum(p.nodes[s]["log_prob"], p.nodes[s], shape) for s in sites)
        except CANNOT_BROADCAST:
            return False
        densities.append(log_p.flatten())
    return torch.allclose(*densities, rtol=1e-3, atol=1e-3)
