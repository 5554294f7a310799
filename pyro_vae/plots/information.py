"""A picture of what the latents carry."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..ground.drawing import COLORS, new_axes, shown
from ..ground.tables import mean_and_error


def collapse(result: Any) -> Figure:
    """Draw KL = I + marginal KL per site, and the variance of each unit's posterior mean.

    Args:
        result: what ``diagnostics.collapse`` returned, or other numbers by the same names:
            ``sites``, site -> its ``kl``, ``mutual_information`` and ``marginal_kl``, each (n,)
            in nats; ``whole``, the same of all sites together; ``cap``, what the mutual
            information cannot exceed; ``units``, site -> the ``variance`` (units,) of the
            posterior means and the ``threshold`` of active units; ``verdict``, a title.

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
        found = [mean_and_error(torch.as_tensor(getattr(r, part))) for r in rows.values()]
        means, errors = zip(*found, strict=True)
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
        variance = torch.as_tensor(found.variance).cpu().sort(descending=True).values
        active = int((variance > found.threshold).sum())
        label = shown(f"{site}: {active} of {len(variance)} active")
        style = {"marker": "o", "markersize": 4, "color": COLORS[i % len(COLORS)], "label": label}
        # Units without any variance still get a point
        units.plot(np.arange(1, len(variance) + 1), variance.clamp(min=1e-8), **style)
    units.axhline(threshold, color=COLORS[8], linestyle=":", label=f"threshold {threshold:g}")
    units.set_yscale("log")
    units.xaxis.set_major_locator(MaxNLocator(integer=True))
    units.set(xlabel="unit, by variance", ylabel="variance of the posterior mean")
    units.legend(frameon=False, fontsize="small")
    bars.figure.suptitle(shown(result.verdict.split(";")[0]), fontsize="medium")
    return bars.figure
