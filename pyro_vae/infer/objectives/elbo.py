"""The evidence lower bound of a pair: its terms per site and per datum, and two estimators."""

from __future__ import annotations

import functools
import operator
import warnings
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from torch import Tensor

from ...data.arguments import Data
from ...ground.arguments import known
from ...ground.recorded import Recorded
from ...ground.tables import Table, Tabular, mean_and_error
from ...programs.broadcasting import check_shapes, warn_enumerated
from ...programs.checks import PairSummary, compared
from ...programs.reading import Contributions, contributions, count_once
from ...programs.running import trace_pair
from ...programs.sites import auxiliary_sites, compute_log_probs, kinds, without_rsample
from ..engine.internals import surrogate
from . import pathwise
from .free_bits import clamp_free_sites
from .kl import check_order, check_scales, closed_form
from .units import PerUnit, at_draw, in_closed_form, joined_units, kl_per_unit


@dataclass(frozen=True, repr=False)
class ELBOTerms(Tabular):
    """The terms of log p(x) >= E_q[log p(x|z)] - sum_i KL_i, in nats per datum.

    ``print`` it, or hand on its ``table()``, means over the data with their standard errors.

    A latent outside the data plate, which all data share, has one KL term for the data set. Each
    datum has an equal part of it in ``kl``, so that ``elbo`` adds up to the data set's bound.

    Attributes:
        reconstruction: log-probability of the observed sites, (n,).
        kl: latent site -> its KL term, (n,); a factor of the guide, which is part of log q, has a
            term of its own.
        shared: latent site outside the data plate -> among how many data its KL is divided.
        per_unit: latent site -> the KL of each of its units, (n, *plates inside a datum, *units),
            where it was asked for; ``per_unit.without`` tells why a site has none.
    """

    reconstruction: Tensor
    kl: dict[str, Tensor]
    shared: dict[str, int] = field(default_factory=dict)
    per_unit: PerUnit = field(default_factory=PerUnit)

    @property
    def elbo(self) -> Tensor:
        """The bound itself, without any beta, (n,)."""
        return self.reconstruction - sum(self.kl.values())

    @property
    def kl_global(self) -> dict[str, Tensor]:
        """Latent site outside the data plate -> its KL in nats per data set, 0-d."""
        return {site: self.kl[site].mean() * total for site, total in self.shared.items()}

    def table(self) -> Table:
        """Mean and standard error over the data; of what all data share, their KL."""
        terms = {"ELBO": self.elbo, "reconstruction": self.reconstruction}
        terms |= {f"KL({s})": kl for s, kl in self.kl.items() if s not in self.shared}
        rows: list[Any] = [
            (name, mean_and_error(v.detach()), "nats/datum") for name, v in terms.items()
        ]
        rows += [(f"KL({s})", float(kl), "nats/data set") for s, kl in self.kl_global.items()]
        caption = f"{len(self.reconstruction)} data"
        return Table(caption, ("term", "mean", "unit"), rows, left=(0, 2))

    def __repr__(self) -> str:
        """Means over the data; of what all data share, the KL in nats per data set."""
        each = [
            f"KL({site}) {float(self.kl_global[site]):.2f} per data set"
            if site in self.shared
            else f"KL({site}) {float(v.mean()):.2f}"
            for site, v in self.kl.items()
        ]
        kl = ", ".join(each)
        kl += "".join(f"; no KL per unit of {s}: {w}" for s, w in self.per_unit.without.items())
        return (
            f"ELBOTerms of {len(self.reconstruction)} data, mean nats: elbo "
            f"{float(self.elbo.mean()):.2f}, reconstruction "
            f"{float(self.reconstruction.mean()):.2f}, {kl}"
        )


def joined(parts: Sequence[ELBOTerms]) -> ELBOTerms:
    """The terms of all data by those of batches; no KL of a site that a batch does not have."""
    sites = dict.fromkeys(site for part in parts for site in part.kl)
    return ELBOTerms(
        torch.cat([part.reconstruction for part in parts]),
        {
            s: torch.cat([p.kl[s] if s in p.kl else torch.zeros_like(p.elbo) for p in parts])
            for s in sites
        },
        {site: total for part in parts for site, total in part.shared.items()},
        joined_units([(part.per_unit, len(part.reconstruction)) for part in parts]),
    )


