"""Discrete codes on 8-bit MNIST: three ways to learn a codebook, and a continuous latent.

After "Neural Discrete Representation Learning", van den Oord, Vinyals, Kavukcuoglu (2017), whose
table of bits per dimension is for CIFAR-10. The convolutional networks are the same in all rows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import codebooks, data, diagnostics, guides, handlers, likelihoods, models, priors
from ..cli.values import whole
from ..data import DataSplits
from ..infer import reconstruct
from ..networks.grids import GridDecoder, GridEncoder, grid_shape
from ..recorded import Recorded
from ..trainer import Trainer
from .running import Results, markdown, number, over_seeds, parser, trained

NAME = "vq"
EPOCHS = 50
CODES, CODE_DIM, CONTINUOUS_DIM = 512, 64, 4


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
    "gradient": lambda: codebooks.Gradient(CODES, CODE_DIM),
    "moving average": lambda: codebooks.MovingAverage(CODES, CODE_DIM, revive=0),
    "moving average, revival": lambda: codebooks.MovingAverage(CODES, CODE_DIM),
}
SYSTEMS = (*CODEBOOKS, "continuous")


def build(
    system: str, *, seed: int = 0, event_shape: Sequence[int] = (1, 28, 28), device: Any = None
) -> Trainer:
    """The trainer of one system: discretised logistic pixels, Adam at 1e-3, beta 1."""
    likelihood = likelihoods.DiscretizedLogistic()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
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


def measure(trainer: Trainer, splits: DataSplits, prior_epochs: int, seed: int) -> dict[str, Any]:
    """The row of a trained system, on the test data; the prior is fitted to the training data."""
    model, guide, test = trainer.model, trainer.guide, splits.test
    row = {"bits/dim": _bits(model, guide, test), "learned prior": None, "codes used": None}
    error = (reconstruct(model, guide, test.x.to(model.one_hot.device)).cpu() - test.x.cpu()) ** 2
    row["squared error"] = float(error.flatten(1).sum(1).mean())
    if isinstance(guide, guides.NearestCode):
        use = diagnostics.codebook(model, guide, splits.train)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            prior = priors.CodePrior(model).fit(
                guide, splits.train, epochs=prior_epochs, seed=seed, progress=False
            )
        row["learned prior"] = _bits(handlers.replace_prior(model, prior), guide, test)
        row["codes used"], row["perplexity"] = use.used, use.perplexity
    return row


def _bits(model: Any, guide: Any, test: data.Dataset) -> float:
    result = diagnostics.evaluate(model, guide, test, importance_samples=0)
    return result.to_dict()["-ELBO"]["mean"]


def main(argv: Sequence[str] | None = None) -> int:
    """Train and measure the systems asked for, and write the table of all that are there."""
    options = parser(NAME, __doc__.splitlines()[0], epochs=EPOCHS)
    options.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    options.add_argument("--batch-size", type=whole(1), default=128)
    options.add_argument("--prior-epochs", type=whole(1), default=30)
    args = options.parse_args(argv)
    torch.set_num_threads(args.threads)
    splits = data.load("mnist", binarize=None, root=args.data_root, device=args.device)
    if args.quick:
        args.epochs, args.prior_epochs = 2, 1
        splits = DataSplits(splits.name, splits.train[:1000], splits.test[:200])
    settings = {
        "epochs": args.epochs,
        "epochs of the prior": args.prior_epochs,
        "batch size": args.batch_size,
        "training data": len(splits.train),
        "test data": len(splits.test),
    }
    results = Results(args.out, settings)
    for system in args.systems:
        for seed in args.seeds:
            key = {"system": system, "seed": seed}
            make = functools.partial(
                build, system, seed=seed, event_shape=splits.event_shape, device=args.device
            )
            trainer = trained(
                results.path(key, ".pt"),
                make,
                splits.train,
                epochs=args.epochs,
                batch_size=args.batch_size,
                progress=args.progress,
            )
            results.row(key, functools.partial(measure, trainer, splits, args.prior_epochs, seed))
    if rows := results.rows():
        results.publish(table(rows, settings))
    return 0


def table(rows: Sequence[dict[str, Any]], settings: dict[str, Any]) -> str:
    """The comparison as Markdown."""
    rows = sorted(rows, key=lambda r: (SYSTEMS.index(r["system"]), r["seed"]))
    columns = {"bits/dim": 3, "learned prior": 3, "squared error": 2, "codes used": 0}
    lines = [
        [row["system"], *(number(row[name], digits) for name, digits in columns.items())]
        for row in over_seeds(rows, ["system"])
    ]
    header = [
        "system",
        "bits/dim, prior of training",
        "bits/dim, learned prior",
        "squared error of reconstructions",
        f"codes used of {CODES}",
    ]
    text = ", ".join(f"{name} {value}" for name, value in settings.items())
    return (
        f"{markdown(header, lines)}\n\nUpper bounds on the bits per dimension of the test data; "
        f"squared error summed over pixels, values in [0, 1]; {text}.\n"
    )
