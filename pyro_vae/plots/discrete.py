"""Pictures of discrete codes: each decoded alone, where they are, grids that are completed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from ..codebooks.base import one_hot
from ..ground.arguments import known
from ..ground.drawing import new_axes, shown
from ..guides import NearestCode
from ..infer import reconstruct
from ..models import VQVAE
from ..priors import CodePrior, complete
from ..programs.kinds import kind_of
from ..programs.means import mean_of
from ..programs.running import measuring
from ..programs.values import check_codes
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
        TypeError: a model without codes.
        ValueError: another site, a step that the codebook does not have.

    Example:
        >>> from pyro_vae import likelihoods, models
        >>> vqvae = models.VQVAE((1, 8, 8), 16, 4, likelihood=likelihoods.Bernoulli())
        >>> codes(vqvae).images[0].get_array().shape  # four rows of four
        (37, 37, 3)
    """
    check_codes(model)
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
    return images(torch.cat(means), columns=columns, kind=kind_of(model), ax=ax)


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
    p(lower codes | upper codes), decoded; drawn with torch's global RNG. Of signals it is the
    first part in time that is given, of video the first frames, see ``priors.complete``. Of
    several levels the upper codes of the coarsest are given, and all finer ones drawn.

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
        TypeError: a model without codes, another guide or prior.
        ValueError: more rows than the grid has, or fewer than none; n < 1.
    """
    drawn = complete(model, guide, prior, x, rows=rows, n=n, y=y, temperature=temperature)
    with measuring(model, guide, device=x.device):
        decoded = reconstruct(model, guide, x, y=y)
    cells = torch.cat([x.unsqueeze(1), decoded.unsqueeze(1), drawn], 1).flatten(0, 1)
    height, kind = model.grids[model.latents[0]][0], kind_of(model)
    rows = height // 2 if rows is None else rows
    unit = {"signal": "steps", "video": "frames"}.get(kind, "rows")
    labels = ["data", "all codes", f"{rows} of {height}\n{unit} given", *[""] * (n - 1)]
    return grid_axes(cells, n + 2, ax, column_labels=labels, kind=kind)


def code_maps(
    numbers: Tensor,
    *,
    codes: int | None = None,
    titles: Sequence[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw grids of codes, a colour per number: along time in a row, of video frame by frame.

    Args:
        numbers: of codes, (n, *grid) of one, two or three dimensions, such as ``guide.codes(x)``.
        codes: how many there are, for the scale of colours; by default up to the largest drawn.
        titles: one per datum, such as its label; by default its number.
        ax: axes to draw on; by default those of a new figure.

    Returns:
        The axes, a datum below another.

    Raises:
        ValueError: grids of another number of dimensions, not one title per datum.

    Example:
        >>> ax = code_maps(torch.randint(16, (2, 4, 3, 3)))  # four frames and three gaps
        >>> ax.images[0].get_array().shape
        (7, 15)
    """
    if not 2 <= numbers.dim() <= 4 or numbers.numel() == 0:
        raise ValueError(
            "numbers: expected those of codes (n, *grid) of one to three dimensions, got "
            f"{tuple(numbers.shape)}: pass guide.codes(x), of several levels or steps one"
        )
    if titles and len(titles) != len(numbers):
        raise ValueError(f"titles: expected {len(numbers)}, one per datum, got {len(titles)}")
    maps = numbers.detach().cpu().double()
    # As frames (n, t, h, w) of one, or of one row
    maps = maps.reshape(len(maps), *(1,) * (4 - maps.dim()), *maps.shape[1:])
    height = maps.shape[2]
    maps = nn.functional.pad(maps, (0, 1, 0, 1), value=math.nan).transpose(1, 2)
    grid = maps.flatten(2).flatten(0, 1)[:-1, :-1]
    if ax is None:
        inches = min(10.0, max(3.0, 0.22 * grid.shape[1])), min(10.0, 0.22 * grid.shape[0] + 0.8)
        (ax,) = new_axes(1, 1, (inches[0] + 1.0, max(1.2, inches[1])))
    most = int(numbers.max()) + 1 if codes is None else codes
    style = {"cmap": "tab20" if most <= 20 else "nipy_spectral", "interpolation": "nearest"}
    drawn = ax.imshow(grid.numpy(), vmin=-0.5, vmax=most - 0.5, **style)
    if height == 1:
        ax.set_aspect("auto")
    middles = torch.arange(len(maps)) * (height + 1) + (height - 1) / 2
    ax.set_yticks(middles.tolist(), [shown(t) for t in titles] or [*map(str, range(len(maps)))])
    ax.set_xticks([])
    ax.set_frame_on(False)
    ax.figure.colorbar(drawn, ax=ax, label="code", fraction=0.05, pad=0.02)
    return ax
