"""What the steps of an epoch found."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import ranks

if TYPE_CHECKING:
    from ..infer import ELBOTerms

ADVICE = "lower lr, set clip_norm, or bound the scales"


def logged(modules: Iterable[nn.Module]) -> dict[str, float]:
    """What modules, and those inside them, tell by a method ``logged() -> dict[str, float]``.

    ``FloatingPointError`` if one is NaN or infinite, as after a step of infinite gradient.
    """
    every = {id(part): part for module in modules for part in module.modules()}.values()
    tellers = [tell for part in every if callable(tell := getattr(part, "logged", None))]
    told = {name: value for tell in tellers for name, value in tell().items()}
    for name, value in told.items():
        if not math.isfinite(value):
            raise FloatingPointError(f"{name} became NaN or infinite in the last step: {ADVICE}")
    return told


class Totals:
    """What the steps of an epoch found, kept on the device: reading it waits for it.

    ``step`` is how many optimizer steps went before this epoch.
    """

    def __init__(self, step: int) -> None:
        self.step, self.count = step, 0
        self._sites: tuple[str, ...] = ()
        self._shared: dict[str, int] = {}
        self._steps: list[Tensor] = []

    def add(self, loss: Tensor, terms: ELBOTerms) -> None:
        """Add a step: its loss, summed over the data, and the terms of its bound."""
        self.count += len(terms.reconstruction)
        sites = tuple(terms.kl)
        if not self._steps:
            self._sites = sites
        elif sites != self._sites:
            terms = self._widened(terms, sites)
        self._shared = terms.shared
        parts = (terms.reconstruction, *terms.kl.values())
        self._steps.append(torch.stack([-loss, *(part.sum() for part in parts)]))

    def _widened(self, terms: ELBOTerms, sites: tuple[str, ...]) -> ELBOTerms:
        """The terms at the sites of all steps, which need not have the same."""
        self._sites = (*self._sites, *(s for s in sites if s not in self._sites))
        size, none = 2 + len(self._sites), torch.zeros_like(terms.reconstruction)
        self._steps = [torch.cat([s, s.new_zeros(size - len(s))]) for s in self._steps]
        return replace(terms, kl={s: terms.kl.get(s, none) for s in self._sites})

    def combine(self) -> None:
        """Add up the steps of all processes of the run."""
        if self._steps:
            self._steps = list(ranks.total(torch.stack(self._steps)))
            self.count = int(ranks.total(torch.tensor(self.count, device=self._steps[0].device)))

    def state(self) -> dict[str, Any]:
        """What has been added so far, as a file can hold it."""
        steps = torch.stack(self._steps).cpu() if self._steps else None
        sites, shared = list(self._sites), {"shared": self._shared} if self._shared else {}
        return {"step": self.step, "count": self.count, "sites": sites, "steps": steps, **shared}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Totals:
        """What ``state`` gave."""
        totals = cls(state["step"])
        totals.count, totals._sites = state["count"], tuple(state["sites"])
        totals._shared = state.get("shared", {})
        totals._steps = [] if state["steps"] is None else list(state["steps"])
        return totals

    def blamed(self, loss: Tensor, terms: ELBOTerms) -> str | None:
        """What of a step's bound is NaN or infinite; None where all is finite."""
        parts = (loss, terms.reconstruction, *terms.kl.values())
        return _bad([bool(part.isfinite().all()) for part in parts], terms.kl)

    def blamed_at(self, step: int) -> str | None:
        """What of an earlier step's bound is NaN or infinite."""
        index = step - 1 - self.step
        found = self._steps[index : index + 1]
        return _bad(found[0].isfinite().tolist(), self._sites) if found else None

    def means(self) -> dict[str, Any]:
        """The quantities of a history row, per datum; ``kl_global`` is per data set.

        ``FloatingPointError`` names step and sites if one was NaN or infinite at some step.
        """
        # In double, whose sums over an epoch do not overflow
        steps = torch.stack(self._steps).cpu().double()
        if not (finite := steps.isfinite().all(1)).all():
            first = int(finite.logical_not().nonzero()[0])
            raise FloatingPointError(
                f"{_bad(steps[first].isfinite().tolist(), self._sites)} became NaN or infinite at "
                f"step {self.step + first + 1}: {ADVICE}"
            )
        objective, reconstruction, *each = (steps.sum(0) / self.count).tolist()
        kl = dict(zip(self._sites, each, strict=True))
        shared = {site: kl[site] * total for site, total in self._shared.items()}
        return {
            "elbo": reconstruction - sum(each),
            "objective": objective,
            "reconstruction": reconstruction,
            "kl": kl,
            **({"kl_global": shared} if shared else {}),
        }


def _bad(finite: Sequence[bool], sites: Iterable[str]) -> str | None:
    """The names of what is not finite of an objective, a reconstruction, and the KL of sites."""
    names = ["reconstruction of the observed sites", *(f"KL of site {site!r}" for site in sites)]
    bad = [name for name, ok in zip(names, finite[1:], strict=True) if not ok]
    return " and ".join(bad) or (None if finite[0] else "objective")
