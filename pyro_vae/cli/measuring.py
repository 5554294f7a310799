"""The evaluation of a pair, as a table and as plain numbers."""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import torch

from .. import diagnostics
from ..data import Dataset
from ..diagnostics.evaluation import Evaluation
from ..training.trainer import Trainer
from . import groups
from .messages import in_options, note


def evaluation(
    args: argparse.Namespace, trainer: Trainer, dataset: Dataset, reference: Dataset
) -> Evaluation:
    """The evaluation of a data set, with as many draws as its size allows."""
    few = len(dataset) <= groups.MANY_DATA
    samples = groups.MANY_SAMPLES if few else groups.FEW_SAMPLES
    if args.importance_samples is not None:
        samples = args.importance_samples
    torch.manual_seed(args.seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        found = diagnostics.evaluate(
            trainer.model,
            trainer.guide,
            dataset,
            reference=reference,
            importance_samples=samples,
        )
    if not getattr(args, "quiet", False):
        for warning in caught:
            note(in_options(str(warning.message)))
    return found


def numbers(evaluation: Evaluation) -> dict[str, Any]:
    """What JSON has of it."""
    importance = evaluation.importance
    return {
        "data": len(evaluation.terms.reconstruction),
        "importance_samples": 0 if importance is None else importance.samples,
        "quantities": evaluation.to_dict(),
    }
