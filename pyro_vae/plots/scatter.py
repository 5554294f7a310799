"""Where data lie in latent space."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from ..data import Dataset
from ..data.conditions import classes_in, classes_of
from ..ground.arguments import positive
from ..ground.drawing import COLORS, MARKERS, keep_within, new_axes, shown, wrapped
from ..programs.coordinates import coordinates
from ..programs.encoding import trace_means
from ..programs.given import matched
from ..programs.labels import label_arguments
from ..programs.running import measuring
from ..programs.sites import kinds, present
from ..programs.values import check_program
from .drawing import rows_of, vector_site

_ENCODED_AT_ONCE = 4096
# Inches of axes below which the legend is small, and the width of a letter over its height
_NARROW, _LETTER = 4.0, 0.5


def latent_scatter(
    guide: Callable,
    data: Dataset | Tensor | tuple[Tensor, Tensor | None],
    *,
    y: Tensor | None = None,
    site: str | None = None,
    labels: Sequence[str] = (),
    legend: bool = True,
    s: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the posterior means of a latent site, coloured by label.

    On axes of your own, such as those of a figure of 3.5 inches for a paper, legend and labels
    take their room from the axes, and names that are too long are short. Of a site with more than
    two units the first two principal components are drawn, with the share of the variance that
    each explains. Where the guide's distribution cannot be all real numbers, the means are drawn
    in unconstrained coordinates, such as the logarithm of positive units. Data that do not have
    the site, as a mask hides it from them, are not drawn.

    Args:
        guide: inference program.
        data: a ``Dataset``, a tensor (n, *event), or a pair (x, y). Dynamic binarisation is drawn
            once.
        y: labels (n,), for the colours and a conditional guide; by default the data's own.
        site: latent site of vectors; by default the first that the guide samples.
        labels: names of the classes, ``labels[y]``; by default the ``Dataset``'s, else numbers.
        legend: whether the classes are named beside the points.
        s: area of a point in square points, as of ``Axes.scatter``; by default the smaller the
            more there are.
        ax: axes to draw on; by default those of a new figure.

    Returns:
        The axes. Up to 40 classes are told apart by colour and marker with a legend, more on a
        colour scale.

    Raises:
        ValueError: no data, an unknown site, one of fewer than two units, not one label per datum.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian(), hidden=())
        >>> ax = latent_scatter(guides.BottomUp(vae), torch.zeros(5, 6))
        >>> ax.collections[0].get_offsets().shape
        (5, 2)
    """
    data = data if isinstance(data, Tensor) else matched(data, guide, labelled=True)
    points, names, y = _points(guide, data, y, site)
    ax = _named(ax, names)
    if isinstance(data, Dataset) and (isinstance(labels, Mapping) or not len(labels)):
        labels = classes_of(data)[1]
    known = None if y is None else y.cpu().numpy()
    draw_points(ax, points, known, labels, legend=legend, s=s)
    keep_within(ax)
    return ax


def _named(ax: Axes | None, names: Sequence[Sequence[str]]) -> Axes:
    """Axes for points of a plane, those of a new figure by default, with the names that fit."""
    ax = ax or new_axes(1, 1, (6.0, 5.0))[0]
    box = ax.get_window_extent()
    for axis, side, fitting in zip(
        (ax.xaxis, ax.yaxis), (box.width, box.height), names, strict=True
    ):
        letters = side / (_LETTER * axis.label.get_size() / 72 * ax.figure.dpi)
        name = next((name for name in fitting if len(name) <= letters), fitting[-1])
        axis.set_label_text(shown(name))
    ax.set_aspect("equal", adjustable="datalim")
    return ax


def _style(n: int, s: float | None = None) -> dict[str, float]:
    """Points that are the smaller the more there are."""
    size = float(np.clip(8000 / n, 4, 30)) if s is None else positive("s", s)
    return {"s": size, "alpha": 0.8, "linewidths": 0}


def _points(
    guide: Callable, data: Dataset | Tensor, y: Tensor | None, site: str | None
) -> tuple[np.ndarray, list[tuple[str, ...]], Tensor | None]:
    """Posterior means as points of a plane (n, 2), names of its axes, and the labels.

    Each axis has a name and shorter ones.
    """
    check_program("guide", guide)
    with measuring(guide, device=data.device):
        x, y = rows_of(data, y, guide)
        if not len(x):
            raise ValueError(f"data: expected at least one datum, got shape {tuple(x.shape)}")
        if isinstance(y, Tensor) and y.shape != (len(x),):
            raise ValueError(f"y: expected {len(x)} labels, got shape {tuple(y.shape)}")
        parts = []
        for i in range(0, len(x), _ENCODED_AT_ONCE):
            rows = slice(i, i + _ENCODED_AT_ONCE)
            given = label_arguments(guide, None if y is None else y[rows])
            trace = trace_means(guide, x[rows], **given)
            site = vector_site({s: trace.nodes[s]["value"] for s in kinds(trace).latent}, site)
            node = trace.nodes[site]
            u, here = coordinates(node["fn"], node["value"]), present(node)
            parts.append(u if here is None else torch.where(here, u, math.nan))
    points = torch.cat(parts).cpu().numpy()
    unconstrained = "" if u is node["value"] else ", unconstrained"
    if points.shape[1] < 2:
        raise ValueError(
            f"site: expected at least two units, {site!r} has {points.shape[1]}: "
            "for a histogram, see infer.encode(guide, x).mean"
        )
    names: list[tuple[str, ...]] = [(f"{site}[{unit}]{unconstrained}",) for unit in range(2)]
    if points.shape[1] > 2:
        points, shares = _principal_components(points)
        names = [
            (
                f"principal component {i} of {site}{unconstrained} ({share:.0%} of the variance)",
                f"PC {i} of {site}{unconstrained} ({share:.0%})",
            )
            for i, share in enumerate(shares, start=1)
        ]
    return points, names, classes_in(y)


