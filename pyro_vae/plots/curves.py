"""Training curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .drawing import COLORS, new_axes


def history(rows: Sequence[Mapping[str, Any]], *, axes: Sequence[Axes] | None = None) -> Figure:
    """Draw training curves in three panels: the bound, the KL of each site, beta.

    The bound is the ELBO without beta; where beta is not 1, the objective that was ascended is
    beside it. Dashed lines are of the validation data, with a band of one standard error. A
    vertical line with the name of the new guide stands where the guide was swapped.

    Args:
        rows: ``trainer.history``: one mapping per epoch.
        axes: three axes to draw on; by default those of a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: no rows, or not three axes.

    Example:
        >>> rows = [{"epoch": i, "elbo": -9.0 / i, "kl": {"z1": 1.0}, "beta": 1.0} for i in (1, 2)]
        >>> [ax.get_title() for ax in history(rows).axes]
        ['bound', 'KL per site', 'beta']
    """
    if not rows:
        raise ValueError("rows: expected at least one epoch, got none: call trainer.fit first")
    if axes is None:
        axes = new_axes(1, 3, (12.0, 3.6))
    if len(axes) != 3:
        raise ValueError(f"axes: expected 3, got {len(axes)}")
    epochs = [row.get("epoch", i) for i, row in enumerate(rows, start=1)]
    _draw_bound(axes[0], epochs, rows)
    _draw_kl(axes[1], epochs, rows)
    _draw_beta(axes[2], epochs, rows)
    swaps = [
        (epoch, str(row.get("guide", "")))
        for epoch, row in zip(epochs, rows, strict=True)
        if row.get("swapped")
    ]
    titles = ("bound", "KL per site", "beta")
    units = ("nats per datum", "nats per datum", "weight of the KL")
    for ax, title, unit in zip(axes, titles, units, strict=True):
        ax.set(title=title, xlabel="epoch", ylabel=unit)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.grid(alpha=0.3)
        for epoch, guide in swaps:
            ax.axvline(epoch - 0.5, color="0.4", linestyle=":", linewidth=1)
            ax.text(
                epoch - 0.5,
                0.02,
                f" {guide}",
                transform=ax.get_xaxis_transform(),
                rotation=90,
                ha="right",
                va="bottom",
                fontsize="small",
                color="0.3",
            )
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize="small")
    return axes[0].figure


def _get(row: Mapping[str, Any], *keys: str) -> float:
    """A number in nested mappings; NaN, which is not drawn, where it is missing."""
    value: Any = row
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return math.nan if value is None else float(value)


def _line(
    ax: Axes, epochs: list[float], values: list[float], label: str | None, **style: Any
) -> None:
    if any(map(math.isfinite, values)):
        # A curve of one epoch would be invisible without markers.
        marker = "o" if len(epochs) < 3 else None
        fill = "none" if style.get("linestyle") else "full"
        ax.plot(epochs, values, label=label, marker=marker, fillstyle=fill, **style)


def _beta(row: Mapping[str, Any], site: str | None) -> float:
    """Beta of a site; of all, where it is one number."""
    beta = row.get("beta")
    if isinstance(beta, Mapping):
        return float(beta.get(site, 1.0))
    return math.nan if beta is None else float(beta)


def _beta_sites(rows: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """Sites that have a beta of their own, or [None] for one that holds for all."""
    named = [row["beta"] for row in rows if isinstance(row.get("beta"), Mapping)]
    return list(dict.fromkeys(site for beta in named for site in beta)) or [None]


def _draw_bound(ax: Axes, epochs: list[float], rows: Sequence[Mapping[str, Any]]) -> None:
    _line(ax, epochs, [_get(r, "elbo") for r in rows], "ELBO, training", color=COLORS[0])
    validation = [_get(r, "validation", "elbo") for r in rows]
    error = [_get(r, "validation", "elbo_se") for r in rows]
    _line(ax, epochs, validation, "ELBO, validation", color=COLORS[2], linestyle="--")
    if any(map(math.isfinite, error)):
        low = [v - e for v, e in zip(validation, error, strict=True)]
        high = [v + e for v, e in zip(validation, error, strict=True)]
        ax.fill_between(epochs, low, high, color=COLORS[2], alpha=0.2, linewidth=0)
    betas = [_beta(row, site) for row in rows for site in _beta_sites(rows)]
    if any(beta != 1 and not math.isnan(beta) for beta in betas):
        objective = [_get(r, "objective") for r in rows]
        style = {"color": COLORS[4], "linestyle": "-.", "zorder": 1.5}
        _line(ax, epochs, objective, "objective, training", **style)


def _draw_kl(ax: Axes, epochs: list[float], rows: Sequence[Mapping[str, Any]]) -> None:
    sites = sorted({site for row in rows for site in row.get("kl", {})})
    for i, site in enumerate(sites):
        color = COLORS[i % len(COLORS)]
        _line(ax, epochs, [_get(r, "kl", site) for r in rows], site, color=color)
        validation = [_get(r, "validation", "kl", site) for r in rows]
        _line(ax, epochs, validation, f"{site}, validation", color=color, linestyle="--")


def _draw_beta(ax: Axes, epochs: list[float], rows: Sequence[Mapping[str, Any]]) -> None:
    for i, site in enumerate(_beta_sites(rows)):
        color = COLORS[i % len(COLORS)]
        _line(ax, epochs, [_beta(row, site) for row in rows], site, color=color)
