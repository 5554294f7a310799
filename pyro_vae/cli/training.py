"""The command that trains a pair."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .. import models, ranks, schedules
from ..callbacks import CollapseWarning
from ..callbacks.collapse import complaint, ended_without
from ..conditionals.normal import PointMass
from ..data import Arguments, DataSplits
from ..ground.files import write_atomically
from ..guides import linear
from ..report import write_report
from ..training.trainer import Trainer
from . import building, groups, inputs, measuring, options
from .messages import DONE, INTERRUPTED, note
from .values import MODEL

_CHECKPOINTS = "checkpoints"
_FILES = (MODEL, "history.json", "run.json", "report.html")


def train(args: argparse.Namespace) -> int:
    """Train a pair and write its checkpoint, history, record and report.

    Of several processes that ``torchrun`` started all train, and the first one writes.
    """
    resumed = args.resume is not None
    if resumed:
        args = _recorded(args)
    with ranks.joined(args.device) as world:
        args.device = world.device
        args.quiet = args.quiet or world.rank > 0
        return _train(args, resumed=resumed, writes=world.rank == 0)


def _train(args: argparse.Namespace, *, resumed: bool, writes: bool) -> int:
    where = {
        "source": inputs.whereabouts(args.data),
        "root": None if args.data_root is None else str(args.data_root.resolve()),
        "binarize": building.asked_binarize(args),
        "size": args.size,
        "grey": args.grey,
        "stratify": getattr(args, "stratify", True),
    }
    told = {
        "kind": args.kind,
        "length": args.length,
        "rate": args.rate,
        "vocabulary": args.vocabulary,
        "labels": args.condition_on,
        "numbers": args.condition_on_numbers,
        "exposure": args.exposure,
    }
    where |= {name: value for name, value in told.items() if value is not None}
    with ranks.in_turn() if args.download else contextlib.nullcontext():
        splits = inputs.read(args, {**where, "source": args.data})
    where["binarize"] = args.binarize if hasattr(args, "binarize") else splits.train.binarize
    if splits.rate is not None:
        where["rate"] = splits.rate
    if args.conditional or isinstance(splits.train.y, Arguments):
        where["classes"] = splits.labels
    steps = math.ceil(len(splits.train) / args.batch_size)
    epochs = args.epochs or max(groups.FEWEST_EPOCHS, math.ceil(groups.STEPS / steps))
    if resumed:
        trainer = Trainer.resume(args.out / _CHECKPOINTS, device=args.device)
        run = trainer.state.run
        patience, over = run.facts["patience"], run.finished
    else:
        trainer, over = _trainer(args, splits, epochs), False
        patience = math.ceil(groups.PATIENCE * epochs)
        patience = max(groups.LEAST_PATIENCE, patience) if args.patience is None else args.patience
    record = {"command": args.command_line, "data": where}
    kind = "" if args.quiet else building.told(splits, where["binarize"], trainer)
    out = args.out or Path("runs", re.sub(r"\.np[yz]$", "", splits.name))
    bar = sys.stderr.isatty()
    with _folder(out) if writes else contextlib.nullcontext():
        if args.checkpoint is not None and writes and not resumed:
            (out / _CHECKPOINTS).mkdir(exist_ok=True)
            write_atomically(out / _CHECKPOINTS / "run.json", json.dumps(record, indent=1))
        trainer.fit(
            splits.train,
            validation=splits.test,
            patience=patience or None,
            epochs=epochs,
            batch_size=args.batch_size,
            accumulate=args.accumulate,
            callbacks=(_Log(epochs, kind, quiet=bar or args.quiet),),
            progress=bar and not args.quiet,
            checkpoint=None if args.checkpoint is None else out / _CHECKPOINTS,
            every=args.checkpoint,
            on_interrupt="return",
        )
        if not writes:
            return DONE
        if not args.quiet:
            _tell(trainer)
        if args.codes is not None:
            trainer = building.with_prior(trainer, splits, epochs, progress=bar and not args.quiet)
        model, history, run, report = (out / name for name in _FILES)
        trainer.save(model)
        write_atomically(history, trainer.history.to_json())
        write_atomically(run, json.dumps(record, indent=1))
        evaluation = measuring.evaluation(args, trainer, splits.test, splits.train)
        record["evaluation"] = {"seed": args.seed, **measuring.numbers(evaluation)}
        write_atomically(run, json.dumps(record, indent=1))
        write_report(
            report,
            trainer,
            splits,
            evaluation=evaluation,
            command=args.command_line,
            seed=args.seed,
        )
    if not args.quiet:
        print(evaluation)
        print("wrote", ", ".join(str(out / name) for name in _FILES))
    rows = trainer.history
    ended = over or trainer.stopping or len(rows) == epochs
    return DONE if ended and rows and not rows[-1].get("interrupted") else INTERRUPTED


def _recorded(args: argparse.Namespace) -> argparse.Namespace:
    """The options of the run that is to go on; of ours only how it is shown and computed."""
    folder: Path = args.resume
    plain = vars(options.parse(["train", "--resume", str(folder)]))
    given = {name for name, value in vars(args).items() if plain.get(name) != value}
    if others := sorted(given - {"quiet", "threads", "download", "command_line"}):
        raise ValueError(
            f"--resume: expected no --{others[0].replace('_', '-')} beside it, since a run goes "
            "on with the options that it began with: leave it out"
        )
    path = folder / _CHECKPOINTS / "run.json"
    try:
        record = json.loads(path.read_text())
        ours = options.parse(shlex.split(record["command"])[1:])
        ours.data, ours.data_root = record["data"]["source"], record["data"]["root"]
        ours.binarize = record["data"]["binarize"]
        vars(ours).update(
            {name: record["data"].get(name, old) for name, old in inputs.BEFORE.items()}
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"--resume: expected the --out of a run with --checkpoint, got {folder} without a "
            f"{path.relative_to(folder)} that tells its options: begin it with --checkpoint STEPS"
        ) from error
    ours.out, ours.resume, ours.command_line = folder, folder, record["command"]
    ours.quiet, ours.download = args.quiet or ours.quiet, args.download or ours.download
    if args.threads is None and ours.threads is not None:
        torch.set_num_threads(ours.threads)
    ours.data_root = None if ours.data_root is None else Path(ours.data_root)
    return ours


def _tell(trainer: Trainer) -> None:
    """Which epoch was kept, and latents that nothing goes through."""
    history = trainer.history
    kept = [row["epoch"] for row in history if row.get("kept")]
    if history and history[-1].get("kept") is False:
        note(f"kept the start: none of {len(history)} epochs was better on held-out data")
    elif kept and kept[-1] < len(history):
        note(f"kept epoch {kept[-1]} of {len(history)}, the best on held-out data")
    if found := ended_without(history, _points(trainer)):
        advice = "Try --skip, --guide ladder, a longer --warm-up or a --beta below 1"
        note(complaint(history[-1], found, advice))


def _points(trainer: Trainer) -> tuple[str, ...]:
    """Sites where the guide has no density."""
    is_point = any(isinstance(module, PointMass) for module in trainer.guide.modules())
    return trainer.model.latents if is_point else ()


class _Log(CollapseWarning):
    """What is trained, then about ten lines for logs, where a progress bar is of no use.

    What collapses is told here once training has ended.
    """

    def __init__(self, epochs: int, kind: str, *, quiet: bool) -> None:
        super().__init__()
        self.every, self.kind, self.quiet = math.ceil(epochs / 10), kind, quiet

    def on_fit_begin(self, trainer: Trainer, **kwargs: Any) -> None:
        if self.kind:
            note(self.kind)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any], **kwargs: Any) -> None:
        if row["epoch"] % self.every == 0 and not self.quiet:
            # A point mass has no density, so that there is no bound
            print(
                f"epoch {row['epoch']}: {'log p(x, z)' if _points(trainer) else 'bound'} "
                f"{row['validation']['elbo']:.2f} on held-out data, {row['elbo']:.2f} in training",
                file=sys.stderr,
            )


def _trainer(args: argparse.Namespace, splits: DataSplits, epochs: int) -> Trainer:
    kind = args.likelihood or building.likelihood_for(splits, exposed=args.exposure is not None)
    classes: int | models.Covariates = _classes(splits) if args.conditional else 0
    if isinstance(splits.train.y, Arguments):
        classes = models.Covariates.standardized(splits.train)
    building.check_memory(args, splits, kind, classes)
    torch.manual_seed(args.seed)
    model, guide = building.pair(args, splits, kind, classes)
    warm_up = args.warm_up
    if args.codes is not None:
        warm_up = 0  # their KL is the same whatever is learnt
    elif warm_up is None:
        # Latents that begin as those of a linear model are in use
        begins = linear.begins(model, guide, splits.train.x)
        warm_up = 0 if begins else min(groups.WARM_UP, math.ceil(epochs / 3))
    rises = warm_up > 0 and args.beta > 0
    return Trainer(
        model,
        guide,
        beta=schedules.WarmUp(epochs=warm_up, end=args.beta) if rises else args.beta,
        lr=args.lr,
        elbo=args.elbo,
        clip_norm=args.clip_norm,
        precision=args.precision,
        seed=args.seed,
        device=args.device,
    )


def _classes(splits: DataSplits) -> int:
    if isinstance(splits.train.y, Arguments):
        raise ValueError(
            "--conditional: expected no --condition-on, --condition-on-numbers or --exposure "
            "beside it, which name the labels: leave it out"
        )
    labels = [part.y for part in (splits.train, splits.test)]
    if any(y is None for y in labels):
        raise ValueError(
            f"--conditional: expected data with labels, got {splits.name} without: add y to the "
            ".npz file, put the images into class folders, or leave --conditional out"
        )
    y = torch.cat(labels)
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= max(len(y), len(splits.labels)):
        raise ValueError(
            f"--conditional: expected labels from 0 on, fewer than data, got {low} to {high} for "
            f"{len(y)} data: number the classes 0, 1, ..."
        )
    return max(high + 1, len(splits.labels))


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """A folder that can be written to; where it is new and stays empty, it goes again."""
    new = [p for p in (path, *path.parents) if not p.exists()]
    try:
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise OSError(
                f"--out: expected a folder that can be written to, got {path} "
                f"({error.strerror}): choose another one"
            ) from error
        yield path
    except BaseException:
        for created in new:
            with contextlib.suppress(OSError):
                created.rmdir()
        raise
