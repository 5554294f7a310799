"""Several guides of one model, drawn side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from ..ground.drawing import COLORS, MARKERS, new_axes, shown
from ..ground.tables import two_decimals, with_error

_BOUNDS = ("ELBO", "log p(x)")


def guide_comparison(table: Mapping[str, Mapping[str, Any]], difference: str) -> Figure:
    """Draw bounds and paired differences with errors, KL per layer, and the time of a step.

    Args:
        table: guide -> quantity -> mean and standard error, or a number, as
            ``infer.compare_guides(...).to_dict()`` gives it.
        difference: the quantity that has the paired differences.

    Returns:
        A figure of three axes with a row per guide; four, the second for the differences, where
        several guides have densities.
    """
    names = list(table)
    paired = any(difference in quantities for quantities in table.values())
    size = (15.0 if paired else 12.0, 1.6 + 0.55 * len(names))
    bounds, *others, kl, times = new_axes(1, 4 if paired else 3, size)
    for i, quantity in enumerate(_BOUNDS):
        _estimates(bounds, table, quantity, (0, 2)[i], MARKERS[i], 0.12 * (2 * i - 1))
    bounds.set(title="bounds on log p(x)", xlabel="nats per datum")
    _legend(bounds, 2)

    for ax in others:
        ax.axvline(0.0, color=COLORS[8], linewidth=1)
        for k, value in _estimates(ax, table, difference, 0, MARKERS[0]):
            mean, error = value["mean"], value["standard_error"]
            label = with_error(mean, math.nan if error is None else error, two_decimals)
            place = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center"}
            look = {"fontsize": "small", "bbox": {"color": "white", "pad": 0.5}}
            ax.annotate(label.replace("+-", "±"), (mean, k), **place, **look)
        ax.margins(x=0.25)
        ax.set(title="ELBO - best, paired", xlabel="nats per datum")

    layers = list(dict.fromkeys(q for n in names for q in table[n] if q.startswith("KL ")))
    left = [0.0] * len(names)
    for i, layer in enumerate(layers):
        widths = [max(0.0, table[n][layer]["mean"]) if layer in table[n] else 0.0 for n in names]
        color = COLORS[i % len(COLORS)]
        label = shown(layer.removeprefix("KL "))
        kl.barh(range(len(names)), widths, 0.6, left, label=label, color=color)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    kl.set(title="KL per layer", xlabel="nats per datum")
    if layers:
        _legend(kl, len(layers))

    values = [table[n].get("ms per step", 0.0) for n in names]
    drawn = times.barh(range(len(names)), values, 0.6, color=COLORS[8])
    labels = [f"{v:.1f}" if v else "not timed" for v in values]
    times.bar_label(drawn, labels, padding=3, fontsize="small")
    times.margins(x=0.15)
    times.set(title="training step", xlabel="milliseconds")
    for ax in (bounds, *others, kl, times):
        ax.set_yticks(range(len(names)), map(shown, names) if ax is bounds else [])
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.locator_params(axis="x", nbins=5)
        ax.grid(axis="x", alpha=0.3)
        ax.set_axisbelow(True)
    return bounds.figure


def _estimates(
    ax: Axes,
    table: Mapping[str, Mapping[str, Any]],
    quantity: str,
    color: int,
    marker: str,
    below: float = 0.0,
) -> list[tuple[int, Mapping[str, float | None]]]:
    """Means with their standard errors, which are returned, each with its guide's row."""
    found = [(k, q[quantity]) for k, q in enumerate(table.values()) if quantity in q]
    found = [(k, value) for k, value in found if math.isfinite(value["mean"])]
    ax.errorbar(
        [value["mean"] for _, value in found],
        [k + below for k, _ in found],
        xerr=[value["standard_error"] or 0.0 for _, value in found],
        color=COLORS[color],
        marker=marker,
        linestyle="none",
        capsize=3,
        label=quantity,
    )
    return found


def _legend(ax: Axes, columns: int) -> None:
    """A legend above the title."""
    above = offset_copy(ax.transAxes, ax.figure, y=20, units="points")
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "bbox_transform": above}
    ax.legend(fontsize="small", ncols=columns, **place)
