"""What a panel draws of a pair: pictures or numbers, curves, and the map of its latents."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .. import plots
from ..data import Dataset
from ..data.arguments import Arguments
from ..diagnostics import evaluate
from ..ground.drawing import ShownOnce
from ..ground.streams import RandomStream
from ..ground.turns import turn
from ..infer import reconstruct, sample
from ..infer.posterior import mean_variance, posterior_means
from ..models import Translation
from ..plots.curves import panels
from ..plots.drawing import grid_axes
from ..plots.sentences import translations
from ..plots.tables import beside, columns_of, table_axes
from ..programs.labels import label_arguments
from ..programs.running import measuring
from ..programs.unwrapping import innermost
from ..training.trainer import Trainer
from .shown import MEASURED, first_of

_CURVES, _TABLE = 3.2, 5.0
_ROWS = 3


def overview(
    trainer: Trainer, data: Dataset | Arguments, images: int, seed: int, *, plain: bool = False
) -> Figure:
    """Data, reconstructions and samples above the training curves; numbers where none are drawn.

    Of a table they are numbers under the names of its columns. A ``plain`` figure is none of
    pyplot's, so that threads can draw it.
    """
    curves = bool(trainer.history)
    pair = trainer.model, trainer.guide
    table = columns_of(data, trainer.model)
    high = [_TABLE if table else _CURVES, _CURVES + 0.2][: 1 + curves]
    options = {"figsize": (10, sum(high)), "layout": "constrained"}
    figure = Figure(**options) if plain else plt.figure(**options, FigureClass=ShownOnce)
    above, *below = figure.subfigures(len(high), 1, squeeze=False, height_ratios=high).flat

    def draw(ax: Axes) -> None:
        if isinstance(data, Arguments):
            if isinstance(innermost(trainer.model), Translation):
                translations(innermost(trainer.model), trainer.guide, data[:_ROWS], ax=ax)
                return
            some = first_of(data, trainer.guide, MEASURED)
            _write(ax, str(evaluate(*pair, some, importance_samples=0)))
            return
        most = min(images, _ROWS) if table else images
        rows = _rows(*pair, first_of(data, trainer.guide, most), most)
        if table:
            x, labels, block = beside(rows)
            table_axes(x, table, labels, block=block, ax=ax)
            return
        cells = torch.cat(list(rows.values()))
        grid_axes(cells, len(cells) // len(rows), ax, row_labels=list(rows))

    with turn, RandomStream(seed).on(data.device):
        draw_or_tell(above.subplots(), draw)
    if curves:
        axes = below[0].subplots(1, panels(trainer.history))
        plots.history(trainer.history, axes=list(axes))
    return figure


def _rows(model: Callable, guide: Callable, data: Dataset, images: int) -> dict[str, Tensor]:
    with measuring(model, guide, device=data.device):
        x, y = data.batch(torch.arange(len(data)))
        labels = label_arguments(model, y)
        if hasattr(model, "sample"):
            drawn = model.sample(len(x), mean=True, **labels)
        else:
            drawn = [v for v in sample(model, x, **labels).values() if v.shape == x.shape][-1]
        rows = {"data": x, "reconstruction": reconstruct(model, guide, x, y=y), "sample": drawn}
        return {name: row[:images] for name, row in rows.items()}


def draw_or_tell(ax: Axes, draw: Callable[[Axes], Any]) -> None:
    """Draw on axes; what a pair has no picture of is told there."""
    try:
        draw(ax)
    except Exception as error:  # whatever a program raises
        ax.clear()
        _write(ax, textwrap.fill(str(error), int(11 * ax.figure.bbox.width / ax.figure.dpi)))


def _write(ax: Axes, text: str) -> None:
    ax.set_axis_off()
    ax.text(0.0, 1.0, text, family="monospace", va="top", transform=ax.transAxes, parse_math=False)


def latent_map(
    guide: Callable, data: Dataset | Arguments, site: str | None, ax: Axes | None, *, seed: int
) -> Axes:
    """Posterior means of a site, by default of the one whose means vary most."""
    with turn, RandomStream(seed).on(data.device):
        if site is None:
            found = posterior_means(guide, data)
            vectors = {s: m for s, m in found.items() if m.dim() == 2 and m.shape[1] > 1}
            spread = {s: float(mean_variance(m).sum()) for s, m in vectors.items()}
            site = max(spread, key=spread.__getitem__, default=None)
        return plots.latent_scatter(guide, data, site=site, ax=ax)
