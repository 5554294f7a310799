"""The bound over a whole data set."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..data import Dataset
from ..programs.autoguides import is_per_datum
from ..programs.running import measuring
from .objectives.elbo import Drawing, ELBOTerms, Estimator


def dataset_terms(
    model: Callable,
    guide: Callable,
    data: Dataset,
    *,
    batch_size: int = 1000,
    samples: int = 1,
    estimator: Estimator | None = None,
) -> ELBOTerms:
    """``elbo_terms`` of every datum, in batches, without changing any state.

    The data have passed ``check_data``; dynamic binarisation is drawn once. Other arguments, and
    what is returned, are those of ``elbo_terms``.
    """
    batch_size = len(data) if is_per_datum(guide) else batch_size
    draw = Drawing(model, guide, estimator)
    # A model that tells what data it can produce has been shown these: Pyro need not look again
    checks = hasattr(model, "check_data")
    with measuring(model, guide, device=data.device):
        parts = [
            draw(x, y, samples, checked=checks and i > 0)
            for i, (x, y) in enumerate(data.batches(batch_size))
        ]
    return ELBOTerms(
        torch.cat([p.reconstruction for p in parts]),
        {site: torch.cat([p.kl[site] for p in parts]) for site in parts[0].kl},
        parts[0].shared,
    )
