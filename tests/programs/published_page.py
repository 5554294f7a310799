"""The table of published shapes in the documentation: what goes through, what is refused and how.

Run: python tests/programs/published_page.py writes it into pyro_vae/programs/README.md.
"""

from __future__ import annotations

from pathlib import Path

from published import PUBLISHED, REFUSED, TOLD
from published.uses import USES

PAGE = Path(__file__).parents[2] / "pyro_vae" / "programs" / "README.md"
TITLE = "## Published shapes\n"
TEXT = """
Small programs in the shape of those that Pyro publishes (its examples, tutorials and contributed
modules), each through stock `pyro.infer.SVI`, and then through this library, where losses,
gradients and bounds are those of stock Pyro. A number is that of the one line below with which a
use is refused, or, behind "yes", that a warning tells. The tests make this table.
"""


def table() -> str:
    """The section as it has to be."""
    notes: dict[str, int] = {}
    lines = [f"| program | {' | '.join(USES)} |", "|---" * (1 + len(USES)) + "|"]
    for name in PUBLISHED:
        cells = []
        for use in USES:
            text = (REFUSED | TOLD).get((name, use))
            note = "" if text is None else f" {notes.setdefault(text, len(notes) + 1)}"
            cells.append(f"no{note}" if (name, use) in REFUSED else f"yes{note}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    said = [f"{number}. {text}" for text, number in notes.items()]
    return "\n".join([TITLE + TEXT, *lines, "", *said]).rstrip() + "\n"


def page() -> str:
    """The whole page with that section."""
    return PAGE.read_text().partition(TITLE)[0] + table()


if __name__ == "__main__":
    PAGE.write_text(page())
