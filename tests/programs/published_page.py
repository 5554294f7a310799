"""The table of published shapes in the documentation: what goes through, what is refused and how.

Run: python tests/programs/published_page.py tries all, and writes what it finds into
published/outcomes.json, with which the tests agree, and into pyro_vae/programs/README.md.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from published import CELLS, OUTCOMES, PUBLISHED, REFUSED, SWAPS, TOLD, UNBUILT, UNTRAINED
from published.swapped import FAMILIES, guide_of
from published.uses import USES, made

from pyro_vae.infer import UntrainedWarning

PAGE = Path(__file__).parents[2] / "pyro_vae" / "programs" / "README.md"
TITLE = "## Published shapes\n"
TEXT = """
Small programs in the shape of those that Pyro publishes (its examples, tutorials and contributed
modules), each through stock `pyro.infer.SVI`, and then through this library, where losses,
gradients and bounds are those of stock Pyro. A number is that of the one line below with which a
use is refused, or, behind "yes", that a warning tells. The tests make this table.
"""
SWAPPED = """
The guides of this library in the place of each program's own, with an autoguide of Pyro for what
all data share. Where one is built, its bound after equal training is at least that of the own
guide, and the log-density at the point mass of `Delta` at least the mean of that guide's draws.
"""
Lines = Mapping[tuple[str, str], str]


def table(columns: Iterable[str], cells: Collection, refused: Lines, told: Lines) -> list[str]:
    """A row per program, and under it the lines that its numbers stand for."""
    notes: dict[str, int] = {}
    columns = [*columns]
    lines = [f"| program | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name in PUBLISHED:
        row = []
        for column in columns:
            text = {**refused, **told}.get((name, column))
            note = "" if text is None else f" {notes.setdefault(text, len(notes) + 1)}"
            answer = "no" if (name, column) in refused else "yes"
            row.append(f"{answer}{note}" if (name, column) in cells else "")
        lines.append(f"| {name} | {' | '.join(row)} |")
    return [*lines, "", *(f"{number}. {text}" for text, number in notes.items())]


def page(refused: Lines = REFUSED, told: Lines = TOLD, unbuilt: Lines = UNBUILT) -> str:
    """The whole page with that section."""
    uses = table(USES, CELLS, refused, told)
    swaps = table(FAMILIES, SWAPS, unbuilt, {})
    section = "\n".join([TITLE + TEXT, *uses, SWAPPED, *swaps]).rstrip() + "\n"
    return PAGE.read_text().partition(TITLE)[0] + section


def tried(name: str, use: str) -> tuple[str, str]:
    """Whether a use is "refused" or "told", and the line; "" for neither."""
    with warnings.catch_warnings(record=True) as told, tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("always")
        if name in UNTRAINED:
            warnings.simplefilter("ignore", UntrainedWarning)
        try:
            USES[use](PUBLISHED[name], Path(folder))
        except (ValueError, TypeError, RuntimeError) as error:
            return "refused", str(error)
    return ("told", str(told[0].message)) if told else ("", "")


def why_unbuilt(name: str, family: str) -> str:
    """The line with which a guide of the library is refused, "" for none."""
    with warnings.catch_warnings(action="ignore"):
        try:
            guide_of(made(PUBLISHED[name]), family)
        except (ValueError, TypeError) as error:
            return str(error)
    return ""


def main() -> None:
    """Try all and write both."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, dict[str, str]]] = {"refused": {}, "told": {}, "unbuilt": {}}
    for name, use in CELLS:
        kind, line = tried(name, use)
        if kind:
            found[kind].setdefault(name, {})[use] = line
    for name, family in SWAPS:
        if line := why_unbuilt(name, family):
            found["unbuilt"].setdefault(name, {})[family] = line
    OUTCOMES.write_text(json.dumps(found, indent=1) + "\n")
    flat = (
        {(name, use): line for name, lines in found[kind].items() for use, line in lines.items()}
        for kind in found
    )
    PAGE.write_text(page(*flat))


if __name__ == "__main__":
    main()
