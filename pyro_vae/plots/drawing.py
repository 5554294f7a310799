"""What pictures of data share: grids with labels of rows and columns, runs of the programs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor, nn

from ..data import Column, Dataset, Vocabulary
from ..data.arguments import LabelData
from ..ground.arguments import known
from ..ground.drawing import keep_within, new_axes, shown
from ..infer.latent import first_of
from ..programs.labels import Labels, checked_labels, covariates_of, label_arguments
from ..programs.means import stand_in_data
from ..programs.running import traced
from ..programs.unwrapping import name_of
from .signals import curves_size, draw_curves, stacked_curves, strips
from .tables import beside, table_axes

_NUMBER = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?")
# Width of a letter over its height
_LETTER = 0.55
# Pictures that are so much wider than high are frames side by side
_STRIP = 5
# Height in inches beside which a label has room
_LEAST = 0.9


def rows_of(data: Dataset | Tensor, y: Labels, *programs: Callable) -> tuple[Tensor, LabelData]:
    """All of ``data`` as x (n, *event) and labels (n,), where ``y`` goes before its own labels.

    A ``Dataset`` with dynamic binarisation is binarised once, as the model sees it.
    """
    x, labels = (data, None) if isinstance(data, Tensor) else data.batch(torch.arange(len(data)))
    if y is None or (covariates := covariates_of(*programs)) is None:
        return x, labels if y is None else torch.as_tensor(y, device=x.device)
    return x, covariates.columns(y, len(x))


def is_image(event_shape: Sequence[int]) -> bool:
    """Whether a datum is (h, w), (1, h, w) or (3, h, w)."""
    return len(event_shape) == 2 or (len(event_shape) == 3 and event_shape[0] in (1, 3))


def grid_size(event_shape: Sequence[int], rows: int, columns: int) -> tuple[float, float]:
    """Width and height in inches of a grid of data, without its labels."""
    if is_image(event_shape):
        h, w = event_shape[-2:]
        if w >= _STRIP * h:
            cell = min(9 / columns, w / h, 10 * w / (h * rows))
            return cell * columns, cell * h / w * rows
        cell = min(max(0.9, 5 / columns), 9 / columns, max(2.0, w / h), 10 * w / (h * rows))
        return cell * columns, cell * h / w * rows
    return min(10.0, 4.5 + 0.6 * (columns - 1)), min(7.0, 1.2 + 0.2 * rows)


def value_range(data: Iterable[Tensor]) -> tuple[float, float]:
    """The least and the largest finite value, the ends of a heat-map's colour scale."""
    values = torch.cat([x.detach().flatten() for x in data])
    values = values[values.isfinite()]
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return low, high if high > low else low + 1.0


def draw_grid(
    ax: Axes,
    x: Tensor,
    columns: int,
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    titles: Sequence[str] = (),
    span: tuple[float, float] | None = None,
    cmap: str | None = None,
) -> AxesImage:
    """Draw data (n, *event) in rows of ``columns`` as one image.

    There is a label per row and per column of the grid, "" for none, and a title per datum, above
    it, for vectors beside it. In the colours ``cmap`` images of one channel are drawn as a
    heat-map. ``span`` is the colour scale of vectors and of ``cmap``, by default that of ``x``.

    The result is (height, width, 3) for images, (height, width) for heat-maps.
    """
    n, image = len(x), is_image(x.shape[1:])
    row_labels, column_labels, titles = (
        [shown(text) for text in texts] for texts in (row_labels, column_labels, titles)
    )
    plain = image and cmap is None
    x = x.detach().float().cpu()
    cells = x.reshape(n, -1, *x.shape[-2:]) if image else x.reshape(n, 1, 1, -1)
    cells = cells.clamp(0, 1) if plain else cells
    height, width = cells.shape[-2:]
    gap = math.ceil(height / 2 if titles else max(height, width) / 20) if image else 0
    if not image and columns > 1:
        cells = nn.functional.pad(cells, (0, 1), value=math.nan)
    frame = gap if n > 1 else 0
    grid = tiled(cells, columns, frame, fill=1.0 if plain else math.nan)
    if plain:
        # Between the data is what is behind the picture
        seen = tiled(torch.ones_like(cells), columns, frame, fill=0.0)[0]
        drawn = ax.imshow(grid.permute(1, 2, 0).numpy(), alpha=seen.numpy())
    else:
        low, high = span or value_range([x])
        drawn = ax.imshow(grid[0].numpy(), cmap=cmap or "viridis", vmin=low, vmax=high)
        drawn.axes.set_aspect("equal" if image else "auto")

    if titles and image:
        for i, title in enumerate(titles):
            row, column = divmod(i, columns)
            left, top = frame + column * (width + gap), frame + row * (height + gap)
            middle, above = left + (width - 1) / 2, top - 0.05 * height - 0.5
            ax.text(middle, above, title, ha="center", va="bottom", fontsize="small")
        ax.set_ylim(grid.shape[-2] - 0.9 * frame - 0.5, -0.5)  # nothing is written at the bottom
    if titles and not image:
        lines = [title.replace("\n", "  ") for title in titles]
        row_labels = [", ".join(lines[i : i + columns]) for i in range(0, n, columns)]
    ax.set_frame_on(False)
    numbered = not image and columns == 1
    _label(ax.yaxis, row_labels, frame, height, height + gap, "datum" if numbered else "")
    step = cells.shape[-1] + gap
    _label(ax.xaxis, column_labels, frame, width, step, "element" if numbered else "")
    return drawn


