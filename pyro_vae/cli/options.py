"""The options of each command, and the help that teaches them."""

from __future__ import annotations

import argparse
import difflib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch

from .. import data, experiments, guides, likelihoods
from ..training.precision import PRECISIONS
from . import values
from .messages import kebab

_T = TypeVar("_T")

STEPS, FEWEST_EPOCHS = 6000, 20
DENSE, LARGEST_DENSE = (256, 256), 1024
MANY_DATA, MANY_SAMPLES, FEW_SAMPLES = 1000, 1000, 100


# Third of the epochs, and no more: a small table is memorised while beta is small
WARM_UP = 50
PATIENCE, LEAST_PATIENCE = 0.1, 10


def _public(module: Any, base: type[_T]) -> dict[str, type[_T]]:
    """Name -> public subclass of ``base`` in ``module``: a new part is an option at once."""
    members = {kebab(name): value for name, value in vars(module).items() if name[0] != "_"}
    return {
        name: value
        for name, value in members.items()
        if inspect.isclass(value) and issubclass(value, base) and value is not base
    }


def _needs(cls: type) -> list[str]:
    """Arguments of a class that have no default."""
    kinds = (inspect.Parameter.VAR_KEYWORD,)
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return [p.name for p in parameters if p.default is p.empty and p.kind not in kinds]


# Those that a model of this command line is enough to build
GUIDES = {n: g for n, g in _public(guides, guides.Guide).items() if _needs(g) == ["vae"]}
LIKELIHOODS = _public(likelihoods, likelihoods.Likelihood)
BINARIZE = {"dynamic": "dynamic", "static": "static", "none": None}

_DESCRIPTION = """\
Train variational autoencoders that are Pyro programs, and look at what they have learnt.

  pyro-vae train                            8 x 8 digits, in about a minute
  pyro-vae train --data mnist --download --out runs/mnist
  pyro-vae train --data photos/ --likelihood discretized-logistic
  pyro-vae evaluate runs/digits/model.pt
  pyro-vae sample runs/digits/model.pt -n 100 --out samples.png
  pyro-vae interpolate runs/digits/model.pt --from 3 --to 7 --out path.png
  pyro-vae experiment ladder-mnist --quick

"pyro-vae COMMAND --help" explains the options of a command."""

_TRAIN = """\
Train a model p(x, z) and a guide q(z|x) by maximising the bound
E_q[log p(x|z)] - beta KL(q(z|x) || p(z)), in nats per datum, and write into --out

  model.pt      the trainer: model, guide, optimizer, history; read it with pyro_vae.load
  history.json  one row per epoch
  run.json      the command, the data and the evaluation; tells the other commands the data
  report.html   the evaluation table, curves and pictures in one file that opens offline

Everything is checked before the first step. The epoch with the best bound on held-out data is
kept, and a run that no longer improves ends early (--patience). Ctrl-C ends training early and
still writes all files, of what there is; a second one ends the program. With --checkpoint a run
that was interrupted, terminated or killed goes on with --resume FOLDER, to the same numbers; one
of several processes (torchrun) goes on in as many."""

_TRAIN_EXAMPLES = """\
examples:
  a beta-VAE               pyro-vae train --beta 4
  an autoencoder           pyro-vae train --guide delta --beta 0
  a hierarchy z1, z2, z3   pyro-vae train --latents 32,16,8
  a conditional VAE        pyro-vae train --conditional
  a Skip-VAE               pyro-vae train --latents 16,8 --skip
  on 4 GPUs                torchrun --nproc-per-node 4 -m pyro_vae train --device cuda
  grey pixels              pyro-vae train --likelihood continuous-bernoulli
  17 levels of grey        pyro-vae train --likelihood categorical --levels 17
  a table of numbers       pyro-vae train --data table.npy
  photographs              pyro-vae train --data photos/ --size 64"""

_EVALUATE = """\
Print the bound (ELBO), its reconstruction and KL terms, log p(x) by importance sampling, and what
models without a network achieve that are fitted to the training data: independent ones of each
element and, beside a density, probabilistic PCA; each with its standard error over the data. The
data are the test set of the training run
(run.json beside MODEL.pt tells), unless --data and --split name others."""

_SAMPLE = """\
Draw new data from a trained model, and write them as a picture (.png, .pdf, .svg, ...)."""

_INTERPOLATE = """\
Decode the straight line in latent space between two data, and write it as a picture. The data
are rows of the test set of the training run (run.json beside MODEL.pt tells), unless --data and
--split name others."""

_EXPERIMENT = f"""\
Run a published comparison and write its table, rows and figures into a folder; a run that was
interrupted goes on where it stopped. NAME is one of: {", ".join(experiments.NAMES)}.
"pyro-vae experiment NAME --help" tells the options of one; --quick is a small run."""

_STATUS = "exit status: 0 done; 2 bad input, explained in one line; 130 interrupted"


class UsageError(ValueError):
    """A command line that the options do not explain."""


