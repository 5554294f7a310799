"""Pictures of discrete codes: each decoded alone, and grids that are completed."""

from __future__ import annotations

import math

import torch
from matplotlib.axes import Axes
from torch import Tensor

from ..ground.arguments import whole
from ..guides import NearestCode
from ..models import VQVAE
from ..priors import CodePrior
from ..programs.means import mean_of
from ..programs.running import measuring
from ..programs.values import check_tensor
from .drawing import grid_axes
from .pictures import images


def codes(model: VQVAE, *, columns: int | None = None, ax: Axes | None = None) -> Axes:
    """Draw what each code of a VQ-VAE stands for: E[x|z] with the same code at every position.

    Args:
        model: the ``VQVAE``.
        columns: codes per row; by default about a square.
        ax: axes to draw on; by default those of a new figure.

    Returns:
        The axes, codes in the order of their numbers.

    Example:
        >>> from pyro_vae import likelihoods, models
        >>> vqvae = models.VQVAE((1, 8, 8), 16, 4, likelihood=likelihoods.Bernoulli())
        >>> codes(vqvae).images[0].get_array().shape  # four rows of four
        (37, 37, 3)
    """
    numbers = torch.arange(model.codes, device=model.one_hot.device)
    grids = numbers.reshape(-1, *(1,) * len(model.grid_shape)).expand(-1, *model.grid_shape)
    columns = columns or math.ceil(math.sqrt(model.codes))
    means = torch.cat([mean_of(model.decode(part), "x") for part in grids.split(256)])
    return images(means, columns=columns, ax=ax)


def completions(
    model: VQVAE,
    guide: NearestCode,
    prior: CodePrior,
    x: Tensor,
    *,
    rows: int | None = None,
    n: int = 6,
    temperature: float = 1.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw data whose lower part is drawn anew from the codes of their upper part.

    Each row shows a datum, its reconstruction from all its codes, and ``n`` draws from
    p(lower codes | upper codes), decoded; drawn with torch's global RNG.

    Args:
        model: the ``VQVAE``.
        guide: its ``NearestCode``.
        prior: a fitted ``priors.CodePrior``.
        x: (m, *event), one row each.
        rows: rows of the grid of codes that are given, by default half of them.
        n: completions per datum.
        temperature: as in ``CodePrior.sample``.
        ax: axes to draw on; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: more rows than the grid has, or fewer than none; n < 1.
    """
    check_tensor(x)
    height = model.grid_shape[0]
    rows = height // 2 if rows is None else rows
    whole("n", n)
    if not 0 <= rows <= height:
        raise ValueError(f"rows: expected 0 to {height}, got {rows}")
    mask = torch.zeros(model.grid_shape, dtype=torch.bool, device=x.device)
    mask[:rows] = True
    with measuring(model, guide, device=x.device):
        grid = guide.codes(x)
    drawn = prior.complete(grid.repeat_interleave(n, 0), mask, temperature=temperature)
    drawn = drawn.unflatten(0, (len(x), n))
    codes = torch.cat([grid.unsqueeze(1), drawn], 1).flatten(0, 1)
    decoded = mean_of(model.decode(codes), "x")
    cells = torch.cat([x.unsqueeze(1), decoded.unflatten(0, (len(x), n + 1))], 1).flatten(0, 1)
    given = f"{rows} of {height}\nrows given"
    return grid_axes(cells, n + 2, ax, column_labels=["data", "all codes", given, *[""] * (n - 1)])
