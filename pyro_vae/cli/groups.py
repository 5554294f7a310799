"""The options of the command line by what they are about, and their defaults."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from .. import data, guides, likelihoods
from ..ground.kinds import KINDS
from ..infer import Budget
from ..training.precision import PRECISIONS
from . import values
from .messages import kebab

_T = TypeVar("_T")

STEPS, FEWEST_EPOCHS = 6000, 20
LATENTS, DENSE, LARGEST_DENSE = (20,), (256, 256), 1024
# Of signals: channels of the map that is the latent, of the networks, which halve as often, and
# the deviation of the data over the first sigma
SIGNAL_LATENTS, SIGNAL_CHANNELS, SIGNAL_RATIO = 4, (16, 32, 32, 32), 10
LEAST_SECONDS = 10.0
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
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return [p.name for p in parameters if p.default is p.empty and p.kind not in kinds]


# Those that a model of this command line is enough to build
GUIDES = {n: g for n, g in _public(guides, guides.Guide).items() if _needs(g) == ["model"]}
# Those that need no argument
LIKELIHOODS = {
    n: found
    for n, found in _public(likelihoods, likelihoods.Likelihood).items()
    if not _needs(found)
}
BINARIZE = {"dynamic": "dynamic", "static": "static", "none": None}


def choice(table: Mapping[str, Any]) -> dict[str, Any]:
    """What makes an option one of these names."""
    return {"type": values.named(table), "metavar": "{" + ",".join(table) + "}"}


def add_model(parser: Any) -> None:
    """The file of a trained pair."""
    parser.add_argument(
        "model",
        type=values.model,
        metavar="MODEL.pt",
        help="what train wrote, or the folder that holds it",
    )


def add_data(parser: Any, *, default: str | None = None, split: str | None = None) -> None:
    """Which data, and how they are read; from the run itself where there is no default.

    ``split`` tells which part is used by default, where it may be chosen.
    """
    add = parser.add_argument_group("data").add_argument
    add(
        "--data",
        default=default,
        metavar="NAME_OR_PATH",
        help=f"one of {', '.join(data.NAMES)}; a folder of images or of .wav files; an .npy file; "
        "a .wav file; or an .npz file with x[, y] or x_train, x_test[, y_train, y_test] "
        f"(default: {default or 'that of the training run'})",
    )
    add(
        "--data-root",
        type=Path,
        metavar="FOLDER",
        help="where data sets are kept (default: $PYRO_VAE_DATA, else ~/.cache/pyro_vae)",
    )
    add("--download", action="store_true", help="fetch a data set that is missing")
    add(
        "--size",
        type=values.pixels,
        metavar="PIXELS",
        help="height and width of the images of a folder, such as 64 or 48x64 (default: those of "
        "the first image); of shapes and bouncing (default: 32)",
    )
    add(
        "--length",
        type=values.integer(1),
        metavar="SAMPLES",
        help="of each file of a folder of sounds, from its beginning (default: all, where these "
        "are of one length); of the clips into which one .wav file is cut; of a tone (default: "
        "2048); frames of bouncing (default: 16)",
    )
    add(
        "--rate",
        type=values.integer(1),
        metavar="HZ",
        help="samples per second of signals (default: what .wav files tell; of tones 8000)",
    )
    add(
        "--kind",
        **choice({name: name for name in KINDS}),
        help="what the dimensions of a datum mean, which decides on networks and pictures: signal "
        "(c, t), image (c, h, w), video (c, t, h, w), tokens for the lines of a text file, "
        "sequence of vectors (t, d), ... "
        "(default: what the data tell, else a guess by the shape, in which (2, 100) is an image)",
    )
    add(
        "--vocabulary",
        **choice({name: name for name in ("characters", "words")}),
        help="of what lines of text consist (default: characters, or that of the trained model)",
    )
    add("--grey", action="store_true", help="turn the images of a folder into one grey channel")
    recorded = (
        "as in training"
        if split
        else "dynamic for the likelihood bernoulli and, where none is named, for digits, mnist, "
        "fashion-mnist, omniglot, shapes and bouncing; else none"
    )
    # Without a default value, for None is a choice
    add(
        "--binarize",
        **choice(BINARIZE),
        default=argparse.SUPPRESS,
        help="grey values as probabilities of 1: dynamic draws 0 and 1 afresh in each batch, "
        f"static once, none keeps the values (default: {recorded})",
    )
    if split:
        parts = ("test", "train", "all")
        add(
            "--split",
            **choice({name: name for name in parts}),
            default=split if split in parts else None,
            help=f"which part of the data; all in the order of their file (default: {split})",
        )


def add_pair(parser: Any) -> None:
    """What is trained."""
    add = parser.add_argument_group("model and guide").add_argument
    add(
        "--latents",
        type=values.latents,
        metavar="SIZES",
        help="size of z1, or sizes of z1,z2,... from the data to the top (default: 20; of signals "
        "(c, t) a map of 4 channels, 4xT with T a sixteenth of t, for the guides bottom-up and "
        "ladder); 8x14x14,16x7x7,32 are maps of 8 channels, of 16, and a vector",
    )
    add(
        "--hidden",
        type=values.hidden,
        default=argparse.SUPPRESS,
        metavar="WIDTHS",
        help="hidden widths seen from the data, such as 400,400; linear for no hidden layer; conv "
        f"for convolutional networks (default: {','.join(map(str, DENSE))}; conv for images of "
        f"more than {LARGEST_DENSE} values, for signals and for video)",
    )
    add(
        "--channels",
        type=values.sizes,
        metavar="CHANNELS",
        help="of convolutional networks, after each halving of the resolution, such as 32,64,128 "
        "(default: 32,64 for images up to 32 x 32; 16,32,32,32 for signals without --latents; "
        "more for all else)",
    )
    add(
        "--blocks",
        type=values.integer(0),
        help="residual blocks after each halving (default: 1; 0 for images up to 32 x 32)",
    )
    add(
        "--guide",
        type=values.named(GUIDES),
        metavar="NAME",
        default=guides.BottomUp,
        help=f"posterior q(z|x): {', '.join(GUIDES)}; delta, one point, makes an autoencoder "
        "(default: bottom-up)",
    )
    add(
        "--likelihood",
        type=values.named(LIKELIHOODS),
        metavar="NAME",
        help=f"p(x|z): {', '.join(LIKELIHOODS)}; bernoulli is for 0 and 1, continuous-bernoulli "
        "for [0, 1], gaussian for real numbers, laplace and student-t for those with outliers, "
        "log-normal for positive ones, poisson and negative-binomial for counts, "
        "categorical and discretized-logistic for pixels k / (levels - 1) (default: bernoulli for "
        "values 0 and 1, and for what is binarised; continuous-bernoulli for others in [0, 1]; "
        "gaussian for all others; of tables with categories, one for each kind of column)",
    )
    add(
        "--sigma",
        type=values.number_or_word,
        help="standard deviation of the likelihood gaussian, scale of laplace, student-t and, of "
        "logarithms, log-normal: a number, learned, optimal (gaussian, log-normal), per_pixel or "
        "predicted (default: learned, for signals from a tenth of their deviation on; of tables "
        "per_pixel)",
    )
    add(
        "--standardize",
        action=argparse.BooleanOptionalAction,
        help="give each column, or pixel, mean 0 and deviation 1 before the networks see it, for "
        "likelihoods that have a --sigma; samples, pictures and bounds are in the units of the "
        "data (default: for tables)",
    )
    add(
        "--levels",
        type=values.integer(2, 2**16),
        help="values of a discrete pixel: 256 for 8 bits, 17 for digits (default: 256)",
    )
    add(
        "--skip", action="store_true", help="each network sees all latents above it, in each layer"
    )
    add(
        "--codes",
        type=values.integer(2),
        metavar="K",
        help="a VQ-VAE: a grid of K discrete codes in place of latents and guide, and then a "
        "prior over grids, of as many epochs at most, from which samples are drawn",
    )
    add("--conditional", action="store_true", help="condition model and guide on the labels")
    add(
        "--condition-on",
        type=values.names,
        metavar="COLUMNS",
        help="columns of a table that are classes, text or whole numbers, such as site,sex: no "
        "data, but what model and guide are told of each datum",
    )
    add(
        "--condition-on-numbers",
        type=values.names,
        metavar="COLUMNS",
        help="likewise columns that are numbers, such as age, which are standardised",
    )
    add(
        "--exposure",
        metavar="COLUMN",
        help="column of a table to which the rates of its counts are proportional, such as a "
        "time or the number of all counts (default likelihood: poisson)",
    )


def add_training(parser: Any) -> None:
    """How it is trained."""
    add = parser.add_argument_group("training").add_argument
    add("--beta", type=values.not_negative, default=1.0, help="weight of the KL (default: 1)")
    add(
        "--warm-up",
        type=values.not_negative,
        metavar="EPOCHS",
        help="epochs in which beta rises from 0, so that latents do not stay unused; 0 for none "
        f"(default: a third of the epochs, at most {WARM_UP}; 0 for a table of numeric columns, "
        "which begins as factor analysis)",
    )
    add(
        "--epochs",
        type=values.integer(1),
        help=f"passes over the data (default: as many as make {STEPS} steps, at least "
        f"{FEWEST_EPOCHS}; for digits 500)",
    )
    add(
        "--patience",
        type=values.integer(0),
        metavar="EPOCHS",
        help="keep the epoch with the best bound on held-out data, and end when for so many "
        "epochs, at the final beta, none was better; 0 for all epochs, and the last one "
        f"(default: a tenth of the epochs, at least {LEAST_PATIENCE})",
    )
    add("--batch-size", type=values.integer(1), default=128, help="data per step (default: 128)")
    add(
        "--accumulate",
        type=values.integer(1),
        metavar="PARTS",
        help="add up the gradient of a step from so many parts of its data, to need the memory of "
        "one (default: 1)",
    )
    add("--lr", type=values.positive, default=2e-3, help="learning rate of Adam (default: 0.002)")
    add("--clip-norm", type=values.positive, help="clip the norm of the gradient (default: never)")
    add(
        "--elbo",
        **choice({name: name for name in ("trace", "analytic")}),
        default="trace",
        help="KL by sampling, or in closed form where that is right (default: trace)",
    )
    add(
        "--precision",
        **choice({name: name for name in PRECISIONS}),
        default="float32",
        help="of the networks; densities stay in float32 (default: float32)",
    )


def add_importance(parser: Any) -> None:
    """How log p(x) is estimated."""
    parser.add_argument(
        "--importance-samples",
        type=values.integer(0),
        metavar="N",
        help="draws per datum for log p(x), 0 to leave it out (default: until their error is "
        "below a fifth of the standard error over the data, or for about as long as training "
        f"took, at least {LEAST_SECONDS:.0f} seconds, with at most {Budget.samples} draws; the "
        "same number gives the same result again)",
    )


def add_out(parser: Any, kind: Callable[[str], Path], default: str, told: str = "") -> None:
    """Where a picture or a table goes."""
    parser.add_argument(
        "--out",
        type=kind,
        default=Path(default),
        metavar="FILE",
        help=f"file to write{told} (default: {default})",
    )


def add_common(parser: Any) -> None:
    """What every command has."""
    add = parser.add_argument_group("machine").add_argument
    add(
        "--seed",
        type=values.integer(0, 2**63 - 1),
        default=0,
        help="of all that is random (default: 0)",
    )
    add("--device", type=values.device, default=torch.device("cpu"), help="default: cpu")
    add(
        "--threads",
        type=values.integer(1, 1024),
        help="threads of the CPU (default: torch's choice)",
    )
