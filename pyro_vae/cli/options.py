"""The options of each command, and the help that teaches them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from .. import experiments
from ..version import __version__
from .completion import SHELLS

_DESCRIPTION = """\
Train variational autoencoders that are Pyro programs, and look at what they have learnt.

  pyro-vae train                            8 x 8 digits, in about a minute
  pyro-vae train --data mnist --download --out runs/mnist
  pyro-vae train --data photos/ --likelihood discretized-logistic
  pyro-vae evaluate runs/digits/model.pt
  pyro-vae sample runs/digits/model.pt -n 100 --out samples.png
  pyro-vae encode runs/digits/model.pt --out latents.csv
  pyro-vae outliers runs/digits/model.pt --data new.npy
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
  by columns of a table    pyro-vae train --data t.csv --condition-on site
  a Skip-VAE               pyro-vae train --latents 16,8 --skip
  on 4 GPUs                torchrun --nproc-per-node 4 -m pyro_vae train --device cuda
  grey pixels              pyro-vae train --likelihood continuous-bernoulli
  17 levels of grey        pyro-vae train --likelihood categorical --levels 17
  a table of numbers       pyro-vae train --data table.npy
  photographs              pyro-vae train --data photos/ --size 64
  sound, by a VQ-VAE       pyro-vae train --data folder_of_wavs/ --codes 256"""

_EVALUATE = """\
Print the bound (ELBO), its reconstruction and KL terms, log p(x) by importance sampling, for about
as long as training took at most (--importance-samples), and what models without a network achieve
that are fitted to the training data: independent ones of each element and, beside a density,
probabilistic PCA; each with its standard error over the data. The data are the test set of the
training run (run.json beside MODEL.pt tells), unless --data and --split name others."""

_SAMPLE = """\
Draw new data from a trained model, and write them as a picture (.png, .pdf, .svg, ...), or as
numbers: .npy is an array (n, ...), .csv and .parquet have a line for each, names of columns, and
the class of each where the model is conditional. Signals also go into a sound, one after another
(.wav), and videos into one that moves (.gif). Text is printed, unless --out names such a file.
--data and what belongs to it are for --prior mixture alone, --rate for a .wav as well."""

_ENCODE = """\
Write the means of q(z|x), a row per datum: .csv and .parquet have a column for each unit, such as
z1[0], and the labels and names of rows that the data have; .npy is an array (n, units) of one
site. Of a VQ-VAE they are the numbers of the codes. The data are all those of the training run, in
the order of their file (run.json beside MODEL.pt tells), unless --data and --split name others."""

_OUTLIERS = """\
Tell which data are rare under the model, the rarest first: E_q[log q(z)], in nats, is low where
the training data, of which q(z) is made, are thin in latent space; log p(x) is low where the model
expects none. Beside each is the share of the training data that are as rare or rarer: of data like
these every share from 0 to 100 % is as frequent. A model that has learnt its training data by
heart finds all others rare. The data are all of --data, or the test set of the training run
(run.json beside MODEL.pt tells)."""

_COMPLETION = """\
Print what makes a shell complete commands, options and their values. For this session:

  eval "$(pyro-vae completion bash)"

