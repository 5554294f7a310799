"""The tables of this folder's page, from ``results``: ``python -m pyro_vae.experiments.tables``.

A file of ``results`` is the ``results.json`` that an experiment writes into its folder. A table of
the page stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; all around it is written by
hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..ground.arguments import known
from ..ground.files import write_atomically
from . import ladder_mnist, pca, real_tables, sigma, spatial, vq
from .running import joined, markdown

FOLDER = Path(__file__).parent
PAGE, RESULTS = FOLDER / "README.md", FOLDER / "results"
_MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


class Shown(NamedTuple):
    """What a table shows: the entries that tell rows apart, and by their headings its columns.

    A column is an entry of a row, or a function of the row with its "data", and its number of
    decimals. Rows are ordered by the entries that tell them apart, texts as in ``order``.
    """

    by: tuple[str, ...]
    columns: Mapping[str, tuple[str | Callable[[dict[str, Any]], Any], int | None]]
    order: Iterable[str] = ()


def _same(digits: int, *entries: str) -> dict[str, tuple[str, int]]:
    return {entry: (entry, digits) for entry in entries}


_SCORES = ("MIG", "SAP", "DCI disentanglement")
_COLLAPSE = Shown(
    ("decoder", "depth", "latents", "skip"),
    {
        "system": (lambda row: "Skip-VAE" if row["skip"] else "VAE", 0),
        **_same(0, "decoder", "depth", "latents", "seeds"),
        **_same(2, "ELBO", "ELBO - VAE", "KL"),
        "mutual information": ("MI", 2),
        "information - VAE": ("MI - VAE", 2),
        "active units": ("AU", 1),
        "units - VAE": ("AU - VAE", 1),
        **_same(2, "rise in the last tenth"),
    },
)
_VQ = Shown(
    ("system",),
    _same(0, "system", "seeds")
    | {
        "bits/dim": ("bits/dim", 3),
        "bits/dim, learned prior": ("learned prior", 3),
        "learned prior - continuous": ("learned prior - continuous", 3),
        "squared error": ("squared error", 2),
        **_same(1, *vq.IMAGES, *vq.KERNEL),
        **_same(0, "codes used", "prior epochs"),
    },
    vq.ALL,
)
_SPATIAL = Shown(
    ("system",),
    _same(0, "system", "seeds", "parameters")
    | _same(2, "ELBO", "log p(x)", "log p(x) - vectors")
    | _same(3, "bits/dim", "bits/dim - vectors")
    | {"KL": ("kl", 1)}
    | _same(0, "ms per step"),
    spatial.SYSTEMS,
)
TABLES = {
    "sigma": Shown(
        ("system",),
        _same(0, "system", "seeds")
        | _same(2, "ELBO", "ELBO - sigma learned")
        | _same(2, "squared error", "squared error - sigma learned", *sigma.IMAGES)
        | _same(1, *sigma.KERNEL)
        | _same(4, "sigma"),
        sigma.SYSTEMS,
    ),
    "collapse": _COLLAPSE,
    "collapse-masked": _COLLAPSE,
    "beta": Shown(
        ("beta",),
        {
            "beta": ("beta", None),
            **_same(0, "seeds"),
            **_same(2, "ELBO", "ELBO - beta 1", "reconstruction", "KL"),
            "active units of 10": ("AU", 1),
            **_same(2, *_SCORES),
        },
    ),
    "vq": _VQ,
    "vq-small": _VQ,
    "ladder": Shown(
        ("system", "layers", "epochs"),
        _same(0, "system", "epochs", "seeds")
        | _same(2, "ELBO", "log p(x)", "log p(x) - VAE", "log p(x) - VAE+BN+WU")
        | _same(0, "importance samples")
        | _same(2, "annealed", "annealed - importance")
        | {"published": (lambda row: ladder_mnist.published(row, row["data"]), 2)}
        | {"KL": ("kl", 1), "active units": ("active units", 0)}
        | _same(0, "active by KL"),
        ladder_mnist.SYSTEMS,
    ),
    "spatial-mnist": _SPATIAL,
    "spatial-sprites": _SPATIAL,
    "spatial-photographs": _SPATIAL,
    "pca": Shown(
        ("table", "system"),
        _same(0, "table", "rows", "columns", "latents", "system", "seeds")
        | _same(2, "PCA", "ELBO", "log p(x)", "log p(x) - PCA")
        | {"epoch": ("epoch kept", 0), "k above 0.7, %": ("k above 0.7, %", 0)},
        (*real_tables.TABLES, *pca.SYSTEMS),
    ),
    "mnist": Shown(
        ("system",),
        _same(0, "system", "epochs", "seeds")
        | _same(2, "ELBO", "log p(x)")
        | _same(0, "importance samples", "training seconds"),
    ),
    "small-tables": Shown(
        ("table",),
        _same(0, "table")
        | _same(2, "ELBO", "log p(x)", "independent normals", "probabilistic PCA"),
    ),
}


def rendered(held: Mapping[str, Any], shown: Shown) -> str:
    """The table of a file of results, in Markdown, without columns that no row has."""
    texts = {name: i for i, name in enumerate(shown.order)}

    def place(row: dict[str, Any]) -> list[Any]:
        found = (row[name] for name in shown.by)
        return [texts.get(v, len(texts)) if isinstance(v, str) else v for v in found]

    of = {"data": held.get("settings", {}).get("data")}
    rows = [
        {
            heading: entry(of | row) if callable(entry) else row.get(entry)
            for heading, (entry, _) in shown.columns.items()
        }
        for row in sorted(joined(held["rows"], shown.by, held["estimates"]), key=place)
    ]
    digits = {
        heading: digits
        for heading, (_, digits) in shown.columns.items()
        if any(row[heading] is not None for row in rows)
    }
    return markdown(rows, digits).replace("+-", "±")


def generated(page: str, results: Path = RESULTS) -> str:
    """A page with the tables that ``results`` tells now.

    Raises:
        ValueError: marks of a table that ``TABLES`` does not have.
        FileNotFoundError: no results of that name.
    """

    def table(found: re.Match) -> str:
        start, name, end = found.groups()
        known("table", name, TABLES)
        held = json.loads((results / f"{name}.json").read_text())
        return f"{start}{rendered(held, TABLES[name])}\n{end}"

    return _MARKED.sub(table, page)


if __name__ == "__main__":
    write_atomically(PAGE, generated(PAGE.read_text()))
