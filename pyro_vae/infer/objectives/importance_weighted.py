"""The importance-weighted bound as an objective."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal
from weakref import WeakKeyDictionary

import pyro
import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from torch import Tensor

from ...data.arguments import Data
from ...ground.arguments import whole
from ...programs.autoguides import check_batch, few
from ...programs.broadcasting import check_shapes, warn_enumerated
from ...programs.checks import PairSummary, compared
from ...programs.enumeration import Enumerated, Sums, sums_of
from ...programs.reading import Contributions, check_rows, contributions
from ...programs.running import measuring, shown_to, trace_pair, traced, traced_as_led
from ...programs.sites import (
    check_latents,
    check_observed,
    compute_log_probs,
    is_penalty,
    kinds,
    without_rsample,
)
from ..densities import CANNOT_BROADCAST, can_broadcast, guide_trace, repeated, samples_plate
from . import pathwise
from .elbo import ELBOTerms, TraceELBO
from .enumerated import refuse, scaled, terms_of
from .free_bits import clamp_free_sites


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
    cannot be reparametrised get the score function, weighted with the datum's bound. A data plate
    that is subsampled multiplies the bound by N/n, outside the logarithm. Under
    ``handlers.free_bits`` a site below its free amount leaves the weights, and beta times that
    amount is taken off the bound; a penalty of ``handlers.regularize`` is taken off, averaged over
    the particles.

    Discrete latents that are marked ``infer={"enumerate": "parallel"}`` and that the guide lacks
    are summed out, as by ``TraceEnumELBO``: w_j = sum_k p(x, z_j, k) / q(z_j|x).

    With s_j = w_j / sum w and reparametrised draws z_j(phi), the guide's parameters phi get

        sum_j s_j (d log w_j/dz_j dz_j/dphi - sum_i beta_i d/dphi log q_i at a fixed z_j).

    The noise of the second term, the score, hides the first as k grows. s_j is a function of z_j,
    so that the score can be reparametrised again: ``gradient="doubly-reparametrised"`` is

        sum_j sum_i s_j (1 - beta_i (1 - s_j)) D_ij dz_ij/dphi,

    of the same expectation, with s_j^2 at beta = 1. D_ij is the derivative of log w_j with respect
    to the i-th draw by way of those that follow at fixed noise, and dz_ij/dphi holds those before,
    which serves any hierarchy. The model's parameters theta get sum_j s_j d/dtheta log p(x, z_j)
    at a fixed z_j; one that both share, as under ``guides.Ladder``, gets the sum of both. "path"
    leaves the score out: less noise, but for k > 1 another expectation, as s_j depends on z_j.
    With one particle both are that of ``TraceELBO``. BatchNorm in training mode after a draw makes
    weights depend on the draws of others, which "doubly-reparametrised" leaves out. The loss is
    the same, bit for bit, under each.

    Sources: "Importance Weighted Autoencoders", Burda, Grosse, Salakhutdinov (2016); "Ladder
    Variational Autoencoders", Sonderby et al. (2016) for beta and for fine-tuning with 10;
    "Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives", Tucker, Lawson, Gu,
    Maddison (2018), and "Generalized Doubly Reparameterized Gradient Estimators", Bauer, Mnih
    (2021) for hierarchies; "Sticking the Landing", Roeder, Wu, Duvenaud (2017) for the path.

    Attributes:
        vectorised: of each program that it has run, whether it runs under the outer plate.

    Args:
        particles: samples per datum, k.
        reduction: "sum" over the data, as Pyro does, or "mean": nats per datum.
        gradient: "total", "doubly-reparametrised" or "path".

    Raises:
        ValueError: fewer than one particle, another gradient; when called, what ``TraceELBO``
            refuses under its gradient; when called, a guide that is a point mass, a plate
            inside a datum that is subsampled, a site outside the data plate.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> loss, terms = ImportanceWeightedELBO(10)(vae, guides.BottomUp(vae), torch.zeros(5, 6))
        >>> bool(-loss > terms.elbo.sum())
        True
    """

    gradients = (*TraceELBO.gradients, "doubly-reparametrised")
    of_units = None

    def __init__(
        self,
        particles: int,
        reduction: Literal["sum", "mean"] = "sum",
        gradient: Literal["total", "path", "doubly-reparametrised"] = "total",
    ) -> None:
        """Check the number of particles, and the name of the gradient."""
        super().__init__(reduction, gradient)
        advice = "pass the samples per datum, such as 10"
        self.particles = whole("particles", particles, advice=advice)
        self._forget()

    def _forget(self) -> None:
        self.vectorised: WeakKeyDictionary[Callable, bool] = WeakKeyDictionary()
        # Of a model, what is marked in it
        self._marked: WeakKeyDictionary[Callable, Sums | None] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("vectorised", "_marked")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def examine(
        self, model: Callable, guide: Callable, x: Data, y: Tensor | None = None
    ) -> PairSummary:
        """As ``check_pair``, with marked latents that the guide lacks, which are summed out."""
        return compared(model, guide, x, y, enumerating=self.particles > 1)

    def prepare(self, model: Callable, guide: Callable, x: Data, y: Tensor | None = None) -> None:
        """Find out, once per program, whether it can run on many samples of one datum."""
        if guide in self.vectorised and model in self.vectorised:
            return
        check_batch(guide, len(x))
        with measuring(model, guide, device=x.device), pyro.validation_enabled(False):
            traces = trace_pair(model, guide, x, y)
            check_rows(*contributions(*traces, x), x)
            warn_enumerated(traces[1])
            self._marked[model] = sums_of(*traces)
            x, y = few(guide, x, y, 2)
            self.vectorised[guide] = can_broadcast(guide, x, y)
            self.vectorised[model] = self.vectorised[guide] and _model_can(model, guide, x, y)

    def __call__(
        self, model: Callable, guide: Callable, x: Data, y: Tensor | None = None
    ) -> tuple[Tensor, ELBOTerms]:
        """Loss with the pair's scales inside the weights, and the ELBO's terms, detached."""
        if self.particles == 1:
            return super().__call__(model, guide, x, y)
        self.prepare(model, guide, x, y)
        k, n = self.particles, len(x)
        vectorised = self.vectorised[guide]
        both = vectorised and self.vectorised[model]
        total, marked = self.gradient == "total", self._marked[model]
        led = sums = None
        if total and both == vectorised and marked is None:
            led = _led_traces(model, guide, x, y, k, vectorised=both)
        if led is None:
            with contextlib.nullcontext() if total else pathwise.drawing():
                q_trace, q_shape = guide_trace(guide, x, y, k, vectorised=vectorised)
            sums = None if marked is None else marked.left_by(q_trace)
            there, options = shown_to(guide, model), {"drawn": vectorised, "vectorised": both}
            p_trace, p_shape = _model_trace(there, q_trace, x, y, k, sums=sums, **options)
        else:
            p_trace, q_trace = led
            p_shape = q_shape = (k, n) if both else (k * n,)
        check_observed(p_trace)
        check_latents(p_trace, q_trace, enumerating=sums is not None)
        plate = getattr(x, "plate", None)
        p, q = Contributions(p_trace, p_shape, plate), Contributions(q_trace, q_shape, plate)
        read = None
        if sums is None:
            free = clamp_free_sites(p, q, n)
            compute_log_probs(p_trace, kinds(p_trace).random)
            log_p = sum(p.weight(s) for s in p.sites)
        else:
            refuse(p, q)
            free, read = None, Enumerated(p)
            totals = [*map(read.summed_over, read.components)]
            apart = [p.weight(s) for s in p.sites if read.apart(p, s)]
            log_p = sum(apart + scaled(read, totals))
        log_p = log_p.reshape(k, n)
        self._compute_densities(q_trace)
        log_q = {s: q.weight(s).reshape(k, n) for s in q.sites}
        if is_validation_enabled() and read is None:
            check_shapes(p_trace, q_trace, p.plate)
        share, by_path = _subsampled(p, q), pathwise.leaves(q_trace)
        if by_path:
            total = self._weighted_by_path(log_p, log_q, q)
        else:
            bound = self._bound(log_p, log_q)
            for site in without_rsample(q_trace):
                score = q(site).reshape(k, n).sum(0)
                bound = bound + bound.detach() * (score - score.detach())
            total = bound.sum()
        loss = -total if share == 1 else -share * total
        for site in kinds(q_trace).observed:
            if is_penalty(q_trace.nodes[site]):
                penalty = q_trace.nodes[site]["log_prob_sum"] / k
                loss = loss + (pathwise.by_draws(penalty, q_trace) if by_path else penalty)
        if free is not None:
            loss = loss + free
        with torch.no_grad():
            k_terms = self._terms(p, q) if read is None else terms_of(read, totals, q)
            terms = self._averaged(k_terms)
        return (loss / (share * n) if self.reduction == "mean" else loss), terms

    def _bound(self, log_p: Tensor, log_q: Mapping[str, Tensor]) -> Tensor:
        """The bound of each datum, (n,), by densities (k, n)."""
        return (log_p - sum(log_q.values())).logsumexp(0) - math.log(self.particles)

    def _weighted_by_path(
        self, log_p: Tensor, log_q: Mapping[str, Tensor], q: Contributions
    ) -> Tensor:
        """The sum of the bounds, with the gradient by way of the draws."""
        without = pathwise.without_score(q.trace)
        shares = (log_p - sum(log_q.values())).detach().softmax(0)
        fixed = {s: v.detach() if s in without else v for s, v in log_q.items()}
        dropped = [shares * log_q[site] for site in without]

        def weight(site: str) -> Tensor | float:
            if self.gradient == "path" or site not in without:
                return 1.0
            node = q.trace.nodes[site]
            # Of each element of the draw, whose dimensions to the right of the data's are its own
            own = node["fn"].event_dim - 1 - q.plate.frame(node).dim
            share = shares.reshape(*q.shape, *(1,) * own)
            return 1 - pathwise.beta(node, q.subsampled(site)) * (1 - share)

        objective = self._bound(log_p, fixed).sum()
        return pathwise.by_draws(
            objective, q.trace, -sum(dropped).sum() if dropped else None, weight
        )

    def _averaged(self, k_terms: ELBOTerms) -> ELBOTerms:
        def mean(value: Tensor) -> Tensor:
            return value.reshape(self.particles, -1).mean(0)

        return ELBOTerms(mean(k_terms.reconstruction), {s: mean(v) for s, v in k_terms.kl.items()})

    def _kl(self, site: str, p: Contributions, q: Contributions) -> Tensor:
        return q(site).reshape(p.shape) - p(site)