class Whole(ELBOTerms):
    """A bound that has no terms: ``reconstruction`` is its mean, for each datum; ``kl`` is empty.

    That of an objective of Pyro's which sums sites out: minus its loss, with all scales.
    """


def check_possible(elbo: float, reconstruction: float, n: int) -> bool:
    """Warn of a bound that is above what the likelihood allows, by more than chance.

    As E_q[p(z) / q(z)] = 1 at each draw, the sum of log q - log p over any number of draws is
    below -t with a probability of at most e^-t, by Markov's inequality; here t = 20.

    ``elbo``, the bound, and ``reconstruction``, log p(x|z), are mean estimates over ``n`` data, in
    nats. The result tells whether they are possible: where not, the densities of the latents are
    no densities, or lost to rounding.
    """
    # Rounding may add up to a little per datum
    possible = n * (elbo - reconstruction) <= 20 + 1e-3 * n
    if not possible:
        warnings.warn(
            f"the bound, {elbo:.4g} nats, is above E[log p(x|z)], {reconstruction:.4g}, which "
            "densities of the latents do not allow: rounding errors, or a program that is not "
            "normalised. Lower lr, set clip_norm, or bound the scales of the guide",
            stacklevel=3,
        )
    return possible


class Estimator(Recorded):
    """``estimator(model, guide, x, y) -> (loss, terms)``: minus the objective, differentiable.

    Args:
        reduction: "sum" over the data, as Pyro does, or "mean": nats per datum.
    """

    # Whether an engine may record what it computes
    recordable: ClassVar[bool] = True
    # How the KL of a site's units is found; None where it is not
    of_units: ClassVar[Callable[..., tuple[Tensor, int]] | None] = None
    # With respect to the guide's parameters
    gradient: str = "total"

    def __init__(self, reduction: Literal["sum", "mean"] = "sum") -> None:
        if reduction not in ("sum", "mean"):
            raise ValueError(f"reduction: expected 'sum' or 'mean', got {reduction!r}")
        self.reduction = reduction

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
        drawing = None if self.gradient == "total" else pathwise.drawing()
        model_trace, guide_trace = trace_pair(
            model, guide, x, y, enumerating=False, drawing=drawing
        )
        p, q = contributions(model_trace, guide_trace, x)
        if is_validation_enabled():
            check_shapes(model_trace, guide_trace, p.plate)
            warn_enumerated(guide_trace)
        free = clamp_free_sites(p, q, p.plate.size)
        if p.outside or q.outside:
            count_once(p, q)
        compute_log_probs(model_trace, kinds(model_trace).random)
        loss = -self._objective(model_trace, guide_trace)
        if free is not None:
            loss = loss + free
        with torch.no_grad():
            terms = self._terms(p, q)
            if per_unit:
                terms = replace(terms, per_unit=kl_per_unit(p, q, self.of_units))
        return (loss / p.plate.objective if self.reduction == "mean" else loss), terms

    def prepare(self, model: Callable, guide: Callable, x: Data, y: Tensor | None = None) -> None:
        """Settle what cannot be settled while a graph is recorded; nothing by default."""

    def examine(
        self, model: Callable, guide: Callable, x: Data, y: Tensor | None = None
    ) -> PairSummary:
        """What ``check_pair`` finds of a pair that this is to train, and raises."""
        return compared(model, guide, x, y, enumerating=False)

    @abstractmethod
    def _objective(self, model_trace: Trace, guide_trace: Trace) -> Tensor:
        """The objective, summed over the data."""

    @abstractmethod
    def _kl(self, site: str, p: Contributions, q: Contributions) -> Tensor:
        """The site's KL term, (n,), without scale."""

    def _terms(self, p: Contributions, q: Contributions) -> ELBOTerms:
        parts = [p(s) for s in kinds(p.trace).observed]
        reconstruction = functools.reduce(operator.add, parts).detach()
        latents = kinds(p.trace).latent
        kl = {
            s: self._kl(s, p, q) if s in latents else q(s)
            for s in sorted(q.sites, key=lambda s: s not in latents)
        }
        for aux, site in auxiliary_sites(q.trace).items():
            kl[site] = kl[site] + kl.pop(aux).reshape(p.shape)
        outside = [s for s in kl if s in p.outside + q.outside] if p.outside or q.outside else ()
        return ELBOTerms(reconstruction, kl, dict.fromkeys(outside, p.plate.total))


