"""The README's programs run as they stand, and its table tells the truth."""

import re
from pathlib import Path

import pytest

import pyro_vae
from pyro_vae import guides, models
from pyro_vae.experiments.gallery import PICTURES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=["trainer", "stock-pyro", "resume", "swap"])
def test_program_runs(program, capsys):
    exec(compile(program, "README.md", "exec"), {})
    numbers = re.findall(r"-?\d+\.\d+", capsys.readouterr().out)
    assert numbers, "the program prints numbers"


def test_the_first_program_is_short():
    lines = [line for line in PROGRAMS[0].splitlines() if line.strip()]
    assert 10 <= len(lines) <= 15


def test_systems_that_work_today_have_their_parts():
    rows = [line.split("|") for line in README.splitlines() if line.endswith("| yes |")]
    assert len(rows) == 12
    for row in rows:
        for name in re.findall(r"`(\w+)", row[2] + row[3]):
            assert any(hasattr(part, name) for part in (models, guides, pyro_vae))


def test_parts_table_names_what_exists():
    section = README.split("## Parts")[1]
    for module, contents in re.findall(r"^\| `(\w+)` \| (.*) \|$", section, flags=re.MULTILINE):
        for name in re.findall(r"`(\w+)`", contents):
            assert hasattr(getattr(pyro_vae, module), name), f"{module}.{name}"


def test_the_gallery_has_a_picture_of_every_system_and_all_links_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert all((ROOT / link).is_file() for link in links)
    assert {f"gallery/{name}.png" for name in PICTURES} <= set(links)
    assert set(map(str, ROOT.glob("gallery/*.png"))) <= {str(ROOT / link) for link in links}
