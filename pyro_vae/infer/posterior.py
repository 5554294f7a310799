"""Posterior means of a data set, and which latent units follow the data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..data import Dataset
from ..programs.autoguides import is_per_datum
from ..programs.encoding import trace_means
from ..programs.labels import label_arguments
from ..programs.reading import latent_rows
from ..programs.running import undisturbed

ACTIVE = 0.01


def posterior_means(
    guide: Callable, data: Dataset, *, batch_size: int = 1000
) -> dict[str, Tensor]:
    """E[z_i | x] per latent site as ``encode`` gives it, site -> (n, *latent shape).

    Those outside the data plate, which all data share, are left out. No state changes, modes and
    RNG among it; dynamic binarisation is drawn once.
    """
    batch_size = len(data) if is_per_datum(guide) else batch_size
    with undisturbed(guide, device=data.device):
        batches = data.batches(batch_size)
        parts = [
            latent_rows(trace_means(guide, x, **label_arguments(guide, y)), x) for x, y in batches
        ]
    return {site: torch.cat([part[site] for part in parts]) for site in parts[0]}


def mean_variance(means: Tensor) -> Tensor:
    """Var_x(E[z_u|x]) over the n data at hand (divided by n), whose size decides on a unit.

    The posterior means are (n, *latent shape), the result (units,), float64.
    """
    return means.reshape(len(means), -1).double().var(0, correction=0)


def active(means: Tensor, threshold: float = ACTIVE) -> Tensor:
    """Which units of a layer depend on the data: Var_x(E[z|x]) > ``threshold``.

    Source: "Importance Weighted Autoencoders", Burda, Grosse, Salakhutdinov (2016).

    The posterior means are (n, size), the result (size,), boolean.
    """
    return mean_variance(means) > threshold
