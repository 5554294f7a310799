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
from .rates import RATE, RATES, steps
from .running import (
    Results,
    deviating,
    first,
    joined,
    keys,
    markdown,
    parser,
    shared,
    told,
    trained,
)

NAME = "ladder-mnist"
EPOCHS = 2000
LATENTS = (64, 32, 16, 8, 4)
HIDDEN = tuple((width, width) for width in (512, 256, 128, 64, 32))
WARM_UP = 0.1

DEVIATIONS = (
    "gradients are not clipped at 0.9 element by element after their total norm was to 4",
    "linear layers start from PyTorch's uniform default in place of Glorot's",
    "a head gives the standard deviation, softplus + 1e-4, in place of the variance",
    "BatchNorm has PyTorch's epsilon 1e-5 in place of 1e-10",
    "the last, smaller batch of an epoch is used in place of dropped",
    "beta rises with each step in place of each epoch",
    "the history has BatchNorm's running averages; the numbers in the table use statistics "
    "recomputed in one pass over the training data, with this library's recalibrate_batchnorm",
    "the semi-amortised guide is not in the paper: the posteriors of the ladder, refined for "
    "each test datum by 20 gradient steps of 0.05 standard deviations, over the same generative "
    "model and without training",
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
REFERENCES = {name: {"system": name} for name in ("VAE", "VAE+BN+WU")}
BY = ("system", "layers")
# The paper's best log p(x), of five layers; IWAE: "Importance Weighted Autoencoders", Burda,
# Grosse, Salakhutdinov (2016)
PUBLISHED = {
    "mnist": {"LVAE": -81.74, "IWAE": -82.9},
    "omniglot": {"LVAE": -102.1, "IWAE": -103.4},
}


def build(
    system: System,
    layers: int,
    *,
    epochs: int,
    seed: int = 0,
    event_shape: Sequence[int] = (1, 28, 28),
    device: str | None = None,
    engine: Any = "graph",
) -> Trainer:
    """The trainer of one system: the paper's widths, leaky rectifiers, Adam, warm-up."""
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
    return Trainer(
        vae,
        guide,
        beta=beta,
        lr=RATE,
        optimizer=functools.partial(torch.optim.Adam, eps=1e-4),
        clip_norm=4.0,
        engine=engine,
        seed=seed,
        device=device,
    )


def recalibrate(trainer: Trainer, splits: DataSplits) -> None:
    """BatchNorm's statistics in one pass over the training data, as the reference evaluates."""
    if any(isinstance(m, nn.BatchNorm1d) for p in trainer.modules() for m in p.modules()):
        with forked(splits.train.device, 0):
            infer.recalibrate_batchnorm(trainer.model, trainer.guide, splits.train)


def measure(
    trainer: Trainer,
    splits: DataSplits,
    guide: guides.Guide,
    importance_samples: int,
    annealed: int = 0,
    temperatures: int = 1000,
) -> dict[str, Any]:
    """The row of a trained model under a guide, on the test data; annealed on the first ones."""
    started, test = time.perf_counter(), splits.test
    found = diagnostics.evaluate(trainer.model, guide, test, importance_samples=importance_samples)
    log_p = found.importance.log_likelihood
    per_datum = {"ELBO": found.terms.elbo, "log p(x)": log_p}
    if annealed:
        better = infer.annealed(
            trainer.model,
            guide,
            test.x[:annealed],
            temperatures=temperatures,
            seed=0,
            progress=False,
        ).log_likelihood
        per_datum |= {"annealed": better, "annealed - importance": better - log_p[:annealed]}
    means = posterior_means(guide, test)
    by_kl = diagnostics.layers(trainer.model, guide, test, criterion="kl")
    return {
        "epochs": len(trainer.history),
        **{name: float(values.double().mean()) for name, values in per_datum.items()},
        "reconstruction": float(found.terms.reconstruction.double().mean()),
        "kl": {s: float(found.terms.kl[s].double().mean()) for s in sorted(means)},
        "active units": {s: int(active(v).sum()) for s, v in sorted(means.items())},
        "active by KL": {layer.site: int(layer.active.sum()) for layer in by_kl},
        "training seconds": sum(row["seconds"] for row in trainer.history),
        "evaluation seconds": time.perf_counter() - started,
        "per datum": {name: values.cpu() for name, values in per_datum.items()},
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
    add("--rate", choices=RATES, default="constant", help="over the epochs (default: constant)")
    add("--engine", choices=("eager", "graph", "compile"), default="graph", help="default: graph")
    add(
        "--fine-tune",
        type=integer(0),
        default=0,
        metavar="N",
        help="further epochs on the importance-weighted bound, as rows +FT (default: 0)",
    )
    add(
        "--annealed",
        type=integer(0),
        default=0,
        metavar="N",
        help="test data whose log p(x) is annealed, too, which takes long (default: 0)",
    )
    add("--temperatures", type=integer(1), default=1000, help="of annealing, default 1000")
    add("--train-only", action="store_true", help="leave the measurement for later")
    options.small = {"epochs": 3, "importance_samples": 50, "layers": [1, 2], "temperatures": 20}
    args = options.parse_args(argv)
    torch.set_num_threads(args.threads)
    splits = running.splits(args, binarize="dynamic")
    if args.quick:
        splits = first(splits, 2000, 200)
    common = shared(args, splits) | {
        "rate": args.rate,
        "importance samples": args.importance_samples,
        "annealed data": args.annealed,
        "temperatures": args.temperatures,
    }
    results = Results(args.out, common, args.command, quiet=args.quiet)

    def there(key: dict[str, Any]) -> bool:
        return results.there(_tuned(key) if args.fine_tune else key)

    asked = keys(system=args.systems, layers=args.layers, seed=args.seeds)
    epochs = args.epochs + args.fine_tune
    for key in results.stands.over(asked, epochs=epochs, there=there, name=told):
        trainer = _train(args, results, splits, key)
        if not args.train_only:
            _measure(args, results, splits, key, trainer)
        if args.fine_tune:
            trainer = _fine_tune(args, results, splits, key)
            if not args.train_only:
                _measure(args, results, splits, _tuned(key), trainer)
    results.publish(table, by=BY, references=REFERENCES)
    return 0


def _tuned(key: dict[str, Any]) -> dict[str, Any]:
    return {**key, "system": f"{key['system']}+FT"}


def _fine_tune(args: Any, results: Results, splits: DataSplits, key: dict[str, Any]) -> Trainer:
    """The paper's second phase: 10 importance samples, a learning rate that falls by steps."""

    def start() -> Trainer:
        trainer = load(results.path(key, ".pt"), device=args.device)
        trainer.elbo = infer.ImportanceWeightedELBO(PARTICLES, "mean")
        return trainer

    return trained(
        results.path(_tuned(key), ".pt"),
        start,
        splits.train,
        epochs=args.epochs + args.fine_tune,
        device=args.device,
        batch_size=args.batch_size,
        callbacks=[steps(args.epochs, args.fine_tune, _tuning_rate(args.rate)), results.stands],
        progress=args.progress,
    )


def _tuning_rate(rate: str) -> float:
    # Where a rate has fallen to 0 the one that it began with would undo what that has brought
    return RATE if rate == "constant" else RATE / 10


def _measure(
    args: Any, results: Results, splits: DataSplits, key: dict[str, Any], trainer: Trainer
) -> None:
    recalibrate(trainer, splits)
    figures(trainer, functools.partial(results.path, key))
    for system, guide in _guides(key["system"], trainer.guide).items():
        # What is annealed is the model's own, whatever the guide
        annealed = args.annealed if guide is trainer.guide else 0
        rest = guide, args.importance_samples, annealed, args.temperatures
        results.row({**key, "system": system}, functools.partial(measure, trainer, splits, *rest))


def _guides(system: str, guide: guides.Guide) -> dict[str, guides.Guide]:
    """The guide as it was trained and, over the ladder's model, a richer one without training."""
    named = {system: guide}
    if isinstance(guide, guides.Ladder):
        # Of a ladder trained for long, steps of 0.2 overshoot
        named[system + RICHER] = guides.SemiAmortized(guide, steps=20, lr=0.05)
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
        engine=args.engine,
    )
    fit = {"validation": splits.test[:1000], "callbacks": RATES[args.rate](args.epochs)}
    return results.train(key, make, splits.train, args, **fit)


def _rank(system: str, order: Sequence[str]) -> tuple[int, str]:
    trained = system.removesuffix(RICHER).removesuffix("+FT")
    return order.index(trained), system


def published(row: dict[str, Any], data: str) -> float | None:
    """What the paper has of a row, after its fine-tuning; None for other rows and data."""
    ladder = (
        row["layers"] == 5 and row["system"].startswith("LVAE") and RICHER not in row["system"]
    )
    return PUBLISHED.get(data, {}).get("LVAE") if ladder else None


def deviations(settings: dict[str, Any]) -> list[str]:
    """What is not as in the paper."""
    found = list(DEVIATIONS)
    if settings["epochs"] != EPOCHS:
        rises = f"{WARM_UP:.0%} of them"
        found.insert(
            0, f"{settings['epochs']} epochs in place of {EPOCHS}, beta rising over {rises}"
        )
    if settings["rate"] != "constant":
        found.insert(0, "the learning rate falls along a cosine from its constant value to 0")
        found.append(f"+FT begins at a tenth of that value, {_tuning_rate(settings['rate']):g}")
    return found


def table(
    rows: Sequence[dict[str, Any]],
    settings: dict[str, Any],
    estimates: Sequence[dict[str, Any]] = (),
) -> str:
    """The comparison as Markdown, with what was done and what differs from the paper."""
    order, data = list(SYSTEMS), settings["data"]
    lines = joined(rows, (*BY, "epochs"), estimates)
    lines.sort(key=lambda r: (r["layers"], _rank(r["system"], order), r["epochs"]))
    columns = {"system": 0, "layers": 0, "epochs": 0, "seeds": 0, "ELBO": 2, "log p(x)": 2}
    columns |= {f"log p(x) - {name}": 2 for name in REFERENCES}
    if settings["annealed data"]:
        columns |= {"annealed": 2, "annealed - importance": 2}
    columns |= {"kl": 1, "active units": 0, "active by KL": 0}
    note = ""
    if data in PUBLISHED:
        columns["published"] = 2
        note = f" Published, too: IWAE {PUBLISHED[data]['IWAE']}."
    shown = [
        {**dict.fromkeys(columns), **line, "published": published(line, data)} for line in lines
    ]
    return (
        f"{markdown(shown, columns)}\n\nNats per datum on the test set, with standard errors over "
        "data and seeds; differences are paired by datum and seed; KL and active units are those "
        f"of z1 / z2 / ...; {told(settings)}.{note}\n\n{deviating(deviations(settings))}"
    )
