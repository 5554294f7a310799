"""What a trainer measures after each epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import torch

from . import ranks
from .data import Dataset
from .feeds import Loaded
from .infer.elbo import ELBOTerms, Estimator
from .infer.posterior import active, posterior_means
from .infer.traces import measuring

_ROWS = 1000


def validation(
    model: Callable, guide: Callable, data: Dataset | Loaded, estimator: Estimator
) -> dict[str, Any]:
    """The bound of a pair on data, for a row of the history; no state changes.

    Where each process of a run has a part of the data, the bound is that of all.

    Args:
        model: generative program, scaled by beta.
        guide: inference program, scaled by beta.
        data: n data.
        estimator: what is trained with.

    Returns:
        ``elbo`` with its standard error ``elbo_se``, ``reconstruction`` and ``kl`` per site, all
        without beta; ``objective``, what the estimator raises, with beta. Nats per datum.
    """
    rows = max(1, _ROWS // getattr(estimator, "particles", 1))
    total, terms = 0.0, []
    with measuring(model, guide, device=data.device):
        for x, y in data.batches(rows):
            loss, part = estimator(model, guide, x, y)
            total -= float(loss) * (len(x) if estimator.reduction == "mean" else 1)
            terms.append(part)
    if isinstance(data, Loaded) and data.divided:
        # Not by what adds tensors up: processes may have unequal numbers of batches
        told = ranks.each((total, [_on_cpu(t) for t in terms]))
        total, terms = sum(t for t, _ in told), [t for _, part in told for t in part]
    kl = {s: float(torch.cat([t.kl[s] for t in terms]).mean()) for s in terms[0].kl}
    elbo = torch.cat([t.elbo for t in terms])
    return {
        "elbo": float(elbo.mean()),
        "objective": total / len(elbo),
        "elbo_se": float(elbo.std() / math.sqrt(len(elbo))) if len(elbo) > 1 else 0.0,
        "reconstruction": float(torch.cat([t.reconstruction for t in terms]).mean()),
        "kl": kl,
    }


def _on_cpu(terms: ELBOTerms) -> ELBOTerms:
    return ELBOTerms(terms.reconstruction.cpu(), {s: kl.cpu() for s, kl in terms.kl.items()})


def active_units(guide: Callable, data: Dataset, *, without: Collection[str]) -> dict[str, int]:
    """The number of active units per latent site of vectors, for a row of the history.

    Args:
        guide: inference program.
        data: at least two data.
        without: sites to leave out.

    Returns:
        site -> units whose posterior mean has a variance above 0.01 over the data. Empty where
        that is not defined: a guide whose distributions tell no mean, too few data.
    """
    if len(data) < 2:
        return {}
    try:
        means = posterior_means(guide, data)
    except (
        Exception
    ):  # whatever a program provokes that cannot run on means: it trains all the same
        return {}
    return {
        site: int(active(mean).sum())
        for site, mean in means.items()
        if site not in without and mean.dim() == 2 and mean.isfinite().all()
    }