def _subsampled(p: Contributions, q: Contributions) -> float:
    """N/n of the data plate, which is outside the weights and has to be that of all sites.

    Sites with another N/n, or on a row per sample, are a ``ValueError``.
    """
    sides = (("model", p), ("guide", q))
    shares = {(name, s): side.subsampled(s) for name, side in sides for s in side.sites}
    (first, share), *_ = shares.items()
    for (name, site), other in shares.items():
        if other != share:
            raise ValueError(
                f"site {site!r} of the {name}: its data plate counts {other:g} times, that of "
                f"site {first[1]!r} of the {first[0]} {share:g} times: subsample in model and "
                "guide alike"
            )
    if share != 1 and len(p.shape) == 1:
        raise ValueError(
            f"site {first[1]!r}: its data plate is subsampled, which needs programs that run "
            "under an outer plate of samples: use pyro.plate('data', len(x)) without a subsample"
        )
    return share


def _led_traces(
    model: Callable, guide: Callable, x: Data, y: Tensor | None, k: int, *, vectorised: bool
) -> tuple[Trace, Trace] | None:
    """Traces of ``k`` samples per datum, where one run serves model and guide."""
    if not vectorised:
        return traced_as_led(model, guide, *repeated(x, y, k))
    with samples_plate(k):
        return traced_as_led(model, guide, x, y)


