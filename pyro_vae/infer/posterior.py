"""Posterior means of a data set, and which latent units are active."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..data import Dataset
from ..programs.autoguides import takes_all
from ..programs.encoding import trace_means
from ..programs.labels import label_arguments
from ..programs.reading import latent_rows
from ..programs.running import undisturbed
from ..programs.sites import kinds, present

ACTIVE = 0.01


def posterior_means(
    guide: Callable, data: Dataset, *, batch_size: int = 1000
) -> dict[str, Tensor]:
    """E[z_i | x] per latent site as ``encode`` gives it, site -> (n, *latent shape).

    A latent that a datum does not have, which a mask hides or its batch lacks, is NaN; those
    outside the data plate, which all data share, are left out. No state changes, modes and RNG
    among it; dynamic binarisation is drawn once.
    """
    batch_size = max(1, len(data)) if takes_all(guide) else batch_size
    with undisturbed(guide, device=data.device):
        batches = data.batches(batch_size)
        parts = [_means(guide, x, y) for x, y in batches]
    found = {site: value for part in parts for site, value in part.items()}
    rows = [len(next(iter(part.values()), ())) for part in parts]
    return {
        site: torch.cat(
            [
                part[site] if site in part else value.new_full((n, *value.shape[1:]), math.nan)
                for n, part in zip(rows, parts, strict=True)
            ]
        )
        for site, value in found.items()
    }


def _means(guide: Callable, x: Tensor, y: Tensor | None) -> dict[str, Tensor]:
    trace = trace_means(guide, x, **label_arguments(guide, y))
    for node in map(trace.nodes.get, kinds(trace).latent):
        if (shown := present(node)) is not None:
            node["value"] = torch.where(shown, node["value"], math.nan)
    return latent_rows(trace, x)


def centred(means: Tensor) -> Tensor:
    """Posterior means less their mean over the data that have them, (n, units), float64."""
    means = means.reshape(len(means), -1).double()
    return means - means.nanmean(0)


def mean_variance(means: Tensor) -> Tensor:
    """Var_x(E[z_u|x]) over the n data at hand (divided by n), whose size decides on a unit.

    The posterior means are (n, *latent shape), the result (units,), float64; over the data that
    have the unit, 0 where none has.
    """
    if means.isnan().any():
        return centred(means).square().nanmean(0).nan_to_num(0.0)
    return means.reshape(len(means), -1).double().var(0, correction=0)


def active(means: Tensor, threshold: float = ACTIVE) -> Tensor:
    """Which units of a layer depend on the data: Var_x(E[z|x]) > ``threshold``.

    Source: "Importance Weighted Autoencoders", Burda, Grosse, Salakhutdinov (2016).

    The posterior means are (n, size), the result (size,), boolean.
    """
    return mean_variance(means) > threshold


def active_by_kl(unit_kl: Tensor, threshold: float = ACTIVE) -> Tensor:
    """Which units of a layer differ from their prior: their mean KL is above ``threshold`` nats.

    Where a prior moves with other latents, or BatchNorm scales it, the mean of a unit that equals
    its prior has a variance, but no KL.

    Source: "Ladder Variational Autoencoders", Sonderby et al. (2016).

    The KL of ``elbo_terms(..., per_unit=True)`` is (n, *units), the result (units,), boolean.
    """
    return unit_kl.reshape(len(unit_kl), -1).double().mean(0) > threshold


def count_error(values: Tensor, errors: Tensor, threshold: float) -> float:
    """Standard error of how many values (units,) with standard errors are above a threshold.

    One that is close to it may fall on either side.
    """
    p = torch.special.ndtr((values - threshold) / errors.clamp(min=1e-300))
    return float((p * (1 - p)).sum().sqrt())
