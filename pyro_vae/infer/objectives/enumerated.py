"""The bound with discrete latents summed out."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ...data.arguments import Data
from ...programs.checks import PairSummary, compared
from ...programs.enumeration import Enumerated, enumerated_pair, log_prob_of, nesting
from ...programs.labels import lacks_labels
from ...programs.reading import Contributions, count_once
from ...programs.running import measuring, trace_pair
from ...programs.sites import auxiliary_sites, kinds, without_rsample
from ...programs.unwrapping import is_ours
from ..engine.recording import is_recording
from .elbo import ELBOTerms, Estimator, TraceELBO
from .units import at_draw, kl_per_unit


class TraceEnumELBO(Estimator):
    """The estimator of ``pyro.infer.TraceEnum_ELBO``: discrete latents are summed, not drawn.

    Latents marked ``infer={"enumerate": "parallel"}``, as ``config_enumerate`` does, run on all
    their values. With k those that the model alone has, and y those that the guide has, too,

        ELBO = E_q(z) sum_y q(y) [log sum_k p(x, z, y, k) - log q(y, z)],

    where z is drawn once, with a reparametrised gradient. The sums are by variable elimination,
    so that chains and plates inside a datum cost no more than in Pyro. All is per datum: KL terms
    are those of z and y, each term of a site that depends on k given those before it with k summed
    out: log p(x|z) = log sum_k p(x, z, k) - log sum_k p(z, k). Beta weighs these terms; where all
    scales are alike the loss is Pyro's.

    Source: "Tensor Variable Elimination for Plated Factor Graphs", Obermeyer, Bingham, Jankowiak,
    Pradhan, Chiu, Rush, Goodman (2019).

    Args:
        reduction: "sum" over the data, as Pyro does, or "mean": nats per datum.

    Raises:
        ValueError: when called, a marked latent outside of the data plate, under a plate inside
            the datum that is subsampled, or marked otherwise than "parallel"; a guide with other
            sites that are not reparametrised; a beta on a latent that is summed out together with
            no other; free bits.

    Example:
        A mixture of two normals, whose components are summed out:

        >>> import pyro
        >>> import pyro.distributions as dist
        >>> from pyro.infer import config_enumerate
        >>> @config_enumerate
        ... def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         k = pyro.sample("k", dist.Bernoulli(0.5))
        ...         pyro.sample("x", dist.Normal(4 * k - 2, 1.0), obs=x)
        >>> loss, terms = TraceEnumELBO()(model, lambda x: None, torch.tensor([-2.0, 0.0]))
        >>> terms.elbo
        tensor([-1.6118, -2.9189])
    """

    of_units = staticmethod(at_draw)

    def __init__(self, reduction: Literal["sum", "mean"] = "sum") -> None:
        """Nothing is known yet of the plates of a pair."""
        super().__init__(reduction)
        self._dims: int | None = None

    def examine(
        self, model: Callable, guide: Callable, x: Data, y: Tensor | None = None
    ) -> PairSummary:
        """As ``check_pair``, with latents that are summed out, and what cannot be summed."""
        found = compared(model, guide, x, y)
        self.prepare(model, guide, x, y)
        with measuring(model, guide, device=x.device), torch.enable_grad():
            self(model, guide, x, y)
        return found

    def prepare(self, model: Callable, guide: Callable, x: Data, y: Tensor | None = None) -> None:
        """Find out how many dimensions the programs' plates take."""
        with measuring(model, guide, device=x.device):
            self._dims = max(self._dims or 0, nesting(*trace_pair(model, guide, x, y)))

    def __call__(
        self,
        model: Callable,
        guide: Callable,
        x: Data,
        y: Tensor | None = None,
        *,
        per_unit: bool = False,
    ) -> tuple[Tensor, ELBOTerms]:
        """Loss with the pair's scales (beta), and the terms without them, detached."""
        if self._dims is None:
            self.prepare(model, guide, x, y)
        p, q = enumerated_pair(model, guide, x, y, self._dims)
        if nesting(p.trace, q.trace) > self._dims:
            # Of another pair, with more plates, whose dimensions the values would share
            self.prepare(model, guide, x, y)
            p, q = enumerated_pair(model, guide, x, y, self._dims)
        if p.outside or q.outside:
            count_once(p, q)
        read = Enumerated(p, q)
        refuse(p, q)
        _refuse_drawn(read)
        totals = [*map(read.summed_over, read.components)]
        loss = -self._objective(read, totals)
        with torch.no_grad():
            terms = terms_of(read, totals, q)
            if per_unit:
                latents = kinds(q.trace).latent
                tied = [s for s in latents if not (read.apart(p, s) and read.apart(q, s))]
                terms = replace(terms, per_unit=kl_per_unit(p, q, at_draw, tied=tied))
        return (loss / p.plate.objective if self.reduction == "mean" else loss), terms

    def _objective(self, read: Enumerated, totals: list[Tensor]) -> Tensor:
        parts = []
        for side, sign in ((read.p, 1.0), (read.q, -1.0)):
            for site, node in kinds(side.trace).random.items():
                if read.apart(side, site):
                    parts.append(sign * node["log_prob_sum"])
                elif not read.tied(side, site):
                    parts.append(sign * read.expected(node["packed"]["log_prob"]).sum())
        parts += [part.sum() for part in scaled(read, totals)]
        return functools.reduce(operator.add, parts)


