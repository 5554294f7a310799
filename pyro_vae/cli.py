"""The command line: train a pair, evaluate it, draw from it, interpolate."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import inspect
import json
import math
import re
import shlex
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import matplotlib
import torch
from torch import Tensor

from . import data, diagnostics, guides, likelihoods, models, plots, schedules
from .checkpoint import load
from .data import Dataset, DataSplits
from .diagnostics.evaluation import Evaluation
from .files import write_atomically
from .report import render, write_report
from .trainer import Trainer

_T = TypeVar("_T")

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130
_STEPS, _FEWEST_EPOCHS = 6000, 20
_DENSE, _LARGEST_DENSE = (256, 256), 1024
_BAD = (ValueError, TypeError, OSError, FloatingPointError, ImportError, torch.OutOfMemoryError)


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def _table(module: Any, base: type[_T]) -> dict[str, type[_T]]:
    """Kebab-case name -> public class of ``module``."""
    classes = [c for n, c in vars(module).items() if inspect.isclass(c) and not n.startswith("_")]
    return {_kebab(c.__name__): c for c in classes if issubclass(c, base) and c is not base}


GUIDES = _table(guides, guides.Guide)
LIKELIHOODS = _table(likelihoods, likelihoods.Likelihood)
_BINARIZE = {"dynamic": "dynamic", "static": "static", "none": None}

_DESCRIPTION = """\
Train variational autoencoders that are Pyro programs, and look at what they have learnt.

  pyro-vae train                                     8 x 8 digits, about a minute
  pyro-vae train --data mnist --download --out runs/mnist
  pyro-vae train --data photos/ --likelihood discretized-logistic
  pyro-vae evaluate runs/digits/model.pt --importance-samples 1000
  pyro-vae sample runs/digits/model.pt -n 100 --out samples.png
  pyro-vae interpolate runs/digits/model.pt --from 3 --to 7 --out path.png

"pyro-vae COMMAND --help" tells the options of a command."""

_TRAIN = """\
Train a model p(x, z) and a guide q(z|x) by maximising the bound
E_q[log p(x|z)] - beta KL(q(z|x) || p(z)), in nats per datum, and write into --out

  model.pt      the trainer: model, guide, optimizer; read it with pyro_vae.load
  history.json  one row per epoch
  report.html   the evaluation table, curves and pictures in one file; opens offline
  run.json      the command, the data and the evaluation, for the other commands

