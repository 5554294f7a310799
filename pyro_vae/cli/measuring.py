"""The evaluation of a pair, as a table and as plain numbers."""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import Any

import torch

from .. import diagnostics
from ..data import Dataset
from ..diagnostics.evaluation import Evaluation
from ..ground.tables import mean_and_error, number, with_error
from ..guides import NearestCode
from ..infer import Budget, ImportanceEstimate
from ..training.trainer import Trainer
from . import groups
from .messages import in_options, note


def evaluation(
    args: argparse.Namespace, trainer: Trainer, dataset: Dataset, reference: Dataset
) -> Evaluation:
    """The evaluation of a data set, about as long as training took unless draws are counted."""
    took = sum(row.get("seconds", 0.0) for row in trainer.history)
    samples: Budget | int | None = args.importance_samples
    quiet = getattr(args, "quiet", False)
    if isinstance(trainer.guide, NearestCode):
        # A guide that is certain has one draw, whose weight is the bound
        if samples and not quiet:
            note("a VQ-VAE has one draw, whose weight is the bound: no log p(x) beside it")
        samples = 0
    elif samples is None:
        samples = Budget(seconds=max(groups.LEAST_SECONDS, took))
    elif samples:
        samples = Budget(error=0.0, samples=samples)
    torch.manual_seed(args.seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        found = diagnostics.evaluate(
            trainer.model,
            trainer.guide,
            dataset,
            reference=reference,
            importance_samples=samples,
            progress=sys.stderr.isatty() and not quiet,
        )
    if not quiet:
        if found.importance is not None and args.importance_samples is None:
            note(_ended(found.importance))
        for warning in caught:
            note(in_options(str(warning.message)))
    return found


def _ended(estimate: ImportanceEstimate) -> str:
    """How many draws there were, and why."""
    why = {
        "error": "until their error was below a fifth of that over the data",
        "time": f"about as long as training took, or {groups.LEAST_SECONDS:.0f} s",
        "samples": "the most there are by default",
    }
    return (
        f"log p(x): {estimate.samples} draws per datum in {estimate.seconds:.0f} s, "
        f"{why[estimate.stopped_by]}; {with_error(*mean_and_error(estimate.log_likelihood))} over "
        f"the data, Monte Carlo error {number(estimate.monte_carlo_error)}; --importance-samples "
        f"{estimate.samples} gives the same numbers"
    )


def numbers(evaluation: Evaluation) -> dict[str, Any]:
    """What JSON has of it."""
    importance = evaluation.importance
    found = {
        "data": len(evaluation.terms.reconstruction),
        "importance_samples": 0 if importance is None else importance.samples,
        "quantities": evaluation.to_dict(),
    }
    if importance is not None:
        found |= {"importance_seconds": importance.seconds, "stopped_by": importance.stopped_by}
    return found
