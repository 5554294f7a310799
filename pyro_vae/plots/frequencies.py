"""Pictures of sound: how loud each frequency is over time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..ground.arguments import positive, whole
from ..ground.drawing import new_axes, shown
from ..ground.kinds import maps_of

_WINDOW, _RANGE = 256, 80.0


def spectrograms(
    x: Tensor,
    rate: float,
    *,
    window: int | None = None,
    columns: int | None = None,
    titles: Sequence[str] = (),
) -> Figure:
    """Draw how loud each frequency of signals is over time, a panel per signal.

    The power of the Fourier transform under a Hann window, which moves by a quarter of its
    length, in decibels relative to the loudest of all panels, down to -80; that of several
    channels is added.

    Args:
        x: signals (n, channels, samples) or (n, samples).
        rate: samples per second, ``d.rate``.
        window: samples under the window, by default a quarter of a signal, 256 at most. A longer
            one tells frequencies better and times worse.
        columns: panels per row, by default 4 at most.
        titles: one per signal; none by default.

    Returns:
        The figure.

    Raises:
        ValueError: another shape, a window that is longer than the signals, not one title per
            signal.

    Example:
        >>> from pyro_vae import data
        >>> figure = spectrograms(data.tones(3).x, 8000)
        >>> figure.axes[0].get_ylabel(), len(figure.axes)  # the last is the scale
        ('kHz', 4)
    """
    positive("rate", rate)
    if x.dim() not in (2, 3) or x.numel() == 0:
        raise ValueError(
            f"x: expected signals (n, channels, samples) or (n, samples), got {tuple(x.shape)}: "
            "pass x[None] for a single one"
        )
    if titles and len(titles) != len(x):
        raise ValueError(f"titles: expected {len(x)}, one per signal, got {len(titles)}")
    signals = x.detach().float().cpu().reshape(len(x), *maps_of(x.shape[1:], 1))
    length = signals.shape[-1]
    window = min(_WINDOW, max(2, length // 4)) if window is None else whole("window", window, 2)
    if not 2 <= window <= length:
        raise ValueError(
            f"window: expected 2 to {length}, the samples of a signal, got {window}: pass fewer, "
            "or longer signals"
        )
    step = max(1, window // 4)
    found = torch.stft(
        signals.flatten(0, 1),
        window,
        step,
        window=torch.hann_window(window),
        center=False,
        return_complex=True,
    )
    power = found.abs().square().unflatten(0, signals.shape[:2]).sum(1)
    loudest = float(power.max()) or 1.0
    decibels = 10 * (power / loudest).clamp(min=10 ** (-_RANGE / 10)).log10()
    columns = min(len(x), 4) if columns is None else min(len(x), whole("columns", columns))
    rows = math.ceil(len(x) / columns)
    axes = new_axes(rows, columns, (min(10.5, 2.6 * columns + 1), min(10.0, 2.0 * rows + 0.4)))
    seconds = (window / 2 / rate, (window / 2 + step * (power.shape[-1] - 1)) / rate)
    half = step / 2 / rate
    place = (seconds[0] - half, seconds[1] + half, 0, rate / 2000)
    drawn = None
    for i, ax in enumerate(axes):
        if i >= len(x):
            ax.set_axis_off()
            continue
        drawn = ax.imshow(
            decibels[i].numpy(),
            aspect="auto",
            origin="lower",
            extent=place,
            cmap="magma",
            vmin=-_RANGE,
            vmax=0,
        )
        if titles:
            ax.set_title(shown(titles[i]), fontsize="small")
        ax.tick_params(labelsize="small")
        if i % columns == 0:
            ax.set_ylabel("kHz")
        else:
            ax.set_yticklabels([])
        if i + columns >= len(x):
            ax.set_xlabel("s")
    axes[0].figure.colorbar(drawn, ax=axes, label="dB", fraction=0.05, pad=0.02)
    return axes[0].figure
