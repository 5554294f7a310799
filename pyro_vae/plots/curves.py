"""Training curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..ground.drawing import COLORS, MARKERS, new_axes, shown

_MANY = 20
_ACTIVE = 0.01


def history(rows: Sequence[Mapping[str, Any]], *, axes: Sequence[Axes] | None = None) -> Figure:
    """Draw training curves: the bound, the KL of each site, and beta where it moves.

    The bound is the ELBO without beta; where beta is not 1 or several importance samples were
    used, the objective that was ascended is beside it. Dashed lines are of the validation data,
    with a band of one standard error. A vertical line with the name of the new guide stands where
    the guide was swapped, and tells where the model was frozen. In a long run the limits of the
    axes leave out epochs, mostly the first ones, that are far from all the others. The KL of a
    latent that all data share is divided among them; its name tells how much it is in all.

    Args:
        rows: ``trainer.history``: one mapping per epoch.
        axes: two axes to draw on, or three to have beta in any case; by default those of a new
            figure.

    Returns:
        The figure.

    Raises:
        ValueError: no rows, or not two or three axes.

    Example:
        >>> rows = [{"epoch": i, "elbo": -9.0 / i, "kl": {"z1": 1.0}, "beta": i} for i in (1, 2)]
        >>> [ax.get_title() for ax in history(rows).axes]
        ['bound', 'KL per site', 'beta']
    """
    axes, epochs = _axes_and_epochs(rows, axes, panels(rows), 3)
    _draw_bound(axes[0], epochs, rows)
    _draw_kl(axes[1], epochs, rows)
    _finish(axes[0], epochs, rows, "bound", "nats per datum")
    _finish(axes[1], epochs, rows, "KL per site", "nats per datum")
    if len(axes) == 3:
        _draw_beta(axes[2], epochs, rows)
        _finish(axes[2], epochs, rows, "beta", "weight of the KL")
    return axes[0].figure


def panels(rows: Sequence[Mapping[str, Any]]) -> int:
    """How many axes a history needs: a third one where the beta of a site moves."""
    betas = ({_beta(row, site) for row in rows if "beta" in row} for site in _beta_sites(rows))
    return 3 if any(len(values) > 1 for values in betas) else 2


def active_units(
    rows: Sequence[Mapping[str, Any]], *, axes: Sequence[Axes] | None = None
) -> Figure:
    """Draw what each layer of a hierarchy has come to carry: its active units and its KL.

    A unit is active where the variance of its posterior mean over the data is above 0.01; see
    ``History`` for the data. Where the rows have the KL of units, see ``callbacks.UnitKL``, dashed
    lines count those above 0.01 nats. Guide swaps are marked as in ``history``.

    Sources: "Importance Weighted Autoencoders", Burda, Grosse, Salakhutdinov (2016); "Ladder
    Variational Autoencoders", Sonderby et al. (2016), for the picture.

    Args:
        rows: ``trainer.history``: one mapping per epoch, with ``active_units``.
        axes: two axes to draw on; by default those of a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: no rows, rows without active units, or not two axes.

    Example:
        >>> rows = [{"active_units": {"z1": 9, "z2": i}, "kl": {"z1": 12.0}} for i in (1, 2)]
        >>> [line.get_label() for line in active_units(rows).axes[0].get_lines()]
        ['z1', 'z2']
    """
    if rows and not any(row.get("active_units") for row in rows):
        raise ValueError(
            "rows: expected active_units in them, got none: they are counted for sites of vectors "
            "whose posterior has a mean and a density"
        )
    axes, epochs = _axes_and_epochs(rows, axes, 2, 2)
    sites = sites_of(rows, "active_units", "kl")
    for i, site in enumerate(sites):
        color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
        # Small markers on large ones, because layers often have equally many active units
        size = 4 + 6 * (len(sites) - 1 - i) / len(sites)
        style = {"color": color, "markevery": max(1, len(epochs) // 8), "markersize": size}
        for ax, key in zip(axes, ("active_units", "kl"), strict=True):
            values = [_get(row, key, site) for row in rows]
            if any(map(math.isfinite, values)):
                ax.plot(epochs, values, label=shown(site), marker=marker, **style)
        counts = {
            epoch: sum(kl is not None and kl > _ACTIVE for kl in row["unit_kl"][site])
            for epoch, row in zip(epochs, rows, strict=True)
            if site in row.get("unit_kl", {})
        }
        if counts:
            axes[0].plot([*counts], [*counts.values()], "--", color=color, label="_by_kl")
    if any(row.get("unit_kl") for row in rows):
        axes[0].plot([], [], "--", color="0.4", label=f"KL > {_ACTIVE:g}")
    _finish(axes[0], epochs, rows, "active units", "units")
    axes[0].yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _finish(axes[1], epochs, rows, "KL per layer", "nats per datum")
    return axes[0].figure


def _axes_and_epochs(
    rows: Sequence[Mapping[str, Any]], axes: Sequence[Axes] | None, panels: int, most: int
) -> tuple[Sequence[Axes], list[float]]:
    if not rows:
        raise ValueError("rows: expected at least one epoch, got none: call trainer.fit first")
    if axes is None:
        axes = new_axes(1, panels, (4.0 * panels, 3.6))
    if not 2 <= len(axes) <= most:
        raise ValueError(f"axes: expected {'2 or 3' if most > 2 else 2}, got {len(axes)}")
    return axes, [row.get("epoch", i) for i, row in enumerate(rows, start=1)]


def _finish(
    ax: Axes, epochs: list[float], rows: Sequence[Mapping[str, Any]], title: str, unit: str
) -> None:
    """Titles, limits, swaps of the guide, legend."""
    _leave_out_extremes(ax)
    ax.set(title=title, xlabel="epoch", ylabel=unit)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.grid(alpha=0.3)
    mark_swaps(ax, epochs, rows)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize="small")


def mark_swaps(ax: Axes, epochs: Sequence[float], rows: Sequence[Mapping[str, Any]]) -> None:
    """A labelled line at each swap of the guide."""
    for epoch, row in zip(epochs, rows, strict=True):
        if not row.get("swapped"):
            continue
        # Of many points, so that the legend is put elsewhere
        y = [i / 50 for i in range(51)]
        style = {"color": "0.4", "linestyle": ":", "linewidth": 1, "label": "_swap"}
        ax.plot([epoch - 0.5] * len(y), y, transform=ax.get_xaxis_transform(), **style)
        name = f" {shown(row.get('guide', ''))}" + (", model frozen" if row.get("frozen") else "")
        box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5}
        style = {"rotation": 90, "ha": "right", "va": "bottom", "fontsize": "small", "bbox": box}
        place = epoch - 0.5, 0.02
        ax.text(*place, name, transform=ax.get_xaxis_transform(), color="0.3", **style)


def _leave_out_extremes(ax: Axes) -> None:
    """Set limits that leave out the few epochs, mostly the first, far from all the others."""
    values = np.concatenate([line.get_ydata() for line in ax.get_lines()] or [[]])
    values = values[np.isfinite(values)]
    if len(values) < _MANY:
        return
    low, high = np.quantile(values, [0.1, 0.9])
    spread = 2 * (high - low)
    bottom, top = max(values.min(), low - spread), min(values.max(), high + spread)
    if spread and (values.min() < bottom or values.max() > top):
        margin = 0.05 * (top - bottom)
        ax.set_ylim(bottom - margin, top + margin)


def sites_of(rows: Sequence[Mapping[str, Any]], *keys: str) -> list[str]:
    """The latent sites of the rows, z2 before z10."""
    sites = {site for row in rows for key in keys for site in row.get(key, {})}
    return sorted(sites, key=lambda site: (len(site), site))


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
        label = None if label is None else shown(label)
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
        ends = [np.array(validation) + sign * np.array(error) for sign in (-1, 1)]
        ax.fill_between(epochs, *ends, color=COLORS[2], alpha=0.2, linewidth=0)
    betas = [_beta(row, site) for row in rows for site in _beta_sites(rows)]
    weighted = any(row.get("particles", 1) > 1 for row in rows)
    if weighted or any(beta != 1 and not math.isnan(beta) for beta in betas):
        objective = [_get(r, "objective") for r in rows]
        style = {"color": COLORS[4], "linestyle": "-.", "zorder": 1.5}
        _line(ax, epochs, objective, "objective, training", **style)


def _draw_kl(ax: Axes, epochs: list[float], rows: Sequence[Mapping[str, Any]]) -> None:
    for i, site in enumerate(sites_of(rows, "kl")):
        color = COLORS[i % len(COLORS)]
        last = [kl[site] for row in rows if site in (kl := row.get("kl_global", {}))][-1:]
        name = f"{site} ({last[0]:.3g} nats in all)" if last else site
        _line(ax, epochs, [_get(r, "kl", site) for r in rows], name, color=color)
        validation = [_get(r, "validation", "kl", site) for r in rows]
        _line(ax, epochs, validation, f"{site}, validation", color=color, linestyle="--")


def _draw_beta(ax: Axes, epochs: list[float], rows: Sequence[Mapping[str, Any]]) -> None:
    for i, site in enumerate(_beta_sites(rows)):
        color = COLORS[i % len(COLORS)]
        _line(ax, epochs, [_beta(row, site) for row in rows], site, color=color)
