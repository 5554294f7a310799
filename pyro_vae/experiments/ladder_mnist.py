"""VAE, batch normalisation, warm-up and ladder on dynamically binarised MNIST, 1 to 5 layers.

The comparison of "Ladder Variational Autoencoders", Sonderby, Raiko, Maaloe, Sonderby, Winther
(2016): four systems over one architecture.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from torch import nn

from .. import (
    callbacks,
    diagnostics,
    guides,
    infer,
    likelihoods,
    models,
    networks,
    plots,
    schedules,
)
from ..data import DataSplits
from ..ground.parsing import integer
from ..ground.streams import forked
from ..infer.posterior import active, posterior_means
from ..training.saving import load
from ..training.trainer import Trainer
from . import running
from .running import Results, deviating, first, keys, markdown, parser, shared, told

NAME = "ladder-mnist"
EPOCHS = 2000
LATENTS = (64, 32, 16, 8, 4)
HIDDEN = tuple((width, width) for width in (512, 256, 128, 64, 32))
WARM_UP = 0.1

DEVIATIONS = (
    "Adam with epsilon 1e-8 in place of 1e-4, and no elementwise clipping of gradients at 0.9 "
    "after their total norm was clipped to 4",
    "linear layers start from PyTorch's uniform default in place of Glorot's",
    "a head gives the standard deviation, softplus + 1e-4, in place of the variance",
    "BatchNorm has PyTorch's epsilon 1e-5 in place of 1e-10",
    "the last, smaller batch of an epoch is used in place of dropped",
    "beta rises with each step in place of each epoch",
    "the history has BatchNorm's running averages; the numbers in the table use statistics "
    "recomputed in one pass over the training data, with this library's recalibrate_batchnorm",
    "the semi-amortised guide is not in the paper: the posteriors of the ladder, refined for "
    "each test datum by 5 gradient steps, over the same generative model and without training",
    "+FT: 10 importance samples in place of 10 of these for each of 10 outer draws, learning rate "
    "times 0.75 at each tenth of the phase",
)


class System(NamedTuple):
    """One line of the comparison."""

    guide: type[guides.Guide]
    norm: networks.Norm | None
    warm_up: bool


SYSTEMS = {
    "VAE": System(guides.BottomUp, None, False),
    "VAE+BN": System(guides.BottomUp, nn.BatchNorm1d, False),
    "VAE+BN+WU": System(guides.BottomUp, nn.BatchNorm1d, True),
    "LVAE+BN+WU": System(guides.Ladder, nn.BatchNorm1d, True),
}

RICHER = ", semi-amortised"
PARTICLES = 10


def build(
    system: System,
    layers: int,
    *,
    epochs: int,
    seed: int = 0,
    event_shape: Sequence[int] = (1, 28, 28),
    device: str | None = None,
) -> Trainer:
    """The trainer of one system: the paper's widths, leaky rectifiers, Adam at 1e-3, warm-up."""
    with forked(seed=seed):
        vae = models.VAE(
            event_shape,
            LATENTS[:layers],
            likelihood=likelihoods.Bernoulli(),
            hidden=HIDDEN[:layers],
            activation=networks.LeakyReLU(0.1),
            norm=system.norm,
        )
        guide = system.guide(vae)
    beta = schedules.WarmUp(epochs=max(1, round(WARM_UP * epochs))) if system.warm_up else 1.0
    return Trainer(vae, guide, beta=beta, lr=1e-3, clip_norm=4.0, seed=seed, device=device)


def recalibrate(trainer: Trainer, splits: DataSplits) -> None:
    """BatchNorm's statistics in one pass over the training data, as the reference evaluates."""
    if any(isinstance(m, nn.BatchNorm1d) for p in trainer.modules() for m in p.modules()):
        with forked(splits.train.device, 0):
            infer.recalibrate_batchnorm(trainer.model, trainer.guide, splits.train)


def measure(
    trainer: Trainer, splits: DataSplits, importance_samples: int, guide: guides.Guide
) -> dict[str, Any]:
    """The row of a trained model under a guide, on the test data."""
    started = time.perf_counter()
    numbers = diagnostics.evaluate(
        trainer.model, guide, splits.test, importance_samples=importance_samples
    ).to_dict()
    means = posterior_means(guide, splits.test)
    return {
        "epochs": len(trainer.history),
        "ELBO": numbers["ELBO"]["mean"],
        "log p(x)": numbers["log p(x)"]["mean"],
        "log p(x) error": numbers["log p(x)"]["standard_error"],
        "reconstruction": numbers["reconstruction"]["mean"],
        "kl": {s: numbers[f"KL {s}"]["mean"] for s in sorted(means)},
        "active_units": {s: int(active(v).sum()) for s, v in sorted(means.items())},
        "training seconds": sum(row["seconds"] for row in trainer.history),
        "evaluation seconds": time.perf_counter() - started,
    }