def default_estimator(
    model: Callable, guide: Callable, x: Data, y: Tensor | None = None
) -> Estimator:
    """What evaluates a pair: ``TraceEnumELBO`` where latents of it are marked for enumeration.

    A guide that draws all of them may do so where the programs do not run on all their values.
    """
    if lacks_labels(model):
        return TraceEnumELBO()
    if is_ours(model):
        return TraceELBO()
    with measuring(model, guide, device=x.device):
        p, q = map(kinds, trace_pair(model, guide, x, y))
        if not (p.enumerated or q.enumerated):
            return TraceELBO()
        summing = TraceEnumELBO()
        try:
            summing(model, guide, x, y)
        except Exception:  # whatever a program raises
            if {*p.latent} != {*q.latent}:
                raise
            return TraceELBO()
        return summing


def scaled(read: Enumerated, totals: Sequence[Tensor]) -> list[Tensor]:
    """What sites that are summed together add to an objective with their scales, each (n,).

    ``totals`` are those of the ``components`` over all their sites, packed.
    """
    parts = []
    for sites, total in zip(read.components, totals, strict=True):
        scales = [read.p.trace.nodes[site]["scale"] for site in sites]
        if not any(isinstance(s, Tensor) for s in scales) and len({*scales}) == 1:
            parts.append(scales[0] * read.expected(total))
            continue
        _check_scales(read, sites)
        for site, value in in_turn(read, sites, total).items():
            parts.append(read.p.trace.nodes[site]["scale"] * value)
    return parts


def terms_of(read: Enumerated, totals: Sequence[Tensor], q: Contributions) -> ELBOTerms:
    """The bound's terms, without scales: of the model as ``read``, and of the guide."""
    p, given = read.p, {}
    for sites, total in zip(read.components, totals, strict=True):
        given |= in_turn(read, sites, total)

    def value(side: Contributions, site: str) -> Tensor | float:
        if read.tied(side, site):
            return given.get(site, 0.0)
        if side not in (read.p, read.q) or read.apart(side, site):
            return side(site).reshape(p.shape)
        return read.expected(log_prob_of(side.trace.nodes[site]))

    observed = [value(p, site) for site in kinds(p.trace).observed]
    latents = kinds(p.trace).latent
    kl = {}
    for site in sorted(q.sites, key=lambda s: s not in latents):
        kl[site] = value(q, site) - value(p, site) if site in latents else value(q, site)
    for aux, site in auxiliary_sites(q.trace).items():
        kl[site] = kl[site] + kl.pop(aux).reshape(p.shape)
    outside = [s for s in kl if s in p.outside + q.outside]
    reconstruction = functools.reduce(operator.add, observed)
    return ELBOTerms(reconstruction.detach(), kl, dict.fromkeys(outside, p.plate.total))


def in_turn(read: Enumerated, sites: Sequence[str], total: Tensor) -> dict[str, Tensor]:
    """What each site adds to log p of those before it, with the summed latents summed out, (n,).

    Latents come first; the first observed site has what all of them add.
    """
    found, before = {}, 0.0
    latents = kinds(read.p.trace).latent
    hidden = [site for site in sites if site in read.summed.values()]
    drawn = [site for site in sites if site in latents and site not in hidden]
    seen = [site for site in sites if site not in latents]
    for i, site in enumerate(drawn, start=1):
        whole = not seen and i == len(drawn)
        now = read.expected(total if whole else read.summed_over([*hidden, *drawn[:i]]))
        found[site], before = now - before, now
    if seen:
        found[seen[0]] = read.expected(total) - before
    return found


def _check_scales(read: Enumerated, sites: Sequence[str]) -> None:
    """Raise ``ValueError`` where scales of what is summed together have no meaning."""
    if is_recording():
        return
    nodes = {site: read.p.trace.nodes[site] for site in sites}
    for site, node in nodes.items():
        if isinstance(node["scale"], Tensor) and node["scale"].dim():
            raise ValueError(
                f"site {site!r}: expected one poutine.scale for all data where a discrete latent "
                f"is summed out, got one of shape {tuple(node['scale'].shape)}: use a number"
            )
    scales = {site: float(node["scale"]) for site, node in nodes.items()}
    latents, hidden = kinds(read.p.trace).latent, read.summed.values()
    weights = {scales[site] for site in sites if site not in hidden}
    seen = [site for site in sites if site not in latents]
    for site in [*hidden & scales.keys(), *seen[1:]]:
        # Beta of the others leaves what has no KL as the data plate has it
        free = {*weights, float(read.p.subsampled(site))}
        if scales[site] not in (free if site in hidden else {scales[seen[0]]}):
            raise ValueError(
                f"site {site!r}: it has the scale {scales[site]:g}, and what is summed together "
                f"with it has {sorted(weights)}: where a latent is summed out beta and "
                "poutine.scale weigh sites that the guide draws: pass beta={site: value} for "
                "these, or have the guide enumerate this one"
            )


def refuse(*sides: Contributions) -> None:
    """Raise ``ValueError`` for free bits, which have no meaning where latents are summed out."""
    for side in sides:
        for site, node in kinds(side.trace).random.items():
            if node.get("free_bits", 0.0):
                raise ValueError(
                    f"site {site!r}: expected no free_bits where discrete latents are summed out: "
                    "pass the programs without handlers.free_bits"
                )


def _refuse_drawn(read: Enumerated) -> None:
    """Raise ``ValueError`` for sites of the guide that have no gradient here."""
    if torch.is_grad_enabled():
        averaged = read.averaged.values()
        if drawn := [s for s in without_rsample(read.q.trace) if s not in averaged]:
            raise ValueError(
                f"site {drawn[0]!r}: expected sites of the guide that are enumerated or "
                "reparametrised, got a "
                f"{type(read.q.trace.nodes[drawn[0]]['fn']).__name__} that is drawn: mark it "
                "infer={'enumerate': 'parallel'} in the guide, or leave it out there and mark it "
                "in the model"
            )
