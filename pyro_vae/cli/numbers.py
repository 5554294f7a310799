"""The commands that tell numbers of each datum: its latents, and how rare it is."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import data, infer
from ..data import Arguments, Dataset
from ..diagnostics.rarity import log_density
from ..ground.arguments import known
from ..ground.tables import Table
from ..infer.importance import weighed
from ..infer.posterior import posterior_means
from ..programs.examining import examined
from ..training.trainer import Trainer
from . import inputs
from .messages import DONE, note

# The cost of a density grows with the number of data that it is of
REFERENCE = 5000
_BATCH = 1000


def encode(args: argparse.Namespace) -> int:
    """Write the means of latents, or the codes, of each datum."""
    inputs.check_out(args.out)
    trainer = inputs.trainer_of(args)
    dataset = _once(inputs.dataset_of(args, trainer, args.split), args.seed)
    # Refuses what does not fit before the many are encoded
    found = infer.encode(trainer.guide, dataset[:1])
    sites = [site for site in found.mean if site not in found.shared]
    array = args.out.suffix.lower() == ".npy"
    if args.site is not None:
        sites = [known("--site", args.site, sites)]
    if array and len(sites) > 1:
        raise ValueError(
            f"--site: expected one of {', '.join(sites)} for an array, got none: name one, or end "
            "--out with .csv or .parquet"
        )
    codes = getattr(trainer.guide, "codes", None)
    torch.manual_seed(args.seed)
    means = posterior_means(trainer.guide, dataset) if codes is None else _codes(codes, dataset)
    values: dict[str, Any] = {site: means[site] for site in sites}
    data.write(args.out, values | ({} if array else labels_of(dataset)), index=dataset.index)
    print(f"wrote {args.out}: {len(dataset)} rows of {', '.join(sites)}")
    return DONE


def outliers(args: argparse.Namespace) -> int:
    """Print the rarest data, and write the numbers of all."""
    if args.out is not None:
        inputs.check_out(args.out)
    if args.by == "likelihood" and not args.importance_samples:
        raise ValueError(
            "--by: expected density where --importance-samples is 0, got likelihood: raise it"
        )
    trainer = inputs.trainer_of(args)
    reference = inputs.splits_of(args, trainer, "reference").train
    split = args.split or ("test" if args.data is None else "all")
    dataset = _once(inputs.dataset_of(args, trainer, split), args.seed)
    reference = _once(_few(reference, args.seed), args.seed)
    scores = _scores(args, trainer, dataset, reference)
    by = scores["log q(z)" if args.by == "density" else "log p(x)"]
    rarest = np.argsort(by.value, kind="stable")[: args.n].tolist()
    heads = [head for name in scores for head in (name, "share")]
    rows = [[str(i), *(cell for s in scores.values() for cell in s.cells(i))] for i in rarest]
    if dataset.index is not None:
        heads = ["name", *heads]
        rows = [[row, str(dataset.index[int(row)]), *cells] for row, *cells in rows]
    caption = (
        f"the {len(rows)} rarest of {len(dataset)} data by {args.by}, in nats; share: of "
        f"{len(reference)} training data those that are as rare or rarer"
    )
    print(Table(caption, ["row", *heads], rows))
    if args.out is not None:
        columns = {f"{k} {v}".rstrip(): c for k, s in scores.items() for v, c in s.columns()}
        array = args.out.suffix.lower() == ".npy"
        values = {"x": np.stack([*columns.values()], 1)} if array else columns
        data.write(args.out, values, index=dataset.index)
        print(f"wrote {args.out}: {len(dataset)} rows of {', '.join(columns)}")
    return DONE


class _Score(NamedTuple):
    """An estimate of each datum, its standard error, and the share of others that are as low."""

    value: np.ndarray
    error: np.ndarray
    share: np.ndarray

    def columns(self) -> list[tuple[str, np.ndarray]]:
        return [("", self.value), ("error", self.error), ("share", self.share)]

    def cells(self, row: int) -> list[Any]:
        share = float(self.share[row])
        return [(float(self.value[row]), float(self.error[row])), f"{100 * share:.1f} %"]


def _scores(
    args: argparse.Namespace, trainer: Trainer, dataset: Dataset, reference: Dataset
) -> dict[str, _Score]:
    pair = (trainer.model, trainer.guide)

    def density(d: Dataset) -> tuple[Tensor, Tensor]:
        return log_density(*pair, d, reference=None if d is reference else reference)

    def likelihood(d: Dataset) -> tuple[Tensor, Tensor]:
        with examined(d, *pair, labelled=True) as (d, _):
            found = weighed(*pair, d.x, d.y, samples=args.importance_samples)
        return found.log_likelihood, found.standard_error

    scores = {}
    for name, estimate in {"log q(z)": density, "log p(x)": likelihood}.items():
        if name == "log p(x)" and not args.importance_samples:
            continue
        torch.manual_seed(args.seed)
        (value, error), (others, _) = estimate(dataset), estimate(reference)
        below = torch.searchsorted(others.sort().values, value.contiguous(), right=True)
        share = (below + 1) / (len(others) + 1)
        scores[name] = _Score(*(found.numpy(force=True) for found in (value, error, share)))
    return scores


def labels_of(dataset: Dataset) -> dict[str, Any]:
    """Column -> labels of each datum, by their names where they have such; none for none."""
    if isinstance(dataset.y, Arguments):
        return {str(k): _named(v, dataset.names.get(k, ())) for k, v in dataset.y.items()}
    return {} if dataset.y is None else {"label": _named(dataset.y, dataset.names)}


def _named(y: Tensor, names: Sequence[str]) -> Any:
    # The last one is for what is missing
    return np.array([*names, None], dtype=object)[y.numpy(force=True)] if names else y


def _codes(codes: Callable[[Tensor], Any], dataset: Dataset) -> dict[str, Tensor]:
    parts = [codes(x) for x, _ in dataset.batches(_BATCH)]
    parts = [part if isinstance(part, dict) else {"z1": part} for part in parts]
    return {site: torch.cat([part[site] for part in parts]) for site in parts[0]}


def _once(dataset: Dataset, seed: int) -> Dataset:
    """Data that were to be binarised in each batch, binarised once."""
    generator = torch.Generator().manual_seed(seed)
    return dataset.binarized(generator) if dataset.binarize else dataset


def _few(reference: Dataset, seed: int) -> Dataset:
    if len(reference) <= REFERENCE:
        return reference
    note(f"compared with {REFERENCE} of {len(reference)} training data, drawn by --seed")
    rows = torch.randperm(len(reference), generator=torch.Generator().manual_seed(seed))
    return reference[rows[:REFERENCE].sort().values]
