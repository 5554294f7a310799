"""What is built and installed is what the files say."""

import configparser
import importlib.util
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
URL = "https://host.example/owner/name"
built = runpy.run_path(str(ROOT / "setup.py"))


def requirements():
    file = configparser.ConfigParser()
    file.read(ROOT / "setup.cfg")
    return file["options"]["install_requires"].split("\n")[1:]


def test_every_link_of_the_built_readme_leads_to_a_file_of_the_repository():
    text = (ROOT / "README.md").read_text()
    made = built["described"](URL)
    readme = made["long_description"]
    assert re.sub(rf"{URL}/(blob|raw)/HEAD/", "", readme) == text
    assert not re.findall(r"\]\((?!https://)", readme)
    paths = re.findall(rf"{URL}/(?:blob|raw)/HEAD/([^)]+)", readme)
    assert len(paths) > 30 and all((ROOT / path).exists() for path in paths)
    pictures = [path for path in paths if path.endswith(".png")]
    assert len(pictures) == readme.count(f"{URL}/raw/")
    assert made["url"] == URL and all(
        page.startswith(URL) for page in made["project_urls"].values()
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a](b.md)", "[a](U/blob/HEAD/b.md)"),
        ("![a](b.png)", "![a](U/raw/HEAD/b.png)"),
        ("[![a](b.png)](c.md)", "[![a](U/raw/HEAD/b.png)](U/blob/HEAD/c.md)"),
        ("[a](https://b) [c](#d)", "[a](https://b) [c](#d)"),
    ],
)
def test_links(text, expected):
    assert built["absolute"](text, "U") == expected


def test_without_an_address_the_readme_stays_and_says_so(capsys):
    assert built["described"]("") == {}
    assert "set PYRO_VAE_URL" in capsys.readouterr().err


def test_each_requirement_has_a_lower_bound_that_can_be_tried():
    for line in requirements():
        assert re.fullmatch(r"[\w-]+ >= [\d.]+(, < \d+)?", line), line


@pytest.mark.parametrize("name", ["torch", "pyro-ppl"])
def test_what_private_names_are_used_of_has_an_upper_bound(name):
    (line,) = [line for line in requirements() if line.split()[0] == name]
    assert ", < " in line
    assert importlib.util.find_spec(name.removesuffix("-ppl")) is not None