and for all to come: write it into ~/.bashrc, or for zsh, with zsh in place of bash, into ~/.zshrc
after compinit."""

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
    """The command of a command line, given without the program's name, and its options.

    ``UsageError`` for an unknown command or option, a missing or a bad value; ``SystemExit`` after
    ``--help``.
    """
    for argument in argv:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"arguments: expected text in UTF-8, got {argument!r}: rename the file or folder"
            ) from None
    args, unknown = _parser(argv).parse_known_args(argv)
    if unknown:
        from ..ground.arguments import guess

        options = [f"--{name.replace('_', '-')}" for name in vars(args)]
        meant = guess(unknown[0].partition("=")[0], options)
        raise UsageError(
            f"unknown argument {unknown[0]}{meant} (see pyro-vae {args.command} --help)"
        )
    return args


def _add_train(train: argparse.ArgumentParser) -> None:
    from . import groups, values

    groups.add_data(train, default="digits")
    groups.add_pair(train)
    groups.add_training(train)
    group = train.add_argument_group("output")
    group.add_argument("--out", type=Path, metavar="FOLDER", help="default: runs/DATA")
    group.add_argument("--quiet", action="store_true", help="print nothing but errors")
    group.add_argument(
        "--checkpoint",
        type=values.integer(1),
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
    groups.add_importance(group)
    groups.add_common(train)


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    from . import groups

    groups.add_model(evaluate)
    evaluate.add_argument("--json", action="store_true", help="print JSON in place of a table")
    groups.add_importance(evaluate)
    groups.add_data(evaluate, split="test")
    groups.add_common(evaluate)


def _add_sample(sample: argparse.ArgumentParser) -> None:
    from . import groups, values

    groups.add_model(sample)
    sample.add_argument("-n", type=values.integer(1), default=64, help="how many (default: 64)")
    sample.add_argument(
        "--label",
        help="class to draw, of a conditional model, by its name or number (default: all)",
    )
    sample.add_argument(
        "--given",
        type=values.covariates,
        metavar="NAME=VALUE,...",
        help="what the model is told, where it was trained with --condition-on, such as "
        "site=Bonn,age=40,exposure=100, classes by name or number (default: the first classes, "
        "mean numbers and exposure)",
    )
    sample.add_argument(
        "--draw", action="store_true", help="show draws of x in place of the means of p(x|z)"
    )
    sample.add_argument(
        "--prior",
        **groups.choice({name: name for name in ("model", "mixture")}),
        default="model",
        help="where the top latent is drawn from: the model's p(z), or a mixture of normals that "
        "is fitted to q(z|x) of data, those of training by default (default: model)",
    )
    sample.add_argument(
        "--components",
        type=values.integer(1),
        help="normals of --prior mixture (default: 10)",
    )
    told = ": a picture, .npy, .csv or .parquet, .wav of signals, .gif of videos"
    groups.add_out(sample, values.samples, "samples.png", told)
    groups.add_data(sample, split="train")
    groups.add_common(sample)


def _add_encode(encode: argparse.ArgumentParser) -> None:
    from . import groups, values

    groups.add_model(encode)
    encode.add_argument("--site", help="the latent to write, such as z2 (default: all)")
    groups.add_out(encode, values.table, "latents.csv", ", .npy, .csv or .parquet")
    groups.add_data(encode, split="all")
    groups.add_common(encode)


def _add_outliers(outliers: argparse.ArgumentParser) -> None:
    from . import groups, values

    groups.add_model(outliers)
    outliers.add_argument("-n", type=values.integer(1), default=10, help="how many (default: 10)")
    outliers.add_argument(
        "--by",
        **groups.choice({name: name for name in ("density", "likelihood")}),
        default="density",
        help="what is rare: density for a low E_q[log q(z)], likelihood for a low log p(x) "
        "(default: density)",
    )
    outliers.add_argument(
        "--importance-samples",
        type=values.integer(0),
        default=50,
        metavar="N",
        help="draws per datum for log p(x), 0 to leave it out (default: 50)",
    )
    outliers.add_argument(
        "--reference",
        metavar="NAME_OR_PATH",
        help="data to compare with (default: those of the training run)",
    )
    outliers.add_argument(
        "--out",
        type=values.table,
        metavar="FILE",
        help="file for all data in their order, .csv, .parquet or .npy (default: none)",
    )
    groups.add_data(outliers, split="all of --data, test of the training run")
    groups.add_common(outliers)


def _add_interpolate(interpolate: argparse.ArgumentParser) -> None:
    from . import groups, values

    groups.add_model(interpolate)
    for name, default, brief in (("--from", 0, "first"), ("--to", 1, "last")):
        interpolate.add_argument(
            name,
            type=values.integer(0),
            default=default,
            metavar="ROW",
            help=f"{brief} datum (default: {default})",
        )
    interpolate.add_argument(
        "--steps", type=values.integer(2), default=10, help="data in the row (default: 10)"
    )
    groups.add_out(interpolate, values.picture, "interpolation.png")
    groups.add_data(interpolate, split="test")
    groups.add_common(interpolate)


def _add_experiment(experiment: argparse.ArgumentParser) -> None:
    experiment.add_argument("name", choices=experiments.NAMES, metavar="NAME")
    experiment.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    experiment.set_defaults(threads=None)


def _add_completion(completion: argparse.ArgumentParser) -> None:
    completion.add_argument("shell", choices=SHELLS, metavar="{" + ",".join(SHELLS) + "}")


_COMMANDS = {
    "train": (
        _add_train,
        dict(
            help="train a model and a guide",
            description=_TRAIN,
            epilog=f"{_TRAIN_EXAMPLES}\n\n{_STATUS}",
        ),
    ),
    "evaluate": (_add_evaluate, dict(help="print the evaluation table", description=_EVALUATE)),
    "sample": (_add_sample, dict(help="draw new data", description=_SAMPLE)),
    "encode": (_add_encode, dict(help="write the latents of data", description=_ENCODE)),
    "outliers": (_add_outliers, dict(help="tell which data are rare", description=_OUTLIERS)),
    "interpolate": (
        _add_interpolate,
        dict(help="go from one datum to another", description=_INTERPOLATE),
    ),
    "experiment": (
        _add_experiment,
        dict(help="run a published comparison", description=_EXPERIMENT),
    ),
    "completion": (
        _add_completion,
        dict(help="let a shell complete all this", description=_COMPLETION),
    ),
}


def _parser(argv: Sequence[str]) -> _Parser:
    """That of a command line; only the command that it names knows its options.

    The options of most are the parts of the library, which take seconds to import.
    """
    parser = _Parser(prog="pyro-vae", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"pyro-vae {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    named = next((argument for argument in argv if not argument.startswith("-")), None)
    for name, (add, told) in _COMMANDS.items():
        command = commands.add_parser(name, **told)
        if name == named:
            add(command)
    return parser
