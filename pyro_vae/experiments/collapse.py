"""VAE and Skip-VAE on pictures: how much the latents carry, over latent size and decoder.

The comparison of "Avoiding Latent Variable Collapse with Generative Skip Models", Dieng, Kim,
Rush, Blei (2019): multi-layer decoders of growing depth, and one of masked convolutions.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.ticker import MaxNLocator

from .. import diagnostics, guides, likelihoods, models
from ..data import DataSplits
from ..ground.drawing import COLORS, new_axes
from ..ground.parsing import integer
from ..ground.streams import forked
from ..infer.terms import dataset_terms
from ..training.trainer import Trainer
from . import running
from .pictures import binarised, pooled
from .rates import RATE, RATES
from .running import Results, deviating, first, joined, markdown, parser, shared, told

NAME = "collapse"
EPOCHS = 100
LATENTS, DEPTHS = (2, 10, 20, 50, 100), (1, 2, 3, 4)
MIDDLE = {"latents": 20, "depth": 2}
THRESHOLD = 0.02
BY, REFERENCES = ("decoder", "depth", "latents", "skip"), {"VAE": {"skip": 0}}

DEVIATIONS = (
    "the encoder of all systems is a perceptron of two hidden layers in place of residual "
    "convolutions for the masked decoder",
    "the map of z enters the masked layers by 1x1 convolutions in place of 3x3",
    "the last model is measured, not the one of the best validation bound",
    "linear layers start from PyTorch's uniform default",
)
USUAL = {"epochs": EPOCHS, "batch size": 50, "masked channels": 32, "rate": "constant"}


def cells(
    decoders: Sequence[str], latents: Sequence[int], depths: Sequence[int], layers: int
) -> list[dict[str, Any]]:
    """Latent size at the middle depth, depth at the middle size, and the PixelCNN."""
    found = []
    if "MLP" in decoders:
        sizes = [{"latents": k, "depth": MIDDLE["depth"]} for k in latents]
        found += sizes + [{"latents": MIDDLE["latents"], "depth": d} for d in depths]
    found = [{"decoder": "MLP", **cell} for cell in found]
    if "PixelCNN" in decoders:
        found.append({"decoder": "PixelCNN", "latents": MIDDLE["latents"], "depth": layers})
    unique = list({tuple(cell.items()): cell for cell in found}.values())
    return [{**cell, "skip": skip} for cell in unique for skip in (0, 1)]


def build(
    cell: dict[str, Any],
    *,
    seed: int,
    width: int,
    channels: int,
    event_shape: Sequence[int],
    device: str | None,
    engine: Any = "graph",
) -> Trainer:
    """The trainer of one cell: Adam at 1e-3, no warm-up, total gradient norm at most 5."""
    with forked(seed=seed):
        size, skip, depth = cell["latents"], bool(cell["skip"]), cell["depth"]
        decoder, hidden = None, (width,) * depth
        if cell["decoder"] == "PixelCNN":
            decoder = models.PixelDecoder(
                event_shape, size, skip=skip, layers=depth, width=channels
            )
            hidden = (width,)
        vae = models.VAE(
            event_shape,
            size,
            likelihood=likelihoods.Bernoulli(),
            hidden=hidden,
            skip=skip,
            decoder=decoder,
        )
        guide = guides.BottomUp(vae, hidden=(width, width))
    return Trainer(
        vae,
        guide,
        elbo="analytic",
        lr=RATE,
        clip_norm=5.0,
        engine=engine,
        seed=seed,
        device=device,
    )


def measure(trainer: Trainer, splits: DataSplits) -> dict[str, Any]:
    """The row of a trained system, on the test data."""
    terms = dataset_terms(trainer.model, trainer.guide, splits.test)
    found = diagnostics.collapse(trainer.model, trainer.guide, splits.test, threshold=THRESHOLD)
    bounds = [row["elbo"] for row in trainer.history]
    per_datum = {
        "ELBO": terms.elbo.cpu(),
        "KL": terms.kl["z1"].cpu(),
        "MI": found.whole.mutual_information.cpu(),
    }
    return {
        **{name: float(values.mean()) for name, values in per_datum.items()},
        "AU": found.units["z1"].active,
        "collapsed": bool(found.collapsed),
        "log N": found.cap,
        # Of the training data, from which it is seen whether a run is over
        "rise in the last tenth": bounds[-1] - bounds[-1 - len(bounds) // 10],
        "training seconds": sum(row["seconds"] for row in trainer.history),
        "per datum": per_datum,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Train and measure what is asked for; write the table and the curves of all that is there."""
    options = parser(NAME, __doc__, epochs=EPOCHS, batch_size=50)
    add = options.add_argument
    add("--decoders", nargs="+", choices=("MLP", "PixelCNN"), default=["MLP", "PixelCNN"])
    add("--latents", type=integer(1), nargs="+", default=list(LATENTS))
    add("--depths", type=integer(1), nargs="+", default=list(DEPTHS))
    add("--layers", type=integer(1), default=8, help="masked layers, default 8")
    add("--width", type=integer(1), default=1024, help="hidden width, default 1024")
    add("--channels", type=integer(1), default=32, help="of the masked layers, default 32")
    add("--engine", choices=("eager", "graph", "compile"), default="graph", help="default: graph")
    add("--rate", choices=RATES, default="constant", help="over the epochs, default constant")
    add("--count", type=integer(1), help="training data, default all")
    add("--size", type=integer(1), help="sides of pictures that are pooled, default as they are")
    options.small = {"epochs": 3, "width": 64, "layers": 2, "count": 1000}
    options.small |= {"latents": [2, 20], "depths": [1, 3]}
    args = options.parse_args(argv)
    torch.set_num_threads(args.threads)
    splits = binarised(pooled(running.splits(args, binarize=None), args.size))
    splits = first(splits, args.count, 200 if args.quick else None)
    common = shared(args, splits) | {
        "hidden width": args.width,
        "masked channels": args.channels,
        "rate": args.rate,
    }
    results = Results(args.out, common, args.command, quiet=args.quiet)
    networks = {
        "width": args.width,
        "channels": args.channels,
        "event_shape": splits.event_shape,
        "device": args.device,
        "engine": args.engine,
    }

    def compute(key: dict[str, Any]) -> dict[str, Any]:
        make = functools.partial(build, key, seed=key["seed"], **networks)
        fall = RATES[args.rate](args.epochs)
        return measure(results.train(key, make, splits.train, args, callbacks=fall), splits)

    found = cells(args.decoders, args.latents, args.depths, args.layers)
    asked = [{**cell, "seed": seed} for cell in found for seed in args.seeds]
    rows = results.fill(asked, compute, table, by=BY, references=REFERENCES, entries=("AU",))
    if any(row["decoder"] == "MLP" for row in rows):
        curves(rows).savefig(args.out / "curves.png", dpi=120)
    return 0