def latent_map(
    guide: Callable,
    data: Dataset | Tensor | tuple[Tensor, Tensor | None],
    color: Tensor | np.ndarray | Sequence[float],
    *,
    name: str = "",
    y: Tensor | None = None,
    site: str | None = None,
    s: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the posterior means of a latent site, coloured by any score.

    Scores that tell where a model is at a loss or where data are rare: the bound of each datum,
    ``diagnostics.rarity(...).log_density``, a factor of variation. Classes are better served by
    ``latent_scatter``. Which units are drawn, and in what coordinates, is told there.

    Args:
        guide: inference program.
        data: a ``Dataset``, a tensor (n, *event), or a pair (x, y). Dynamic binarisation is drawn
            once.
        color: the score of each datum, (n,).
        name: what the score is, for the colour scale.
        y: labels (n,) for a conditional guide; by default the data's own.
        site: latent site of vectors; by default the first that the guide samples.
        s: area of a point, as in ``latent_scatter``.
        ax: axes to draw on; by default those of a new figure.

    Returns:
        The axes, with a colour scale from the 1 % to the 99 % quantile of the finite scores.

    Raises:
        ValueError: not one score per datum, no finite score, no data, an unknown site, one of
            fewer than two units.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian(), hidden=())
        >>> x = torch.randn(5, 6)
        >>> latent_map(guides.BottomUp(vae), x, x.norm(dim=1), name="length").get_xlabel()
        'z1[0]'
    """
    data = data if isinstance(data, Tensor) else matched(data, guide, labelled=True)
    scores = torch.as_tensor(color).detach().double().cpu().numpy()
    if scores.shape != (len(data),):
        raise ValueError(f"color: expected {len(data)} scores, got shape {scores.shape}")
    finite = scores[np.isfinite(scores)]
    if not len(finite):
        raise ValueError("color: expected at least one finite score, got none")
    points, names, _ = _points(guide, data, y, site)
    ax = _named(ax, names)
    low, high = np.quantile(finite, [0.01, 0.99])
    style = _style(len(points), s) | {"cmap": "viridis", "vmin": low, "vmax": high}
    ax.figure.colorbar(ax.scatter(*points.T, c=scores, **style), ax=ax, label=shown(name))
    keep_within(ax)
    return ax


def _principal_components(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two components (n, 2) and their shares of the variance (2,), of rows not NaN."""
    drawn = ~np.isnan(points).any(1)
    if drawn.sum() < 2:
        raise ValueError(
            f"data: expected at least 2 data for principal components, got {drawn.sum()}"
        )
    centred = points[drawn] - points[drawn].mean(0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.sign(np.take_along_axis(axes[:2], abs(axes[:2]).argmax(1)[:, None], 1))
    components = np.full_like(points[:, :2], np.nan)
    components[drawn] = centred @ axes.T
    with np.errstate(invalid="ignore"):  # a site without any variance has shares 0 / 0
        return components, np.nan_to_num(sizes[:2] ** 2 / (sizes**2).sum())


def draw_points(
    ax: Axes,
    points: np.ndarray,
    y: np.ndarray | None,
    labels: Sequence[str],
    *,
    legend: bool = True,
    s: float | None = None,
) -> None:
    """Draw points (n, 2) by label (n,), with a legend or a colour scale where it is asked for."""
    style = _style(len(points), s)
    classes = [] if y is None else np.unique(y).tolist()
    if len(classes) > len(COLORS) * len(MARKERS):
        drawn = ax.scatter(*points.T, c=y, cmap="viridis", **style)
        if legend:
            ax.figure.colorbar(drawn, ax=ax, label="label")
        return
    if not classes:
        ax.scatter(*points.T, color=COLORS[0], **style)
        return
    # What has no label is no class, and has none of their colours
    unknown = [label for label in classes if label < 0 and len(labels)]
    if unknown:
        ax.scatter(*points[y < 0].T, color="0.75", label="no label", **style)
    for i, label in enumerate(classes[len(unknown) :]):
        ax.scatter(
            *points[y == label].T,
            color=COLORS[i % len(COLORS)],
            marker=MARKERS[i // len(COLORS)],
            label=wrapped(labels[label]) if len(labels) else f"{label:g}",
            **style,
        )
    if legend:
        _legend(ax, columns=1 + (len(classes) - 1) // 20)


def _legend(ax: Axes, columns: int) -> None:
    """The classes beside the axes, which give them room where no layout of the figure does."""
    narrow = ax.get_window_extent().width < _NARROW * ax.figure.dpi
    small = {"fontsize": "small", "title_fontsize": "small", "handletextpad": 0.1}
    place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False}
    drawn = ax.legend(title="label", ncols=columns, **place, **(small if narrow else {}))
    for handle in drawn.legend_handles:
        handle.set_sizes([15 if narrow else 30])
    if ax.figure.get_layout_engine() is None:
        box = ax.get_position()
        taken = drawn.get_window_extent().width / ax.figure.bbox.width
        ax.set_position([box.x0, box.y0, max(box.width - taken, box.width / 3), box.height])