def _model_trace(
    model: Callable,
    q: Trace,
    x: Data,
    y: Tensor | None,
    k: int,
    *,
    drawn: bool,
    vectorised: bool,
    sums: Sums | None = None,
) -> tuple[Trace, tuple[int, ...]]:
    """The model's trace at the latents of ``q``, and the shape of its log-probabilities.

    The latents in ``q`` are (k, n, ...) where they were ``drawn`` under a plate, else (k * n,
    ...); ``vectorised``, the model runs under it, too, else on a row per sample, as it does on
    all values of what is summed out.
    """
    if vectorised and sums is None:
        with samples_plate(k):
            return traced(poutine.replay(model, trace=q), x, y), (k, len(x))
    rows = Trace()
    value = Contributions(q, (k, len(x)), getattr(x, "plate", None)).value if drawn else None
    for site in kinds(q).latent:
        z = value(site).flatten(0, 1) if drawn else q.nodes[site]["value"]
        rows.add_node(site, **{**q.nodes[site], "value": z})
        if sums is not None:
            # What a guide draws is not summed, whatever its marks
            rows.nodes[site]["infer"] = {}
    program = model if sums is None else sums(model)
    x, y = repeated(x, y, k)
    return traced(poutine.replay(program, trace=rows), x, y), (len(x),)


def _model_can(model: Callable, guide: Callable, x: Data, y: Tensor | None) -> bool:
    """Whether the model gives the same densities under the plate as on a row per sample."""
    k, densities = 3, []
    q, _ = guide_trace(guide, x, y, k, vectorised=True)
    for vectorised in (True, False):
        try:
            traced_so = _model_trace(model, q, x, y, k, drawn=True, vectorised=vectorised)
            p = Contributions(*traced_so, getattr(x, "plate", None))
            log_p = sum(p.weight(s) for s in p.sites)
        except CANNOT_BROADCAST:
            return False
        densities.append(log_p.flatten())
    return torch.allclose(*densities, rtol=1e-3, atol=1e-3)
