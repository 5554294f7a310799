"""Moving in latent space: reconstructions, interpolations, traversals, for any pair."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import Dataset, DataSplits
from ..data.columns import of_table
from ..ground.arguments import known, whole
from ..programs import encoding
from ..programs.belonging import check_belonging
from ..programs.coordinates import constrained, unconstrained
from ..programs.encoding import encode, trace_means
from ..programs.labels import (
    accepts_labels,
    checked_labels,
    covariates_of,
    label_arguments,
    labels_for,
)
from ..programs.means import stand_in_data
from ..programs.reading import latents_apart
from ..programs.running import traced, undisturbed
from ..programs.sites import kinds
from ..programs.values import check_programs, check_tensor
from .discrete import completed


def reconstruct(
    model: Callable,
    guide: Callable,
    x: Tensor,
    *,
    y: Tensor | None = None,
    sample: bool = False,
) -> Tensor:
    """E[x|z] with z the posterior means, or one posterior draw with ``sample``.

    Args:
        model: generative program.
        guide: inference program.
        x: (n, *event_shape).
        y: (n,) labels for a conditional pair; those that a ``models.VAE(labels="partial")`` lacks
            are the most probable ones given x and z, or what the guide tells.
        sample: decode a draw from q(z|x) in place of its means.

    Returns:
        (n, *event_shape).

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> reconstruct(vae, guides.BottomUp(vae), torch.zeros(5, 6)).shape
        torch.Size([5, 6])
    """
    check_tensor(x)
    check_belonging(model, guide)
    y = labels_for(model, y, len(x), x.device)
    each, shared = _apart(guide, x, y)
    if not each:
        raise ValueError(
            f"site {next(iter(shared))!r}: expected latents of each datum, all data share those "
            "of this guide: run poutine.condition(model, data=...) for what they predict"
        )
    z = {**each, **shared}
    if sample:
        drawn = encode(guide, x, **label_arguments(guide, y)).sample
        z = {site: drawn[site] for site in z}
    return decode_mean(model, z, x, completed(model, z, x, y))


def _check_single(model: Callable, x: Tensor, name: str) -> None:
    """Raise unless ``x`` is one datum, as far as the model tells their shape."""
    check_tensor(x, name)
    event_shape = tuple(getattr(model, "event_shape", x.shape))
    if tuple(x.shape) != event_shape:
        raise ValueError(
            f"{name}: expected a single datum of shape {event_shape}, got {tuple(x.shape)}: pass "
            "one row, such as x[0]"
        )


def _means(guide: Callable, x: Tensor, y: Tensor | None) -> dict[str, Tensor]:
    each, shared = _apart(guide, x, y)
    if shared:
        raise ValueError(
            f"site {next(iter(shared))!r}: expected a guide whose latents are all of one datum, "
            "this one is shared by all data: hold it in the model and draw it in no guide, by "
            "poutine.condition(model, data=...)"
        )
    return each


def _apart(guide: Callable, x: Tensor, y: Tensor | None) -> tuple[dict[str, Tensor], ...]:
    with undisturbed(guide, device=x.device):
        return latents_apart(trace_means(guide, x, **label_arguments(guide, y)), x)


def decode_mean(
    model: Callable, z: dict[str, Tensor], x: Tensor, y: Tensor | None = None
) -> Tensor:
    """E[x|z] for any model: run on data (n, *event_shape), with the latents held at ``z``.

    ``z`` is site -> (n, *latent shape), where sites that are missing take their conditional means;
    ``y`` are labels (n,).
    """
    return encoding.decode_mean(model, z, x=x, **label_arguments(model, y))


def interpolate(
    model: Callable,
    guide: Callable,
    start: Tensor,
    end: Tensor,
    *,
    steps: int = 10,
    y: Tensor | None = None,
) -> Tensor:
    """Decoded straight lines between the posterior means of two data, or of pairs of them.

    x_t = E[x | (1 - t) z_start + t z_end], t = 0 .. 1 in ``steps`` equal steps, in all layers.
    Latents that cannot be all real numbers go straight in unconstrained coordinates, such as the
    logarithm of positive ones, in which no step leaves their support.

    Args:
        model: generative program.
        guide: inference program.
        start: (*event_shape,), or (n, *event_shape) for n lines.
        end: like ``start``.
        steps: number of results of a line, at least 2.
        y: two labels (2,) for a conditional pair, or (n, 2), those of each line; the first is
            used up to the middle.

    Returns:
        (steps, *event_shape), or (n, steps, *event_shape); of ``likelihoods.Tokens`` the most
        probable ones.

    Raises:
        ValueError: fewer than 2 steps, ends of unequal or wrong shapes.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> x = torch.randn(8, 6)
        >>> interpolate(vae, guides.BottomUp(vae), x[:4], x[4:], steps=5).shape
        torch.Size([4, 5, 6])
    """
    check_programs(model, guide)
    whole("steps", steps, 2)
    check_tensor(start, "start")
    check_tensor(end, "end")
    if start.shape != end.shape:
        raise ValueError(
            f"start and end: expected equal shapes, got {tuple(start.shape)} and "
            f"{tuple(end.shape)}"
        )
    first, last = as_batch(model, start, y, "start"), as_batch(model, end, y, "end")
    # Row by row start and end, as labels (n, 2) are
    ends, lines = torch.stack([first, last], 1).flatten(0, 1), len(first)
    y = _of_ends(model, y, ends)
    means = _means(guide, ends, y)
    y = completed(model, means, ends, y)
    u = unconstrained(model, means, ends, y)
    t = torch.linspace(0, 1, steps, device=ends.device)
    along = {}
    for site, v in u.items():
        share = t.to(v.dtype).reshape(-1, *(1,) * (v.dim() - 1))
        along[site] = torch.lerp(v[::2, None], v[1::2, None], share).flatten(0, 1)
    nearer = 2 * torch.arange(lines, device=ends.device)[:, None] + (t > 0.5).long()
    x, labels = ends[nearer.flatten()], None if y is None else y[nearer.flatten()]
    result = decode_mean(model, constrained(model, along, x, labels), x, labels)
    return result.unflatten(0, (lines, steps)) if first.shape == start.shape else result


def _of_ends(model: Callable, y: Any, ends: Tensor) -> Any:
    """Labels of ``ends`` (2 n, ...) from two, start and end of all lines, or from (n, 2)."""
    n = len(ends) // 2
    if (several := covariates_of(model)) is not None:
        given = None if y is None else several.columns(y)
        return given if given is None or len(given) == 2 * n else several.columns(y, 2).repeated(n)
    shape = np.shape(y)
    if y is None or not shape:
        return labels_for(model, y, 2 * n, ends.device)
    if shape == (n, 2):
        y = y if isinstance(y, Tensor) else np.asarray(y)
        return labels_for(model, y.reshape(-1), 2 * n, ends.device)
    if shape != (2,):
        raise ValueError(
            f"y: expected the labels of start and end, shape (2,) or ({n}, 2), got {tuple(shape)}"
        )
    return labels_for(model, y, 2, ends.device).repeat(n)


def as_batch(model: Callable, x: Tensor, y: Any, name: str) -> Tensor:
    """Data as (n, *event_shape), given so or one datum (*event_shape,).

    A function does not tell the shape of its data; its data site does, when it is run with the
    first of the labels ``y``.

    Raises:
        ValueError: data of another shape.
    """
    event_shape = getattr(model, "event_shape", None)
    if event_shape is None:
        several = covariates_of(model) is not None or y is None
        label = None if several else torch.as_tensor(y, device=x.device).reshape(-1)[:1]
        with undisturbed(model, device=x.device), stand_in_data():
            trace = traced(model, x[None], checked_labels(model, label, 1, x.device))
        site = trace.nodes[kinds(trace).observed[-1]]
        if site["value"].numel() != x.numel():
            # It observes a part of its data, whose shape it does not tell
            return x[None]
        event_shape = (*site["fn"].batch_shape[1:], *site["fn"].event_shape)
    event_shape, size = tuple(event_shape), math.prod(event_shape)
    if x.numel() == size and x.dim() <= max(1, len(event_shape)):
        return x[None]
    if x.dim() and len(x) and x[0].numel() == size:
        return x
    raise ValueError(
        f"{name}: expected one datum of shape {event_shape} or several, got {tuple(x.shape)}"
    )


def traverse(
    model: Callable,
    guide: Callable,
    x: Tensor,
    *,
    site: str,
    dims: Sequence[int | tuple[int, ...]] | None = None,
    values: Tensor | None = None,
    y: Tensor | None = None,
) -> Tensor:
    """Change one latent unit at a time and decode.

    The other units of the site, and the layers above it, stay at the posterior means of ``x``;
    the layers below take their conditional means.

    A site that cannot be all real numbers is changed in unconstrained coordinates, in which no
    value leaves its support: those of ``torch.distributions.biject_to``, the logarithm of a
    positive unit, the logit of one in (0, 1), k - 1 coordinates of k values that add up to 1.
    Units are those of the site, one by one, or its coordinates; of a map (c, h, w) a unit is also
    (2, 0, 5), and (2,) a channel, which has one value all over.

    Args:
        model: generative program.
        guide: inference program.
        x: (*event_shape,), the datum to start from.
        site: latent site.
        dims: units to change, by their number, or a tuple by their place; default all.
        values: values to give a unit, or its unconstrained coordinate, (v,); default -3 .. 3 in
            7 steps.
        y: one label () for a conditional pair.

    Returns:
        (len(dims), v, *event_shape).

    Raises:
        ValueError: a site that the guide does not have, or without such coordinates, as
            categories are; units that it has not; data that are not a single datum.
    """
    check_programs(model, guide)
    _check_single(model, x, "x")
    values = torch.linspace(-3, 3, 7, device=x.device) if values is None else values.to(x.device)
    labels = labels_for(model, y, 1, x.device)
    mean = _means(guide, x[None], labels)
    labels = completed(model, mean, x[None], labels)
    known("site", site, mean)
    u = unconstrained(model, mean, x[None], labels, moved=site)
    dims = places_of(u[site].shape[1:], site, dims)
    n, order = len(dims) * len(values), list(u)
    held = {s: u[s] for s in order[: order.index(site) + 1]}
    rows = {s: v.repeat(n, *(1,) * (v.dim() - 1)) for s, v in held.items()}
    for dim, block in zip(dims, rows[site].split(len(values)), strict=True):
        part = block[(slice(None), *dim)]
        part.copy_(values.reshape(-1, *(1,) * (part.dim() - 1)).expand_as(part))
    x, labels = first_of(x[None], n), None if labels is None else first_of(labels, n)
    result = decode_mean(model, constrained(model, rows, x, labels), x, labels)
    return result.unflatten(0, (len(dims), len(values)))


def places_of(
    shape: Sequence[int], site: str, dims: Sequence[int | tuple[int, ...]] | None = None
) -> list[tuple[int, ...]]:
    """Units of a site, given by number or by place, as places in its shape; by default all.

    Raises:
        ValueError: units that it has not.

    Example:
        >>> places_of((2, 3), "z1", [4, (1,)]), places_of((2,), "z2")
        ([(1, 1), (1,)], [(0,), (1,)])
    """
    shape, size = tuple(shape), math.prod(shape)
    found = []
    for dim in range(size) if dims is None else dims:
        place = tuple(map(int, dim)) if isinstance(dim, tuple) else None
        if place is None and 0 <= (number := int(dim)) < size:
            place = tuple(int(i) for i in np.unravel_index(number, shape))
        if (
            place is None
            or len(place) > len(shape)
            or not all(0 <= i < most for i, most in zip(place, shape, strict=False))
        ):
            places = f", or places in {shape} such as (0,)" if len(shape) > 1 else ""
            raise ValueError(
                f"dims: expected units 0 to {size - 1} of {site!r}{places}, got {dims}"
            )
        found.append(place)
    return found


def shown_by(like: Any) -> Tensor:
    """A tensor of one datum or more, of which it is known what they are, from any ``like``.

    Raises:
        TypeError: neither a tensor, a ``Dataset`` nor what ``data.load`` gives.
        ValueError: no data.
    """
    data = like.train if isinstance(like, DataSplits) else like
    if isinstance(data, Dataset | Tensor) and not len(data):
        raise ValueError("like: expected one datum or more, got none: pass any data of that form")
    if not isinstance(data, Dataset):
        check_tensor(like, "like")
        return like
    x = data[:1].x
    if data.kind_said and not data.columns:
        x.kind = data.kind
    return of_table(x, data)


def first_of(x: Any, n: int) -> Any:
    """The first datum of some, ``n`` times."""
    return x[torch.zeros(n, dtype=torch.long, device=x.device)]


def grid_2d(
    model: Callable,
    *,
    like: Tensor | Dataset | DataSplits,
    site: str = "z1",
    steps: int = 15,
    y: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Decoded grid of a two-dimensional latent space, at equal quantiles of N(0, 1).

    They are those of the units, or of the unconstrained coordinates of a site that cannot be all
    real numbers, as in ``traverse``.

    Args:
        model: generative program whose ``site`` has two units, or is a map of two channels, each
            of which has one value all over.
        like: any data (m, *event_shape), or a ``Dataset``, on the first of which the program is
            run.
        site: the two-dimensional latent site.
        steps: values per axis.
        y: a label for a conditional model.

    Returns:
        The axis values (steps,), and the means (steps, steps, *event_shape), first axis the
        second unit from high to low, second axis the first unit from low to high: as a picture.

    Raises:
        ValueError: an unknown site, or one without exactly two units.
    """
    check_programs(model)
    like = shown_by(like)
    quantiles = torch.linspace(0.5 / steps, 1 - 0.5 / steps, steps, device=like.device)
    axis = torch.distributions.Normal(0.0, 1.0).icdf(quantiles)
    second, first = torch.meshgrid(axis.flip(0), axis, indexing="ij")
    z = torch.stack([first.flatten(), second.flatten()], -1)
    labels = labels_for(model, y if accepts_labels(model) else None, len(z), like.device)
    u = unconstrained(model, {}, like[:1], None if labels is None else labels[:1], moved=site)
    known("site", site, u)
    if u[site].shape[:2] != (1, 2):
        raise ValueError(
            f"site {site!r}: expected two units, the model has {tuple(u[site].shape[1:])}"
        )
    z = z.reshape(len(z), 2, *(1,) * (u[site].dim() - 2)).expand(-1, *u[site].shape[1:])
    x = first_of(like, len(z))
    means = decode_mean(model, constrained(model, {site: z}, x, labels), x, labels)
    return axis, means.unflatten(0, (steps, steps))
