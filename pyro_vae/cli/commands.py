"""What each command does."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .. import data, experiments, handlers, infer, plots
from ..data.writing import WRITERS
from ..ground.files import write_atomically
from ..guides import NearestCode
from ..priors import AggregatePosterior
from ..programs.labels import covariates_of
from ..report import render
from . import inputs, measuring, media
from .alike import class_named, given_as
from .messages import DONE
from .numbers import encode, outliers
from .training import train


def evaluate(args: argparse.Namespace) -> int:
    """Print what a trained pair achieves."""
    trainer = inputs.trainer_of(args)
    splits = inputs.splits_of(args, trainer)
    dataset = inputs.part(splits, args.split)
    evaluation = measuring.evaluation(args, trainer, dataset, splits.train)
    print(json.dumps(measuring.numbers(evaluation), indent=1) if args.json else evaluation)
    return DONE


def sample(args: argparse.Namespace) -> int:
    """Draw from a trained model, into a picture or a table, or text onto standard output."""
    inputs.check_out(args.out)
    for option in ("data", "components") if args.prior == "model" else ():
        if (got := getattr(args, option)) is not None:
            raise ValueError(
                f"--{option}: expected only with --prior mixture, got {got}: leave it out, or "
                "add --prior mixture"
            )
    trainer = inputs.trainer_of(args)
    model, text = trainer.model, inputs.vocabulary_of(trainer)
    if args.prior == "mixture" and isinstance(trainer.guide, NearestCode):
        raise ValueError(
            "--prior: expected model for a VQ-VAE, which has one of its codes, got mixture: leave "
            "it out"
        )
    covariates = covariates_of(model)
    classes = getattr(model, "condition", 0) if covariates is None else 0
    asked = args.label is not None or args.given is not None
    names: Any = inputs.classes_of(args) if asked else ()
    y: Any = None
    if args.label is not None:
        if not classes:
            raise ValueError(f"--label: expected no label for this model, got {args.label}")
        y = class_named("--label", args.label, names, classes)
    if args.given is not None and covariates is None:
        raise ValueError(
            f"--given: expected a model trained with --condition-on, got {args.given}: leave it "
            "out, or name a class with --label"
        )
    if classes and y is None:
        y = torch.arange(args.n, device=args.device) % classes
    if covariates is not None:
        y = covariates.typical(given_as(args.given or {}, covariates, names))
    if args.prior == "mixture":
        prior = AggregatePosterior(args.components or 10, seed=args.seed)
        dataset = inputs.dataset_of(args, trainer, args.split)
        model = handlers.replace_prior(model, prior.fit(model, trainer.guide, dataset))
    torch.manual_seed(args.seed)
    if args.out.suffix.lower() in WRITERS:
        x = model.sample(args.n, y=y, mean=not args.draw)
        labelled = classes and args.out.suffix.lower() != ".npy"
        label = torch.as_tensor(y).expand(args.n) if labelled else None
        data.write(args.out, {"x": x} | ({} if label is None else {"label": label}))
        print(f"wrote {args.out}: {args.n} of shape {tuple(x.shape[1:])}")
        return DONE
    if text is not None:
        return _print(text.text(model.sample(args.n, y=y, mean=not args.draw)))
    if (write := media.writer(args, model)) is not None:
        return write(model.sample(args.n, y=y, mean=not args.draw))
    return _draw(args, lambda: plots.samples(model, args.n, y=y, mean=not args.draw))


def interpolate(args: argparse.Namespace) -> int:
    """Go from one datum to another, as ``sample``."""
    inputs.check_out(args.out)
    trainer = inputs.trainer_of(args)
    dataset = inputs.dataset_of(args, trainer, args.split)
    rows = [getattr(args, "from"), args.to]
    for option, row in zip(("--from", "--to"), rows, strict=True):
        if row >= len(dataset):
            raise ValueError(f"{option}: expected a row from 0 to {len(dataset) - 1}, got {row}")
    torch.manual_seed(args.seed)
    x, y = dataset.batch(torch.tensor(rows))
    labels = y if getattr(trainer.model, "condition", 0) else None
    along = (trainer.model, trainer.guide, x[0], x[1])
    if (text := inputs.vocabulary_of(trainer)) is not None:
        return _print(text.text(infer.interpolate(*along, steps=args.steps, y=labels)))
    return _draw(args, lambda: plots.interpolation(*along, steps=args.steps, y=labels))


def _print(lines: list[str]) -> int:
    print(*lines, sep="\n")
    return DONE


def _draw(args: argparse.Namespace, draw: Callable[[], Any]) -> int:
    path: Path = args.out
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
    "encode": encode,
    "outliers": outliers,
    "interpolate": interpolate,
    "experiment": experiment,
}
