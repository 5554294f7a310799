"""Pictures of sigma(z): where a Gaussian likelihood expects its errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from ..ground.drawing import COLORS, new_axes
from ..programs.encoding import decode, encode
from ..programs.kinds import kind_of
from ..programs.labels import label_arguments, labels_for
from ..programs.means import mean_of
from ..programs.running import measuring
from ..programs.values import check_tensor
from .drawing import stacked
from .sentences import check_no_text
from .tables import columns_of

# Widths in sigma that have a point on the curve
_MARKED = {1: "o", 2: "s"}


def uncertainty(model: Callable, guide: Callable, x: Tensor, *, y: Tensor | None = None) -> Figure:
    """Draw data, E[x|z] below each, and sigma(z) below that with its colour scale.

    z is the posterior mean; sigma_k(z) is the standard deviation of p(x_k|z), for images of
    several channels the root mean square over the channels.

    Args:
        model: generative program.
        guide: inference program.
        x: (n, *event); about 8 are well readable.
        y: labels (n,) for a conditional pair.

    Returns:
        A figure of three axes, and one for each colour scale.

    Raises:
        ValueError: no data, or data of the wrong shape.

    Example:
        >>> import torch
        >>> from pyro_vae import guides, likelihoods, models
        >>> noise = likelihoods.Gaussian(sigma="predicted")
        >>> vae = models.VAE((1, 8, 8), latents=2, likelihood=noise, hidden=())
        >>> figure = uncertainty(vae, guides.BottomUp(vae), torch.zeros(5, 1, 8, 8))
        >>> [ax.get_ylabel() for ax in figure.axes[3:]]
        ['sigma(z)']
    """
    check_tensor(x)
    check_no_text(model, "plots.reconstructions(model, guide, x)")
    y = labels_for(model, y, len(x), x.device)
    with measuring(model, guide, device=x.device):
        z = encode(guide, x, **label_arguments(guide, y)).mean
        p = decode(model, z, x=x, **label_arguments(model, y))
        mean, sigma = mean_of(p, "x"), p.stddev
    kind = kind_of(x, model)
    if sigma.dim() == 4 and kind != "video":
        sigma = sigma.square().mean(1).sqrt()
    shown = {"data": x, "mean": mean}
    return stacked(shown, {"sigma(z)": sigma}, kind, table=columns_of(x, model))


def calibration(result: Any, *, ax: Axes | None = None) -> Axes:
    """Draw the fraction of elements within w sigma against that of a normal distribution.

    Above the diagonal sigma is too large, below it too small.

    Args:
        result: what ``diagnostics.calibration`` found, or other numbers by the same names:
            ``widths`` w, (k,), and for each ``inside``, the fraction of the elements within
            w sigma, and ``expected``, that of a normal distribution.
        ax: axes to draw on; by default those of a new figure.

    Returns:
        The axes.

    Example:
        >>> import torch
        >>> from pyro_vae import diagnostics, guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> result = diagnostics.calibration(vae, guides.BottomUp(vae), torch.zeros(5, 6))
        >>> calibration(result).get_xlabel()
        'expected inside, normal distribution'
    """
    if ax is None:
        (ax,) = new_axes(1, 1, (4.2, 4.0))
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="calibrated")
    ax.plot(result.expected, result.inside, color=COLORS[0], label="this pair")
    for w, inside, expected in zip(result.widths, result.inside, result.expected, strict=True):
        if marker := _MARKED.get(float(w)):
            label = f"within {w:g} sigma: {100 * inside:.1f} %"
            ax.plot(expected, inside, marker, color=COLORS[0], label=label, clip_on=False)
    ax.set(xlabel="expected inside, normal distribution", ylabel="inside")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    ax.legend(frameon=False, loc="lower right")
    return ax