class _Parser(argparse.ArgumentParser):
    """A parser that raises its complaint in place of ending the process."""

    def __init__(self, *, epilog: str = _STATUS, **kwargs: Any) -> None:
        super().__init__(
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=epilog,
            **kwargs,
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Turn a command line into options.

    Args:
        argv: the arguments without the program's name.

    Returns:
        The command and its options.

    Raises:
        UsageError: an unknown command or option, a missing or a bad value.
        SystemExit: after ``--help``.
    """
    for argument in argv:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"arguments: expected text in UTF-8, got {argument!r}: rename the file or folder"
            ) from None
    args, unknown = _parser().parse_known_args(argv)
    if unknown:
        options = [f"--{name.replace('_', '-')}" for name in vars(args)]
        close = difflib.get_close_matches(unknown[0].partition("=")[0], options, n=1)
        guess = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(
            f"unknown argument {unknown[0]}{guess} (see pyro-vae {args.command} --help)"
        )
    return args


def _parser() -> _Parser:
    parser = _Parser(prog="pyro-vae", description=_DESCRIPTION)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    train = commands.add_parser(
        "train",
        help="train a model and a guide",
        description=_TRAIN,
        epilog=f"{_TRAIN_EXAMPLES}\n\n{_STATUS}",
    )
    _add_data(train, default="digits")
    _add_pair(train)
    _add_training(train)
    group = train.add_argument_group("output")
    group.add_argument("--out", type=Path, metavar="FOLDER", help="default: runs/DATA")
    group.add_argument("--quiet", action="store_true", help="print nothing but errors")
    group.add_argument(
        "--checkpoint",
        type=values.whole(1),
        metavar="STEPS",
        help="write a checkpoint into the folder checkpoints of --out every so many steps, and "
        "when the run is interrupted",
    )
    group.add_argument(
        "--resume",
        type=Path,
        metavar="FOLDER",
        help="go on with the run whose --out this was, with all its options",
    )
    _add_importance(group)
    _add_common(train)

    evaluate = commands.add_parser(
        "evaluate", help="print the evaluation table", description=_EVALUATE
    )
    _add_model(evaluate)
    evaluate.add_argument("--json", action="store_true", help="print JSON in place of a table")
    _add_importance(evaluate)
    _add_data(evaluate, split=True)
    _add_common(evaluate)

    sample = commands.add_parser("sample", help="draw new data", description=_SAMPLE)
    _add_model(sample)
    sample.add_argument("-n", type=values.whole(1), default=64, help="how many (default: 64)")
    sample.add_argument(
        "--label",
        type=values.whole(0),
        help="class to draw, of a conditional model (default: all)",
    )
    sample.add_argument(
        "--draw", action="store_true", help="show draws of x in place of the means of p(x|z)"
    )
    _add_picture(sample, "samples.png")
    _add_common(sample)

    interpolate = commands.add_parser(
        "interpolate", help="go from one datum to another", description=_INTERPOLATE
    )
    _add_model(interpolate)
    for name, default, brief in (("--from", 0, "first"), ("--to", 1, "last")):
        interpolate.add_argument(
            name,
            type=values.whole(0),
            default=default,
            metavar="ROW",
            help=f"{brief} datum (default: {default})",
        )
    interpolate.add_argument(
        "--steps", type=values.whole(2), default=10, help="data in the row (default: 10)"
    )
    _add_picture(interpolate, "interpolation.png")
    _add_data(interpolate, split=True)
    _add_common(interpolate)

    experiment = commands.add_parser(
        "experiment", help="run a published comparison", description=_EXPERIMENT
    )
    experiment.add_argument("name", choices=experiments.NAMES, metavar="NAME")
    experiment.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    experiment.set_defaults(threads=None)
    return parser


def _choice(table: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": values.named(table), "metavar": "{" + ",".join(table) + "}"}


def _add_model(parser: _Parser) -> None:
    parser.add_argument(
        "model",
        type=values.model,
        metavar="MODEL.pt",
        help="what train wrote, or the folder that holds it",
    )


def _add_data(parser: _Parser, *, default: str | None = None, split: bool = False) -> None:
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        default=default,
        metavar="NAME_OR_PATH",
        help=f"one of {', '.join(data.NAMES)}; a folder of images; an .npy file; or an .npz file "
        "with x[, y] or x_train, x_test[, y_train, y_test] "
        f"(default: {default or 'that of the training run'})",
    )
    group.add_argument(
        "--data-root",
        type=Path,
        metavar="FOLDER",
        help="where data sets are kept (default: $PYRO_VAE_DATA, else ~/.cache/pyro_vae)",
    )
    group.add_argument("--download", action="store_true", help="fetch a data set that is missing")
    group.add_argument(
        "--size",
        type=values.pixels,
        metavar="PIXELS",
        help="height and width of the images of a folder, such as 64 or 48x64 (default: those of "
        "the first image); of shapes (default: 32)",
    )
    group.add_argument(
        "--grey", action="store_true", help="turn the images of a folder into one grey channel"
    )
    recorded = (
        "as in training"
        if split
        else "dynamic for the likelihood bernoulli and, where none is named, for digits, mnist, "
        "fashion-mnist, omniglot and shapes; else none"
    )
    # Without a default value, for None is a choice
    group.add_argument(
        "--binarize",
        **_choice(BINARIZE),
        default=argparse.SUPPRESS,
        help="grey values as probabilities of 1: dynamic draws 0 and 1 afresh in each batch, "
        f"static once, none keeps the values (default: {recorded})",
    )
    if split:
        group.add_argument(
            "--split",
            **_choice({name: name for name in ("test", "train")}),
            default="test",
            help="default: test",
        )


def _add_pair(parser: _Parser) -> None:
    group = parser.add_argument_group("model and guide")
    group.add_argument(
        "--latents",
        type=values.sizes,
        default=(20,),
        metavar="SIZES",
        help="size of z1, or sizes of z1,z2,... from the data to the top (default: 20)",
    )
    group.add_argument(
        "--hidden",
        type=values.hidden,
        default=argparse.SUPPRESS,
        metavar="WIDTHS",
        help="hidden widths seen from the data, such as 400,400; linear for no hidden layer; conv "
        f"for convolutional networks (default: {','.join(map(str, DENSE))}; conv for images of "
        f"more than {LARGEST_DENSE} values)",
    )
    group.add_argument(
        "--guide",
        type=values.named(GUIDES),
        metavar="NAME",
        default=guides.BottomUp,
        help=f"posterior q(z|x): {', '.join(GUIDES)}; delta, one point, makes an autoencoder "
        "(default: bottom-up)",
    )
    group.add_argument(
        "--likelihood",
        type=values.named(LIKELIHOODS),
        metavar="NAME",
        help=f"p(x|z): {', '.join(LIKELIHOODS)}; bernoulli is for 0 and 1, continuous-bernoulli "
        "for [0, 1], gaussian for real numbers, categorical and discretized-logistic for pixels "
        "k / (levels - 1) (default: bernoulli for values 0 and 1, and for what is binarised; "
        "continuous-bernoulli for others in [0, 1]; gaussian for all others)",
    )
    group.add_argument(
        "--sigma",
        type=values.number_or_word,
        help="standard deviation of the likelihood gaussian: a number, learned, optimal, "
        "per_pixel or predicted (default: learned)",
    )
    group.add_argument(
        "--standardize",
        action=argparse.BooleanOptionalAction,
        help="give each column, or pixel, mean 0 and deviation 1 before the networks see it, for "
        "the likelihood gaussian; samples, pictures and bounds are in the units of the data "
        "(default: for tables)",
    )
    group.add_argument(
        "--levels",
        type=values.whole(2, 2**16),
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
        "--beta", type=values.not_negative, default=1.0, help="weight of the KL (default: 1)"
    )
    group.add_argument(
        "--warm-up",
        type=values.not_negative,
        metavar="EPOCHS",
        help="epochs in which beta rises from 0, so that latents do not stay unused; 0 for none "
        f"(default: a third of the epochs, at most {WARM_UP})",
    )
    group.add_argument(
        "--epochs",
        type=values.whole(1),
        help=f"passes over the data (default: as many as make {STEPS} steps, at least "
        f"{FEWEST_EPOCHS}; for digits 500)",
    )
    group.add_argument(
        "--patience",
        type=values.whole(0),
        metavar="EPOCHS",
        help="keep the epoch with the best bound on held-out data, and end when for so many "
        "epochs, at the final beta, none was better; 0 for all epochs, and the last one "
        f"(default: a tenth of the epochs, at least {LEAST_PATIENCE})",
    )
    group.add_argument(
        "--batch-size", type=values.whole(1), default=128, help="data per step (default: 128)"
    )
    group.add_argument(
        "--lr", type=values.positive, default=2e-3, help="learning rate of Adam (default: 0.002)"
    )
    group.add_argument(
        "--clip-norm", type=values.positive, help="clip the norm of the gradient (default: never)"
    )
    group.add_argument(
        "--elbo",
        **_choice({name: name for name in ("trace", "analytic")}),
        default="trace",
        help="KL by sampling, or in closed form where that is right (default: trace)",
    )
    group.add_argument(
        "--precision",
        **_choice({name: name for name in PRECISIONS}),
        default="float32",
        help="of the networks; densities stay in float32 (default: float32)",
    )


def _add_importance(parser: Any) -> None:
    parser.add_argument(
        "--importance-samples",
        type=values.whole(0),
        metavar="N",
        help=f"draws per datum for log p(x), 0 to leave it out (default: {MANY_SAMPLES}, "
        f"for more than {MANY_DATA} data {FEW_SAMPLES})",
    )


def _add_picture(parser: _Parser, default: str) -> None:
    parser.add_argument(
        "--out",
        type=values.picture,
        default=Path(default),
        metavar="PICTURE",
        help=f"file to write (default: {default})",
    )


def _add_common(parser: _Parser) -> None:
    group = parser.add_argument_group("machine")
    group.add_argument(
        "--seed",
        type=values.whole(0, 2**63 - 1),
        default=0,
        help="of all that is random (default: 0)",
    )
    group.add_argument(
        "--device", type=values.device, default=torch.device("cpu"), help="default: cpu"
    )
    group.add_argument(
        "--threads",
        type=values.whole(1, 1024),
        help="threads of the CPU (default: torch's choice)",
    )
