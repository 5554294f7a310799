"""Ladders of maps against ladders of vectors: MNIST, coloured sprites, patches of photographs.

Two systems with the same recipe, ladder, batch normalisation and warm-up, after "Ladder
Variational Autoencoders", Sonderby, Raiko, Maaloe, Sonderby, Winther (2016), for as many steps:
its five layers of vectors, and maps at a half and a quarter of the resolution below a vector.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from .. import diagnostics, guides, infer, likelihoods, models, networks, plots, schedules
from ..data import Dataset, DataSplits, shapes
from ..ground.parsing import integer
from ..ground.streams import forked
from ..training.trainer import Trainer
from . import running
from .ladder_mnist import HIDDEN, LATENTS, WARM_UP, recalibrate
from .pictures import sheet
from .rates import RATE
from .running import Results, first, joined, keys, markdown, parser, shared, told

NAME = "spatial"
EPOCHS = 200
SYSTEMS = ("vectors", "maps")
BY, REFERENCES = ("system",), {"vectors": {"system": "vectors"}}
_SIDE = 32
_TRAIN, _TEST = 5000, 1000


def maps(event_shape: Sequence[int]) -> tuple[tuple[int, ...] | int, ...]:
    """Latents at a half and a quarter of the resolution of images, below a vector.

    Example:
        >>> maps((1, 28, 28))
        ((8, 14, 14), (16, 7, 7), 32)
    """
    h, w = event_shape[-2:]
    half, quarter = (-(-h // 2), -(-w // 2)), (-(-h // 4), -(-w // 4))
    return (8, *half), (16, *quarter), 32


def build(
    system: str,
    *,
    epochs: int,
    event_shape: Sequence[int] = (1, 28, 28),
    grey: bool = True,
    seed: int = 0,
    device: str | None = None,
) -> Trainer:
    """The trainer of one system; pixels are binary where they are ``grey``, else of 256 levels."""
    likelihood = likelihoods.Bernoulli() if grey else likelihoods.DiscretizedLogistic()
    own: dict[str, Any] = {"latents": LATENTS, "hidden": HIDDEN}
    with forked(seed=seed):
        vae = models.VAE(
            event_shape,
            **(own if system == "vectors" else {"latents": maps(event_shape)}),
            likelihood=likelihood,
            activation=networks.LeakyReLU(0.1),
            norm=nn.BatchNorm1d,
        )
        guide = guides.Ladder(vae)
    beta = schedules.WarmUp(epochs=max(1, round(WARM_UP * epochs)))
    return Trainer(vae, guide, beta=beta, lr=RATE, clip_norm=4.0, seed=seed, device=device)


def sprites(count: int = _TRAIN, test: int = _TEST, seed: int = 0) -> DataSplits:
    """Sprites of ``data.shapes`` in a colour of their own on another, of 256 levels.

    Example:
        >>> sprites(20, 10).event_shape
        (3, 32, 32)
    """
    found = shapes(count + test, size=_SIDE, seed=seed).x
    generator = torch.Generator().manual_seed(seed)
    colours = torch.randint(256, (2, len(found), 3, 1, 1), generator=generator) / 255
    x = torch.where(found > 0, colours[0], colours[1])
    return DataSplits("sprites", Dataset(x[:count]), Dataset(x[count:]))


def photographs(count: int = _TRAIN, test: int = _TEST, seed: int = 0) -> DataSplits:
    """Patches of the two photographs of scikit-learn, from other halves in training and test.

    Example:
        >>> photographs(20, 10).train.x.shape
        torch.Size([20, 3, 32, 32])
    """
    # Slow to import, and only needed here
    from sklearn.datasets import load_sample_images

    pictures = [torch.tensor(p).movedim(-1, 0) / 255 for p in load_sample_images().images]
    generator = torch.Generator().manual_seed(seed)

    def patches(half: int, n: int) -> Dataset:
        halves = [p.chunk(2, -1)[half].unfold(1, _SIDE, 1).unfold(2, _SIDE, 1) for p in pictures]
        rows = []
        for i in range(n):
            windows = halves[i % len(halves)]
            places = [int(torch.randint(k, (), generator=generator)) for k in windows.shape[1:3]]
            rows.append(windows[:, places[0], places[1]])
        return Dataset(torch.stack(rows))

    return DataSplits("photographs", patches(0, count), patches(1, test))


MADE: dict[str, Callable[..., DataSplits]] = {"sprites": sprites, "photographs": photographs}


def measure(
    trainer: Trainer, splits: DataSplits, importance_samples: int, steps: int, picture: Path
) -> dict[str, Any]:
    """The row of a trained system, on the test data."""
    recalibrate(trainer, splits)
    started, test = time.perf_counter(), splits.test
    model, guide = trainer.model, trainer.guide
    found = diagnostics.evaluate(model, guide, test, importance_samples=importance_samples)
    log_p = found.importance.log_likelihood
    per_datum: dict[str, Tensor] = {"ELBO": found.terms.elbo, "log p(x)": log_p}
    if not isinstance(model.likelihood, likelihoods.Bernoulli):
        per_datum["bits/dim"] = -log_p / (math.prod(test.event_shape) * math.log(2))
    x = test.x[:500]
    with forked(seed=0):
        drawn = {"z of test data": infer.reconstruct(model, guide, x[:32])}
        sheet(picture, drawn | {"z from the prior": model.sample(32, mean=True)})
        units = infer.elbo_terms(model, guide, x, per_unit=True).per_unit
    figure = plots.kl_maps(units)
    figure.savefig(picture.with_name(f"{picture.stem}-kl.png"), bbox_inches="tight")
    plt.close(figure)
    seconds = sum(row["seconds"] for row in trainer.history)
    return {
        "parameters": sum(p.numel() for m in trainer.modules() for p in m.parameters()),
        **{name: float(values.double().mean()) for name, values in per_datum.items()},
        "kl": {s: float(v.double().mean()) for s, v in sorted(found.terms.kl.items())},
        "ms per step": 1000 * seconds / (steps * len(trainer.history)),
        "evaluation seconds": time.perf_counter() - started,
        "per datum": {name: values.cpu() for name, values in per_datum.items()},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Train and measure the systems asked for, and write the table of all that are there."""
    options = parser(NAME, __doc__, epochs=EPOCHS, batch_size=128)
    add = options.add_argument
    add("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    add("--importance-samples", type=integer(1), default=1000)
    add("--count", type=integer(1), help="training data, default all")
    add("--test-count", type=integer(1), help="test data, default all")
    options.small = {"epochs": 2, "importance_samples": 20, "count": 500, "test_count": 100}
    args = options.parse_args(argv)
    torch.set_num_threads(args.threads)
    made = MADE.get(args.data)
    splits = made() if made else running.splits(args, binarize="dynamic")
    splits = first(splits, args.count, args.test_count)
    common = shared(args, splits) | {"importance samples": args.importance_samples}
    results = Results(args.out, common, args.command, quiet=args.quiet)
    steps = -(-len(splits.train) // args.batch_size)

    def compute(key: dict[str, Any]) -> dict[str, Any]:
        make = functools.partial(
            build,
            **key,
            epochs=args.epochs,
            event_shape=splits.event_shape,
            grey=bool(splits.train.binarize),
            device=args.device,
        )
        trainer = results.train(key, make, splits.train, args)
        rest = (args.importance_samples, steps, results.path(key, ".png"))
        return measure(trainer, splits, *rest)

    asked = keys(system=args.systems, seed=args.seeds)
    results.fill(asked, compute, table, by=BY, references=REFERENCES)
    return 0


def table(
    rows: Sequence[dict[str, Any]],
    settings: dict[str, Any],
    estimates: Sequence[dict[str, Any]],
) -> str:
    """The comparison as Markdown."""
    lines = joined(sorted(rows, key=lambda r: SYSTEMS.index(r["system"])), BY, estimates)
    columns = {"system": 0, "seeds": 0, "parameters": 0, "ELBO": 2, "log p(x)": 2}
    columns |= {"bits/dim": 3} if any("bits/dim" in line for line in lines) else {}
    columns |= {"log p(x) - vectors": 2, "kl": 1, "ms per step": 0}
    shown = [{**dict.fromkeys(columns), **line} for line in lines]
    return (
        f"{markdown(shown, columns)}\n\nNats per datum on the test set, with standard errors over "
        "data and seeds; differences are paired by datum and seed; KL are those of z1 / z2 / ...; "
        f"{told(settings)}.\n"
    )
