"""Pictures of latent space: ways through it, decoded, and where the data lie in it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from matplotlib.axes import Axes
from pyro import poutine
from pyro.distributions import Distribution
from torch import Tensor

from ..data import Dataset, DataSplits
from ..ground.arguments import known, whole
from ..ground.drawing import keep_within, shown
from ..infer import grid_2d, interpolate, traverse
from ..infer.latent import as_batch, first_of, places_of, shown_by
from ..programs.coordinates import coordinates
from ..programs.kinds import kind_of
from ..programs.labels import label_arguments, labels_for
from ..programs.means import ShowMeans, mean_of
from ..programs.running import measuring
from ..programs.sites import kinds
from ..programs.values import check_programs, check_tensor
from .drawing import grid_axes, run_on, spaced, vector_site
from .sentences import check_no_pairs, check_no_text
from .tables import columns_of

_MOST_UNITS = 10


def interpolation(
    model: Callable,
    guide: Callable,
    start: Tensor,
    end: Tensor,
    *,
    steps: int = 10,
    y: Tensor | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw decoded straight lines between the posterior means of two data, a row per pair.

    The lines are those of ``infer.interpolate``.

    Args:
        model: generative program.
        guide: inference program.
        start: (*event,) or (m, *event).
        end: like ``start``.
        steps: number of columns; the first and the last are the reconstructions of the ends.
        y: labels of start and end, (2,) or (m, 2), for a conditional pair.
        ax: axes to draw on; by default those of a new figure.

    Returns:
        The axes, with m rows of ``steps`` data.

    Raises:
        ValueError: fewer than 2 steps, ends of unequal or wrong shapes.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((1, 8, 8), latents=2, likelihood=likelihoods.Bernoulli(), hidden=())
        >>> x = torch.zeros(3, 1, 8, 8)
        >>> ax = interpolation(vae, guides.BottomUp(vae), x[0], x[1], steps=5)
        >>> [label.get_text() for label in ax.get_xticklabels()]
        ['0', '0.25', '0.5', '0.75', '1']
    """
    check_programs(model, guide)
    check_no_pairs(model)
    check_tensor(start, "start")
    check_tensor(end, "end")
    options = {"table": (table := columns_of(start, model)), "kind": kind_of(start, model)}
    start, end = as_batch(model, start, y, "start"), as_batch(model, end, y, "end")
    with measuring(model, guide, device=start.device):
        rows = interpolate(model, guide, start, end, steps=steps, y=y)
    t = spaced(torch.linspace(0, 1, steps).tolist(), most=12)
    ax = grid_axes(rows.flatten(0, 1), steps, ax, column_labels=t, **options)
    (ax.set_ylabel if table else ax.set_xlabel)("share of the way from start to end")
    keep_within(ax)
    return ax


