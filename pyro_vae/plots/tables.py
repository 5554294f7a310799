"""Rows of a table drawn as numbers under the names of their columns, those of text as lines."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from torch import Tensor

from ..data import Column, Vocabulary
from ..ground.drawing import new_axes, shown
from .sentences import lines_axes

# Characters of a line, lines of names, and parts one below the other of a wide table
_WIDE, _NAMED, _PARTS = 110, 2, 4
_NAME, _TEXT = 12, 16
# Sizes in inches
_LINE, _CHARACTER, _GAP = 0.2, 0.075, 0.4
_FONT = 8.0
_SHADES = ListedColormap(mpl.colormaps["Blues"](np.linspace(0.0, 0.45, 64))).with_extremes(
    bad="0.95"
)


def columns_of(*things: Any) -> tuple[Column, ...] | Vocabulary:
    """The columns of a table, of the first of rows, data and models that knows them.

    Of text it is the vocabulary, by which its rows are written.
    """
    for thing in things:
        found = getattr(thing, "columns", ())
        if found and isinstance(found[0], Column):
            return found
    for part in (part for thing in things for part in (thing, getattr(thing, "likelihood", None))):
        found = getattr(part, "vocabulary", None)
        if isinstance(found, Vocabulary):
            return found
    return ()


@dataclass(frozen=True)
class _Part:
    """Columns that are drawn beside each other: their numbers, names, and widths of characters."""

    columns: list[int]
    names: list[str]
    widths: list[int]


def table_axes(
    x: Tensor,
    columns: Sequence[Column] | Vocabulary,
    labels: Sequence[str],
    *,
    block: int = 0,
    plain: Iterable[int] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw rows (n, columns) as numbers, the darker the larger they are in their column.

    A table that is too wide goes on below; of one of very many columns those that vary most,
    relative to their mean, are drawn, which the label below tells. Text is written line by line.

    Args:
        x: (n, columns); NaN is missing.
        columns: their names and kinds, or what numbers of text stand for.
        labels: of the rows, (n,).
        block: rows that belong together, with a gap after them; 0 for none.
        plain: rows whose cells have no shade.
        ax: axes to draw on; by default those of a new figure.
    """
    if isinstance(columns, Vocabulary):
        return lines_axes(columns.text(x), labels, block=block, ax=ax)
    x = x.detach().double().cpu()
    texts = [_texts(column, values) for column, values in zip(columns, x.T, strict=True)]
    shades = _shades(x, columns, plain)
    parts, drawn = _parts(columns, texts, x)
    gaps = np.arange(len(x)) // block * _GAP if block else np.zeros(len(x))
    tops = np.arange(len(x)) + gaps
    height = tops[-1] + 1
    width = max(sum(part.widths) for part in parts)
    deep = [max(name.count("\n") + 1 for name in part.names) + 0.4 for part in parts]
    labels = [shown(label) for label in labels]
    total = sum(deep) + height * len(parts) + _GAP * (len(parts) - 1)
    if ax is None:
        beside = _CHARACTER * max(map(len, labels))
        size = _CHARACTER * width + beside + 0.4, _LINE * total + (0.45 if drawn else 0.25)
        (ax,) = new_axes(1, 1, size)
        font = _FONT
    else:
        box, dots = ax.get_window_extent(), ax.figure.dpi
        needed = max(_LINE * total / box.height, _CHARACTER * width / box.width)
        font = _FONT / max(1.0, needed * dots)
    style = {"fontsize": font, "va": "center"}
    ticks, below = [], 0.0
    for part, names in zip(parts, deep, strict=True):
        edges, begin = np.cumsum([0, *part.widths]), below + names
        for name, middle in zip(part.names, (edges[:-1] + edges[1:]) / 2, strict=True):
            ax.text(middle, begin - 0.2, name, ha="center", **style | {"va": "bottom"})
        for i, column in enumerate(part.columns):
            for row, top in enumerate(tops):
                place = edges[i + 1] - 0.7, begin + top + 0.5
                ax.text(*place, texts[column][row], ha="right", **style)
        for start in range(0, len(x), block or len(x)):
            rows = slice(start, start + (block or len(x)))
            lines = begin + np.append(tops[rows], tops[rows][-1] + 1)
            style_of = {"vmin": 0.0, "vmax": 1.0, "edgecolors": "white", "linewidth": 0.6}
            ax.pcolormesh(edges, lines, shades[rows, part.columns], cmap=_SHADES, **style_of)
        ticks += [begin + top + 0.5 for top in tops]
        below = begin + height + _GAP
    ax.set(xlim=(0, width), ylim=(total, 0), xticks=[])
    ax.set_yticks(ticks, labels * len(parts), fontsize=font)
    ax.tick_params(length=0)
    ax.set_frame_on(False)
    if drawn:
        ax.set_xlabel(f"the {drawn} of {len(columns)} columns that vary most", fontsize=font)
    return ax


