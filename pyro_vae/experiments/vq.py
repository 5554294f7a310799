"""Discrete codes on 8-bit images: three ways to learn a codebook, and a continuous latent.

After "Neural Discrete Representation Learning", van den Oord, Vinyals, Kavukcuoglu (2017), whose
table of bits per dimension is for CIFAR-10. The convolutional networks are the same in all rows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import codebooks, data, diagnostics, guides, handlers, likelihoods, models, priors
from ..data import DataSplits
from ..ground.parsing import integer
from ..ground.recorded import Recorded
from ..ground.streams import forked
from ..infer import reconstruct
from ..networks.grids import GridDecoder, GridEncoder, grid_shape
from ..programs.placing import device_of
from ..training.trainer import Trainer
from .running import Results, first, keys, markdown, over_seeds, parser, shared, sheet, told

NAME = "vq"
EPOCHS = 50
CODES, CODE_DIM, CONTINUOUS_DIM = 512, 64, 4
# At once, because a one-hot grid of 512 codes is large
_ROWS = 500


class FlatEncoder(Recorded, nn.Module):
    """``GridEncoder`` whose grid is one vector, for a guide with a continuous latent."""

    def __init__(self, event_shape: Sequence[int]) -> None:
        """Build all layers."""
        super().__init__()
        self.network = GridEncoder(event_shape, CODE_DIM)

    def forward(self, x: Tensor) -> Tensor:
        """From x (n, *event_shape) to features (n, f)."""
        return self.network(x).flatten(-3)


class FlatDecoder(Recorded, nn.Module):
    """``GridDecoder`` from one vector, for a model with a continuous latent."""

    def __init__(self, event_shape: Sequence[int], features: Sequence[int]) -> None:
        """Build all layers."""
        super().__init__()
        self.grid = (*grid_shape(event_shape, 2), CONTINUOUS_DIM)
        self.network = GridDecoder(CONTINUOUS_DIM, features, event_dim=len(event_shape))

    def forward(self, z: Tensor) -> Tensor:
        """From z (n, size) to the likelihood's features."""
        return self.network(z.unflatten(-1, self.grid))


CODEBOOKS: dict[str, Callable[[], codebooks.Codebook]] = {
    "gradient": lambda: codebooks.Gradient(CODES, CODE_DIM, initializer=None),
    "moving average": lambda: codebooks.MovingAverage(CODES, CODE_DIM, revive=0, initializer=None),
    "moving average, revival": lambda: codebooks.MovingAverage(
        CODES, CODE_DIM, revive=0.5, initializer=None
    ),
}
SYSTEMS = (*CODEBOOKS, "continuous")


def build(
    system: str, *, seed: int = 0, event_shape: Sequence[int] = (1, 28, 28), device: Any = None
) -> Trainer:
    """The trainer of one system: discretised logistic pixels, Adam at 1e-3, beta 1."""
    likelihood = likelihoods.DiscretizedLogistic()
    with forked(seed=seed):
        if system in CODEBOOKS:
            codebook = CODEBOOKS[system]()
            model = models.VQVAE(event_shape, likelihood=likelihood, codebook=codebook)
            guide = guides.NearestCode(model)
        else:
            features = likelihood.feature_shape(event_shape)
            size = math.prod(grid_shape(event_shape, 2)) * CONTINUOUS_DIM
            decoder = FlatDecoder(event_shape, features)
            model = models.VAE(event_shape, size, likelihood=likelihood, decoder=decoder)
            guide = guides.BottomUp(model, encoder=FlatEncoder(event_shape))
    return Trainer(model, guide, lr=1e-3, seed=seed, device=device)


