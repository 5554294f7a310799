"""How much of signals is lost in reconstructions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data import Dataset
from ..ground.tables import Table, Tabular, mean_and_error, or_none
from ..infer import reconstruct
from ..programs.examining import examined


@dataclass(frozen=True, repr=False)
class SignalToNoise(Tabular):
    """Signal to noise ratios of reconstructions; ``print`` it, or read the parts.

    Attributes:
        decibels: of each datum, (n,); infinite where nothing is lost, NaN of digital silence,
            which has no ratio, whatever is reconstructed.
    """

    decibels: Tensor

    @property
    def mean(self) -> tuple[float, float]:
        """The mean over the data that are no silence, and its standard error, in decibels."""
        heard, _ = apart(self.decibels)
        return mean_and_error(heard) if len(heard) else (math.nan, math.nan)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: mean and standard error, and how many data are digital silence."""
        mean, error = map(or_none, self.mean)
        _, silent = apart(self.decibels)
        return {"SNR": {"mean": mean, "standard_error": error, "unit": "dB", "silent": silent}}

    def table(self) -> Table:
        """The mean with its standard error."""
        title = f"reconstructions of {len(self.decibels)} signals"
        rows = [("signal to noise", self.mean)]
        return Table(title, ("what", "dB"), rows, notes=told(self.decibels))


def apart(decibels: Tensor) -> tuple[Tensor, int]:
    """The ratios of data that have one, and the number of those that are digital silence."""
    heard = decibels[~decibels.isnan()]
    return heard, len(decibels) - len(heard)


def told(decibels: Tensor | None) -> list[str]:
    """How many data are left out of a mean of ratios, in a sentence, where there are some."""
    silent = 0 if decibels is None else apart(decibels)[1]
    return [f"{silent} of the data are digital silence, which has no ratio"] if silent else []


def decibels(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Signal to noise ratio of each datum, (n,), over what is there; NaN for one of zeros alone.

    Example:
        >>> x = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
        >>> decibels(x, torch.tensor([[3.0, 3.5], [0.9, 0.0]])).round(decimals=4)
        tensor([20., 20.])
    """
    parts = (v.masked_fill(x.isnan(), 0.0) for v in (x, x - reconstruction))
    signal, noise = (v.flatten(1).square().sum(1) for v in parts)
    return torch.where(signal > 0, 10 * (signal / noise).log10(), math.nan)


def signal_to_noise(
    model: Callable,
    guide: Callable,
    data: Dataset | Tensor | tuple[Tensor, Tensor | None],
    *,
    batch_size: int = 500,
) -> SignalToNoise:
    """SNR = 10 log10(sum_t x_t^2 / sum_t (x_t - E[x|z]_t)^2) at the posterior means of z.

    More is better: 0 dB is what a reconstruction by silence has, and each 10 dB are a tenth of the
    squared error. Of data that are digital silence, all zeros, it is not defined: these are left
    out of the mean, and their number is told.
    ``notebooks/12_sound_video_text.ipynb`` measures 50 held-out tones after 180 steps: a VAE with
    a map of 4 x 64 numbers as latent has 7.91 +- 0.42 dB, a VQ-VAE with 64 codes of 256 10.44 +-
    0.36 dB, with the standard errors over the tones.

    Args:
        model: generative program.
        guide: inference program.
        data: a ``Dataset``, a tensor (n, *event), or a pair (x, y).
        batch_size: data at once.

    Returns:
        ``SignalToNoise``, in decibels, per datum.

    Raises:
        ValueError: data that the model cannot have produced.

    Example:
        >>> from pyro_vae import data, guides, likelihoods, models
        >>> d = data.load(data.tones(50, length=64))
        >>> vae = models.VAE(d.event_shape, 2, likelihood=likelihoods.Gaussian(), kind=d.kind)
        >>> signal_to_noise(vae, guides.BottomUp(vae), d.test).decibels.shape
        torch.Size([5])
    """
    with examined(data, model, guide) as (data, _):
        return SignalToNoise(ratios(model, guide, data.x, data.y, batch_size=batch_size))


def ratios(
    model: Callable, guide: Callable, x: Tensor, y: Any, *, batch_size: int = 500
) -> Tensor:
    """The ratios of data that were examined, (n,)."""
    found = []
    for rows in torch.arange(len(x), device=x.device).split(batch_size):
        labels = None if y is None else y[rows]
        found.append(decibels(x[rows], reconstruct(model, guide, x[rows], y=labels)))
    return torch.cat(found).cpu()
