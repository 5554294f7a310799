"""The gradient of a batch, added up from parts of it: the memory of a step is that of a part."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ... import ranks
from ...data.arguments import Data, LabelData, part_of
from ...ground.arguments import whole
from ...programs.plates import data_plate
from ...programs.running import measuring, trace_pair
from ...programs.sites import is_penalty
from ..objectives.elbo import ELBOTerms, joined
from ..objectives.pyro_elbo import PyroELBO
from ..stock import StockLoss
from .graph import Graph


class Accumulated:
    """An estimator, or one under an engine, that takes a batch in ``parts``, one after the other.

    The loss of a batch is sum_i w_i loss_i, and so is its gradient. A loss per datum, or of a
    program that scales up what it subsamples, has w_i = n_i / n, any other 1. The parts differ by
    one row at most. Statistics that a module takes of a batch are those of a part.

    Args:
        estimator: what gives the loss of a part.
        parts: how many of them; as many as there are rows, where these are fewer.
        parameters: what a record of the estimator gives gradients of.

    Raises:
        TypeError: an objective of Pyro.
        ValueError: fewer than one part; when called, a pair whose objective is no sum over data.
    """

    def __init__(
        self, estimator: Any, parts: int, parameters: Callable[[], Iterable[Tensor]]
    ) -> None:
        if isinstance(estimator, PyroELBO | StockLoss):
            raise TypeError(
                "accumulate: expected an estimator of pyro_vae, which adds up over the parts of a "
                f"batch, got {type(estimator.elbo).__name__}: pass elbo='trace', or leave "
                "accumulate out"
            )
        self.estimator, self.parts = estimator, whole("accumulate", parts)
        self._parameters = parameters
        self._by_share: bool | None = None

    def __call__(
        self, model: Callable, guide: Callable, x: Data, y: LabelData = None
    ) -> tuple[Tensor, ELBOTerms]:
        """Loss with the pair's scales, and the terms without them."""
        found = []
        for rows, labels, weight, _ in self._parts(model, guide, x, y):
            loss, terms = self.estimator(model, guide, rows, labels)
            found.append((loss * weight, terms))
        return _joined(found)

    def backward(
        self, model: Callable, guide: Callable, x: Data, y: LabelData = None
    ) -> tuple[Tensor, ELBOTerms]:
        """The same, and the loss's gradient in ``grad`` of each parameter, all None before."""
        run = self._shared if hasattr(self.estimator, "within") else self._summed
        return _joined([*run(model, guide, x, y)])

    def _summed(
        self, model: Callable, guide: Callable, x: Data, y: LabelData
    ) -> Iterator[tuple[Tensor, ELBOTerms]]:
        estimator, sums = self.estimator, {}
        step = getattr(estimator, "step", 0)
        for rows, labels, weight, _ in self._parts(model, guide, x, y):
            if isinstance(estimator, Graph):
                estimator.step = step
                loss, terms = estimator.backward(model, guide, rows, labels)
            else:
                loss, terms = estimator(model, guide, rows, labels)
                loss.backward()
            for parameter in self._parameters():
                if (gradient := parameter.grad) is None:
                    continue
                if parameter in sums:
                    sums[parameter].add_(gradient, alpha=weight)
                else:
                    # That of a record may be overwritten by the next part
                    sums[parameter] = gradient * weight
                parameter.grad = None
            yield loss * weight, terms
        for parameter, total in sums.items():
            parameter.grad = total

    def _shared(
        self, model: Callable, guide: Callable, x: Data, y: LabelData
    ) -> Iterator[tuple[Tensor, ELBOTerms]]:
        """As ``_summed``, where processes share the gradient once it is complete."""
        for rows, labels, weight, last in self._parts(model, guide, x, y):
            with self.estimator.within(x, last):
                loss, terms = self.estimator(model, guide, rows, labels)
                (loss * weight).backward()
            yield loss * weight, terms

    def _parts(
        self, model: Callable, guide: Callable, x: Data, y: LabelData
    ) -> Iterator[tuple[Data, LabelData, float, bool]]:
        """Data and labels of each part, its weight, and whether it is the last."""
        n = len(x)
        # What processes tell each other within a part, all of them have to be told as often
        k = -ranks.most([-min(self.parts, max(n, 1))])[0]
        edges = [n * i // k for i in range(k + 1)]
        if self._by_share is None:
            self._by_share = self._examined(model, guide, x, y)
        for start, stop in itertools.pairwise(edges):
            rows = part_of(x[start:stop], getattr(x, "total", None) or n)
            labels = None if y is None else y[start:stop]
            yield rows, labels, (stop - start) / n if self._by_share else 1.0, stop == n

    def _examined(self, model: Callable, guide: Callable, x: Data, y: LabelData) -> bool:
        """Whether losses of parts are averaged, not added; raises where they are neither."""
        with measuring(model, guide, device=x.device):
            traces = trace_pair(model, guide, x, y)
        told = {"plate": getattr(x, "plate", None), "total": getattr(x, "total", None)}
        plate = data_plate(traces, len(x), **told)
        for site, node in itertools.chain(*(trace.nodes.items() for trace in traces)):
            free = node.get("free_bits", 0.0)
            penalty = node["type"] == "sample" and is_penalty(node)
            if free or (penalty and plate.frame(node) is None):
                by = "free_bits" if free else "regularize"
                raise ValueError(
                    f"site {site!r}: handlers.{by} looks at a batch as a whole, whose objective "
                    "is no sum over its parts: leave accumulate out, or the handler"
                )
        if plate.size != len(x):
            raise ValueError(
                f"accumulate: expected programs that run on parts of a batch, got {plate.size} "
                f"data in their plate for {len(x)} rows: leave accumulate out"
            )
        estimator = getattr(self.estimator, "estimator", self.estimator)
        return estimator.reduction == "mean" or plate.objective != plate.size


def _joined(found: list[tuple[Tensor, ELBOTerms]]) -> tuple[Tensor, ELBOTerms]:
    losses, terms = zip(*found, strict=True)
    return torch.stack(losses).sum(), joined(terms)
