"""What every experiment shares: its options, rows that survive an interruption, tables."""

from __future__ import annotations

import argparse
import functools
import io
import itertools
import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import data
from ..data import Dataset, DataSplits
from ..ground.files import write_atomically
from ..ground.parsing import integer
from ..ground.tables import flat
from ..training.saving import load
from ..training.trainer import Trainer
from . import pairing
from .provenance import Options, made
from .standing import Standing


def parser(
    name: str,
    description: str,
    *,
    epochs: int,
    batch_size: int | None = None,
    data: str = "mnist",
) -> Options:
    """The options of every experiment, ``pyro-vae experiment NAME``, with these defaults.

    The first line of ``description`` is what the experiment shows; without a ``batch_size`` there
    is no such option. ``splits`` loads the ``data``.
    """
    result = Options(
        prog=f"pyro-vae experiment {name}",
        description=description.splitlines()[0],
        allow_abbrev=False,
    )
    add = result.add_argument
    add("--out", type=Path, default=Path("runs", name), metavar="FOLDER")
    add("--epochs", type=integer(1), default=epochs, metavar="N", help=f"default: {epochs}")
    add("--seeds", type=integer(0), nargs="+", default=[0], metavar="SEED", help="default: 0")
    add("--quick", action="store_true", help="a small run; what is given beside it holds")
    add("--threads", type=integer(1), default=torch.get_num_threads(), metavar="N")
    add("--device", help="such as cuda; default: the CPU")
    add(
        "--data",
        default=data,
        help="a name such as mnist, fashion-mnist or omniglot (the split of Burda et al., from "
        f"chardata.mat), a folder of images or a file of arrays; default: {data}",
    )
    add("--data-root", type=Path, metavar="FOLDER", help="default: $PYRO_VAE_DATA")
    add("--progress", action="store_true", help="show a progress bar")
    add("--quiet", action="store_true", help="do not say where it stands")
    if batch_size is not None:
        add("--batch-size", type=integer(1), default=batch_size)
    return result


def splits(args: argparse.Namespace, *, binarize: Any = "auto") -> DataSplits:
    """The data that the options of ``parser`` name; ``binarize`` as in ``data.load``.

    Of omniglot those that published numbers are about.
    """
    return data.load(
        args.data,
        binarize=binarize,
        root=args.data_root,
        split="iwae" if args.data == "omniglot" else None,
        device=args.device,
    )


def first(splits: DataSplits, train: int | None, test: int | None = None) -> DataSplits:
    """The first data of both parts; all of them for None."""
    return DataSplits(splits.name, splits.train[:train], splits.test[:test])


def shared(args: argparse.Namespace, splits: DataSplits) -> dict[str, Any]:
    """What the rows of every experiment have in common."""
    return {
        "data": splits.name,
        "epochs": args.epochs,
        "batch size": args.batch_size,
        "training data": len(splits.train),
        "test data": len(splits.test),
    }


def keys(**values: Iterable[Any]) -> list[dict[str, Any]]:
    """All combinations of values by their names, those of the last name fastest."""
    return [
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    ]


def told(settings: Mapping[str, Any]) -> str:
    """Settings in one line, for below a table."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def deviating(lines: Iterable[str]) -> str:
    """What differs from a paper's recipe, for the end of a table."""
    return "What differs from the paper's recipe:\n\n" + "".join(f"- {line}\n" for line in lines)


