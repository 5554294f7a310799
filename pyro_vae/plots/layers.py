"""Pictures of the layers of a hierarchy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pyro.poutine import Trace
from torch import Tensor

from ..data import Dataset, DataSplits
from ..ground.arguments import whole
from ..ground.drawing import new_axes, shown
from ..infer.latent import shown_by
from ..programs.kinds import kind_of
from ..programs.labels import labels_for
from ..programs.means import mean_of
from ..programs.modes import evaluating
from ..programs.placing import device_of
from ..programs.sites import kinds
from ..programs.values import check_programs
from .drawing import grid_axes, run
from .scatter import draw_points
from .tables import columns_of

_MOST_COLUMNS = 3


def layer_samples(
    model: Callable,
    layer: str | int,
    *,
    rows: int = 6,
    columns: int = 8,
    y: Tensor | Sequence[int] | int | None = None,
    mean: bool = True,
    like: Tensor | Dataset | DataSplits | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw what a layer and those below it decide, once the layers above are given.

    Each row holds one draw of the layers above; in its columns the layer and all below are drawn
    anew. For the top layer nothing is held: every datum is an independent sample. Torch's global
    RNG is used.

    Source: "Ladder Variational Autoencoders", Sonderby et al. (2016), for samples by layer.

    Args:
        model: generative program.
        layer: latent site, or its number from the data upwards: 1 is "z1".
        rows: draws of the layers above.
        columns: draws of the layer per row.
        y: one label for all or a label per row (rows,), for a conditional model.
        mean: show the means of p(x|z) for drawn z in place of drawn x.
        like: any data (m, *event), or a ``Dataset``, needed for a model without a ``sample``
            method of its own.
        ax: axes to draw on; by default those of a new figure.

    Returns:
        The axes, with ``rows`` rows of ``columns`` data.

    Raises:
        ValueError: an unknown layer, fewer than one row or column, a model without ``sample``
            and no ``like``, labels that do not fit.

    Example:
        >>> from pyro_vae import likelihoods, models
        >>> vae = models.VAE((1, 8, 8), (4, 2), likelihood=likelihoods.Bernoulli(), hidden=())
        >>> layer_samples(vae, "z1", rows=3, columns=5).images[0].get_array().shape
        (28, 46, 3)
    """
    check_programs(model)
    whole("rows", rows)
    whole("columns", columns)
    if like is not None:
        like = shown_by(like)
    labels = labels_for(model, y, rows, device_of(model))
    with evaluating(model):
        first = run(model, rows, labels, like)
        data_site = _observed(first, like)
        order = [s for s in kinds(first).latent if s != data_site]
        site = _site(order, layer)
        above = {
            s: first.nodes[s]["value"].repeat_interleave(columns, 0)
            for s in order[: order.index(site)]
        }
        each = torch.arange(rows * columns, device=device_of(model)) // columns
        labels = None if labels is None else labels[each]
        below = run(model, rows * columns, labels, like, above)
    node = below.nodes[data_site]
    x = mean_of(node["fn"], data_site) if mean else node["fn"].sample()
    if like is not None:
        x = x.reshape(rows * columns, *like.shape[1:])
    numbers = [str(i) for i in range(1, rows + 1)] if above else []
    known = {"table": columns_of(like, model), "kind": kind_of(like, model)}
    ax = grid_axes(x, columns, ax, row_labels=numbers, **known)
    held = f"held: {', '.join(above)}; " if above else ""
    drawn = ", ".join(order[order.index(site) :])
    ax.set_title(shown(f"{held}drawn: {drawn}"), fontsize="medium")
    if above:
        ax.set_ylabel("draw of the layers above")
    return ax


def _observed(trace: Trace, like: Tensor | None) -> str:
    # Without data the data's site is sampled, like a latent; it is the last one
    return kinds(trace).observed[-1] if like is not None else kinds(trace).latent[-1]


def _site(order: list[str], layer: str | int) -> str:
    """A latent site by name, or by number from the data upwards."""
    if isinstance(layer, str) and layer in order:
        return layer
    if not isinstance(layer, str | bool) and 1 <= layer <= len(order):
        return order[-layer]
    raise ValueError(
        f"layer: expected one of {tuple(reversed(order))}, or a number from 1 to {len(order)}, "
        f"got {layer!r}"
    )


def projections(
    points: Mapping[str, Tensor],
    shares: Mapping[str, Tensor],
    y: Tensor | None,
    names: Sequence[str] = (),
) -> Figure:
    """Draw a panel of points per layer, coloured by label; ``diagnostics.layers(...).plot()``.

    ``points`` maps a site to principal components (n, 2), and ``shares`` to the shares of the
    variance that they explain; ``y`` are labels (n,), of classes with these names.
    ``ValueError`` if there is not one label per datum.
    """
    n = len(next(iter(points.values())))
    if y is not None and y.shape != (n,):
        raise ValueError(f"labels: expected {n} labels, got shape {tuple(y.shape)}")
    values = None if y is None else y.cpu().numpy()
    columns = min(_MOST_COLUMNS, len(points))
    rows = math.ceil(len(points) / columns)
    axes = new_axes(rows, columns, (3.6 * columns + 0.9, 3.4 * rows))
    for ax in axes[len(points) :]:
        ax.remove()
    for ax, (site, projection) in zip(axes, points.items(), strict=False):
        last = ax is axes[columns - 1]
        draw_points(ax, projection.cpu().numpy(), values, names, legend=last)
        ax.set_title(shown(site))
        # Long numbers on one axis would run into each other
        ax.ticklabel_format(scilimits=(-2, 3))
        for axis, component in ((ax.xaxis, 0), (ax.yaxis, 1)):
            share = float(shares[site][component]) if len(shares[site]) > component else 0.0
            axis.set_label_text(f"component {component + 1} ({share:.0%})")
        ax.set_aspect("equal", adjustable="datalim")
    return axes[0].figure
