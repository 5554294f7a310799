"""Beta-VAE on sprites of known factors: rate, distortion and disentanglement over beta.

The question of "beta-VAE: Learning Basic Visual Concepts with a Constrained Variational
Framework", Higgins et al. (2017), with the scores of later papers, and the rate-distortion curve
of "Fixing a Broken ELBO", Alemi, Poole, Fischer, Dillon, Saurous, Murphy (2018).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch

from .. import data, diagnostics, guides, likelihoods, models, plots
from ..data import Dataset, DataSplits
from ..ground.drawing import COLORS, new_axes
from ..ground.parsing import integer
from ..ground.streams import forked
from ..infer.terms import dataset_terms
from ..training.trainer import Trainer
from . import running
from .running import Results, first, joined, keys, markdown, parser, shared, told

NAME = "beta"
EPOCHS = 100
BETAS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
REFERENCES = {"beta 1": {"beta": 1.0}}
SCORES = ("MIG", "SAP", "DCI disentanglement", "DCI completeness", "DCI informativeness")


def build(
    beta: float,
    *,
    seed: int,
    latents: int,
    width: int,
    event_shape: Sequence[int],
    device: str | None,
) -> Trainer:
    """The trainer of one beta: perceptrons of two hidden layers, Adam at 1e-3."""
    with forked(seed=seed):
        vae = models.VAE(
            event_shape, latents, likelihood=likelihoods.Bernoulli(), hidden=(width, width)
        )
        guide = guides.BottomUp(vae)
    return Trainer(vae, guide, beta=beta, elbo="analytic", lr=1e-3, seed=seed, device=device)


def measure(trainer: Trainer, test: Dataset, folds: int) -> dict[str, Any]:
    """The row of a trained pair, on the test data; scores where their factors are known."""
    pair = trainer.model, trainer.guide
    terms = dataset_terms(*pair, test)
    found = diagnostics.collapse(*pair, test)
    scores = dict.fromkeys(SCORES)
    if test.factors is not None:
        found_scores = diagnostics.disentanglement(*pair, test, folds=folds).scores
        scores = {name: found_scores[name][0] for name in SCORES}
    return {
        "ELBO": float(terms.elbo.mean()),
        "reconstruction": float(terms.reconstruction.mean()),
        "KL": float(sum(terms.kl.values()).mean()),
        "MI": float(found.whole.mutual_information.mean()),
        "AU": found.units["z1"].active,
        **scores,
        "log N": found.cap,
        "per datum": {"ELBO": terms.elbo.cpu()},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Train and measure each beta; write the table, the curve and a sheet of traversals each."""
    options = parser(NAME, __doc__, epochs=EPOCHS, batch_size=64, data="shapes")
    add = options.add_argument
    add("--betas", type=float, nargs="+", default=list(BETAS))
    add("--latents", type=integer(1), default=10)
    add("--width", type=integer(1), default=400, help="hidden width, default 400")
    add("--count", type=integer(1), default=20000, help="sprites, or training data")
    options.small = {"epochs": 30, "width": 64, "count": 1500}
    args = options.parse_args(argv)
    torch.set_num_threads(args.threads)
    size, folds = (16, 2) if args.quick else (32, 5)
    splits = _splits(args, size)
    if args.quick:
        splits = first(splits, args.count, 200)
    common = shared(args, splits) | {
        "latents": args.latents,
        "hidden width": args.width,
        "pixels": math.prod(splits.event_shape),
    }
    results = Results(args.out, common, args.command, quiet=args.quiet)
    networks = {"latents": args.latents, "width": args.width, "event_shape": splits.event_shape}

    def compute(key: dict[str, Any]) -> dict[str, Any]:
        make = functools.partial(build, **key, **networks, device=args.device)
        trainer, x = results.train(key, make, splits.train, args), splits.test.x
        sheet = plots.traversals(trainer.model, trainer.guide, x[0], data=x).figure
        sheet.suptitle(f"beta {key['beta']:g}")
        sheet.savefig(results.path(key, "-traversals.png"), dpi=100)
        plt.close(sheet)
        return measure(trainer, splits.test, folds)

    asked = keys(beta=args.betas, seed=args.seeds)
    rows = results.fill(asked, compute, table, by=["beta"], references=REFERENCES)
    curve(rows).savefig(args.out / "curve.png", dpi=120)
    return 0


def _splits(args: Any, size: int) -> DataSplits:
    if args.data != "shapes":
        return first(running.splits(args, binarize="dynamic"), args.count)
    sprites = data.load(data.shapes(args.count, size=size), device=args.device)
    return DataSplits(args.data, sprites.train, sprites.test)


def _merged(
    rows: Sequence[dict[str, Any]], estimates: Sequence[dict[str, Any]] = ()
) -> list[dict[str, Any]]:
    return sorted(joined(rows, ["beta"], estimates), key=lambda r: r["beta"])


def table(
    rows: Sequence[dict[str, Any]],
    settings: dict[str, Any],
    estimates: Sequence[dict[str, Any]] = (),
) -> str:
    """The comparison as Markdown, with what was done."""
    columns: dict[str, int | None] = {"beta": None, "ELBO": 2}
    columns |= {f"ELBO - {name}": 2 for name in REFERENCES}
    columns |= {"reconstruction": 2, "KL": 2, "MI": 2, "AU": 1}
    merged = [{**dict.fromkeys(columns), **row} for row in _merged(rows, estimates)]
    note = (
        "The rotation of a square and an ellipse repeats itself, so that no code can be perfect."
        if settings["data"] == "shapes"
        else "No scores without known factors."
    )
    return (
        f"{markdown(merged, columns | dict.fromkeys(SCORES, 2))}\n\nNats per datum on the test "
        "set; the bound is without beta, with standard errors over data and seeds, and compared "
        "datum by datum; the rest has standard deviations over seeds; "
        f"{told(settings)}. MI is at most log N = {rows[0]['log N']:.2f}. {note}\n"
    )


def curve(rows: Sequence[dict[str, Any]]) -> Any:
    """Distortion over rate, and the scores over beta, as a figure."""
    merged = _merged(rows)
    plane, scores = new_axes(1, 2, (10.0, 4.0))
    rate = [row["KL"][0] for row in merged]
    distortion = [-row["reconstruction"][0] for row in merged]
    plane.plot(rate, distortion, marker="o", color=COLORS[0])
    for x, y, row in zip(rate, distortion, merged, strict=True):
        plane.annotate(f"{row['beta']:g}", (x, y), xytext=(4, 4), textcoords="offset points")
    plane.set(xlabel="rate: KL, nats", ylabel="distortion: -reconstruction, nats")
    plane.margins(0.1)
    plane.set_title("labels: beta", fontsize="medium")
    for i, name in enumerate(name for name in SCORES if merged[0][name] is not None):
        means = [row[name][0] for row in merged]
        scores.plot([r["beta"] for r in merged], means, marker="o", color=COLORS[i], label=name)
    scores.set_xscale("log", base=2)
    scores.set_xticks([r["beta"] for r in merged], [f"{r['beta']:g}" for r in merged])
    scores.set(xlabel="beta", ylabel="score", ylim=(0, 1))
    if scores.lines:
        scores.legend(frameon=False, fontsize="small")
    return plane.figure