class Results:
    """The rows of a table, one JSON file each: what is there is not computed again.

    Several processes may fill one folder, which is made if it is missing, each with rows of its
    own. All rows have the ``settings`` in common: ``ValueError`` for a folder of other ones.
    ``command`` is that of ``Options``, for ``results.json``. Unless it is ``quiet``, lines on
    standard error say where it ``stands``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     key = {"system": "VAE", "seed": 0}
        ...     results = Results(folder, {"epochs": 2})
        ...     _ = results.row(key, lambda: {"ELBO": -1.5})
        ...     again = Results(folder, {"epochs": 2}).row(key, dict)
        >>> again
        {'system': 'VAE', 'seed': 0, 'ELBO': -1.5}
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Mapping[str, Any],
        command: str = "",
        *,
        quiet: bool = False,
    ) -> None:
        self.folder, self.command, self.stands = Path(folder), command, Standing(quiet=quiet)
        (self.folder / "rows").mkdir(parents=True, exist_ok=True)
        self.settings = json.loads(json.dumps(dict(settings)))
        path = self.folder / "settings.json"
        if path.exists() and (stored := json.loads(path.read_text())) != self.settings:
            raise ValueError(
                f"--out: {self.folder} holds an experiment with the settings {stored}, expected "
                f"{self.settings}: choose another folder"
            )
        write_atomically(path, json.dumps(self.settings, indent=1))

    def row(
        self, key: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The row of this key: from its file, else computed and stored.

        The key, numbers and strings, tells the row from the others; ``compute`` makes the row's
        other entries, JSON-able. What it has as "per datum", arrays (n,) by name, goes into a
        file of its own beside the row's, for ``estimates``.
        """
        path = self.path(key, ".json")
        if not self.there(key):
            row = {**key, **compute()}
            if arrays := row.pop("per datum", None):
                np.savez(buffer := io.BytesIO(), **{k: np.asarray(v) for k, v in arrays.items()})
                write_atomically(self.path(key, ".npz"), buffer.getvalue())
            write_atomically(path, json.dumps(row, indent=1))
        return json.loads(path.read_text())

    def train(
        self,
        key: Mapping[str, Any],
        build: Callable[[], Trainer],
        data: Dataset,
        args: argparse.Namespace,
        **fit: Any,
    ) -> Trainer:
        """The trainer of the row of this key, as ``trained``, by the options of ``parser``."""
        fit = {"batch_size": args.batch_size, "progress": args.progress, **fit}
        fit |= {"epochs": args.epochs, "device": args.device}
        fit["callbacks"] = [*fit.get("callbacks", ()), self.stands]
        return trained(self.path(key, ".pt"), build, data, **fit)

    def path(self, key: Mapping[str, Any], suffix: str) -> Path:
        """A file that belongs to the row of this key, such as its checkpoint."""
        name = "-".join(str(value) for value in key.values())
        return self.folder / "rows" / (re.sub(r"[^\w.+-]+", "-", name) + suffix)

    def there(self, key: Mapping[str, Any]) -> bool:
        """Whether the row of this key is stored."""
        return self.path(key, ".json").exists()

    def rows(self) -> list[dict[str, Any]]:
        """All rows so far, of every process."""
        return [json.loads(p.read_text()) for p in sorted((self.folder / "rows").glob("*.json"))]

    def estimates(
        self,
        by: Sequence[str],
        references: Mapping[str, Mapping[str, Any]],
        entries: Sequence[str] = (),
    ) -> list[dict[str, Any]]:
        """Means and paired differences over data and seeds of what rows keep per datum.

        See ``pairing.compared``: ``by`` names the entries that tell systems apart; and
        ``pairing.seed_by_seed`` for ``entries`` of which a row has one number.
        """
        found: dict[tuple[Any, ...], dict[int, Any]] = {}
        rows = []
        for path in sorted((self.folder / "rows").glob("*.json")):
            row, beside = json.loads(path.read_text()), path.with_suffix(".npz")
            rows.append(row)
            if beside.exists():
                with np.load(beside) as arrays:
                    found.setdefault(tuple(row[k] for k in by), {})[row["seed"]] = dict(arrays)
        lines: dict[tuple[Any, ...], dict[str, Any]] = {}
        for line in (
            *pairing.compared(found, by, references),
            *pairing.seed_by_seed(rows, by, references, entries),
        ):
            lines.setdefault(tuple(line[k] for k in by), {}).update(line)
        return list(lines.values())

    def fill(
        self,
        asked: Iterable[Mapping[str, Any]],
        compute: Callable[[Any], Mapping[str, Any]],
        table: Callable[..., str],
        **compared: Any,
    ) -> list[dict[str, Any]]:
        """Compute the rows that are missing, and publish the table of all that are there.

        ``compute`` makes the other entries of the row of a key, see ``row``; ``table`` and what is
        ``compared`` as in ``publish``. Returns all rows.
        """
        options = {"epochs": self.settings["epochs"], "there": self.there, "name": told}
        for key in self.stands.over([*asked], **options):
            self.row(key, functools.partial(compute, key))
        return self.publish(table, **compared)

    def publish(
        self,
        table: Callable[..., str],
        *,
        by: Sequence[str] = (),
        references: Mapping[str, Mapping[str, Any]] | None = None,
        entries: Sequence[str] = (),
    ) -> list[dict[str, Any]]:
        """Write the table of all rows into the folder, and print it; the rows.

        ``table`` makes a text of rows and settings, and, where systems are told apart ``by``
        entries of their rows, of their ``estimates`` with differences to ``references``, of
        ``entries`` seed by seed.
        ``results.json`` has all numbers and how they came about: what ``tables`` makes the page
        of this folder from. ``rows.csv`` has the numbers of the rows as columns.
        """
        if rows := self.rows():
            estimates = self.estimates(by, references or {}, entries) if by else []
            text = table(rows, self.settings, *([estimates] if by else []))
            write_atomically(self.folder / "table.md", text)
            held = {"settings": self.settings, "rows": rows, "estimates": estimates}
            content = json.dumps(made(self.command) | held, indent=1)
            write_atomically(self.folder / "results.json", content + "\n")
            plain = [flat(row) for row in rows]
            columns = {
                name: np.array([row.get(name) for row in plain], dtype=object)
                for name in dict.fromkeys(name for row in plain for name in row)
            }
            data.write(self.folder / "rows.csv", columns)
            print(text)
        return rows