class TraceELBO(Estimator):
    """The estimator of ``pyro.infer.Trace_ELBO`` with one sample: log p(x, z) - log q(z|x).

    Every KL term is log q(z_i) - log p(z_i) at the sample. Sites that cannot be reparametrised
    get Pyro's score-function estimator.

    Of a reparametrised draw z(phi) the gradient with respect to the guide's parameters phi is

        d/dz [log p(x, z) - log q(z|x)] dz/dphi - d/dphi log q(z|x) at a fixed z.

    The second term, the score, is 0 in expectation, whatever beta. ``gradient="path"`` leaves it
    out: where q is the posterior each draw has a gradient of 0. The loss is the same, bit for bit.
    In a hierarchy dz/dphi goes through all draws, and z is fixed at all layers. A parameter lambda
    that model and guide share, as under ``guides.Ladder``, has both roles and gets

        d/dlambda log p(x, z) at a fixed z + d/dz [log p(x, z) - log q(z|x)] dz/dlambda.

    The score of a site under ``handlers.free_bits`` stays, as draws decide whether it counts. A
    flow is asked for its density at a value, for which an autoregressive one takes a pass per
    latent and step.

    Sources: "Automated Variational Inference in Probabilistic Programming", Wingate, Weber (2013);
    "Sticking the Landing", Roeder, Wu, Duvenaud (2017) for the path.

    Args:
        reduction: "sum" over the data, as Pyro does, or "mean": nats per datum.
        gradient: "total", or "path", without the score.

    Raises:
        ValueError: another gradient; when called with "path", a guide with a site that is not
            reparametrised, or whose density is only known at its own draw.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> loss, terms = TraceELBO()(vae, guides.BottomUp(vae), torch.zeros(5, 6))
        >>> bool(torch.isclose(loss, -terms.elbo.sum()))
        True

        The loss has a gradient, for a loop of anybody, such as Lightning's::

            class Pair(lightning.LightningModule):
                def __init__(self, model, guide, lr=1e-3):
                    super().__init__()
                    self.model, self.guide, self.lr = model, guide, lr
                    self.loss = infer.TraceELBO(reduction="mean")

                def training_step(self, batch, index):
                    loss, terms = self.loss(self.model, self.guide, *batch)
                    self.log("elbo", terms.elbo.mean(), batch_size=len(batch[0]))
                    return loss

                def validation_step(self, batch, index):
                    _, terms = self.loss(self.model, self.guide, *batch)
                    self.log("validation.elbo", terms.elbo.mean(), batch_size=len(batch[0]))

                def configure_optimizers(self):
                    return torch.optim.Adam(self.parameters(), lr=self.lr)
    """

    gradients: ClassVar[tuple[str, ...]] = ("total", "path")
    of_units = staticmethod(at_draw)

    def __init__(
        self,
        reduction: Literal["sum", "mean"] = "sum",
        gradient: Literal["total", "path"] = "total",
    ) -> None:
        """Check the name of the gradient."""
        super().__init__(reduction)
        self.gradient = known("gradient", gradient, self.gradients)

    def _objective(self, model_trace: Trace, guide_trace: Trace) -> Tensor:
        if self.gradient != "total":
            return self._by_path(model_trace, guide_trace)
        if without_rsample(guide_trace):
            guide_trace.compute_score_parts()
            return -surrogate(model_trace, guide_trace)
        compute_log_probs(guide_trace, kinds(guide_trace).random)
        return _log_prob(model_trace) - _log_prob(guide_trace)

    def _by_path(self, model_trace: Trace, guide_trace: Trace) -> Tensor:
        self._compute_densities(guide_trace)
        without = pathwise.without_score(guide_trace)
        objective = _log_prob(model_trace) - _log_prob(guide_trace, without)
        log_q = [guide_trace.nodes[site]["log_prob_sum"] for site in without]
        return pathwise.by_draws(objective, guide_trace, -sum(log_q) if log_q else None)

    def _compute_densities(self, guide_trace: Trace) -> None:
        if self.gradient != "total":
            pathwise.check_reparametrised(guide_trace, self.gradient)
            pathwise.compute_densities(guide_trace, self.gradient)
        compute_log_probs(guide_trace, kinds(guide_trace).random)

    def _kl(self, site: str, p: Contributions, q: Contributions) -> Tensor:
        return q(site) - p(site)


