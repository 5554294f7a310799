"""The trained pair and the data that a command line names."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import data, likelihoods
from ..data import Dataset, DataSplits, Vocabulary
from ..data.checks import complete
from ..data.conditions import Names
from ..data.loading import Indivisible
from ..ground.files import expanded
from ..programs.labels import accepts_labels, covariates_of
from ..training.saving import load
from ..training.trainer import Trainer
from .alike import alike
from .messages import note

# How data were read by runs whose records do not tell
_OPTIONS = {
    "labels": "--condition-on",
    "numbers": "--condition-on-numbers",
    "exposure": "--exposure",
    "labels, numbers, exposure": "--condition-on, --condition-on-numbers, --exposure",
}
BEFORE = {"grey": None, "stratify": False}
# What new data have to tell as well
_TOLD = ("labels", "numbers", "exposure", "classes")


def trainer_of(args: argparse.Namespace) -> Trainer:
    """The pair that ``train`` wrote."""
    trainer = load(args.model, device=args.device)
    if not isinstance(trainer, Trainer):
        raise ValueError(
            f"{args.model}: expected the file of a trainer, got that of a "
            f"{type(trainer).__name__}: write one with trainer.save(path)"
        )
    return trainer


def splits_of(args: argparse.Namespace, trainer: Trainer, option: str = "data") -> DataSplits:
    """The data of the training run, or those that this option names, numbered as there."""
    where = _where(args, trainer, option)
    found = read(args, where)
    parts = {name: getattr(found, name) for name in ("train", "test", "validation")}
    classes = where.get("classes")
    new = {k: alike(d, trainer.model, classes) for k, d in parts.items() if d is not None}
    return dataclasses.replace(found, **new)


def dataset_of(
    args: argparse.Namespace, trainer: Trainer, split: str, option: str = "data"
) -> Dataset:
    """The part of them that --split names; all may be a single datum."""
    try:
        return part(splits_of(args, trainer, option), split)
    except ValueError as error:
        single = error.__context__
        if split != "all" or not isinstance(single, Indivisible):
            raise
        where, only = _where(args, trainer, option), single.data
        complete(only.x)
        only = only.to(args.device or only.device)
        only = only.replace(binarize=where["binarize"] and "dynamic")
        return alike(only, trainer.model, where.get("classes"))


def classes_of(args: argparse.Namespace) -> Names:
    """What the record of the training run calls classes; nothing where nobody knows."""
    return _recorded(args.model.with_name("run.json")).get("classes") or ()


def _where(args: argparse.Namespace, trainer: Trainer, option: str) -> dict[str, Any]:
    """How data are to be read: as this option and others tell, else as the training run did."""
    source = getattr(args, option)
    path = args.model.with_name("run.json")
    recorded = _recorded(path)
    where = BEFORE | recorded
    if source is not None:
        bernoulli = isinstance(getattr(trainer.model, "likelihood", None), likelihoods.Bernoulli)
        told = {name: recorded[name] for name in _TOLD if name in recorded}
        if recorded and "classes" not in told and accepts_labels(trainer.model):
            told |= _classes(args, trainer, BEFORE | recorded)
        where = told | {"source": source, "binarize": "dynamic" if bernoulli else None}
        if covariates_of(trainer.model) is not None and not told:
            raise ValueError(
                f"--{option}: expected {path} beside the model, which tells the columns on which "
                "it is conditional, got none: copy that of the training run there"
            )
    elif not recorded:
        raise ValueError(
            f"--{option}: expected the data to use, got none, and no {path} that tells those "
            f"of the training run: name them with --{option}"
        )
    if (symbols := vocabulary_of(trainer)) is not None:
        where |= {"kind": "tokens", "vocabulary": symbols}
    given = {"root": args.data_root, "size": args.size, "grey": args.grey or None}
    given |= {"kind": args.kind, "length": args.length, "rate": args.rate}
    where |= {name: value for name, value in given.items() if value is not None}
    return where | ({"binarize": args.binarize} if "binarize" in args else {})


def _classes(
    args: argparse.Namespace, trainer: Trainer, where: Mapping[str, Any]
) -> dict[str, Any]:
    """What classes are called, for a record that does not tell it: as the training data do."""
    try:
        return {"classes": read(args, where).labels}
    except (OSError, ValueError) as error:
        if covariates_of(trainer.model) is None:
            note(
                "this older run does not tell how it numbers classes, nor do its training data, "
                f"{where['source']}, which are not there: labels that are text are numbered by "
                "what there is of them"
            )
            return {}
        raise ValueError(
            f"--data: expected the training data {where['source']} to be there, which tell how "
            f"this older run numbers classes, got: {error}: put them there, or train anew"
        ) from error


def _recorded(path: Path) -> dict[str, Any]:
    """What the record of a training run tells of its data; nothing where there is none."""
    try:
        found = json.loads(path.read_text())["data"]
        found["source"], found["binarize"], found["root"]
    except OSError:
        return {}
    except (ValueError, LookupError, TypeError) as error:
        note(f"{path} is no record of a training run, and is not used ({error!r})")
        return {}
    return found


def part(splits: DataSplits, split: str) -> Dataset:
    """The part that --split names."""
    return splits.whole() if split == "all" else getattr(splits, split)


def check_out(path: Path) -> None:
    """Raise ``OSError`` for a file that cannot be written, before there is anything to write."""
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"--out: expected a file in a folder that exists, got {path}: make {path.parent} first"
        )
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        what = "a folder" if path.is_dir() else "in a folder that cannot be written to"
        raise OSError(
            f"--out: expected a file that can be written, got {path}, {what}: choose another one"
        )


def vocabulary_of(trainer: Trainer) -> Vocabulary | None:
    """What the tokens of a trained pair stand for; None for other data."""
    return getattr(getattr(trainer.model, "likelihood", None), "vocabulary", None)


def read(args: argparse.Namespace, where: Mapping[str, Any]) -> DataSplits:
    """The data that a record, or a command line, tells how to read."""
    size = where.get("size")
    try:
        found = data.load(
            where["source"],
            binarize=where["binarize"],
            root=where.get("root"),
            download=args.download,
            size=tuple(size) if isinstance(size, list) else size,
            grey=where.get("grey", False),
            kind=where.get("kind"),
            length=where.get("length"),
            rate=where.get("rate"),
            vocabulary=where.get("vocabulary") or "characters",
            stratify=where.get("stratify", True),
            labels=where.get("labels", ()),
            numbers=where.get("numbers", ()),
            exposure=where.get("exposure"),
            device=args.device,
        )
        for part in filter(None, (found.train, found.test, found.validation)):
            if part.missing:
                complete(part.x)
        return found
    except ValueError as error:
        if isinstance(error.__context__, Indivisible):
            raise
        name, colon, rest = str(error).partition(": ")
        if name in _OPTIONS and "condition_on" not in args:
            told = [*where.get("labels", ()), *where.get("numbers", ()), where.get("exposure")]
            names = ", ".join(filter(None, told))
            raise ValueError(
                f"--data: the model was told of {names} in training: {rest}"
            ) from error
        raise ValueError(f"{_OPTIONS.get(name, name)}{colon}{rest}") from error
    except RuntimeError as error:
        if not args.download:
            raise
        source = where["source"]
        raise OSError(f"--download: {source} could not be fetched: {error}") from error


def whereabouts(source: str) -> str:
    """The name of a data set, or the whole path of a file."""
    return (
        source if source in data.NAMES or not source else str(expanded("--data", source).resolve())
    )
