"""Pictures of the gallery that are of sound, video and text, each of data made here."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from matplotlib.figure import Figure

from .. import data, guides, infer, likelihoods, models, plots, priors, schedules
from ..data import DataSplits
from ..ground.drawing import new_axes
from ..training.trainer import Trainer

_CHANNELS = (16, 32, 32)


def sound(epochs: int, count: int) -> Figure:
    """Spectrograms of tones, of their reconstructions by a VAE and by a VQ-VAE."""
    d = data.load(data.tones(count, length=1024))
    x = torch.stack([d.test.x[d.test.y == k][0] for k in d.test.y.unique()[:4]])
    options = {"likelihood": likelihoods.Gaussian("learned"), "kind": d.kind, "blocks": 1}
    vae = models.VAE(d.event_shape, 16, channels=(*_CHANNELS, 32), **options)
    pairs = [(vae, guides.BottomUp(vae)), _codes(d, 128)]
    rows, titles = [x], [f'"{d.labels[int(k)]}"' for k in d.test.y.unique()[:4]]
    for name, (model, guide) in zip(("VAE", "VQ-VAE"), pairs, strict=True):
        _fit(model, guide, d, epochs)
        rows.append(infer.reconstruct(model, guide, x))
        titles += [name] * len(x)
    return plots.spectrograms(torch.cat(rows), d.train.rate or 1, columns=len(x), titles=titles)


def video(epochs: int, count: int) -> Figure:
    """Videos of which the first half is given, completed code by code."""
    d = data.load(data.bouncing(count, frames=8, size=16).replace(binarize="dynamic"))
    model, guide = _codes(d, 64, channels=(16, 32))
    _fit(model, guide, d, max(1, epochs // 2))
    prior = priors.CodePrior(model, width=32, layers=3)
    prior.fit(guide, d.train, epochs=epochs, lr=3e-3, progress=False)
    (ax,) = new_axes(1, 1, (10.0, 3.4))
    return plots.completions(model, guide, prior, d.test.x[:4], n=2, ax=ax).figure


def text(epochs: int, count: int) -> Figure:
    """Sentences on straight lines between others, by a causal decoder."""
    who, what = ("the cat", "a dog", "my old aunt", "the king"), ("sees", "likes", "hears")
    where = ("in the garden", "at night", "by the sea", "on a hill", "now")
    lines = [" ".join(words) for words in product(who, what, who, where)]
    d = data.load(lines[:count], kind="tokens", vocabulary="words")
    symbols = d.vocabulary
    assert symbols is not None
    options = {"outputs": len(symbols), "width": 48, "skip": True, "word_dropout": 0.4}
    decoder = models.SequenceDecoder(d.event_shape, 8, **options)
    likelihood = likelihoods.Tokens(symbols)
    model = models.VAE(d.event_shape, 8, likelihood=likelihood, decoder=decoder, kind=d.kind)
    guide = guides.BottomUp(model)
    beta = schedules.WarmUp(epochs=max(1, 2 * epochs), end=0.3)
    _fit(model, guide, d, 3 * epochs, beta=beta, batch_size=32)
    axes = new_axes(1, 2, (9.0, 2.2))
    for ax, first in zip(axes, (0, 2), strict=True):
        x = d.test.x[first : first + 2]
        drawn = symbols.text(infer.interpolate(model, guide, x[0], x[1], steps=6))
        ax.set_axis_off()
        ax.text(0, 1, "\n".join(drawn), va="top", fontsize="medium")
    return axes[0].figure


def _codes(
    d: DataSplits, codes: int, channels: tuple[int, ...] = _CHANNELS
) -> tuple[models.VQVAE, guides.NearestCode]:
    binary = d.train.binarize is not None
    likelihood = likelihoods.Bernoulli() if binary else likelihoods.Gaussian("learned")
    options = {"likelihood": likelihood, "kind": d.kind, "channels": channels, "blocks": 1}
    model = models.VQVAE(d.event_shape, codes, 16, **options)
    return model, guides.NearestCode(model)


def _fit(model: Any, guide: Any, d: DataSplits, epochs: int, **options: Any) -> None:
    batch_size = options.pop("batch_size", 50)
    trainer = Trainer(model, guide, lr=3e-3, seed=0, **options)
    trainer.fit(d.train, epochs=epochs, batch_size=batch_size, progress=False)


# Name -> what draws it, from the number of epochs and that of data
MEDIA: dict[str, Callable[[int, int], Figure]] = {"sound": sound, "video": video, "text": text}
