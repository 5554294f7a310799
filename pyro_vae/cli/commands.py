"""What each command does."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .. import experiments, infer, plots
from ..ground.files import write_atomically
from ..programs.labels import covariates_of
from ..report import render
from . import inputs, measuring, media
from .messages import DONE
from .training import train


def evaluate(args: argparse.Namespace) -> int:
    """Print what a trained pair achieves."""
    trainer = inputs.trainer_of(args)
    splits = inputs.splits_of(args, trainer)
    evaluation = measuring.evaluation(args, trainer, getattr(splits, args.split), splits.train)
    print(json.dumps(measuring.numbers(evaluation), indent=1) if args.json else evaluation)
    return DONE


def sample(args: argparse.Namespace) -> int:
    """Draw from a trained model, into a picture, or lines of text onto standard output."""
    trainer = inputs.trainer_of(args)
    model, text = trainer.model, inputs.vocabulary_of(trainer)
    covariates = covariates_of(model)
    classes = getattr(model, "condition", 0) if covariates is None else 0
    if args.label is not None and args.label >= classes:
        expected = f"a class from 0 to {classes - 1}" if classes else "no label for this model"
        raise ValueError(f"--label: expected {expected}, got {args.label}")
    if args.given is not None and covariates is None:
        raise ValueError(
            f"--given: expected a model trained with --condition-on, got {args.given}: leave it "
            "out, or name a class with --label"
        )
    y: Any = args.label
    if classes and y is None:
        y = torch.arange(args.n, device=args.device) % classes
    if covariates is not None:
        y = covariates.typical(args.given)
    torch.manual_seed(args.seed)
    if text is not None:
        return _write(text.text(model.sample(args.n, y=y, mean=not args.draw)))
    if (write := media.writer(args, model)) is not None:
        return write(model.sample(args.n, y=y, mean=not args.draw))
    return _draw(args, lambda: plots.samples(model, args.n, y=y, mean=not args.draw))


def interpolate(args: argparse.Namespace) -> int:
    """Go from one datum to another, as ``sample``."""
    trainer = inputs.trainer_of(args)
    dataset = getattr(inputs.splits_of(args, trainer), args.split)
    rows = [getattr(args, "from"), args.to]
    for option, row in zip(("--from", "--to"), rows, strict=True):
        if row >= len(dataset):
            raise ValueError(f"{option}: expected a row from 0 to {len(dataset) - 1}, got {row}")
    torch.manual_seed(args.seed)
    x, y = dataset.batch(torch.tensor(rows))
    labels = y if getattr(trainer.model, "condition", 0) else None
    along = (trainer.model, trainer.guide, x[0], x[1])
    if (text := inputs.vocabulary_of(trainer)) is not None:
        return _write(text.text(infer.interpolate(*along, steps=args.steps, y=labels)))
    return _draw(args, lambda: plots.interpolation(*along, steps=args.steps, y=labels))


def _write(lines: list[str]) -> int:
    print(*lines, sep="\n")
    return DONE


def _draw(args: argparse.Namespace, draw: Callable[[], Any]) -> int:
    path: Path = args.out
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"--out: expected a file in a folder that exists, got {path}: make {path.parent} first"
        )
    write_atomically(path, render(draw(), path.suffix[1:].lower()))
    print("wrote", path)
    return DONE


def experiment(args: argparse.Namespace) -> int:
    """Run a published comparison."""
    return experiments.run(args.name, args.arguments)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": train,
    "evaluate": evaluate,
    "sample": sample,
    "interpolate": interpolate,
    "experiment": experiment,
}
