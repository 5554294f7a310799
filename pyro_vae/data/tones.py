"""Tones like speech, sung from known factors: a pitch, a vowel and an envelope.

A vowel is a buzz of harmonics, k = 1, 2, ..., below half the sample rate, which three resonances
of the mouth, the formants, let through unequally:

    x(t) = a(t) sum_k A_k sin(2 pi k f t),    A_k ~ 1/k prod_j F_j^2 / |F_j^2 - (kf)^2 + i B_j kf|,

scaled to a root mean square of 0.2 where the envelope a is 1. The envelope rises on a straight
line for the time of the attack, and then falls as exp(-t / decay).

Sources: the formants of men in "Control Methods Used in a Study of the Vowels", Peterson, Barney
(1952); the cascade of resonances in "Software for a cascade/parallel formant synthesizer", Klatt
(1980).

| factor | values | meaning |
|---|---|---|
| vowel | 0 to 4 | a, e, i, o, u |
| pitch | 40 from 100 to 250 | f in Hz, in equal ratios |
| attack | 8 from 0.005 to 0.08 | seconds |
| decay | 8 from 0.05 to 0.4 | seconds, in equal ratios |
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..ground.arguments import whole
from .dataset import Dataset
from .sprites import check_factors, drawn_factors

VOWELS = ("a", "e", "i", "o", "u")
FORMANTS = torch.tensor(
    [[730, 1090, 2440], [530, 1840, 2480], [270, 2290, 3010], [570, 840, 2410], [300, 870, 2240]]
)
BANDWIDTHS = torch.tensor([60, 90, 150])
FACTORS = {
    "vowel": torch.arange(5.0),
    "pitch": torch.logspace(math.log10(100), math.log10(250), 40),
    "attack": torch.linspace(0.005, 0.08, 8),
    "decay": torch.logspace(math.log10(0.05), math.log10(0.4), 8),
}
LOUDNESS = 0.2
# As many as a fast memory holds
CHUNK = 128


def render_tones(factors: Tensor, length: int = 2048, rate: int = 8000) -> Tensor:
    """Sing one tone for each row of factors.

    Args:
        factors: vowel, pitch, attack and decay, shape (n, 4). Values between those of the table
            are legal, except for the vowel.
        length: samples of a tone.
        rate: samples per second.

    Returns:
        ``float32``, shape (n, 1, length), almost all between -1 and 1.

    Raises:
        ValueError: ``factors`` has another shape, an unknown vowel, a time that is not positive,
            or a pitch that is not below half the rate.

    Example:
        >>> x = render_tones(torch.tensor([[0, 125.0, 0.01, 1.0]]), length=8000)
        >>> spectrum = torch.fft.rfft(x[0, 0]).abs()  # a bin is 1 Hz
        >>> spectrum.topk(3).indices.tolist()  # the harmonics 6, 5 and 1
        [750, 625, 125]
    """
    whole("length", length, advice="pass the samples of a tone, 2048 are a quarter of a second")
    whole("rate", rate, advice="pass the samples per second, 8000 are usual for speech")
    check_factors(factors, FACTORS, "tone")
    if not torch.isin(factors[:, 0], FACTORS["vowel"].to(factors)).all():
        raise ValueError(
            f"factors: expected 0 to 4 ({', '.join(VOWELS)}) in column 0, got "
            f"{factors[:, 0].unique().tolist()}: round the vowel"
        )
    pitch, times = factors[:, 1], factors[:, 2:]
    if not ((pitch > 0) & (pitch < rate / 2)).all() or not (times > 0).all():
        raise ValueError(
            f"factors: expected pitches above 0 and below half the rate, {rate / 2:g} Hz, and "
            f"times above 0, got rows from {factors.amin(0).tolist()} to "
            f"{factors.amax(0).tolist()}: pass a higher rate, or other rows"
        )
    return torch.cat([_render(rows, length, rate) for rows in factors.double().split(CHUNK)])


def _render(factors: Tensor, length: int, rate: int) -> Tensor:
    vowel, (pitch, attack, decay) = factors[:, 0].long(), factors.T[1:, :, None]
    k = torch.arange(1, math.ceil(rate / 2 / float(pitch.min()))).to(factors)
    at = k * pitch
    formants = FORMANTS.to(at)[vowel][:, :, None]
    passed = torch.hypot(formants**2 - at[:, None] ** 2, BANDWIDTHS.to(at)[:, None] * at[:, None])
    loud = (formants**2 / passed).prod(1) / k * (at < rate / 2)
    loud = LOUDNESS * loud / (loud.square().sum(1, keepdim=True) / 2).sqrt()
    time = torch.arange(length).to(factors) / rate
    angle = 2 * math.pi * pitch * time
    # sin((k + 1) a) = 2 cos(a) sin(k a) - sin((k - 1) a) takes a product where a sine is slow
    twice, before, sine = 2 * angle.cos(), torch.zeros_like(angle), angle.sin()
    wave = torch.zeros_like(angle)
    for amplitude in loud.T:
        wave.addcmul_(amplitude[:, None], sine)
        before, sine = sine, twice * sine - before
    envelope = (time / attack).clamp(max=1) * (-(time - attack).clamp(min=0) / decay).exp()
    return (envelope * wave).float()[:, None]


def tones(count: int = 2000, *, length: int = 2048, rate: int = 8000, seed: int = 0) -> Dataset:
    """Tones with distinct factors, drawn at random from the table.

    Args:
        count: number of tones, at most 12,800, all that there are.
        length: samples of a tone.
        rate: samples per second.
        seed: of the choice of factors.

    Returns:
        A ``Dataset`` of shape (count, 1, length) with ``y`` the vowel, all ``factors`` and the
        ``rate``, ready for ``data.load(data.tones(...))``.

    Raises:
        ValueError: ``count``, ``length`` or ``rate`` is out of range.

    Example:
        >>> d = tones(100, length=512)
        >>> d, d.factor_names, d.rate
        (Dataset(100 x (1, 512), labels=5, factors=4, binarize=None, kind='signal'),
         ('vowel', 'pitch', 'attack', 'decay'), 8000)
    """
    factors = drawn_factors(FACTORS, count, seed)
    return Dataset(
        render_tones(factors, length, rate),
        factors[:, 0].long(),
        names=VOWELS,
        factors=factors,
        factor_names=tuple(FACTORS),
        kind="signal",
        rate=rate,
    )
