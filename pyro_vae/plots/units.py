"""A picture of which latent units come to carry something while training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..ground.arguments import positive
from ..ground.drawing import new_axes, shown
from .curves import mark_swaps, sites_of

_MOST_COLUMNS = 5


def unit_kl(
    rows: Sequence[Mapping[str, Any]],
    *,
    threshold: float = 0.01,
    axes: Sequence[Axes] | None = None,
) -> Figure:
    """Draw the KL of each latent unit over the epochs, a panel per layer, on a logarithmic scale.

    The units of a layer are in the order of their last KL, the largest on top. White are units of
    a tenth of the ``threshold`` or less, which are as their prior; the line in the scale is the
    threshold, above which a unit is active, and the title counts those that are in the end.

    Source: "Ladder Variational Autoencoders", Sonderby et al. (2016).

    Args:
        rows: ``trainer.history`` of a run with ``callbacks.UnitKL(data)``: mappings with
            ``unit_kl``, site -> KL of the units in nats; those without are left out.
        threshold: KL in nats above which a unit is active.
        axes: as many axes as there are layers; by default those of a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: rows without the KL of units, a threshold that is not positive, or another
            number of axes.

    Example:
        >>> rows = [{"epoch": i, "unit_kl": {"z1": [0.5 * i, 0.001]}} for i in (1, 2, 3)]
        >>> [ax.get_title() for ax in unit_kl(rows).axes[:1]]
        ['z1: 1 of 2 active']
    """
    positive("threshold", threshold)
    numbers = [row.get("epoch", i) for i, row in enumerate(rows, start=1)]
    measured = [
        (e, kl) for e, row in zip(numbers, rows, strict=True) if (kl := row.get("unit_kl"))
    ]
    if not measured:
        raise ValueError(
            "rows: expected unit_kl in them, got none: pass callbacks=[callbacks.UnitKL(data)] to "
            "fit"
        )
    epochs, found = zip(*measured, strict=True)
    sites = sites_of(rows, "unit_kl")
    columns = min(_MOST_COLUMNS, len(sites))
    if axes is None:
        lines = math.ceil(len(sites) / columns)
        axes = new_axes(lines, columns, (2.6 * columns + 1.2, 3.4 * lines))
        for ax in axes[len(sites) :]:
            ax.remove()
        axes = axes[: len(sites)]
    if len(axes) != len(sites):
        raise ValueError(f"axes: expected {len(sites)}, one for each layer, got {len(axes)}")
    values = {site: _values(found, site) for site in sites}
    # Of the last row, as the first ones may be far above
    last = np.concatenate([kl[:, -1] for kl in values.values()])
    most = last[np.isfinite(last)].max(initial=10 * threshold)
    style = {
        "norm": LogNorm(threshold / 10, most, clip=True),
        "cmap": mpl.colormaps["Blues"].with_extremes(bad="0.85"),
    }
    # A measurement stands for the epochs since the one before
    before = max(0, 2 * epochs[0] - epochs[1]) if len(epochs) > 1 else epochs[0] - 1
    edges = np.array([before, *epochs]) + 0.5
    for i, (ax, (site, kl)) in enumerate(zip(axes, values.items(), strict=True)):
        drawn = _draw(ax, edges, kl, style)
        ax.set_title(shown(f"{site}: {int((kl[:, -1] > threshold).sum())} of {len(kl)} active"))
        ax.set(xlabel="epoch", ylabel="" if i % columns else "unit, by its last KL")
        mark_swaps(ax, numbers, rows)
    figure = axes[0].figure
    bar = figure.colorbar(drawn, ax=list(axes), extend="both", label="KL in nats per datum")
    bar.ax.axhline(threshold, color="black", linewidth=1.2)
    return figure


def _draw(ax: Axes, edges: np.ndarray, kl: np.ndarray, style: Mapping[str, Any]) -> QuadMesh:
    """Units by epochs, (units, epochs), the largest in the end on top."""
    order = np.argsort(-np.nan_to_num(kl[:, -1], nan=-math.inf), kind="stable")
    units = np.arange(len(kl) + 1) + 0.5
    drawn = ax.pcolormesh(edges, units, kl[order], rasterized=True, **style)
    ax.invert_yaxis()
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=5))
    return drawn


def _values(found: Sequence[Mapping[str, Sequence[float]]], site: str) -> np.ndarray:
    """The KL of a site's units, (units, epochs), NaN where a row has none."""
    units = max(len(row.get(site, ())) for row in found)
    values = np.full((units, len(found)), math.nan)
    for column, row in enumerate(found):
        given = row.get(site, ())
        values[: len(given), column] = [math.nan if v is None else v for v in given]
    return values