def measure(
    trainer: Trainer,
    splits: DataSplits,
    features: Any,
    prior_epochs: int,
    seed: int,
    picture: Path,
) -> dict[str, Any]:
    """The row of a trained system, on the test data; the prior is fitted to the training data.

    Codes get a ``CodePrior``, the continuous latent a ``FlowPrior``; draws from both priors go
    into ``picture``.
    """
    model, guide, test = trainer.model, trainer.guide, splits.test
    device = device_of(model)
    row: dict[str, Any] = {"bits/dim": _bits(model, guide, test), "codes used": None}
    parts = test.x.split(_ROWS)
    decoded = torch.cat([reconstruct(model, guide, x.to(device)).cpu() for x in parts])
    row["squared error"] = float(((decoded - test.x.cpu()) ** 2).flatten(1).sum(1).mean())
    with forked(device, seed):
        if isinstance(guide, guides.NearestCode):
            use = diagnostics.codebook(model, guide, splits.train)
            row["codes used"], row["perplexity"] = use.used, use.perplexity
            first: Any = "uniform"
            prior = priors.CodePrior(model).fit(
                guide, splits.train, epochs=prior_epochs, seed=seed, progress=False
            )
        else:
            first = None
            size = trainer.model.arguments["latents"]
            prior = priors.FlowPrior(size, hidden=(2 * size, 2 * size), seed=seed)
            prior.fit(model, guide, splits.train, epochs=prior_epochs)
        row["learned prior"] = _bits(handlers.replace_prior(model, prior), guide, test)
        drawn = {name: _samples(model, len(test), p) for name, p in ((0, first), (1, prior))}
    titles = ("z from the prior of training", "z from the learned prior")
    sheet(picture, {title: drawn[i][:32] for i, title in enumerate(titles)})
    distances = [
        float(diagnostics.frechet_distance(test, x, features=features))
        for x in (decoded, drawn[0], drawn[1])
    ]
    names = ("reconstructions", "samples", "samples, learned prior")
    return row | dict(zip(names, distances, strict=True))


def _bits(model: Any, guide: Any, test: data.Dataset) -> float:
    result = diagnostics.evaluate(model, guide, test, importance_samples=0)
    return result.to_dict()["-ELBO"]["mean"]


def _samples(model: Any, count: int, prior: Any) -> Tensor:
    parts = torch.arange(count).split(_ROWS)
    return torch.cat([model.sample(len(p), mean=True, prior=prior).cpu() for p in parts])


def main(argv: Sequence[str] | None = None) -> int:
    """Train and measure the systems asked for, and write the table of all that are there."""
    options = parser(NAME, __doc__, epochs=EPOCHS, batch_size=128)
    add = options.add_argument
    add("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    add("--prior-epochs", type=integer(1), default=30)
    add("--count", type=integer(1), help="training data, default all")
    args = options.parse_args(argv)
    torch.set_num_threads(args.threads)
    splits = data.load(args.data, binarize=None, root=args.data_root, device=args.device)
    splits = first(splits, args.count)
    classifier_steps = 2000
    if args.quick:
        args.epochs, args.prior_epochs, classifier_steps = 2, 1, 50
        splits = first(splits, 1000, 200)
    features = diagnostics.ClassifierFeatures.fit(splits, steps=classifier_steps)
    common = {"data": args.data, **shared(args, splits)} | {
        "epochs of the prior": args.prior_epochs,
        "accuracy of the classifier": round(features.accuracy, 4),
    }
    results = Results(args.out, common, args.command)

    def compute(key: dict[str, Any]) -> dict[str, Any]:
        make = functools.partial(build, **key, event_shape=splits.event_shape, device=args.device)
        trainer = results.train(key, make, splits.train, args)
        rest = (features, args.prior_epochs, key["seed"], results.path(key, ".png"))
        return measure(trainer, splits, *rest)

    results.fill(keys(system=args.systems, seed=args.seeds), compute, table)
    return 0


def table(rows: Sequence[dict[str, Any]], settings: dict[str, Any]) -> str:
    """The comparison as Markdown."""
    rows = sorted(rows, key=lambda r: (SYSTEMS.index(r["system"]), r["seed"]))
    bits, used = "bits/dim, learned prior", f"codes used of {CODES}"
    columns = {"system": 0, "seeds": 0, "bits/dim": 3, bits: 3, "squared error": 2}
    columns |= {"reconstructions": 1, "samples": 1, "samples, learned prior": 1, used: 0}
    merged = [
        {**row, bits: row["learned prior"], used: row["codes used"]}
        for row in over_seeds(rows, ["system"])
    ]
    return (
        f"{markdown(merged, columns)}\n\nBits/dim are upper bounds for the test data, under the "
        "prior of training and under one learned afterwards; the squared error is that of "
        "reconstructions, summed over pixels in [0, 1]; then Frechet distances to the test data "
        "in the features of a classifier trained on the labels, comparable in this table only; "
        f"{told(settings)}.\n"
    )