def _merged(
    rows: Sequence[dict[str, Any]], estimates: Sequence[dict[str, Any]] = ()
) -> list[dict[str, Any]]:
    return sorted(joined(rows, BY, estimates), key=lambda r: [r[name] for name in BY])


def table(
    rows: Sequence[dict[str, Any]],
    settings: dict[str, Any],
    estimates: Sequence[dict[str, Any]],
) -> str:
    """The comparison as Markdown, with what was done and what differs from the paper."""
    lines = _merged(rows, estimates)
    measured = {"ELBO": 2, "KL": 2, "MI": 2, "AU": 1}
    kind = {"decoder": 0, "depth": 0, "latents": 0}
    gains = [
        {**line, **{name: line.get(f"{name} - VAE") for name in measured}}
        for line in lines
        if "MI - VAE" in line
    ]
    lines = [{**line, "system": "Skip-VAE" if line["skip"] else "VAE"} for line in lines]
    others = [
        f"{name} {settings[name]} in place of {usual}"
        for name, usual in USUAL.items()
        if settings[name] != usual
    ]
    shown = {"system": 0, **kind, "seeds": 0, **measured, "rise in the last tenth": 2}
    return (
        f"{markdown(lines, shown)}\n\nSkip-VAE above VAE:\n\n"
        f"{markdown(gains, kind | measured)}\n\nNats per datum on the test set, with standard "
        "errors over data and seeds; of the last two columns standard deviations over seeds. "
        "Differences are paired by datum and seed, of active units by seed, with standard errors. "
        f"{told(settings)}. MI: mutual information of x and z, at most log N = "
        f"{rows[0]['log N']:.2f}. AU: units whose posterior mean has a variance above "
        f"{THRESHOLD}. Last: by how much the bound of the training data rose in the last tenth of "
        f"the epochs.\n\n{deviating([*others, *DEVIATIONS])}"
    )


def curves(rows: Sequence[dict[str, Any]]) -> Any:
    """Mutual information and active units over latent size and over depth, as a figure."""
    merged = [row for row in _merged(rows) if row["decoder"] == "MLP"]
    axes = new_axes(2, 2, (9.0, 6.0))
    sweeps = (("latents", "depth"), ("depth", "latents"))
    labels = {"MI": "mutual information, nats", "AU": "active units"}
    for column, (over, fixed) in enumerate(sweeps):
        for line, (quantity, label) in enumerate(labels.items()):
            ax = axes[2 * line + column]
            for skip, name in enumerate(("VAE", "Skip-VAE")):
                chosen = [r for r in merged if r["skip"] == skip and r[fixed] == MIDDLE[fixed]]
                chosen.sort(key=lambda r: r[over])
                ax.plot(
                    [r[over] for r in chosen],
                    [r[quantity][0] for r in chosen],
                    marker="o",
                    color=COLORS[skip],
                    label=name,
                )
            ax.set(xlabel=f"{over}, {fixed} {MIDDLE[fixed]}", ylabel=label)
            ax.set_ylim(bottom=0)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.legend(frameon=False)
    return axes[0].figure
