"""Pictures of discrete codes: each decoded alone, and grids that are completed."""

from __future__ import annotations

import math

import torch
from matplotlib.axes import Axes
from torch import Tensor

from ..codebooks.base import one_hot
from ..ground.arguments import known, whole
from ..guides import NearestCode
from ..models import VQVAE
from ..priors import CodePrior
from ..programs.means import mean_of
from ..programs.running import measuring
from ..programs.values import check_tensor
from .drawing import grid_axes
from .pictures import images


def codes(
    model: VQVAE,
    *,
    site: str = "z1",
    step: int = 0,
    y: int | None = None,
    columns: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw what each code of a VQ-VAE stands for: E[x|z] with the same code at every position.

    Where there are other levels, or other steps of a residual codebook, their vectors are zero.

    Args:
        model: the ``VQVAE``.
        site: the level, of several.
        step: the step of a residual codebook.
        y: the label, for a conditional model.
        columns: codes per row; by default about a square.
        ax: axes to draw on; by default those of a new figure.

    Returns:
        The axes, codes in the order of their numbers.

    Raises:
        ValueError: another site, a step that the codebook does not have.

    Example:
        >>> from pyro_vae import likelihoods, models
        >>> vqvae = models.VQVAE((1, 8, 8), 16, 4, likelihood=likelihoods.Bernoulli())
        >>> codes(vqvae).images[0].get_array().shape  # four rows of four
        (37, 37, 3)
    """
    book = model.codebooks[known("site", site, model.latents)]
    steps = math.prod(book.stack)
    if not 0 <= step < steps:
        raise ValueError(f"step: expected 0 to {steps - 1}, got {step}")
    columns = columns or math.ceil(math.sqrt(book.codes))
    means = []
    for numbers in torch.arange(book.codes, device=model.one_hot.device).split(256):
        z = {
            s: model.one_hot.new_zeros(len(numbers), *shape, model.codebooks[s].codes)
            for s, shape in model.code_shapes.items()
        }
        here = z[site][..., step, :] if book.stack else z[site]
        chosen = one_hot(numbers, book.codes, model.one_hot)
        here.copy_(chosen.reshape(len(numbers), *(1,) * len(model.grids[site]), -1))
        means.append(mean_of(model.decode(z, y=y), "x"))
    return images(torch.cat(means), columns=columns, ax=ax)


def completions(
    model: VQVAE,
    guide: NearestCode,
    prior: CodePrior,
    x: Tensor,
    *,
    y: Tensor | None = None,
    rows: int | None = None,
    n: int = 6,
    temperature: float = 1.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw data whose lower part is drawn anew from the codes of their upper part.

    Each row shows a datum, its reconstruction from all its codes, and ``n`` draws from
    p(lower codes | upper codes), decoded; drawn with torch's global RNG. Of several levels the
    upper codes of the coarsest are given, and all finer ones drawn.

    Args:
        model: the ``VQVAE``.
        guide: its ``NearestCode``.
        prior: a fitted ``priors.CodePrior``.
        x: (m, *event), one row each.
        y: labels (m,), for a conditional model.
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
    top = model.latents[0]
    height = model.grids[top][0]
    rows = height // 2 if rows is None else rows
    whole("n", n)
    if not 0 <= rows <= height:
        raise ValueError(f"rows: expected 0 to {height}, got {rows}")
    shapes = model.code_shapes.items()
    mask = {s: torch.zeros(shape, dtype=torch.bool, device=x.device) for s, shape in shapes}
    mask[top][:rows] = True
    with measuring(model, guide, device=x.device):
        found = guide.codes(x)
    grid = {top: found} if isinstance(found, Tensor) else found
    repeated = {s: codes.repeat_interleave(n, 0) for s, codes in grid.items()}
    labels = None if y is None else torch.as_tensor(y).expand(len(x))
    drawn = prior.complete(
        repeated,
        mask,
        y=None if labels is None else labels.repeat_interleave(n),
        temperature=temperature,
    )
    drawn = {top: drawn} if isinstance(drawn, Tensor) else drawn
    codes = {
        s: torch.cat([grid[s].unsqueeze(1), drawn[s].unflatten(0, (len(x), n))], 1).flatten(0, 1)
        for s in grid
    }
    labels = None if labels is None else labels.repeat_interleave(n + 1)
    decoded = mean_of(model.decode(codes, y=labels), "x")
    cells = torch.cat([x.unsqueeze(1), decoded.unflatten(0, (len(x), n + 1))], 1).flatten(0, 1)
    given = f"{rows} of {height}\nrows given"
    return grid_axes(cells, n + 2, ax, column_labels=["data", "all codes", given, *[""] * (n - 1)])
