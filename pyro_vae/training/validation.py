"""What a trainer measures after each epoch."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from .. import ranks
from ..codebooks import Codebook
from ..codebooks.base import by_book
from ..data import Dataset
from ..data.arguments import Arguments, Data
from ..infer.engine.graph import Graph
from ..infer.engine.repeated import CALLS_BEFORE_A_GRAPH, finite_or_checked
from ..infer.objectives.elbo import ELBOTerms, Estimator, Whole, joined
from ..infer.posterior import active, posterior_means
from ..programs.encoding import encode
from ..programs.labels import label_arguments
from ..programs.placing import seen_values
from ..programs.running import measuring
from ..programs.unwrapping import is_ours
from .feeds import Loaded

_ROWS = 1000


class Validation:
    """The bound of a pair on the same data, epoch after epoch, for rows of the history.

    The first epoch runs the programs with all of Pyro's checks. Later ones replay recorded
    tensors once that pays, bit for bit the same; a batch whose terms are NaN or infinite runs
    again with the checks. No state changes.

    Where each process of a run has a part of the data, the bound is that of all. Model and guide
    are those that are scaled by beta; ``replay`` tells whether to record them at all; ``at_once``
    is of how many data a step of training is, for programs that run on no fewer. ``graph`` is that
    of an earlier run of the same pair and estimator.
    """

    def __init__(
        self,
        model: Callable,
        guide: Callable,
        data: Dataset | Arguments | Loaded,
        estimator: Estimator,
        *,
        replay: bool = True,
        at_once: int = _ROWS,
        graph: Graph | None = None,
    ) -> None:
        self.pair, self.data, self.estimator, self.replay = (model, guide), data, estimator, replay
        self.at_once = at_once
        self.graph = graph or _Quiet(estimator, after=CALLS_BEFORE_A_GRAPH)
        if graph is not None:
            graph.begin_run()
        self._checked = False

    def check(self) -> None:
        """Run the pair on the first data, to tell what does not fit before there is training."""
        data = (self.data.data if isinstance(self.data, Loaded) else self.data)[:_ROWS]
        with measuring(*self.pair, device=data.device):
            self._once(seen_values(data), data.y)

    def __call__(self) -> dict[str, Any]:
        """The row of the present epoch, in nats per datum.

        ``elbo`` with its standard error ``elbo_se``, ``reconstruction`` and ``kl`` per site are
        without beta; ``objective``, what the estimator raises, is with beta. Where there are
        latents that all data share, ``kl_global`` has their KL in nats per data set.
        """
        estimate = self._again if self._checked and self.replay else self._once
        rows = max(1, _ROWS // getattr(self.estimator, "particles", 1))
        if not is_ours(self.pair[1]):
            rows = max(rows, self.at_once)
        total, terms = 0.0, []
        with measuring(*self.pair, device=self.data.device):
            for x, y in self.data.batches(rows):
                loss, part = estimate(x, y)
                n = len(part.reconstruction) if self.estimator.reduction == "mean" else 1
                total -= float(loss) * n
                terms.append(part)
        self._checked = True
        if isinstance(self.data, Loaded) and self.data.divided:
            # Not by what adds tensors up: processes may have unequal numbers of batches
            told = ranks.each((total, [_on_cpu(t) for t in terms]))
            total, terms = sum(t for t, _ in told), [t for _, part in told for t in part]
        found = joined(terms)
        kl = {s: float(_exact(value).mean()) for s, value in found.kl.items()}
        elbo = _exact(found.elbo)
        shared = {s: kl[s] * n for s, n in found.shared.items()}
        row = {
            "elbo": float(elbo.mean()),
            "objective": total / len(elbo),
            "elbo_se": float(elbo.std() / math.sqrt(len(elbo))) if len(elbo) > 1 else 0.0,
            "reconstruction": float(_exact(found.reconstruction).mean()),
            "kl": kl,
            **({"kl_global": shared} if shared else {}),
        }
        if isinstance(terms[0], Whole):
            # Of batches, not of data
            del row["elbo_se"]
        return row

    def _once(self, x: Data, y: Tensor | None) -> tuple[Tensor, ELBOTerms]:
        return self.estimator(*self.pair, x, y)

    def _again(self, x: Data, y: Tensor | None) -> tuple[Tensor, ELBOTerms]:
        run = functools.partial(self.graph, *self.pair)
        return finite_or_checked(run, self._once, (x, y), lambda found: (found[0], found[1].elbo))


class _Quiet(Graph):
    """Training tells already why a pair cannot be recorded."""

    def _notice(self, *reasons: str) -> None:
        pass


def _exact(values: Tensor) -> Tensor:
    """One value for each datum, in double, whose sums do not overflow."""
    return values.cpu().double()


def _on_cpu(terms: ELBOTerms) -> ELBOTerms:
    kl = {site: value.cpu() for site, value in terms.kl.items()}
    return ELBOTerms(terms.reconstruction.cpu(), kl, terms.shared)


def active_units(
    guide: Callable, data: Dataset | Arguments, *, without: Collection[str]
) -> dict[str, int]:
    """Active units per latent site of vectors ``without`` some, for a row of the history.

    Returns:
        site -> units whose posterior mean has a variance above 0.01 over the data. Empty where
        that is not defined: a guide whose distributions tell no mean, too few data.
    """
    if len(data) < 2:
        return {}
    try:
        means = posterior_means(guide, data)
    # Whatever a program provokes that cannot run on means: it trains all the same
    except Exception:
        return {}
    return {
        site: int(active(mean).sum())
        for site, mean in means.items()
        # NaN is what a mask hides
        if site not in without and mean.dim() == 2 and not mean.isinf().any()
    }


def warn_of_few_codes(model: Any, guide: Any, data: Dataset) -> None:
    """Warn where a tenth of a codebook's codes or less stand for the first thousand data."""
    if not isinstance(getattr(model, "codebook", None), Codebook):
        return
    with measuring(model, guide, device=data.device):
        x, y = data[:_ROWS].batch(torch.arange(min(len(data), _ROWS), device=data.device))
        labels = label_arguments(model, y)
        numbers = by_book(model.codebooks, encode(guide, x, **labels).sample)
    for name, index in numbers.items():
        book = model.codebooks[name.partition("[")[0]]
        used, usable = len(index.unique()), min(book.codes, index.numel())
        if not used <= max(1, usable // 10) < usable:
            continue
        remedy = (
            "start the codes by initializer=codebooks.KMeans(), revive those without use by "
            "codebooks.MovingAverage(codes, dim, revive=codebooks.Unused()), or lower lr"
        )
        of = "" if name == "z1" else f" of {name}"
        warnings.warn(
            f"the codebook{of} collapses: {used} of {usable} codes that could stand for data do. "
            "See print(diagnostics.codebook(model, guide, data)); "
            + (remedy if book.learns else "train longer, or with another lr"),
            stacklevel=4,
        )
