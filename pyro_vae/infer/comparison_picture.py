"""Several guides of one model, drawn side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from ..ground.drawing import COLORS, MARKERS, new_axes, shown

_BOUNDS = ("ELBO", "log p(x)")


def guide_comparison(table: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw bounds with standard errors, KL per layer, and the time of a training step.

    Args:
        table: guide -> quantity -> mean and standard error, or a number, as
            ``infer.compare_guides(...).to_dict()`` gives it.

    Returns:
        A figure of three axes with a row per guide.
    """
    names = list(table)
    bounds, kl, times = new_axes(1, 3, (12.0, 1.6 + 0.55 * len(names)))
    for i, quantity in enumerate(_BOUNDS):
        found = [(k, table[n][quantity]) for k, n in enumerate(names) if quantity in table[n]]
        bounds.errorbar(
            [value["mean"] for _, value in found],
            [k + 0.12 * (2 * i - 1) for k, _ in found],
            xerr=[value["standard_error"] or 0.0 for _, value in found],
            color=COLORS[(0, 2)[i]],
            marker=MARKERS[i],
            linestyle="none",
            capsize=3,
            label=quantity,
        )
    bounds.set(title="bounds on log p(x)", xlabel="nats per datum")
    bounds.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.12), ncols=2)

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
        kl.legend(
            fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.12), ncols=len(layers)
        )

    values = [table[n].get("ms per step", 0.0) for n in names]
    drawn = times.barh(range(len(names)), values, 0.6, color=COLORS[8])
    labels = [f"{v:.1f}" if v else "not timed" for v in values]
    times.bar_label(drawn, labels, padding=3, fontsize="small")
    times.margins(x=0.15)
    times.set(title="training step", xlabel="milliseconds")
    for ax in (bounds, kl, times):
        ax.set_yticks(range(len(names)), map(shown, names) if ax is bounds else [])
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.grid(axis="x", alpha=0.3)
        ax.set_axisbelow(True)
    return bounds.figure
