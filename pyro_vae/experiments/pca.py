"""What a pair brings over the linear models that people use on tables: eight real tables.

The baseline is that of "Probabilistic Principal Component Analysis", Tipping, Bishop (1999), whose
log p(x) is exact; the pair's is a lower bound, by importance sampling.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import diagnostics, guides, likelihoods, models, networks
from ..data import DataSplits
from ..diagnostics.baselines import probabilistic_pca
from ..ground.parsing import integer
from ..ground.streams import forked
from ..training.trainer import Trainer
from . import real_tables
from .real_tables import TABLES
from .running import Results, joined, keys, markdown, parser, told

NAME = "pca"
EPOCHS, PATIENCE = 1500, 50
WIDTHS, SMALL = (256, 256), (32,)
# Importance samples: of all test rows, and of each at least
DRAWN, LEAST = 1_000_000, 1000


class System(NamedTuple):
    """Sigma, decoder, and the guide of model and training data; those of the data by default."""

    sigma: str | None = None
    decoder: Callable[[int, Sequence[int]], nn.Module | None] = lambda latents, shape: None
    guide: Callable[[models.VAE, Tensor], guides.Guide] = lambda vae, x: guides.BottomUp(vae)


def _with_path(vae: models.VAE, x: Tensor) -> guides.Guide:
    return guides.BottomUp(vae, encoder=networks.MLP(vae.event_shape, WIDTHS, skip=True))


def _small(latents: int, shape: Sequence[int]) -> nn.Module:
    network = networks.MLP((latents,), SMALL, shape)
    return networks.Shortcut(latents, shape, network)


SYSTEMS = {
    "factor analysis": None,
    "defaults": System(),
    "one sigma": System("learned"),
    "sigma per column": System("per_pixel"),
    "linear path": System("per_pixel", networks.Shortcut, _with_path),
    "linear start": System("per_pixel", networks.Shortcut, guides.linear_start),
    "linear start, 32 units": System(
        "per_pixel", _small, functools.partial(guides.linear_start, hidden=SMALL)
    ),
}


BY = {"table": TABLES, "system": SYSTEMS}


def build(
    system: System, splits: DataSplits, latents: int, seed: int, device: Any = None
) -> Trainer:
    """The trainer of one system, with all else as it is by default."""
    shape, x = splits.event_shape, splits.train.x
    with forked(seed=seed):
        if system.sigma is None and splits.columns:
            likelihood = likelihoods.for_columns(splits)
        else:
            likelihood = likelihoods.Gaussian.standardized(x, system.sigma or "learned")
        decoder = system.decoder(latents, shape)
        vae = models.VAE(shape, latents, likelihood=likelihood, decoder=decoder)
        guide = system.guide(vae, x)
    return Trainer(vae, guide, seed=seed, device=device)


def linear(splits: DataSplits, latents: int, *, columns: bool) -> Tensor:
    """What probabilistic PCA has as log p(x) of the test rows, (n,), or with a noise per column.

    That is factor analysis. Both are fitted to standardised columns, and to the validation rows
    as well, which have chosen the epoch of the pairs.
    """
    from sklearn.decomposition import FactorAnalysis

    seen = torch.cat([splits.train.x, splits.validation.x]).cpu()
    likelihood = likelihoods.Gaussian.standardized(seen)
    train, test = (likelihood.inputs(x).flatten(1).double() for x in (seen, splits.test.x.cpu()))
    if columns:
        factors = FactorAnalysis(latents, svd_method="lapack").fit(train.numpy())
        scores = torch.from_numpy(factors.score_samples(test.numpy()))
    else:
        scores = probabilistic_pca(train, test, latents)
    return scores - likelihood.scale.double().log().sum()


def measure(trainer: Trainer, splits: DataSplits, samples: int) -> dict[str, Any]:
    """The row of a trained pair without the baselines, log p(x) per datum among it."""
    found = diagnostics.evaluate(
        trainer.model, trainer.guide, splits.test, importance_samples=samples, progress=False
    )
    kept = [row["epoch"] for row in trainer.history if row.get("kept")]
    return {
        "importance samples": str(samples),
        # 0 is the start
        "epoch kept": kept[-1] if kept else 0,
        "epochs": len(trainer.history),
        "k above 0.7, %": 100 * found.untrusted,
        "per datum": {
            "ELBO": found.terms.elbo.cpu(),
            "log p(x)": found.importance.log_likelihood.cpu(),
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Train and measure the systems on the tables asked for; write the table."""
    options = parser(NAME, __doc__, epochs=EPOCHS, batch_size=128, data="real tables")
    add = options.add_argument
    add("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    add("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    add(
        "--samples",
        type=integer(1),
        help=f"importance samples of a datum; default: {DRAWN:,} of all data, {LEAST:,} at least",
    )
    options.small = {"epochs": 5, "samples": 20}
    args = options.parse_args(argv)
    if args.data != options.get_default("data"):
        raise ValueError(
            "--data: expected no such option, since this experiment has tables of its own, got "
            f"{args.data}: use --tables with some of {', '.join(TABLES)}"
        )
    torch.set_num_threads(args.threads)
    settings = {"epochs": args.epochs, "patience": PATIENCE, "batch size": args.batch_size}
    results = Results(args.out, settings, args.command, quiet=args.quiet)

    def compute(key: dict[str, Any]) -> dict[str, Any]:
        real = TABLES[key["table"]]
        splits = real_tables.load(real, args.device)
        pca = linear(splits, real.latents, columns=False)
        system = SYSTEMS[key["system"]]
        if system is None:
            row = {"per datum": {"log p(x)": linear(splits, real.latents, columns=True)}}
        else:
            trainer = build(system, splits, real.latents, key["seed"], args.device)
            trainer.fit(
                splits.train,
                validation=splits.validation,
                patience=PATIENCE,
                epochs=args.epochs,
                batch_size=args.batch_size,
                callbacks=[results.stands],
                progress=args.progress,
            )
            samples = args.samples or max(LEAST, DRAWN // len(splits.test))
            row = measure(trainer, splits, samples)
        values = row["per datum"]
        values |= {"PCA": pca, "log p(x) - PCA": values["log p(x)"].double() - pca}
        parts = (splits.train, splits.validation, splits.test)
        return {
            "rows": " + ".join(str(len(part)) for part in parts),
            # Texts, which have no mean over seeds
            "columns": str(splits.train.x[0].numel()),
            "latents": str(real.latents),
            **row,
        }

    asked = [
        key
        for key in keys(table=args.tables, system=args.systems, seed=args.seeds)
        # Factor analysis draws nothing
        if SYSTEMS[key["system"]] is not None or key["seed"] == args.seeds[0]
    ]
    results.fill(asked, compute, table, by=tuple(BY))
    return 0


def table(
    rows: Sequence[dict[str, Any]],
    settings: dict[str, Any],
    estimates: Sequence[dict[str, Any]],
) -> str:
    """The comparison as Markdown, and on how many tables each system is above PCA."""
    lines = joined(rows, tuple(BY), estimates)
    lines.sort(key=lambda r: [list(known).index(r[k]) for k, known in BY.items()])
    columns = {"table": 0, "rows": 0, "columns": 0, "latents": 0, "system": 0, "seeds": 0}
    columns |= {"PCA": 2, "ELBO": 2, "log p(x)": 2, "log p(x) - PCA": 2, "k above 0.7, %": 0}
    shown = markdown([{**dict.fromkeys(columns), **line} for line in lines], columns)
    above = {
        system: [line["log p(x) - PCA"][0] > 0 for line in lines if line["system"] == system]
        for system in SYSTEMS
    }
    won = ", ".join(f"{name} on {sum(v)} of {len(v)}" for name, v in above.items() if v)
    return (
        f"{shown}\n\nAbove PCA: {won}. Nats per datum on test rows, with standard errors over "
        "data and seeds; differences are paired. PCA and factor analysis are exact, and fitted to "
        "training and validation rows; log p(x) of the pairs is a lower bound, their epoch chosen "
        f"by the validation rows; {told(settings)}.\n"
    )