Everything is checked before the first step. Ctrl-C ends training early and still writes
all files of what there is; a second one ends the program."""

_TRAIN_EXAMPLES = """\
examples:
  a beta-VAE               pyro-vae train --beta 4
  a plain autoencoder      pyro-vae train --guide delta --beta 0
  a hierarchy z1, z2, z3   pyro-vae train --latents 32,16,8 --warm-up 200
  a conditional VAE        pyro-vae train --conditional
  a Skip-VAE               pyro-vae train --latents 16,8 --skip
  real-valued table        pyro-vae train --data table.npy --likelihood gaussian
  grey pixels              pyro-vae train --likelihood continuous-bernoulli
  17 levels of grey        pyro-vae train --likelihood categorical --levels 17"""

_EVALUATE = """\
Print the bound (ELBO), its reconstruction and KL terms, and log p(x) by importance sampling,
each with its standard error over the data. The data are those of the training run (run.json
beside MODEL.pt), unless --data names others."""

_SAMPLE = """\
Draw new data from a trained model and write them as a picture (.png, .pdf, .svg, ...)."""

_INTERPOLATE = """\
Decode the straight line in latent space between two data, and write it as a picture. The data
are rows of the test set of the training run, unless --data and --split name others."""

_EXIT = "exit status: 0 done, 2 bad input (one line on stderr tells), 130 interrupted"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; by default those of the process.

    Returns:
        The exit status: 0, 2 for bad input with one line on stderr, 130 when interrupted.

    Raises:
        SystemExit: with status 0, after ``--help``.

    Example:
        >>> main(["train", "--beta", "-1"])
        2
    """
    matplotlib.use("agg")
    try:
        args, unknown = _parser().parse_known_args(argv)
        if unknown:
            raise _UsageError(_unknown_option(unknown[0], args))
        args.command_line = shlex.join(["pyro-vae", *(sys.argv[1:] if argv is None else argv)])
        if args.threads is not None:
            torch.set_num_threads(args.threads)
        return args.run(args)
    except _BAD as error:
        print(f"pyro-vae: error: {_in_options(str(error))}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("pyro-vae: interrupted", file=sys.stderr)
        return INTERRUPTED


class _UsageError(ValueError):
    """What argparse has to complain about."""


class _Parser(argparse.ArgumentParser):
    """A parser that raises its complaint."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs
        )

    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message} (see {self.prog} --help)")


def _unknown_option(got: str, args: argparse.Namespace) -> str:
    options = [f"--{name.replace('_', '-')}" for name in vars(args)]
    close = difflib.get_close_matches(got.partition("=")[0], options, n=1)
    guess = f"; did you mean {close[0]}?" if close else ""
    return f"unknown argument {got}{guess} (see pyro-vae {args.command} --help)"


def _in_options(message: str) -> str:
    """An error of the library in one line, its Python arguments named as options."""
    message = " ".join(message.split())
    for pattern, option in _PYTHON_TO_OPTIONS:
        message = re.sub(pattern, option, message)
    return message


_PYTHON_TO_OPTIONS: tuple[tuple[str, Any], ...] = (
    (r'data\.load\("([\w-]+)", download=True\)', r"--data \1 --download"),
    (r"likelihoods\.(\w+)\(\)", lambda match: f"--likelihood {_kebab(match[1])}"),
    (r"binarize=None", "--binarize none"),
    (r'binarize="(\w+)"(?: in data\.load / Dataset)?', r"--binarize \1"),
    (r"\blevels=(?!\d)", "--levels"),
    (r"\broot=", "--data-root"),
    (r"\bimportance_samples\b", "--importance-samples"),
    (r"^source:", "--data:"),
)


def _whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d+", text) or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at least {least}, got {text!r}"
            )
        return int(text)

    return parse


def _real(text: str, *, zero: bool = True) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 <= value if zero else 0 < value) or math.isinf(value):
        bound = "at least 0" if zero else "above 0"
        raise argparse.ArgumentTypeError(f"expected a finite number {bound}, got {text!r}")
    return value


def _positive(text: str) -> float:
    return _real(text, zero=False)


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(_whole(1)(size.strip()) for size in text.split(","))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"expected one size or more, such as 20 or 64,32,16, got {text!r}"
        ) from None


def _hidden(text: str) -> tuple[int, ...] | str:
    return text if text in ("conv", "linear") else _sizes(text)


def _sigma(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(
            f"expected a device of this machine such as cpu, got {text!r}: "
            f"{str(error).splitlines()[0]}"
        ) from None
    return device


def _named(table: Mapping[str, _T]) -> Callable[[str], _T]:
    def parse(text: str) -> _T:
        if text not in table:
            close = difflib.get_close_matches(text.lower(), table, n=1)
            guess = f"; did you mean {close[0]}?" if close else ""
            raise argparse.ArgumentTypeError(
                f"expected one of {', '.join(table)}, got {text!r}{guess}"
            )
        return table[text]

    return parse


def _choice(table: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": _named(table), "metavar": "{" + ",".join(table) + "}"}


def _picture(text: str) -> Path:
    path = Path(text)
    formats = matplotlib.figure.Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise argparse.ArgumentTypeError(
            f"expected the name of a picture such as picture.png, got {text!r}: "
            f"end it with one of .{', .'.join(sorted(formats))}"
        )
    return path


def _parser() -> _Parser:
    parser = _Parser(prog="pyro-vae", description=_DESCRIPTION, epilog=_EXIT)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    train = _command(commands, "train", _train, "train a model and a guide", _TRAIN)
    train.epilog = f"{_TRAIN_EXAMPLES}\n\n{_EXIT}"
    _add_data(train, default="digits")
    _add_pair(train)
    _add_training(train)
    train.add_argument("--out", type=Path, metavar="FOLDER", help="default: runs/DATA")
    train.add_argument("--quiet", action="store_true", help="print nothing but errors")
    _add_importance(train)
    _add_common(train)

    evaluate = _command(commands, "evaluate", _evaluate, "print the evaluation table", _EVALUATE)
    _add_model(evaluate)
    _add_data(evaluate)
    _add_split(evaluate)
    _add_importance(evaluate)
    evaluate.add_argument("--json", action="store_true", help="print JSON in place of a table")
    _add_common(evaluate)

    sample = _command(commands, "sample", _sample, "draw new data", _SAMPLE)
    _add_model(sample)
    sample.add_argument("-n", type=_whole(1), default=64, help="how many (default: 64)")
    sample.add_argument(
        "--label", type=_whole(0), help="class to draw, for a conditional model (default: all)"
    )
    sample.add_argument(
        "--draw", action="store_true", help="show draws of x in place of the means of p(x|z)"
    )
    _add_picture(sample, "samples.png")
    _add_common(sample)

    interpolate = _command(
        commands, "interpolate", _interpolate, "go from one datum to another", _INTERPOLATE
    )
    _add_model(interpolate)
    _add_data(interpolate)
    _add_split(interpolate)
    interpolate.add_argument(
        "--from", type=_whole(0), default=0, metavar="ROW", help="first datum (default: 0)"
    )
    interpolate.add_argument(
        "--to", type=_whole(0), default=1, metavar="ROW", help="last datum (default: 1)"
    )
    interpolate.add_argument("--steps", type=_whole(2), default=10, help="(default: 10)")
    _add_picture(interpolate, "interpolation.png")
    _add_common(interpolate)
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], brief: str, text: str
) -> _Parser:
    parser = commands.add_parser(name, help=brief, description=text, epilog=_EXIT)
    parser.set_defaults(run=run)
    return parser


def _add_model(parser: _Parser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL.pt", help="what train wrote")


def _add_data(parser: _Parser, default: str | None = None) -> None:
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        default=default,
        metavar="NAME_OR_PATH",
        help=f"one of {', '.join(data.NAMES)}; a folder of images; an .npy file; or an .npz file "
        f"with x[, y] or x_train, x_test[, y_train, y_test] (default: "
        f"{default or 'that of the training run'})",
    )
    group.add_argument(
        "--data-root",
        type=Path,
        metavar="FOLDER",
        help="where data sets are kept (default: $PYRO_VAE_DATA, else ~/.cache/pyro_vae)",
    )
    group.add_argument("--download", action="store_true", help="fetch a data set that is missing")
    group.add_argument(
        "--binarize",
        **_choice(_BINARIZE),
        default=argparse.SUPPRESS,
        help="grey values as probabilities of 1: drawn afresh for each batch, drawn once, or "
        "kept as they are (default: dynamic for the likelihood bernoulli, else none)",
    )


def _add_split(parser: _Parser) -> None:
    parser.add_argument(
        "--split", **_choice({"test": "test", "train": "train"}), default="test", help="(default: test)"
    )


def _add_pair(parser: _Parser) -> None:
    group = parser.add_argument_group("model and guide")
    group.add_argument(
        "--latents",
        type=_sizes,
        default=(20,),
        metavar="SIZES",
        help="size of z1, or of z1,z2,... from the data to the top (default: 20)",
    )
    group.add_argument(
        "--hidden",
        type=_hidden,
        metavar="WIDTHS",
        help="hidden widths seen from the data, such as 400,400; linear for none; conv for "
        f"convolutional networks (default: {','.join(map(str, _DENSE))}; conv for images of more "
        f"than {_LARGEST_DENSE} values)",
    )
    group.add_argument(
        "--guide",
        **_choice(GUIDES),
        default=guides.BottomUp,
        help="posterior q(z|x); delta, a point, makes an autoencoder (default: bottom-up)",
    )
    group.add_argument(
        "--likelihood",
        **_choice(LIKELIHOODS),
        default=likelihoods.Bernoulli,
        help="p(x|z): bernoulli for 0 and 1, continuous-bernoulli for [0, 1], gaussian for real "
        "numbers, the others for pixels k / (levels - 1) (default: bernoulli)",
    )
    group.add_argument(
        "--sigma", type=_sigma, help="standard deviation of the likelihood gaussian (default: 1)"
    )
    group.add_argument(
        "--levels",
        type=_whole(2),
        help="values of a discrete pixel: 256 for 8 bits, 17 for digits (default: 256)",
    )
    group.add_argument(
        "--skip", action="store_true", help="each network sees all latents above it, in each layer"
    )
    group.add_argument(
        "--conditional", action="store_true", help="condition model and guide on the labels"
    )


def _add_training(parser: _Parser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument(
        "--beta", type=_real, default=1.0, help="weight of the KL (default: 1, the VAE)"
    )
    group.add_argument(
        "--warm-up",
        type=_real,
        metavar="EPOCHS",
        help="epochs in which beta rises from 0, against latents that stay unused; 0 for none "
        "(default: a third of the epochs)",
    )
    group.add_argument(
        "--epochs",
        type=_whole(1),
        help=f"passes over the data (default: {_STEPS:,} steps' worth, at least "
        f"{_FEWEST_EPOCHS}; 500 for digits)",
    )
    group.add_argument("--batch-size", type=_whole(1), default=128, help="(default: 128)")
    group.add_argument(
        "--lr", type=_positive, default=2e-3, help="learning rate of Adam (default: 0.002)"
    )
    group.add_argument(
        "--elbo",
        **_choice({"trace": "trace", "analytic": "analytic"}),
        default="trace",
        help="KL sampled, or in closed form where there is one (default: trace)",
    )


def _add_importance(parser: _Parser) -> None:
    parser.add_argument(
        "--importance-samples",
        type=_whole(0),
        default=100,
        metavar="N",
        help="samples per datum for log p(x), 0 to leave it out (default: 100)",
    )


def _add_picture(parser: _Parser, default: str) -> None:
    parser.add_argument(
        "--out",
        type=_picture,
        default=Path(default),
        metavar="PICTURE",
        help=f"file to write (default: {default})",
    )


def _add_common(parser: _Parser) -> None:
    parser.add_argument("--seed", type=_whole(0), default=0, help="(default: 0)")
    parser.add_argument(
        "--device", type=_device, default=torch.device("cpu"), help="cpu, cuda, ... (default: cpu)"
    )
    parser.add_argument("--threads", type=_whole(1), help="CPU threads (default: torch's choice)")


def _train(args: argparse.Namespace) -> int:
    likelihood = _likelihood(args)
    binarize = getattr(args, "binarize", _default_binarize(likelihood))
    splits = _read(args, args.data, args.data_root, binarize)
    trainer = _trainer(args, splits, likelihood)
    epochs = args.epochs or _default_epochs(len(splits.train), args.batch_size)
    warm_up = epochs / 3 if args.warm_up is None else args.warm_up
    if warm_up and args.beta:
        trainer.beta = schedules.WarmUp(epochs=warm_up, end=args.beta)
    run = {
        "command": args.command_line,
        "data": {
            "source": _whereabouts(args.data),
            "root": None if args.data_root is None else str(args.data_root.resolve()),
            "binarize": binarize,
        },
    }
    with _folder(args.out or Path("runs", Path(splits.name).stem)) as out:
        trainer.fit(
            splits.train,
            validation=splits.test,
            epochs=epochs,
            batch_size=args.batch_size,
            progress=not args.quiet,
        )
        trainer.save(out / "model.pt")
        write_atomically(out / "history.json", trainer.history.to_json())
        write_atomically(out / "run.json", json.dumps(run, indent=1))
        evaluation = _evaluation(args, trainer, splits.test)
        run["evaluation"] = {"seed": args.seed, **_numbers(evaluation)}
        write_atomically(out / "run.json", json.dumps(run, indent=1))
        write_report(
            out / "report.html",
            trainer,
            splits,
            evaluation=evaluation,
            command=args.command_line,
            seed=args.seed,
        )
    if not args.quiet:
        print(evaluation)
        names = ("model.pt", "history.json", "run.json", "report.html")
        print("wrote", ", ".join(str(out / name) for name in names))
    history = trainer.history
    finished = len(history) == epochs and not history[-1].get("interrupted")
    return DONE if finished else INTERRUPTED


def _likelihood(args: argparse.Namespace) -> likelihoods.Likelihood:
    accepted = inspect.signature(args.likelihood.__init__).parameters
    given = {k: v for k in ("sigma", "levels") if (v := getattr(args, k)) is not None}
    for name, value in given.items():
        if name not in accepted:
            raise ValueError(
                f"--{name}: the likelihood {_kebab(args.likelihood.__name__)} has none, got "
                f"{value}: leave it out or choose another --likelihood"
            )
    return args.likelihood(**given)


def _default_binarize(likelihood: Any) -> str | None:
    return "dynamic" if isinstance(likelihood, likelihoods.Bernoulli) else None


def _default_epochs(n: int, batch_size: int) -> int:
    return max(_FEWEST_EPOCHS, math.ceil(_STEPS / math.ceil(n / batch_size)))


def _trainer(
    args: argparse.Namespace, splits: DataSplits, likelihood: likelihoods.Likelihood
) -> Trainer:
    size = math.prod(splits.event_shape)
    hidden = args.hidden or ("conv" if size > _LARGEST_DENSE else _DENSE)
    torch.manual_seed(args.seed)
    model = models.VAE(
        splits.event_shape,
        latents=args.latents,
        likelihood=likelihood,
        hidden={"conv": None, "linear": ()}.get(hidden, hidden),
        skip=args.skip,
        condition=_classes(splits) if args.conditional else 0,
    )
    return Trainer(
        model,
        args.guide(model),
        beta=args.beta,
        lr=args.lr,
        elbo=args.elbo,
        seed=args.seed,
        device=args.device,
    )


def _classes(splits: DataSplits) -> int:
    labels = [part.y for part in (splits.train, splits.test)]
    if any(y is None for y in labels):
        raise ValueError(
            f"--conditional: expected data with labels, got {splits.name} without: add an array y "
            "to the .npz file, put images into class folders, or leave --conditional out"
        )
    y = torch.cat(labels)
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= len(y):
        raise ValueError(
            f"--conditional: expected labels 0, 1, ... for {len(y)} data, got {low} to {high}: "
            "number the classes from 0"
        )
    return max(high + 1, len(splits.labels))


def _evaluate(args: argparse.Namespace) -> int:
    trainer = _load(args)
    evaluation = _evaluation(args, trainer, _recorded_data(args, trainer))
    print(json.dumps(_numbers(evaluation), indent=1) if args.json else evaluation)
    return DONE


def _evaluation(args: argparse.Namespace, trainer: Trainer, dataset: Dataset) -> Evaluation:
    samples = args.importance_samples
    if samples and isinstance(trainer.guide, guides.Delta):
        samples = 0
        _note("log p(x) is left out: a point-mass guide is no proposal for importance sampling")
    torch.manual_seed(args.seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        evaluation = diagnostics.evaluate(
            trainer.model, trainer.guide, dataset, importance_samples=samples
        )
    for warning in caught:
        _note(_in_options(str(warning.message)))
    return evaluation


def _note(message: str) -> None:
    print(f"pyro-vae: note: {message}", file=sys.stderr)


def _numbers(evaluation: Evaluation) -> dict[str, Any]:
    samples = 0 if evaluation.importance is None else evaluation.importance.samples
    return {
        "data": len(evaluation.terms.reconstruction),
        "importance_samples": samples,
        "quantities": evaluation.to_dict(),
    }


def _sample(args: argparse.Namespace) -> int:
    model = _load(args).model
    classes = getattr(model, "condition", 0)
    if args.label is not None and args.label >= classes:
        expected = f"a class from 0 to {classes - 1}" if classes else "none: it takes no labels"
        raise ValueError(f"--label: expected for this model {expected}, got {args.label}")
    y: Tensor | int | None = args.label
    if classes and y is None:
        y = torch.arange(args.n, device=args.device) % classes
    torch.manual_seed(args.seed)
    _draw(args.out, lambda: plots.samples(model, args.n, y=y, mean=not args.draw))
    return DONE


def _interpolate(args: argparse.Namespace) -> int:
    trainer = _load(args)
    dataset = _recorded_data(args, trainer)
    rows = [getattr(args, "from"), args.to]
    for option, row in zip(("--from", "--to"), rows, strict=True):
        if row >= len(dataset):
            raise ValueError(f"{option}: expected a row from 0 to {len(dataset) - 1}, got {row}")
    torch.manual_seed(args.seed)
    x, y = dataset.batch(torch.tensor(rows))
    diagnostics_y = y if getattr(trainer.model, "condition", 0) else None
    _draw(
        args.out,
        lambda: plots.interpolation(
            trainer.model, trainer.guide, x[0], x[1], steps=args.steps, y=diagnostics_y
        ),
    )
    return DONE


def _draw(path: Path, draw: Callable[[], Any]) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--out: expected a folder that exists, got {path.parent}: make it")
    write_atomically(path, render(draw(), path.suffix[1:].lower()))
    print("wrote", path)


def _load(args: argparse.Namespace) -> Trainer:
    trainer = load(args.model, device=args.device)
    if not isinstance(trainer, Trainer):
        raise ValueError(
            f"{args.model}: expected the file of a trainer, got that of a "
            f"{type(trainer).__name__} alone: write one with trainer.save(path)"
        )
    return trainer


def _recorded_data(args: argparse.Namespace, trainer: Trainer) -> Dataset:
    """The data of the training run, or those that ``args`` name."""
    record = args.model.with_name("run.json")
    source, root = args.data, args.data_root
    binarize = _default_binarize(getattr(trainer.model, "likelihood", None))
    if source is None:
        try:
            recorded = json.loads(record.read_text())["data"]
            source, binarize = recorded["source"], recorded["binarize"]
            root = root or recorded["root"]
        except (OSError, ValueError, LookupError, TypeError):
            raise ValueError(
                f"--data: expected the data to use, as there is no readable {record} that tells "
                "those of the training run: name them with --data"
            ) from None
    splits = _read(args, source, root, getattr(args, "binarize", binarize))
    return getattr(splits, args.split)


def _read(
    args: argparse.Namespace, source: str, root: str | Path | None, binarize: Any
) -> DataSplits:
    try:
        return data.load(
            source, binarize=binarize, root=root, download=args.download, device=args.device
        )
    except RuntimeError as error:
        if not args.download:
            raise
        raise OSError(f"--download: {source} could not be fetched: {error}") from error


def _whereabouts(source: str) -> str:
    path = Path(source).expanduser()
    return source if source in data.NAMES or not path.exists() else str(path.resolve())


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """A folder that can be written to; new folders that stay empty go when the work fails."""
    new = [p for p in (path, *path.parents) if not p.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OSError(
            f"--out: expected a folder that can be written to, got {path} "
            f"({error.strerror}): choose another one"
        ) from error
    try:
        yield path
    except BaseException:
        for created in new:
            with contextlib.suppress(OSError):
                created.rmdir()
        raise
