"""The gradient of a batch, added up from parts of it: the memory of a step is that of a part."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from ... import ranks
from ...data.arguments import Data, LabelData, part_of
from ...ground.arguments import whole
from ...programs.plates import DataPlate, data_plate
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
        if self._by_share is None and n != 1:
            self._by_share = self._examined(model, guide, x, y, edges[1])
        for start, stop in itertools.pairwise(edges):
            weight = (stop - start) / n if self._by_share else 1.0
            yield *self._part(x, y, start, stop), weight, stop == n

    @staticmethod
    def _part(x: Data, y: LabelData, start: int, stop: int) -> tuple[Data, LabelData]:
        rows = part_of(x[start:stop], getattr(x, "total", None) or len(x))
        return rows, None if y is None else y[start:stop]

    def _examined(
        self, model: Callable, guide: Callable, x: Data, y: LabelData, rows: int
    ) -> bool:
        """Whether losses of parts are averaged, not added; raises where they are neither.

        The first part has so many ``rows``.
        """
        with measuring(model, guide, device=x.device):
            traces = trace_pair(model, guide, x, y)
            plate = _plate(traces, x)
            for key, node in _sites(traces):
                free = node.get("free_bits", 0.0)
                if free or (is_penalty(node) and plate.frame(node) is None):
                    by = "free_bits" if free else "regularize"
                    raise ValueError(
                        f"site {key[1]!r}: handlers.{by} looks at a batch as a whole, whose "
                        "objective is no sum over its parts: leave accumulate out, or the handler"
                    )
            if plate.size != len(x):
                raise ValueError(
                    f"accumulate: expected programs that run on parts of a batch, got {plate.size}"
                    f" data in their plate for {len(x)} rows: leave accumulate out"
                )
            part, labels = self._part(x, y, 0, rows)
            traces_of_part = trace_pair(model, guide, part, labels)
        plate_of_part = _plate(traces_of_part, part)
        # A program scales up what it subsamples by the size of its plate
        more = plate_of_part.objective / plate_of_part.size * plate.size / plate.objective
        in_part = dict(_sites(traces_of_part))
        for key, node in _sites(traces):
            before, after = node["scale"], in_part.get(key, node)["scale"]
            single = all(math.prod(getattr(s, "shape", ())) == 1 for s in (before, after))
            if (
                single
                and plate.frame(node)
                and not math.isclose(after, before * more, rel_tol=1e-4)
            ):
                raise ValueError(
                    f"site {key[1]!r}: expected each datum to count as much in parts of a batch, "
                    f"got the scale {float(before):g} of {len(x)} data and {float(after):g} of "
                    f"{rows}: give pyro.plate the size of all data, with subsample=, in place of "
                    "poutine.scale, or leave accumulate out"
                )
        estimator = getattr(self.estimator, "estimator", self.estimator)
        return estimator.reduction == "mean" or plate_of_part.objective != plate_of_part.size


def _plate(traces: Iterable[Trace], x: Data) -> DataPlate:
    told = {"plate": getattr(x, "plate", None), "total": getattr(x, "total", None)}
    return data_plate(traces, len(x), **told)


def _sites(traces: Iterable[Trace]) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    for program, trace in zip(("model", "guide"), traces, strict=True):
        for site, node in trace.nodes.items():
            if node["type"] == "sample":
                yield (program, site), node


def _joined(found: list[tuple[Tensor, ELBOTerms]]) -> tuple[Tensor, ELBOTerms]:
    losses, terms = zip(*found, strict=True)
    return torch.stack(losses).sum(), joined(terms)
