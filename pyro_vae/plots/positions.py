"""A picture of where in a map its KL is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..ground.drawing import new_axes, shown


def kl_maps(unit_kl: Mapping[str, Tensor]) -> Figure:
    """Draw the KL of each position of latents that are maps, averaged over data, a panel per site.

    A position has the sum over its channels, in nats per datum, so that a panel adds up to the KL
    of its site, which its title tells. Maps along time are drawn as curves, those of video frame
    by frame from left to right, and the units of a vector as a row; each panel has its own scale.

    Args:
        unit_kl: site -> KL of its units (n, channels, *size), or (n, size) for a vector:
            ``infer.elbo_terms(model, guide, x, per_unit=True).per_unit``.

    Returns:
        The figure, with the site next to the data first.

    Raises:
        ValueError: no site, or one without units.

    Example:
        >>> from pyro_vae import guides, infer, likelihoods, models
        >>> vae = models.VAE((1, 8, 8), ((2, 4, 4), 3), likelihood=likelihoods.Bernoulli())
        >>> x = torch.zeros(5, 1, 8, 8)
        >>> terms = infer.elbo_terms(vae, guides.Ladder(vae), x, per_unit=True)
        >>> figure = kl_maps(terms.per_unit)
        >>> [image.get_array().shape for ax in figure.axes for image in ax.images]
        [(4, 4), (1, 3)]
    """
    if not unit_kl or any(kl.dim() < 2 for kl in unit_kl.values()):
        got = {site: tuple(kl.shape) for site, kl in unit_kl.items()}
        raise ValueError(
            f"unit_kl: expected the KL of units (n, *units) of each site, got {got}: pass "
            "infer.elbo_terms(model, guide, x, per_unit=True).per_unit"
        )
    sites = sorted(unit_kl)
    axes = new_axes(1, len(sites), (3.1 * len(sites), 2.7))
    for ax, site in zip(axes, sites, strict=True):
        kl = unit_kl[site].detach().double().mean(0).cpu()
        _draw(ax, kl.sum(0) if kl.dim() > 1 else kl[None], curve=kl.dim() == 2)
        ax.set_title(shown(f"{site}: {float(kl.sum()):.2f} nats"), fontsize="medium")
    return axes[0].figure


def _draw(ax: Axes, kl: Tensor, *, curve: bool) -> None:
    """The KL of positions: along time, of an image (h, w), or of frames (t, h, w)."""
    if curve:
        ax.plot(kl.numpy())
        ax.set(xlabel="position", ylabel="nats", ylim=(0, None))
        return
    if kl.dim() == 3:
        # A line of nothing between frames
        gap = torch.full_like(kl[..., :1], torch.nan)
        kl = torch.cat([kl, gap], -1).movedim(0, 1).flatten(1)[:, :-1]
    style: dict[str, Any] = {"vmin": min(0.0, float(kl.nan_to_num().min())), "cmap": "magma"}
    drawn = ax.imshow(kl.numpy(), **style)
    ax.set_xticks([])
    ax.set_yticks([])
    if len(kl) == 1:
        ax.set_aspect("auto")
    ax.figure.colorbar(drawn, ax=ax, fraction=0.05, pad=0.03, label="nats")
