"""Moving in latent space: reconstructions, interpolations, traversals, for any pair."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..ground.arguments import known, whole
from ..programs import encoding
from ..programs.belonging import check_belonging
from ..programs.encoding import encode, trace_means
from ..programs.labels import accepts_labels, as_labels, checked_labels, label_arguments
from ..programs.means import stand_in_data
from ..programs.reading import latents_apart
from ..programs.running import traced, undisturbed
from ..programs.sites import kinds
from ..programs.values import check_tensor


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
        y: (n,) labels for a conditional pair.
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
    y = as_labels(y, len(x), x.device)
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
    return decode_mean(model, z, like=x, y=y)


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
    model: Callable, z: dict[str, Tensor], *, like: Tensor, y: Tensor | None = None
) -> Tensor:
    """E[x|z] for any model: run with zeros as data and the latents held at ``z``.

    ``z`` is site -> (n, *latent shape), where sites that are missing take their conditional means;
    ``like`` is any data (m, *event_shape), for shape, dtype and device; ``y`` are labels (n,).
    """
    x = like.new_zeros(len(next(iter(z.values()))), *like.shape[1:])
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
    """Decoded straight line between the posterior means of two data.

    x_t = E[x | (1 - t) z_start + t z_end], t = 0 .. 1 in ``steps`` equal steps, in all layers.

    Args:
        model: generative program.
        guide: inference program.
        start: (*event_shape,).
        end: (*event_shape,).
        steps: number of results, at least 2.
        y: two labels (2,) for a conditional pair; the first is used up to the middle.

    Returns:
        (steps, *event_shape).

    Raises:
        ValueError: fewer than 2 steps, ends that are not single data.
    """
    whole("steps", steps, 2)
    _check_single(model, start, "start")
    _check_single(model, end, "end")
    if start.shape != end.shape:
        raise ValueError(
            f"start and end: expected single data of equal shapes, got {tuple(start.shape)} and "
            f"{tuple(end.shape)}"
        )
    ends = torch.stack([start, end])
    y = as_labels(y, 2, ends.device)
    mean = _means(guide, ends, y)
    t = torch.linspace(0, 1, steps, device=ends.device)
    z = {
        s: torch.lerp(v[:1], v[1:], t.reshape(-1, *(1,) * (v.dim() - 1))) for s, v in mean.items()
    }
    labels = None if y is None else y[(t > 0.5).long()]
    return decode_mean(model, z, like=ends, y=labels)


def traverse(
    model: Callable,
    guide: Callable,
    x: Tensor,
    *,
    site: str,
    dims: list[int] | None = None,
    values: Tensor | None = None,
    y: Tensor | None = None,
) -> Tensor:
    """Change one latent unit at a time and decode.

    The other units of the site, and the layers above it, stay at the posterior means of ``x``;
    the layers below take their conditional means.

    Args:
        model: generative program.
        guide: inference program.
        x: (*event_shape,), the datum to start from.
        site: latent site.
        dims: units to change; default all.
        values: values to give, (v,); default -3 .. 3 in 7 steps.
        y: one label () for a conditional pair.

    Returns:
        (len(dims), v, *event_shape).

    Raises:
        ValueError: a site that the guide does not have, data that are not a single datum.
    """
    _check_single(model, x, "x")
    values = torch.linspace(-3, 3, 7, device=x.device) if values is None else values.to(x.device)
    labels = as_labels(y, 1, x.device)
    mean = _means(guide, x[None], labels)
    known("site", site, mean)
    dims = list(range(mean[site].shape[-1])) if dims is None else list(dims)
    order = list(_prior_draw(model, x[None], labels))
    held = {s: mean[s] for s in order[: order.index(site) + 1]}
    rows = {s: v.repeat(len(dims) * len(values), *(1,) * (v.dim() - 1)) for s, v in held.items()}
    for i, dim in enumerate(dims):
        rows[site][i * len(values) : (i + 1) * len(values), dim] = values
    n = len(rows[site])
    result = decode_mean(model, rows, like=x[None], y=None if labels is None else labels.expand(n))
    return result.unflatten(0, (len(dims), len(values)))


def _prior_draw(model: Callable, like: Tensor, y: Tensor | None) -> dict[str, Tensor]:
    """One draw of all latents, in the model's sampling order."""
    # Zeros, as in decode_mean: what is observed does not matter
    x = like.new_zeros(1, *like.shape[1:])
    y = checked_labels(model, y, 1, x.device)
    with undisturbed(model, device=x.device), stand_in_data():
        trace = traced(model, x, y)
    return {site: trace.nodes[site]["value"] for site in kinds(trace).latent}


def grid_2d(
    model: Callable,
    *,
    like: Tensor,
    site: str = "z1",
    steps: int = 15,
    y: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Decoded grid of a two-dimensional latent space, at equal quantiles of N(0, 1).

    Args:
        model: generative program whose ``site`` has two units.
        like: any data (m, *event_shape), for shape, dtype and device.
        site: the two-dimensional latent site.
        steps: values per axis.
        y: a label for a conditional model.

    Returns:
        The axis values (steps,), and the means (steps, steps, *event_shape), first axis the
        second unit from high to low, second axis the first unit from low to high: as a picture.

    Raises:
        ValueError: an unknown site, or one without exactly two units.
    """
    quantiles = torch.linspace(0.5 / steps, 1 - 0.5 / steps, steps, device=like.device)
    axis = torch.distributions.Normal(0.0, 1.0).icdf(quantiles)
    second, first = torch.meshgrid(axis.flip(0), axis, indexing="ij")
    z = torch.stack([first.flatten(), second.flatten()], -1)
    labels = as_labels(y if accepts_labels(model) else None, len(z), like.device)
    drawn = _prior_draw(model, like, None if labels is None else labels[:1])
    known("site", site, drawn)
    if drawn[site].shape != (1, 2):
        raise ValueError(
            f"site {site!r}: expected two units, the model has {tuple(drawn[site].shape[1:])}"
        )
    return axis, decode_mean(model, {site: z}, like=like, y=labels).unflatten(0, (steps, steps))