def beside(rows: Mapping[str, Tensor]) -> tuple[Tensor, list[str], int]:
    """Rows of several kinds in turns, with their labels, and how many belong together."""
    stacked = torch.stack([x.as_subclass(Tensor).cpu() for x in rows.values()], 1)
    first, *others = rows
    labels = [told for i in range(len(stacked)) for told in (f"{i}  {first}", *others)]
    return stacked.flatten(0, 1), labels, len(rows)


def _texts(column: Column, values: Tensor) -> list[str]:
    """What is written for the values of a column."""
    there = values[values.isfinite()]
    if column.categories:
        names = [*map(_short, column.categories)]
        last = len(names) - 1
        form = lambda v: shown(names[min(max(round(v), 0), last)])  # noqa: E731
    else:
        form = _form(there, most=2 if column.kind == "binary" else 4)
    return [form(v) if math.isfinite(v) else "-" for v in values.tolist()]


def _form(values: Tensor, most: int) -> Any:
    """How numbers of one column are written: three digits of the largest, as many for all."""
    size = float(values.abs().max()) if len(values) else 0.0
    if size >= 1e7 or 0 < size < 1e-3:
        return "{:.2e}".format
    whole = bool((values == values.round()).all())
    digits = 0 if whole or not size else 2 - math.floor(math.log10(size))
    form = f"{{:.{min(max(digits, 0), most)}f}}".format
    # No minus sign for what is rounded to zero
    return lambda v: form(v).replace("-0", "0") if not float(form(v)) else form(v)


def _shades(x: Tensor, columns: Sequence[Column], plain: Iterable[int]) -> np.ndarray:
    """From 0 for the least to 1 for the largest of a column; NaN for categories."""
    shaded = x.clone()
    shaded[list(plain)] = math.nan
    shaded[:, [bool(c.categories) for c in columns]] = math.nan
    low, high = (torch.where(shaded.isnan(), end, shaded) for end in (math.inf, -math.inf))
    low, high = low.amin(0), high.amax(0)
    return ((shaded - low) / (high - low).clamp(min=1e-30)).numpy()


def _parts(
    columns: Sequence[Column], texts: Sequence[Sequence[str]], x: Tensor
) -> tuple[list[_Part], int]:
    """What is drawn one below the other, and of how many columns, or 0 for all of them."""
    names = ["\n".join(_lines(column.name)) for column in columns]
    widths = [
        max(map(len, [*name.split("\n"), *told])) + 2
        for name, told in zip(names, texts, strict=True)
    ]
    order, most = range(len(columns)), _PARTS * (_WIDE - _NAME)
    if sum(widths) > most:
        varies = torch.where(x.isnan(), x.nanmean(0), x)
        varies = varies.var(0, correction=0) / varies.abs().mean(0).clamp(min=1e-30)
        ranked = varies.nan_to_num(-1.0).argsort(descending=True, stable=True).tolist()
        within = np.cumsum([widths[i] for i in ranked]) <= most
        order = sorted(ranked[: max(1, int(within.sum()))])
    count = math.ceil(sum(widths[i] for i in order) / _WIDE)
    share = sum(widths[i] for i in order) / count
    groups: list[list[int]] = [[]]
    for i in order:
        if groups[-1] and len(groups) < count and sum(widths[j] for j in groups[-1]) >= share:
            groups.append([])
        groups[-1].append(i)
    parts = [_Part(g, [shown(names[i]) for i in g], [widths[i] for i in g]) for g in groups]
    return parts, 0 if len(order) == len(columns) else len(order)


def _lines(name: str) -> list[str]:
    """A name in two lines at most."""
    words = name.replace("_", " ") if len(name) > _NAME else name
    lines = textwrap.wrap(words, _NAME, break_long_words=False) or [""]
    if len(lines) > _NAMED:
        lines = [lines[0], " ".join(lines[1:])]
    return [*map(_short, lines)]


def _short(text: str) -> str:
    return text if len(text) <= _TEXT else text[: _TEXT - 3].rstrip() + "..."
