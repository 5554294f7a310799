"""The README's programs run as they stand, its tables tell the truth, all links lead somewhere."""

import json
import re
from pathlib import Path
from types import ModuleType

import pytest

import pyro_vae
from pyro_vae import experiments, guides, likelihoods, models, priors, schedules
from pyro_vae.experiments.gallery import PICTURES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
TABLES, SPEED, GALLERY, OWN = (
    ROOT / folder / "README.md"
    for folder in (
        "pyro_vae/experiments",
        "tests/benchmarks",
        "notebooks/gallery",
        "pyro_vae/programs",
    )
)
PAGES = [ROOT / "README.md", TABLES, SPEED, GALLERY, OWN]
PAGES += sorted([*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("notebooks/systems/*.md")])


def section(title):
    return re.split(r"^## ", README.split(f"## {title}\n")[1], flags=re.MULTILINE)[0]


def text(page):
    """What a page says: of a notebook, what its markdown cells say."""
    if page.suffix == ".md":
        return page.read_text()
    cells = json.loads(page.read_text())["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def links(page):
    return re.findall(r"\]\((?!http)([^)\s]+)\)", text(page))


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", text(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "program", PROGRAMS, ids=["trainer", "stock-pyro", "swap", "your-program"]
)
def test_program_runs(program, capsys):
    exec(compile(program, "README.md", "exec"), {})
    numbers = re.findall(r"-?\d+\.\d+", capsys.readouterr().out)
    assert numbers, "the program prints numbers"


def test_the_first_program_is_short_and_so_is_the_page():
    lines = [line for line in PROGRAMS[0].splitlines() if line.strip()]
    assert 10 <= len(lines) <= 15
    assert len(README.splitlines()) <= 220


def test_systems_that_work_today_have_their_parts():
    rows = re.findall(r"^\| \w.*\|$", section("Systems"), flags=re.MULTILINE)[1:]
    assert len(rows) == 16
    homes = (models, guides, likelihoods, schedules, priors, pyro_vae)
    for row in rows:
        for name in re.findall(r"`(\w+)", row):
            assert any(hasattr(part, name) for part in homes), name


def test_parts_table_names_what_exists():
    rows = re.findall(r"^\| \[`(\w+)`\]\S+ \| (.*) \|$", section("Parts"), flags=re.MULTILINE)
    modules = {n for n in pyro_vae.__all__ if isinstance(getattr(pyro_vae, n), ModuleType)}
    assert modules == {module for module, _ in rows}
    for module, contents in rows:
        for name in re.findall(r"`(\w+)`", contents):
            if name != "torchrun":
                assert hasattr(getattr(pyro_vae, module), name), f"{module}.{name}"


def test_every_page_is_looked_at():
    found = {
        page
        for page in ROOT.rglob("README.md")
        if not {"build", "runs"} & set(page.relative_to(ROOT).parts)
        and not any(part.startswith(".") for part in page.relative_to(ROOT).parts)
    }
    assert found == {page for page in PAGES if page.name == "README.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
    for name in re.findall(r"[\w/]+\.py\b", text(page)):
        assert (ROOT / name).is_file() or (page.parent / name).is_file(), name


def test_the_gallery_has_a_picture_of_every_system():
    shown = {link for link in links(GALLERY) if link.endswith(".png")}
    assert {f"{name}.png" for name in PICTURES} <= shown
    assert {path.name for path in GALLERY.parent.glob("*.png")} == shown


def test_experiments_and_numbers_are_those_of_the_pages_they_come_from():
    named = set(re.findall(r"pyro-vae experiment\s+([a-z][a-z-]+)", text(TABLES) + text(GALLERY)))
    assert named == set(experiments.NAMES)
    measured = re.findall(r"\b\d+\.\d+\b", section("Speed"))
    assert measured and set(measured) <= set(re.findall(r"\b\d+\.\d+\b", text(SPEED)))
