"""Objectives of stock Pyro as estimators: their own loss and gradient, and terms of the bound."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any, Literal

import pyro.infer
import torch
from pyro.infer import ELBO
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from torch import Tensor

from ...data.arguments import Data
from ...programs.broadcasting import observed_by
from ...programs.checks import PairSummary, compared
from ...programs.plates import DataPlate
from ...programs.reading import Contributions, contributions
from ...programs.sites import kinds
from ..engine.trainable import Sites
from ..stock import check_stock, run_stock
from .elbo import AnalyticELBO, ELBOTerms, Estimator, TraceELBO, Whole
from .enumerated import TraceEnumELBO
from .kl import check_order, closed_form

_SUMMING = pyro.infer.TraceEnum_ELBO, pyro.infer.TraceTMC_ELBO


class PyroELBO(Estimator):
    """An objective of ``pyro.infer``, such as ``TraceEnum_ELBO()``, or of a user's own class.

    Loss and gradient (by ``backward``) are the object's own; the programs run at each step. The
    terms are those of the ELBO, without beta, at the draws that the object made, averaged over its
    particles; sites that the guide observes are no part of it. Where the object sums sites out
    there are none, see ``Whole``. ``TraceTailAdaptive_ELBO``, which has no value, is given minus
    the ELBO for one.

    A file holds the arguments of Pyro's own classes, not what they keep in Pyro's store, such as
    averages for baselines; other objects it cannot hold. Raises ``TypeError`` for objects that
    compile themselves, or have two losses.

    Attributes:
        summed: sites that were summed out in the last run.

    Args:
        elbo: the object.
        reduction: "sum" over the data, as Pyro does, or "mean": loss and gradient over n.
    """

    recordable = False

    def __init__(self, elbo: ELBO, reduction: Literal["sum", "mean"] = "sum") -> None:
        super().__init__(reduction)
        check_stock("elbo", elbo)
        if isinstance(elbo, pyro.infer.ReweightedWakeSleep):
            raise TypeError(
                "elbo: expected one objective, got ReweightedWakeSleep, which has one for the "
                "model and one for the guide: train with infer.SVI(model, guide, loss=...)"
            )
        self.elbo, self.summed = elbo, []
        if elbo.num_particles > 1:
            self.particles = elbo.num_particles
        name = type(elbo).__name__
        self._pyros = getattr(pyro.infer, name, None) is type(elbo)
        if self._pyros:
            self.arguments = {"elbo": name, "options": _options(elbo), "reduction": reduction}

    @classmethod
    def of_file(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """The object that a file names, made anew."""
        made = getattr(pyro.infer, arguments["elbo"])
        if not (inspect.isclass(made) and issubclass(made, ELBO)):
            raise ValueError(f"file names {arguments['elbo']!r}, which is no objective of Pyro")
        return {"elbo": made(**arguments["options"]), "reduction": arguments["reduction"]}

    def examine(
        self, model: Callable, guide: Callable, x: Data, y: Tensor | None = None
    ) -> PairSummary:
        """As ``check_pair``, but for what the object may do with sites that are not drawn."""
        # Pyro's own count what a guide observes against the bound, whatever it is for
        summing, others = isinstance(self.elbo, _SUMMING), not self._pyros
        return compared(model, guide, x, y, enumerating=summing, observing=others)

    def __call__(
        self, model: Callable, guide: Callable, x: Data, y: Tensor | None = None
    ) -> tuple[Tensor, ELBOTerms]:
        """Loss with the pair's scales, without a gradient, and the terms without them."""
        valueless = isinstance(self.elbo, pyro.infer.TraceTailAdaptive_ELBO)
        method = self.elbo.differentiable_loss if valueless else self.elbo.loss
        return self._run(method, model, guide, x, y)[:2]

    def backward(
        self, model: Callable, guide: Callable, x: Data, y: Tensor | None = None
    ) -> tuple[Tensor, ELBOTerms]:
        """The same, and the gradient in ``grad`` of each parameter, which has none before."""
        with Sites() as sites:
            loss, terms, n = self._run(self.elbo.loss_and_grads, model, guide, x, y)
        if self.reduction == "mean":
            for parameter in sites.found.values():
                if parameter.grad is not None:
                    parameter.grad /= n
        return loss, terms

    def _run(
        self, method: Callable, model: Callable, guide: Callable, x: Data, y: Tensor | None
    ) -> tuple[Tensor, ELBOTerms, int]:
        """Loss and terms, and of how many data Pyro's loss is the sum."""
        drawn: list[Trace] = []
        pairs: list[tuple[Trace, Trace]] = []

        def ran(role: str, trace: Trace) -> None:
            if role == "guide":
                drawn.append(trace)
            elif found := [q for q in drawn if _on_its_draws(trace, q)]:
                pairs.append((trace, found[-1]))
                if self._analytic and is_validation_enabled():
                    check_order(*pairs[-1], type(self.elbo).__name__)

        loss = run_stock(method, model, guide, x, y, ran=ran).detach().to(x.device)
        with torch.no_grad():
            # Before these it may have run the pair to count its plates
            runs = 1 if self.elbo.vectorize_particles else self.elbo.num_particles
            terms, n = self._found(pairs[-runs:], loss, x)
        if isinstance(self.elbo, pyro.infer.TraceTailAdaptive_ELBO):
            loss = -terms.elbo.sum()
        return (loss / n if self.reduction == "mean" else loss), terms, n

    def _found(
        self, pairs: list[tuple[Trace, Trace]], loss: Tensor, x: Data
    ) -> tuple[ELBOTerms, int]:
        """The terms of the ELBO by traces of the model, on draws of the guide, and of these."""
        read = [contributions(*pair, x) for pair in pairs]
        plates = [p.plate for p, _ in read]
        size, n = (plates[0].size, plates[0].objective) if plates else [max(1, len(x))] * 2
        for p, q in read:
            self._refuse_part([*p.outside, *q.outside], p.plate)
        marked = [s for pair in pairs for trace in pair for s in kinds(trace).enumerated]
        self.summed = [*dict.fromkeys(marked)] if isinstance(self.elbo, _SUMMING) else []
        if self.summed or not pairs:
            return Whole((-loss / n).expand(size), {}), n
        found = []
        for p, q in read:
            seen = observed_by(q.trace)
            q.sites = [s for s in q.sites if s not in seen]
            found.append(self._terms(p, q))
        k = self.elbo.num_particles if self.elbo.vectorize_particles else len(pairs)
        kl = {site: sum(terms.kl[site] for terms in found) / k for site in found[0].kl}
        reconstruction = sum(terms.reconstruction for terms in found) / k
        return ELBOTerms(reconstruction, kl, found[0].shared), n

    def _refuse_part(self, outside: list[str], plate: DataPlate) -> None:
        """Raise ``ValueError`` where what all data share would count once in each batch."""
        if outside and plate.share != 1:
            raise ValueError(
                f"site {outside[0]!r}: all data share it, and {type(self.elbo).__name__} counts "
                f"it whole in each step on {plate.objective} of {plate.total} data: pass "
                f"batch_size={plate.total}, all in each step, or elbo='trace'"
            )

    @property
    def _analytic(self) -> bool:
        return isinstance(self.elbo, pyro.infer.TraceMeanField_ELBO)

    def _kl(self, site: str, p: Contributions, q: Contributions) -> Tensor:
        if self._analytic:
            with contextlib.suppress(NotImplementedError):
                return q.sum(site, closed_form(site, p.trace, q.trace))
        return q(site) - p(site)

    def __repr__(self) -> str:
        return f"{type(self.elbo).__name__}, reduction={self.reduction!r}"


