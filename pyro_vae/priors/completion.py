"""Data whose first part is given and whose rest is drawn, code by code."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ground.arguments import whole
from ..guides import NearestCode
from ..models import VQVAE
from ..programs.labels import Labels
from ..programs.means import mean_of
from ..programs.running import measuring
from ..programs.values import check_codes, check_tensor
from .autoregressive import by_site
from .code_prior import CodePrior


def complete(
    model: VQVAE,
    guide: NearestCode,
    prior: CodePrior,
    x: Tensor,
    *,
    rows: int | None = None,
    n: int = 1,
    y: Labels = None,
    temperature: float = 1.0,
) -> Tensor:
    """Draw data anew but for their beginning: E[x|z] with z from p(later codes | first codes).

    The beginning of a signal is its first part in time, that of a video its first frames, of an
    image its upper part; what was drawn is with torch's global RNG. Of several levels the first
    codes of the coarsest are given, and all finer ones drawn.

    Args:
        model: the ``VQVAE``.
        guide: its ``NearestCode``.
        prior: a fitted ``priors.CodePrior``.
        x: (m, *event).
        rows: how much of the first dimension of the grid of codes is given, half by default: of
            ``model.grids[model.latents[0]]``, that of the coarsest level.
        n: draws per datum.
        y: labels (m,), for a conditional model.
        temperature: as in ``CodePrior.sample``.

    Returns:
        (m, n, *event).

    Raises:
        TypeError: a model without codes, another guide or prior.
        ValueError: more rows than the grid has, or fewer than none; n < 1.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> options = {"likelihood": likelihoods.Gaussian(), "kind": "signal", "channels": (8, 8)}
        >>> vqvae = models.VQVAE((1, 64), 16, 4, **options)
        >>> x, guide = torch.randn(20, 1, 64), guides.NearestCode(vqvae)
        >>> prior = CodePrior(vqvae, width=8, layers=2).fit(guide, x, epochs=1, progress=False)
        >>> complete(vqvae, guide, prior, x[:3], rows=4, n=2).shape  # of 16, a quarter
        torch.Size([3, 2, 1, 64])
    """
    check_codes(model)
    for name, found, expected, method in (
        ("guide", guide, "guides.NearestCode", "codes"),
        ("prior", prior, "priors.CodePrior", "complete"),
    ):
        if not hasattr(found, method):
            raise TypeError(
                f"{name}: expected a {expected}, got {type(found).__name__}: pass "
                f"{expected}(model), fitted to data"
            )
    check_tensor(x)
    whole("n", n)
    top = model.latents[0]
    height = model.grids[top][0]
    rows = height // 2 if rows is None else rows
    if not 0 <= rows <= height:
        raise ValueError(f"rows: expected 0 to {height}, got {rows}")
    shapes = model.code_shapes.items()
    mask = {s: torch.zeros(shape, dtype=torch.bool, device=x.device) for s, shape in shapes}
    mask[top][:rows] = True
    with measuring(model, guide, device=x.device):
        found = guide.codes(x)
    repeated = {
        site: codes.repeat_interleave(n, 0)
        for site, codes in by_site(found, model.latents, "codes").items()
    }
    labels = None
    if y is not None:
        labels = torch.as_tensor(y, device=x.device).expand(len(x)).repeat_interleave(n)
    drawn = prior.complete(repeated, mask, y=labels, temperature=temperature)
    return mean_of(model.decode(drawn, y=labels), "x").unflatten(0, (len(x), n))