def _label(
    axis: Axis, labels: Sequence[str], frame: int, cell: int, step: int, numbered: str
) -> None:
    """Labels at the middles of a grid's rows or columns, or else plain numbers of ``numbered``."""
    axis.set_tick_params(length=0)
    if numbered and not labels:
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.set_label_text(numbered)
        return
    shown = [i for i, label in enumerate(labels) if label]
    numbers = all(_NUMBER.fullmatch(labels[i]) for i in shown)
    if axis.axis_name == "x" and len(shown) > 1 and numbers:
        # As many as do not touch; those between can be told from them, as words could not
        letter = _LETTER * axis.label.get_size() / 72 * axis.figure.dpi
        room = axis.axes.get_window_extent().width * (shown[1] - shown[0]) / len(labels)
        longest = max(len(labels[i]) for i in shown)
        shown = shown[:: math.ceil((longest + 1) * letter / room)]
    axis.set_ticks([frame + i * step + (cell - 1) / 2 for i in shown], [labels[i] for i in shown])


def add_scale(drawn: AxesImage, axes: Sequence[Axes], label: str = "value") -> None:
    """The colour scale of a heat-map beside its axes; images have none."""
    if drawn.get_array().ndim == 2:
        axes[0].figure.colorbar(
            drawn, ax=axes, label=label, fraction=0.05, pad=0.02, ticks=MaxNLocator(4)
        )


def tiled(cells: Tensor, columns: int, frame: int, *, fill: float) -> Tensor:
    """Images (n, 1 or 3, h, w) in rows of ``columns``, as one (3, height, width), framed each.

    As ``torchvision.utils.make_grid`` does it, which takes as long to import as torch.
    """
    n, channels, height, width = cells.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    empty = cells.new_full((rows * columns - n, channels, height, width), fill)
    framed = nn.functional.pad(torch.cat([cells, empty]), (frame, 0, frame, 0), value=fill)
    grid = framed.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
    grid = nn.functional.pad(grid, (0, frame, 0, frame), value=fill)
    return grid.expand(3, -1, -1) if channels == 1 else grid