def figures(trainer: Trainer, path: Callable[[str], Path]) -> None:
    """Active units while training, and what each layer adds to the samples."""
    pictures = {"-units.png": plots.active_units(trainer.history)}
    if len(trainer.model.latents) > 1:
        pictures["-layers.png"] = plots.layer_samples(trainer.model, "z2").figure
    for suffix, figure in pictures.items():
        figure.savefig(path(suffix), bbox_inches="tight")
        plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Train and measure the systems asked for, and write the table of all that are there."""
    options = parser(NAME, __doc__, epochs=EPOCHS, batch_size=256)
    add = options.add_argument
    add("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    add("--layers", type=int, nargs="+", choices=range(1, 6), default=[1, 2, 3, 4, 5])
    add("--importance-samples", type=integer(1), default=5000)
    add(
        "--fine-tune",
        type=integer(0),
        default=0,
        metavar="N",
        help="further epochs on the importance-weighted bound, as rows +FT (default: 0)",
    )
    add("--train-only", action="store_true", help="leave the measurement for later")
    args = options.parse_args(argv)
    torch.set_num_threads(args.threads)
    splits = running.splits(args, binarize="dynamic")
    if args.quick:
        args.epochs, args.importance_samples, args.layers = 3, 50, [1, 2]
        splits = first(splits, 2000, 200)
    common = shared(args, splits) | {"importance samples": args.importance_samples}
    results = Results(args.out, common)
    for key in keys(system=args.systems, layers=args.layers, seed=args.seeds):
        trainer = _train(args, results, splits, key)
        if args.train_only:
            continue
        _measure(args, results, splits, key, trainer)
        if args.fine_tune:
            tuned = {**key, "system": f"{key['system']}+FT"}
            start = results.path(key, ".pt")
            trainer = _fine_tune(args, results.path(tuned, ".pt"), splits, start)
            _measure(args, results, splits, tuned, trainer)
    results.publish(table)
    return 0


def _fine_tune(args: Any, path: Path, splits: DataSplits, start: Path) -> Trainer:
    """The paper's second phase: 10 importance samples, a learning rate that falls by steps."""
    if path.exists():
        return load(path, device=args.device)
    epochs, trainer = args.fine_tune, load(start, device=args.device)
    trainer.elbo = infer.ImportanceWeightedELBO(PARTICLES, "mean")
    decay = callbacks.LRScheduler(
        torch.optim.lr_scheduler.StepLR, step_size=max(1, round(epochs / 10)), gamma=0.75
    )
    trainer.fit(
        splits.train,
        epochs=epochs,
        batch_size=args.batch_size,
        callbacks=[decay],
        progress=args.progress,
    )
    trainer.save(path)
    return trainer


def _measure(
    args: Any, results: Results, splits: DataSplits, key: dict[str, Any], trainer: Trainer
) -> None:
    recalibrate(trainer, splits)
    figures(trainer, functools.partial(results.path, key))
    for system, guide in _guides(key["system"], trainer.guide).items():
        row = functools.partial(measure, trainer, splits, args.importance_samples, guide)
        results.row({**key, "system": system}, row)


def _guides(system: str, guide: guides.Guide) -> dict[str, guides.Guide]:
    """The guide as it was trained and, over the ladder's model, a richer one without training."""
    named = {system: guide}
    if isinstance(guide, guides.Ladder):
        named[system + RICHER] = guides.SemiAmortized(guide)
    return named


def _train(args: Any, results: Results, splits: DataSplits, key: dict[str, Any]) -> Trainer:
    make = functools.partial(
        build,
        SYSTEMS[key["system"]],
        key["layers"],
        epochs=args.epochs,
        seed=key["seed"],
        event_shape=splits.event_shape,
        device=args.device,
    )
    return results.train(key, make, splits.train, args, validation=splits.test[:1000])


def _rank(system: str, order: Sequence[str]) -> tuple[int, str]:
    trained = system.removesuffix(RICHER).removesuffix("+FT")
    return order.index(trained), system


def table(rows: Sequence[dict[str, Any]], settings: dict[str, Any]) -> str:
    """The comparison as Markdown, with what was done and what differs from the paper."""
    order = list(SYSTEMS)
    rows = sorted(rows, key=lambda r: (r["layers"], _rank(r["system"], order), r["seed"]))
    lines = [
        {
            **row,
            "log p(x)": (row["log p(x)"], row["log p(x) error"]),
            "KL of z1 / z2 / ...": " / ".join(f"{v:.1f}" for _, v in sorted(row["kl"].items())),
            "active units": " / ".join(str(v) for _, v in sorted(row["active_units"].items())),
        }
        for row in rows
    ]
    columns = {"system": 0, "layers": 0, "ELBO": 2, "log p(x)": 2}
    columns |= {"KL of z1 / z2 / ...": 0, "active units": 0}
    return (
        f"{markdown(lines, columns)}\n\nNats per datum on the test set; {told(settings)}.\n\n"
        + deviating(DEVIATIONS)
    )