def _on_its_draws(model_trace: Trace, guide_trace: Trace) -> bool:
    """Whether a model ran on the latents of this run of a guide."""
    nodes, drawn = model_trace.nodes, guide_trace.nodes
    common = [s for s in kinds(guide_trace).latent if s in nodes]
    return all(nodes[s]["value"] is drawn[s]["value"] for s in common)


def _options(elbo: ELBO) -> dict[str, Any]:
    """The arguments that an objective of Pyro was made with, but for defaults."""
    options = {}
    for name, parameter in inspect.signature(type(elbo)).parameters.items():
        value = getattr(elbo, name, parameter.default)
        if name == "max_plate_nesting" and elbo.vectorize_particles and elbo.num_particles > 1:
            # Pyro's constructor adds a plate for the particles
            value -= 1
        if value != parameter.default:
            options[name] = value
    return options


def as_estimator(
    elbo: str | Estimator | ELBO, reduction: Literal["sum", "mean"] = "sum"
) -> Estimator:
    """An estimator as it is; "trace", "analytic", "enumerate" as one that averages over the data.

    An objective of Pyro is one of such a ``reduction``.
    """
    if isinstance(elbo, Estimator):
        return elbo
    estimators = {"trace": TraceELBO, "analytic": AnalyticELBO, "enumerate": TraceEnumELBO}
    if isinstance(elbo, ELBO):
        return PyroELBO(elbo, reduction)
    if isinstance(elbo, type):
        raise TypeError(
            f"elbo: expected an object, got the class {elbo.__name__}: pass {elbo.__name__}(...)"
        )
    if elbo not in estimators:
        raise ValueError(f"elbo: expected {' or '.join(map(repr, estimators))}, got {elbo!r}")
    return estimators[elbo](reduction="mean")