def trained(
    path: Path,
    build: Callable[[], Trainer],
    data: Dataset,
    *,
    epochs: int,
    every: int = 10,
    device: Any = None,
    **fit: Any,
) -> Trainer:
    """A trainer after so many epochs in all, continued from the checkpoint where there is one.

    It is written after each ``every`` epochs; ``fit`` has further arguments of ``Trainer.fit``.
    """
    trainer = load(path, device=device) if path.exists() else build()
    while (done := len(trainer.history)) < epochs:
        trainer.fit(data, epochs=min(every, epochs - done), **fit)
        trainer.save(path)
    return trainer


def over_seeds(rows: Iterable[Mapping[str, Any]], by: Sequence[str]) -> list[dict[str, Any]]:
    """Rows that differ in the seed only, as one: each number a pair (mean, standard deviation).

    One row for each group of the same entries ``by``, in the order of their first rows, with
    "seeds", their number; the deviation of a single seed is NaN. Mappings are merged entry by
    entry; other entries that are no numbers keep the first row's. A row that has "seeds" is one of
    several already, and stays as it is.

    Example:
        >>> rows = [{"system": "VAE", "seed": s, "ELBO": -float(s)} for s in (1, 3)]
        >>> over_seeds(rows, ["system"])[0]["ELBO"]
        (-2.0, 1.4142135623730951)
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in by), []).append(row)
    merged = []
    for first, *others in groups.values():
        if "seeds" in first:
            merged += [first, *others]
            continue
        row = _merged(first, others)
        row.pop("seed", None)
        merged.append({**row, **{k: first[k] for k in by}, "seeds": 1 + len(others)})
    return merged


def _merged(first: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in first.items():
        values = [value, *(row.get(name) for row in others)]
        if all(isinstance(v, Mapping) for v in values):
            result[name] = _merged(value, values[1:])
        elif all(isinstance(v, int | float) for v in values):
            spread = statistics.stdev(values) if others else math.nan
            result[name] = (statistics.fmean(values), spread)
        else:
            result[name] = value
    return result


def joined(
    rows: Iterable[Mapping[str, Any]],
    by: Sequence[str],
    estimates: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """``over_seeds``, with what ``Results.estimates`` by these entries has in its place."""
    result = []
    for row in over_seeds(rows, by):
        fits = (e for e in estimates if all(e.get(k, row[k]) == row[k] for k in by))
        result.append({**row, **next(fits, {})})
    return result


def number(value: Any, digits: int | None = 2) -> str:
    """A number, or a pair (mean, error), for a table, or the means of a mapping; a dash for None.

    Without ``digits`` as many as it needs. An error of 0 is of numbers that are all the same.

    Example:
        >>> number((-98.613, 0.2)), number(None), number((1.0, float("nan"))), number((3.2, 0.0))
        ('-98.61 +- 0.20', '-', '1.00', '3.20')
        >>> number({"z1": (20.46, 0.3), "z2": (3.1, 0.1)}, 1)
        '20.5 / 3.1'
    """
    if value is None or isinstance(value, str):
        return value or "-"
    if isinstance(value, Mapping):
        parts = (v[0] if isinstance(v, Sequence) else v for v in value.values())
        return " / ".join(number(part, digits) for part in parts)
    if isinstance(value, Sequence):
        mean, error = (number(v, digits) for v in value)
        return f"{mean} +- {error}" if value[1] > 1e-12 * abs(value[0]) else mean
    return f"{value:g}" if digits is None else f"{value:.{digits}f}"


def differences(
    lines: Iterable[Mapping[str, Any]], system: str, reference: str, columns: Mapping[str, int]
) -> str:
    """A Markdown table of what lines of ``joined`` are above a reference, where they are."""
    names = {name: f"{name} - {reference}" for name in columns}
    rows = [
        {system: line[system], **{name: line.get(entry) for name, entry in names.items()}}
        for line in lines
        if any(entry in line for entry in names.values())
    ]
    return markdown(rows, {system: 0, **columns})


def markdown(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, int | None]) -> str:
    """A Markdown table of entries of rows, each with so many decimals.

    Example:
        >>> print(markdown([{"system": "VAE", "ELBO": -98.61}], {"system": 0, "ELBO": 1}))
        | system | ELBO |
        |---|---|
        | VAE | -98.6 |
    """
    lines = [[number(row[name], digits) for name, digits in columns.items()] for row in rows]
    head, *table = ("| " + " | ".join(line) + " |" for line in (columns, *lines))
    return "\n".join([head, "|" + "---|" * len(columns), *table])