def traversals(
    model: Callable,
    guide: Callable,
    x: Tensor,
    *,
    site: str | None = None,
    dims: Sequence[int | tuple[int, ...]] | None = None,
    values: Tensor | Sequence[float] | None = None,
    y: Tensor | int | None = None,
    data: Tensor | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Change one latent unit of a datum at a time and decode: a row per unit, a column per value.

    All else stays at the posterior means, as in ``infer.traverse``. Each row names its unit and
    the unit's KL in nats: that of the normals with the moments of q(z_u|x) and of its prior given
    the means of the layers above, exact for diagonal normals; for the datum, or averaged over
    ``data``, as a unit that is used for few data may matter little for this one. Of a site that
    cannot be all real numbers, units, values and KL are in unconstrained coordinates, such as the
    logarithm of positive units.

    Of a site that is a map, (c, h, w), a row is a channel, which has one value at all positions,
    and whose KL is the sum over these, or one unit of it.

    Args:
        model: generative program.
        guide: inference program.
        x: the datum to start from, (*event,) or (1, *event).
        site: latent site; by default the first that the guide samples.
        dims: units, such as 3; of a map channels, (3,), or units, (3, 0, 5); by default the 10
            units or channels of the largest KL, the largest first.
        values: values to give a unit, or its unconstrained coordinate, (v,); by default -3 .. 3
            in 7 steps.
        y: one label () for a conditional pair, given to all of ``data`` too.
        data: data (n, *event) over which each unit's KL is averaged; default ``x`` alone.
        ax: axes to draw on; by default those of a new figure.

    Returns:
        The axes, with len(dims) rows of v data, from the largest KL to the smallest by default.

    Raises:
        ValueError: more than one datum, an unknown site, unknown units, no values.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((1, 8, 8), latents=5, likelihood=likelihoods.Bernoulli(), hidden=())
        >>> x = torch.zeros(1, 8, 8)
        >>> ax = traversals(vae, guides.BottomUp(vae), x, dims=[4, 0], values=[-2, 0, 2])
        >>> ax.images[0].get_array().shape
        (19, 28, 3)
    """
    check_programs(model, guide)
    check_no_pairs(model)
    values = torch.linspace(-3, 3, 7) if values is None else torch.as_tensor(values).float()
    check_tensor(x)
    table, kind = columns_of(x, model), kind_of(x, model)
    labels = labels_for(model, y, 1, x.device)
    x = as_batch(model, x, labels, "x")
    if len(x) != 1:
        raise ValueError(f"x: expected one datum, got {len(x)}: pass x[0]")
    if values.dim() != 1 or not len(values):
        raise ValueError(f"values: expected shape (v,), got {tuple(values.shape)}")
    with measuring(model, guide, device=x.device):
        over = x if data is None else as_batch(model, data, labels, "data")
        y_over = None if labels is None else first_of(labels, len(over))
        site, kl, unbounded = _unit_kl(model, guide, over, y_over, site)
        if dims is None:
            each = kl.flatten(1).sum(1) if kl.dim() > 1 else kl
            dims = [(d,) for d in each.topk(min(_MOST_UNITS, len(each))).indices.tolist()]
        dims = places_of(kl.shape, site, dims)
        if not dims:
            most = kl.numel() - 1
            raise ValueError(f"dims: expected units 0 to {most} of {site!r}, got none: pass [0]")
        rows = traverse(model, guide, x[0], site=site, dims=dims, values=values, y=labels)
    names = [f"{site}[{', '.join(map(str, d))}]\n{float(kl[d].sum()):.2f} nats" for d in dims]
    columns = spaced(values.tolist(), most=len(values) if table else 10)
    cells, labels = rows.flatten(0, 1), {"row_labels": names, "column_labels": columns}
    ax = grid_axes(cells, len(values), ax, **labels, table=table, kind=kind)
    what = "value of the unit" if unbounded else "unconstrained coordinate of the unit"
    ax.set_ylabel(f"latent unit, KL, {what}" if table else "latent unit, KL")
    if not table:
        ax.set_xlabel(what)
    keep_within(ax)
    return ax


def _unit_kl(
    model: Callable, guide: Callable, x: Tensor, y: Tensor | None, site: str | None
) -> tuple[str, Tensor, bool]:
    """The site that is meant, the mean KL of its units over data, and whether these are real."""
    with ShowMeans():
        q = poutine.trace(guide).get_trace(x, **label_arguments(guide, y))
    z = {s: q.nodes[s]["value"] for s in kinds(q).latent}
    p, site = run_on(model, x, y, given=z), _chosen(z, site)
    prior, posterior = p.nodes[site]["fn"], q.nodes[site]["fn"]
    unbounded = coordinates(prior, z[site]) is z[site]
    moments = _moments if unbounded else functools.partial(_drawn_moments, prior)
    q_mean, q_variance = moments(posterior, site)
    p_mean, p_variance = moments(prior, site)
    ratio = q_variance / p_variance
    kl = 0.5 * (ratio + (q_mean - p_mean) ** 2 / p_variance - 1 - ratio.log())
    return site, kl.mean(0), unbounded


def _chosen(values: dict[str, Tensor], site: str | None) -> str:
    """``site``, or the first one; each datum must have several units of it."""
    site = next(iter(values)) if site is None else known("site", site, values)
    return site if values[site].dim() > 2 else vector_site(values, site)


def _drawn_moments(
    prior: Distribution, distribution: Distribution, site: str
) -> tuple[Tensor, Tensor]:
    """Mean and variance of draws in the coordinates of the prior."""
    draws = coordinates(prior, distribution.sample((1000,)))
    # Where a draw is rounded to the end of its support
    draws = torch.where(draws.isfinite(), draws, math.nan)
    mean = draws.nanmean(0)
    return mean, (draws - mean).square().nanmean(0).clamp(min=1e-12)


def _moments(distribution: Distribution, site: str) -> tuple[Tensor, Tensor]:
    """Mean and variance; of draws where there is no formula."""
    try:
        variance = distribution.variance
    except NotImplementedError:
        variance = distribution.sample((1000,)).var(0)
    return mean_of(distribution, site), variance.clamp(min=1e-12)


def latent_grid(
    model: Callable,
    *,
    like: Tensor | Dataset | DataSplits,
    site: str = "z1",
    steps: int = 15,
    y: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the decoded grid of a two-dimensional latent space, at equal quantiles of N(0, 1).

    They are values of the units, or, of a site that cannot be all real numbers, unconstrained
    coordinates, as in ``infer.grid_2d``.

    Args:
        model: generative program whose ``site`` has two units, or is a map of two channels, each
            of which has one value all over; other sites take their means.
        like: any data (m, *event), or a ``Dataset``, on the first of which the program is run.
        site: the two-dimensional latent site.
        steps: values per axis.
        y: a label for a conditional model.
        ax: axes to draw on; by default those of a new figure.

    Returns:
        The axes, the first unit from left to right, the second from bottom to top.

    Raises:
        ValueError: an unknown site, or one that is not two-dimensional.

    Example:
        >>> from pyro_vae import likelihoods, models
        >>> vae = models.VAE((1, 8, 8), latents=2, likelihood=likelihoods.Bernoulli(), hidden=())
        >>> latent_grid(vae, like=torch.zeros(1, 1, 8, 8), steps=3).get_xlabel()
        'z1[0]'
    """
    check_programs(model)
    whole("steps", steps)
    check_no_text(model, "plots.traversals(model, guide, x), or plots.interpolation")
    like = shown_by(like)
    with measuring(model, device=like.device):
        trace = run_on(model, like[:1], y)
        site = _chosen({s: trace.nodes[s]["value"] for s in kinds(trace).latent}, site)
        fn, z = trace.nodes[site]["fn"], trace.nodes[site]["value"]
        u = coordinates(fn, z)
        size = u.shape[1]
        if size != 2:
            units, one = ("channels", "channel") if u.dim() > 2 else ("units", "unit")
            raise ValueError(
                f"site: expected two {units}, {site!r} has {size}: use plots.traversals for one "
                f"{one} at a time, or train a model with latents=2"
            )
        axis, means = grid_2d(model, like=like, site=site, steps=steps, y=y)
    ticks = spaced([round(v, 2) + 0.0 for v in axis.tolist()], most=8)
    labels = {"row_labels": ticks[::-1], "column_labels": ticks}
    ax = grid_axes(means.flatten(0, 1), steps, ax, **labels, kind=kind_of(like, model))
    unit = "[{}]" if u is z else "[{}], unconstrained"
    ax.set_xlabel(shown(site + unit.format(0)))
    ax.set_ylabel(shown(site + unit.format(1)))
    keep_within(ax)
    return ax
