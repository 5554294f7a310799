"""A picture of what the latents carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .drawing import COLORS, new_axes, shown

if TYPE_CHECKING:
    from ..diagnostics.collapse import Collapse


def collapse(result: Collapse) -> Figure:
    """Draw KL = I + marginal KL per site, and the variance of each unit's posterior mean.

    Args:
        result: what ``diagnostics.collapse`` returned.

    Returns:
        A figure of two axes: bars per site with their standard errors, and the units of each site
        from the largest variance to the smallest, with the threshold of active units.

    Example:
        >>> import torch
        >>> from pyro_vae import diagnostics, guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> found = diagnostics.collapse(vae, guides.BottomUp(vae), torch.randn(20, 6))
        >>> len(collapse(found).axes)
        2
    """
    bars, units = new_axes(1, 2, (11.0, 4.0))
    rows = {**result.sites, "all": result.whole} if len(result.sites) > 1 else result.sites
    at = np.arange(len(rows))
    parts = {"KL": "kl", "mutual information": "mutual_information", "marginal KL": "marginal_kl"}
    for i, (label, part) in enumerate(parts.items()):
        values = [getattr(found, part) for found in rows.values()]
        means = [float(v.mean()) for v in values]
        errors = [float(v.std()) / len(v) ** 0.5 for v in values]
        bars.bar(at + 0.27 * (i - 1), means, 0.25, yerr=errors, color=COLORS[i], label=label)
    bars.axhline(result.cap, color=COLORS[8], linestyle=":", label="log N, cap of I")
    bars.set_xticks(at, [shown(site) for site in rows])
    bars.set_ylabel("nats per datum")
    # Above, since bars and cap may be anywhere
    bars.legend(
        frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4
    )
    threshold = next(iter(result.units.values())).threshold
    for i, (site, found) in enumerate(result.units.items()):
        order = found.variance.argsort(descending=True).cpu()
        # Units without any variance still get a point
        variance = found.variance.cpu()[order].clamp(min=1e-8)
        units.plot(
            np.arange(1, len(order) + 1),
            variance,
            marker="o",
            markersize=4,
            color=COLORS[i % len(COLORS)],
            label=shown(f"{site}: {found.active} of {len(found)} active"),
        )
    units.axhline(threshold, color=COLORS[8], linestyle=":", label=f"threshold {threshold:g}")
    units.set_yscale("log")
    units.xaxis.set_major_locator(MaxNLocator(integer=True))
    units.set(xlabel="unit, by variance", ylabel="variance of the posterior mean")
    units.legend(frameon=False, fontsize="small")
    bars.figure.suptitle(shown(result.verdict.split(";")[0]), fontsize="medium")
    return bars.figure