def _log_prob(trace: Trace, constant: Collection[str] = ()) -> Tensor | float:
    """The log-probability of all sites, as Pyro sums it but without a start of zero.

    That of ``constant`` ones has no gradient.
    """
    random = kinds(trace).random
    sums = [*map(operator.itemgetter("log_prob_sum"), random.values())]
    if constant:
        sums = [v.detach() if s in constant else v for s, v in zip(random, sums, strict=True)]
    return functools.reduce(operator.add, sums) if sums else 0.0


class AnalyticELBO(Estimator):
    """The bound with closed-form KL terms, for normals 1/2 sum(mu^2 + sigma^2 - ln sigma^2 - 1).

    Valid for a site whose prior p(z_i|parents) is fixed before z_i is sampled in the guide: one
    latent layer, or a guide that samples in the model's order (top-down).

    Source: "Auto-Encoding Variational Bayes", Kingma, Welling (2014), appendix B.

    Raises:
        ValueError: when called on a pair with a site where the closed form is wrong (a bottom-up
            hierarchy, a mask, another scale in the guide than in the model), does not exist, or
            has no gradient (a guide whose draws are not reparametrised; without gradients its
            value is right).

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> _, terms = AnalyticELBO()(vae, guides.BottomUp(vae), torch.zeros(5, 6))
        >>> bool((terms.kl["z1"] >= 0).all())
        True
    """

    of_units = staticmethod(in_closed_form)

    def _objective(self, model_trace: Trace, guide_trace: Trace) -> Tensor:
        check_order(model_trace, guide_trace)
        if torch.is_grad_enabled() and (sites := without_rsample(guide_trace)):
            raise ValueError(
                f"site {sites[0]!r}: elbo='analytic' has no gradient through what is not "
                f"reparametrised, here {type(guide_trace.nodes[sites[0]]['fn']).__name__}: use "
                "elbo='trace'"
            )
        objective = sum(model_trace.nodes[s]["log_prob_sum"] for s in kinds(model_trace).observed)
        latents = kinds(model_trace).latent
        for site in latents:
            check_scales(site, model_trace, guide_trace)
            kl = self._closed_form(site, model_trace, guide_trace)
            objective = objective - (kl * guide_trace.nodes[site]["scale"]).sum()
        nodes = guide_trace.nodes
        others = [s for s in kinds(guide_trace).random if s not in latents]
        compute_log_probs(guide_trace, others)
        return objective - sum(nodes[s]["log_prob_sum"] for s in others) if others else objective

    def _kl(self, site: str, p: Contributions, q: Contributions) -> Tensor:
        return q.sum(site, self._closed_form(site, p.trace, q.trace))

    @staticmethod
    def _closed_form(site: str, model_trace: Trace, guide_trace: Trace) -> Tensor:
        try:
            return closed_form(site, model_trace, guide_trace)
        except NotImplementedError as error:
            raise ValueError(f"site {site!r}: {error}, use elbo='trace'") from None
