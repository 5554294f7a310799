"""Discrete codes on 8-bit images: three ways to learn a codebook, and a continuous latent.

After "Neural Discrete Representation Learning", van den Oord, Vinyals, Kavukcuoglu (2017), whose
table of bits per dimension is for CIFAR-10. The convolutional networks are the same in all rows.
Priors are learned until they are best on a tenth of the training data, which they are not shown.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import codebooks, diagnostics, guides, handlers, likelihoods, models, priors
from ..data import Dataset, DataSplits
from ..ground.parsing import integer
from ..ground.recorded import Recorded
from ..ground.streams import forked
from ..infer import reconstruct
from ..networks.grids import GridDecoder, GridEncoder, grid_shape
from ..programs.placing import device_of
from ..training.trainer import Trainer
from . import running
from .pictures import classifier, distances, pooled, sheet
from .rates import RATE, RATES
from .running import (
    Results,
    differences,
    first,
    joined,
    keys,
    markdown,
    parser,
    shared,
    told,
)

NAME = "vq"
EPOCHS, PATIENCE = 50, 3
CODES, CODE_DIM, CONTINUOUS_DIM = 512, 64, 4
IMAGES = ("reconstructions", "samples", "samples, learned prior")
KERNEL = tuple(f"KID, {name}" for name in IMAGES)
DISTANCES = (*IMAGES, *KERNEL)
BY, REFERENCES = ("system",), {"continuous": {"system": "continuous"}}
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


CODEBOOKS: dict[str, Callable[[int], codebooks.Codebook]] = {
    "gradient": lambda codes: codebooks.Gradient(codes, CODE_DIM, initializer=None),
    "moving average": lambda codes: codebooks.MovingAverage(
        codes, CODE_DIM, revive=0, initializer=None
    ),
    "moving average, revival": lambda codes: codebooks.MovingAverage(
        codes, CODE_DIM, revive=0.5, initializer=None
    ),
}
SYSTEMS = (*CODEBOOKS, "continuous")


def _steps(codes: int) -> codebooks.Residual:
    """Two steps, so that a position has as many values."""
    return codebooks.Residual(2, codebooks.MovingAverage(math.isqrt(codes), CODE_DIM))


def _levels(codes: int) -> codebooks.FiniteScalar:
    """Eight levels in all dimensions but the last."""
    levels = []
    while codes > 8:
        levels, codes = [*levels, 8], codes // 8
    return codebooks.FiniteScalar([*levels, codes])


# For a power of two, of an even exponent for two steps: run where they are asked for
QUANTISERS: dict[str, Callable[[int], codebooks.Codebook]] = {
    "k-means, unused revived": lambda codes: codebooks.MovingAverage(codes, CODE_DIM),
    "residual": _steps,
    "finite scalar": _levels,
    "lookup-free": lambda codes: codebooks.LookupFree(codes.bit_length() - 1),
}
ALL = (*SYSTEMS, *QUANTISERS)


def build(
    system: str,
    *,
    seed: int = 0,
    event_shape: Sequence[int] = (1, 28, 28),
    codes: int = CODES,
    device: Any = None,
) -> Trainer:
    """The trainer of one system: discretised logistic pixels, Adam at 1e-3, beta 1."""
    likelihood = likelihoods.DiscretizedLogistic()
    with forked(seed=seed):
        if system != "continuous":
            codebook = (CODEBOOKS | QUANTISERS)[system](codes)
            model = models.VQVAE(event_shape, likelihood=likelihood, codebook=codebook)
            guide = guides.NearestCode(model)
        else:
            features = likelihood.feature_shape(event_shape)
            size = math.prod(grid_shape(event_shape, 2)) * CONTINUOUS_DIM
            decoder = FlatDecoder(event_shape, features)
            model = models.VAE(event_shape, size, likelihood=likelihood, decoder=decoder)
            guide = guides.BottomUp(model, encoder=FlatEncoder(event_shape))
    return Trainer(model, guide, lr=RATE, seed=seed, device=device)


def learned_prior(
    trainer: Trainer, train: Dataset, *, epochs: int, seed: int
) -> tuple[nn.Module, int | None]:
    """A prior fitted to the latents of training data, and of how many epochs.

    For codes a ``CodePrior`` of the epoch that is best on every tenth datum, held out, ended
    after ``PATIENCE`` epochs without a better one; for a continuous latent a ``FlowPrior``, whose
    learning rate falls to zero.
    """
    model, guide = trainer.model, trainer.guide
    if isinstance(guide, guides.NearestCode):
        held = torch.arange(len(train), device=train.device) % 10 == 9
        # Each layer lets a code see one position further
        prior = priors.CodePrior(model, layers=max(2, *model.grid_shape))
        options = {"validation": train[held], "patience": PATIENCE, "progress": False}
        prior.fit(guide, train[~held], epochs=epochs, seed=seed, **options)
        return prior, next(row["epoch"] for row in prior.history if row.get("kept"))
    size = model.arguments["latents"]
    prior = priors.FlowPrior(size, hidden=(2 * size, 2 * size), seed=seed)
    return prior.fit(model, guide, train, epochs=epochs), epochs


def measure(
    trainer: Trainer, splits: DataSplits, features: Any, epochs: int, seed: int, picture: Path
) -> dict[str, Any]:
    """The row of a trained system, on the test data; draws from both priors go into ``picture``.

    The ``epochs`` are those of the learned prior at most.
    """
    model, guide, test = trainer.model, trainer.guide, splits.test
    device = device_of(model)
    bits = {"bits/dim": _bits(model, guide, test)}
    row: dict[str, Any] = {"codes used": None}
    parts = test.x.split(_ROWS)
    decoded = torch.cat([reconstruct(model, guide, x.to(device)).cpu() for x in parts])
    errors = (decoded - test.x.cpu()).square().flatten(1).sum(1)
    with forked(device, seed):
        first: Any = None
        if isinstance(guide, guides.NearestCode):
            first = "uniform"
            use = diagnostics.codebook(model, guide, splits.train)
            # Of two steps the pairs, were they independent
            books = getattr(use, "books", {"z1": use}).values()
            row["codes used"] = math.prod(book.used for book in books)
            row["perplexity"] = math.prod(book.perplexity for book in books)
        prior, row["prior epochs"] = learned_prior(trainer, splits.train, epochs=epochs, seed=seed)
        bits["learned prior"] = _bits(handlers.replace_prior(model, prior), guide, test)
        drawn = [_samples(model, len(test), p) for p in (first, prior)]
    titles = ("z from the prior of training", "z from the learned prior")
    sheet(picture, {title: x[:32] for title, x in zip(titles, drawn, strict=True)})
    per_datum = bits | {"squared error": errors}
    return {
        **{name: float(values.mean()) for name, values in per_datum.items()},
        **row,
        **distances(features, test, dict(zip(IMAGES, (decoded, *drawn), strict=True))),
        "per datum": per_datum,
    }


def _bits(model: Any, guide: Any, test: Dataset) -> Tensor:
    """An upper bound on -log2 p(x) per dimension, (n,)."""
    result = diagnostics.evaluate(model, guide, test, importance_samples=0)
    return -result.terms.elbo.cpu() / (math.prod(test.event_shape) * math.log(2))


def _samples(model: Any, count: int, prior: Any) -> Tensor:
    parts = torch.arange(count).split(_ROWS)
    return torch.cat([model.sample(len(p), mean=True, prior=prior).cpu() for p in parts])


def main(argv: Sequence[str] | None = None) -> int:
    """Train and measure the systems asked for, and write the table of all that are there."""
    options = parser(NAME, __doc__, epochs=EPOCHS, batch_size=128)
    add = options.add_argument
    add("--systems", nargs="+", choices=ALL, default=list(SYSTEMS))
    add("--prior-epochs", type=integer(1), default=100, help="at most, default 100")
    add("--codes", type=integer(2), default=CODES, help=f"default: {CODES}")
    add("--rate", choices=RATES, default="constant", help="over the epochs, default constant")
    add("--count", type=integer(1), help="training data, default all")
    add("--size", type=integer(1), help="sides of pictures that are pooled, default as they are")
    options.small = {"epochs": 2, "prior_epochs": 1, "count": 1000}
    args = options.parse_args(argv)
    torch.set_num_threads(args.threads)
    splits = pooled(running.splits(args, binarize=None), args.size)
    splits = first(splits, args.count, 200 if args.quick else None)
    steps = 50 if args.quick else 2000
    features, settings = classifier(splits, steps, quiet=args.quiet)
    common = shared(args, splits) | {
        "rate": args.rate,
        "codes": args.codes,
        "epochs of the prior at most": args.prior_epochs,
    }
    results = Results(args.out, common | settings, args.command, quiet=args.quiet)

    def compute(key: dict[str, Any]) -> dict[str, Any]:
        make = functools.partial(
            build, **key, event_shape=splits.event_shape, codes=args.codes, device=args.device
        )
        fall = RATES[args.rate](args.epochs)
        trainer = results.train(key, make, splits.train, args, callbacks=fall)
        rest = (features, args.prior_epochs, key["seed"], results.path(key, ".png"))
        return measure(trainer, splits, *rest)

    asked = keys(system=args.systems, seed=args.seeds)
    results.fill(asked, compute, table, by=BY, references=REFERENCES, entries=DISTANCES)
    return 0


def table(
    rows: Sequence[dict[str, Any]],
    settings: dict[str, Any],
    estimates: Sequence[dict[str, Any]],
) -> str:
    """The comparison as Markdown, and paired differences to the continuous latent."""
    rows = sorted(rows, key=lambda r: (ALL.index(r["system"]), r["seed"]))
    lines = joined(rows, BY, estimates)
    measured = {"bits/dim": 3, "learned prior": 3, "squared error": 2}
    measured |= dict.fromkeys(IMAGES, 1) | dict.fromkeys(KERNEL, 1)
    shown = {"system": 0, "seeds": 0, **measured, "codes used": 0, "prior epochs": 0}
    return (
        f"{markdown(lines, shown)}\n\nAbove the continuous latent:\n\n"
        f"{differences(lines, 'system', 'continuous', measured)}\n\nBits/dim are upper bounds "
        "for the test data, under the prior of training and under one learned afterwards, of so "
        "many epochs; the squared error is that of reconstructions, summed over pixels in [0, 1]; "
        "these have standard errors over test data and seeds; then Frechet and kernel distances "
        "(KID) to the test data in the features of a classifier trained on the labels, comparable "
        "in this table only, with standard deviations over seeds, and standard errors over seeds "
        f"where they are differences; all differences are paired; {told(settings)}.\n"
    )
