"""Data that are no pictures: signals as curves, video as strips of frames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from ..ground.drawing import COLORS, new_axes, shown
from ..ground.kinds import maps_of

_PADDING = 0.06


def strips(x: Tensor, most: int = 8, gap: float = 1.0) -> Tensor:
    """Videos (n, c, t, h, w) or (n, t, h, w) as pictures (n, 1 or 3, h, width) of their frames.

    There are at most so many frames, evenly spread from the first to the last, with gaps of the
    value ``gap``; channels that are no colours are averaged.

    Example:
        >>> strips(torch.zeros(5, 1, 20, 4, 6), most=3).shape
        torch.Size([5, 1, 4, 20])
    """
    videos = x.detach().float().cpu().reshape(len(x), *maps_of(x.shape[1:], 3))
    if videos.shape[1] not in (1, 3):
        videos = videos.mean(1, keepdim=True)
    length, width = videos.shape[2], videos.shape[-1]
    at = torch.linspace(0, length - 1, min(length, most)).round().long()
    between = max(1, width // 10)
    frames = torch.nn.functional.pad(videos[:, :, at], (0, between), value=gap)
    return frames.movedim(2, 3).flatten(3)[..., :-between]


def draw_curves(
    ax: Axes,
    x: Tensor,
    columns: int,
    span: tuple[float, float],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    titles: Sequence[str] = (),
) -> None:
    """Draw signals (n, c, t) or (n, t) in rows of ``columns``, a curve for each channel.

    All share the scale ``span``, which the label of the axes tells; a grey line is at zero. There
    is a label per row and per column of the grid, "" for none, and a title per datum.
    """
    curves = x.detach().float().cpu().reshape(len(x), *maps_of(x.shape[1:], 1))
    n, channels, length = curves.shape
    low, high = span
    at = torch.arange(n)
    row, column = (at // columns).float(), (at % columns).float()
    inside = torch.linspace(_PADDING / 2, 1 - _PADDING / 2, length)
    across = (column[:, None] + inside)[:, None].expand(n, channels, length)
    share = (curves - low) / (high - low)
    down = row[:, None, None] + 1 - _PADDING - (1 - 2 * _PADDING) * share
    lines = torch.stack([across, down], -1).numpy()
    width = 1.2 if n * channels < 40 else 0.8
    for channel in range(channels):
        color = COLORS[channel % len(COLORS)]
        ax.add_collection(LineCollection(lines[:, channel], colors=color, linewidths=width))
    rows = math.ceil(n / columns)
    if low < 0 < high:
        zero = 1 - _PADDING + (1 - 2 * _PADDING) * low / (high - low)
        ax.hlines([r + zero for r in range(rows)], 0, columns, colors="0.85", linewidths=0.6)
    for i, title in enumerate(titles):
        text = shown(title.replace("\n", "  "))
        place = (i % columns + 0.5, i // columns + _PADDING)
        ax.text(*place, text, ha="center", va="center", fontsize="small")
    ax.set(xlim=(0, columns), ylim=(rows, 0), frame_on=False)
    numbered = columns == 1 and not row_labels
    numbers = [str(r) if r % max(1, rows // 10) == 0 else "" for r in range(rows)]
    texts = numbers if numbered else row_labels
    for axis, labels in ((ax.yaxis, texts), (ax.xaxis, column_labels)):
        there = [(i + 0.5, shown(label)) for i, label in enumerate(labels) if label]
        axis.set_tick_params(length=0)
        axis.set_ticks([place for place, _ in there], [label for _, label in there])
    ax.set_xlabel(f"time; from {low:.3g} below to {high:.3g} above")
    ax.set_ylabel("datum" if numbered else "")


def curves_size(n: int, columns: int) -> tuple[float, float]:
    """Width and height in inches of a grid of curves, without its labels."""
    rows = math.ceil(n / columns)
    return min(10.0, max(5.0, 1.4 * columns)), min(10.0, max(0.45, min(1.5, 8 / rows)) * rows)


def stacked_curves(
    groups: Mapping[str, Tensor], spans: Mapping[str, tuple[float, float]]
) -> Figure:
    """A figure with groups of signals one under another, label -> (n, *event)."""
    first = next(iter(groups.values()))
    width, height = curves_size(len(first), 1)
    size = width + 0.6, min(10.0, (height + 0.7) * len(groups))
    axes = new_axes(len(groups), 1, size)
    for ax, (label, x) in zip(axes, groups.items(), strict=True):
        draw_curves(ax, x, 1, spans[label])
        ax.set_title(shown(label), fontsize="medium")
    return axes[0].figure