def grid_axes(
    x: Tensor,
    columns: int,
    ax: Axes | None,
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    titles: Sequence[str] = (),
    kind: str | None = None,
    table: Sequence[Column] | Vocabulary = (),
) -> Axes:
    """``draw_grid`` on ``ax``, or on the axes of a new figure of a fitting size.

    Data of the kinds "signal" and "sequence" are drawn as curves, those of the kind "video" as
    strips of frames; rows of a ``table`` with these columns are written as numbers, those of text
    as lines, one below the other.
    """
    if table:
        told = _of_rows(len(x), columns, row_labels, column_labels, titles)
        return table_axes(x, table, told, block=columns if columns > 1 else 0, ax=ax)
    labels = {"row_labels": row_labels, "column_labels": column_labels, "titles": titles}
    if kind == "sequence":
        x, kind = x.transpose(1, 2), "signal"
    if kind == "signal":
        width, height = curves_size(len(x), columns)
        ax = new_axes(1, 1, (width + 1.2, height + 0.7))[0] if ax is None else ax
        draw_curves(ax, x, columns, value_range([x]), **labels)
        return ax
    if kind == "video":
        x = strips(x, max(3, 16 // columns) if columns > 1 else 8)
    if ax is None:
        width, height = grid_size(x.shape[1:], math.ceil(len(x) / columns), columns)
        if titles and is_image(x.shape[1:]):
            width, height = 1.25 * width, 1.4 * height
        width += 0.07 * max(
            (len(line) for text in row_labels for line in text.split("\n")), default=0
        )
        height = max(height, _LEAST if row_labels else 0.0)
        (ax,) = new_axes(1, 1, (width + 0.4, height + (0.6 if column_labels else 0.3)))
    add_scale(draw_grid(ax, x, columns, **labels), [ax])
    keep_within(ax)
    return ax


def _of_rows(
    n: int,
    columns: int,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    titles: Sequence[str],
) -> list[str]:
    """The labels of a grid of n data as those of rows one below the other."""
    if titles:
        return [title.replace("\n", "  ") for title in titles]
    if not row_labels and not column_labels:
        return [*map(str, range(n))]
    told = []
    for i in range(n):
        row, column = divmod(i, columns)
        first = row_labels[row].replace("\n", "  ") if row_labels and not column else ""
        told.append(f"{first}   {column_labels[column] if column_labels else ''}".strip())
    return told


def stacked(
    rows: Mapping[str, Tensor],
    heat: Mapping[str, Tensor] | None = None,
    kind: str | None = None,
    *,
    table: Sequence[Column] | Vocabulary = (),
) -> Figure:
    """A figure with one row of data under another, label -> (n, *event).

    Those of ``heat``, values from 0 upwards and of one channel, have a colour scale each. Data of
    some kinds are drawn as by ``grid_axes``; rows of a ``table`` on one axes, those of a datum one
    below the other.
    """
    heat = heat or {}
    if table:
        x, labels, block = beside({**rows, **heat})
        plain = [i for i in range(len(x)) if i % block >= len(rows)]
        return table_axes(x, table, labels, block=block, plain=plain).figure
    shared = value_range(rows.values())
    if kind == "sequence":
        rows, heat = ({k: v.transpose(1, 2) for k, v in of.items()} for of in (rows, heat))
        kind = "signal"
    if kind == "signal":
        spans = dict.fromkeys(rows, shared) | {k: (0.0, float(v.max())) for k, v in heat.items()}
        return stacked_curves({**rows, **heat}, spans)
    if kind == "video":
        rows = {k: strips(v) for k, v in rows.items()}
        heat = {k: strips(v, gap=math.nan) for k, v in heat.items()}
    first = next(iter(rows.values()))
    image = is_image(first.shape[1:])
    columns = len(first) if image and kind != "video" else 1
    width, height = grid_size(first.shape[1:], math.ceil(len(first) / columns), columns)
    number, drawn = len(rows) + len(heat), []
    size = width + (1.9 if heat else 1.3), min(10.0, (height + 0.15) * number + 0.2)
    grid = number, 1
    if kind == "video" and len(first) > number:
        # Many strips are larger where these stand side by side
        grid, size = (1, number), (10.0, min(10.0, height * 10 / (width * number) + 0.5))
    axes = new_axes(*grid, size)
    for ax, (label, x) in zip(axes, [*rows.items(), *heat.items()], strict=True):
        span, cmap = ((0.0, float(x.max())), "magma") if label in heat else (shared, None)
        labels = [label] if columns > 1 else ()
        drawn.append(draw_grid(ax, x, columns, row_labels=labels, span=span, cmap=cmap))
        if not labels:
            ax.set_title(shown(label), fontsize="medium")
    add_scale(drawn[0], axes[: len(rows)])
    for ax, label, own in zip(axes[len(rows) :], heat, drawn[len(rows) :], strict=True):
        add_scale(own, [ax], label)
    return axes[0].figure


def spaced(values: Iterable[float], most: int = 10) -> list[str]:
    """Numbers as labels of ticks, so many left empty that at most ``most`` are printed."""
    values = list(values)
    every = math.ceil(len(values) / most)
    return [f"{v:.3g}" if i % every == 0 else "" for i, v in enumerate(values)]


def run_on(
    model: Callable, x: Tensor, y: Labels, *, given: Mapping[str, Tensor] | None = None
) -> Trace:
    """The trace of a model on data, with the latents that are ``given``.

    The data may be grey where the likelihood is binary.
    """
    y = checked_labels(model, y, len(x), x.device)
    with stand_in_data():
        return traced(poutine.condition(model, data=given or {}), x, y)


def run(
    model: Callable,
    n: int,
    y: Labels,
    like: Tensor | None,
    given: Mapping[str, Tensor] | None = None,
) -> Trace:
    """The trace of ``n`` data of a model, with the latents that are ``given``.

    Raises:
        ValueError: a model without a method ``sample``, and no ``like``.
    """
    if like is not None:
        return run_on(model, first_of(like, n), y, given=given)
    if not hasattr(model, "sample"):
        raise ValueError(
            f"like: {name_of(model)} has no method sample(n): "
            "pass any of its data, such as like=x[:1], for the shape of what it draws"
        )
    program = poutine.condition(model, data=given or {})
    return poutine.trace(program).get_trace(size=n, **label_arguments(model, y))


def vector_site(values: dict[str, Tensor], site: str | None) -> str:
    """``site``, or the first one; its values must be (n, size)."""
    site = next(iter(values)) if site is None else known("site", site, values)
    if values[site].dim() != 2:
        raise ValueError(
            f"site: expected one whose values are vectors, {site!r} has shape "
            f"{tuple(values[site].shape[1:])} per datum: pass site= another, or see what a map "
            "adds by plots.layer_samples(model, site), and what its channels do by "
            "plots.traversals(model, guide, x, site=site)"
        )
    return site
