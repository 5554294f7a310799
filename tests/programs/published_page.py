"""The table of published shapes in the documentation: what goes through, what is refused and how.

Run: python tests/programs/published_page.py tries all, and writes what it finds into
published/outcomes.json, with which the tests agree, and into pyro_vae/programs/README.md.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from published import CELLS, OUTCOMES, PUBLISHED, REFUSED, TOLD, UNTRAINED
from published.uses import USES

from pyro_vae.infer import UntrainedWarning

PAGE = Path(__file__).parents[2] / "pyro_vae" / "programs" / "README.md"
TITLE = "## Published shapes\n"
TEXT = """
Small programs in the shape of those that Pyro publishes (its examples, tutorials and contributed
modules), each through stock `pyro.infer.SVI`, and then through this library, where losses,
gradients and bounds are those of stock Pyro. A number is that of the one line below with which a
use is refused, or, behind "yes", that a warning tells. The tests make this table.
"""
Lines = Mapping[tuple[str, str], str]


def table(refused: Lines, told: Lines) -> str:
    """The section as it has to be."""
    notes: dict[str, int] = {}
    lines = [f"| program | {' | '.join(USES)} |", "|---" * (1 + len(USES)) + "|"]
    for name in PUBLISHED:
        cells = []
        for use in USES:
            text = {**refused, **told}.get((name, use))
            note = "" if text is None else f" {notes.setdefault(text, len(notes) + 1)}"
            answer = "no" if (name, use) in refused else "yes"
            cells.append(f"{answer}{note}" if (name, use) in CELLS else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    said = [f"{number}. {text}" for text, number in notes.items()]
    return "\n".join([TITLE + TEXT, *lines, "", *said]).rstrip() + "\n"


def page(refused: Lines = REFUSED, told: Lines = TOLD) -> str:
    """The whole page with that section."""
    return PAGE.read_text().partition(TITLE)[0] + table(refused, told)


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


def main() -> None:
    """Try all and write both."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, dict[str, str]]] = {"refused": {}, "told": {}}
    for name, use in CELLS:
        kind, line = tried(name, use)
        if kind:
            found[kind].setdefault(name, {})[use] = line
    OUTCOMES.write_text(json.dumps(found, indent=1) + "\n")
    flat = (
        {(name, use): line for name, lines in found[kind].items() for use, line in lines.items()}
        for kind in ("refused", "told")
    )
    PAGE.write_text(page(*flat))


if __name__ == "__main__":
    main()
