"""The site: its pages say what there is, and all of it works in a browser that has no network."""

import html.parser
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest

import pyro_vae

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "notebooks"
SYSTEMS = [page for page in sorted(SOURCE.glob("systems/*.md")) if page.stem != "index"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WITH_DOCS = "pip install 'pyro_vae[docs]' for the site"
# Of processor time for the site; what a busy machine may take for one click
MOST_SECONDS, CLICK = 120, 60_000


def programs(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


def by_stem(page):
    return page.stem


@pytest.fixture
def conf():
    """The site's ``conf.py``, as a module."""
    for name in ("sphinx", "math_core"):
        pytest.importorskip(name, reason=WITH_DOCS)
    spec = importlib.util.spec_from_file_location("conf", SOURCE / "conf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_system_has_a_page():
    readme = (ROOT / "README.md").read_text()
    table = re.split(r"^## ", readme.split("## Systems\n")[1], flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| \w.*\|$", table, flags=re.MULTILINE)[1:]
    index = (SOURCE / "systems" / "index.md").read_text()
    listed = re.findall(r"^\| \[.+?\]\((\S+)\.md\)", index, flags=re.MULTILINE)
    assert len(rows) == len(listed) and sorted(listed) == [page.stem for page in SYSTEMS]
    assert index.split("\n\n")[-1].split()[:-1] == listed, "the table of contents is the table"


@pytest.mark.parametrize("page", SYSTEMS, ids=by_stem)
def test_a_page_of_a_system_has_all_parts(page):
    text = page.read_text()
    parts = re.findall(r"^## (\w+)", text, flags=re.MULTILINE)
    assert [part.rstrip("s") for part in parts] == [
        "When",
        "Program",
        "Option",
        "Pitfall",
        "Paper",
    ]
    assert "$$" in text.split("## When")[0], "a formula comes first"
    assert re.search(r"\*.+?\*, .+ \((19|20)\d\d\)", text.split("## Paper")[1], flags=re.DOTALL)
    picture = SOURCE / "gallery" / f"{page.stem}.png"
    assert not picture.exists() or f"](../gallery/{picture.name})" in text


@pytest.mark.parametrize("page", SYSTEMS, ids=by_stem)
def test_program_runs(page, capsys):
    """With one epoch wherever it trains."""
    for program in programs(page):
        short = re.sub(r"\bepochs=\d+", "epochs=1", program)
        exec(compile(short, page.name, "exec"), {})
        assert re.search(r"\d", capsys.readouterr().out), "the program prints numbers"


@pytest.mark.slow
@pytest.mark.parametrize("page", SYSTEMS, ids=by_stem)
def test_program_trains(page, capsys):
    for program in programs(page):
        exec(compile(program, page.name, "exec"), {})
    assert "try warm-up" not in capsys.readouterr().out, "latents collapse"


def test_every_room_has_a_page():
    rooms = {n for n in pyro_vae.__all__ if isinstance(getattr(pyro_vae, n), ModuleType)}
    pages = {page.stem: page.read_text() for page in SOURCE.glob("api/*.md")}
    assert pages.keys() == rooms | {"index"}
    for room in rooms:
        assert pages[room].startswith(f"# {room}\n") and f":: pyro_vae.{room}\n" in pages[room]


def test_every_command_has_its_help(conf):
    page = (SOURCE / "more" / "commands.md").read_text()
    shown = re.findall(r"\{help\} (\w+)", page)
    commands = re.findall(r"^    (\w+)(?:  |$)", conf.told("--help"), flags=re.MULTILINE)
    assert shown == commands == re.findall(r"^## (\w+)", page, flags=re.MULTILINE)
    for command in commands:
        assert conf.told(command, "--help").startswith(f"usage: pyro-vae {command}")


def test_formulas_are_mathml_or_errors(conf):
    found = {}
    for page in [*SOURCE.glob("*.ipynb"), *SOURCE.glob("systems/*.md")]:
        text = page.read_text()
        if page.suffix == ".ipynb":
            cells = json.loads(text)["cells"]
            text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
        found[page] = re.findall(r"\$\$(.+?)\$\$|\$(.+?)\$", text, flags=re.DOTALL)
        for display, inline in found[page]:
            assert conf.mathml(display or inline, block=bool(display)).endswith("</math>")
    assert all(found[page] for page in SYSTEMS)
    with pytest.raises(ValueError, match="unknwon"):
        conf.mathml(r"\unknwon{x}", block=False)


def test_links_of_the_repository_become_links_of_the_site(conf):
    text = "[a](pyro_vae/models), [b](LICENSE), [c](notebooks/01_vae.ipynb), [d](tests/chance.py)"
    assert conf.inside(text, ROOT / "README.md") == (
        "[a](/api/models.md), [b](/more/license.md), [c](/01_vae.ipynb), d"
    )
    anchor, away = "[a](../README.md#systems)", "[b](https://pyro.ai), [c](#here)"
    assert conf.inside(anchor, SOURCE / "01_vae.ipynb") == "[a](/index.md#systems)"
    assert conf.inside(away, SOURCE / "01_vae.ipynb") == away


def test_docstrings_are_no_markup(conf):
    text = "A |x| of (n, *event), z_ and ``a|b*``:\n\n    x = |y|\n\nArgs:\n    a: |b|"
    text += "\n\nAttributes:\n    b, c: as a."
    lines = text.split("\n")
    conf.docstring(None, "class", "", None, None, lines)
    assert "\n".join(lines) == (
        r"A \|x\| of (n, \*event), z\_ and ``a|b*``:"
        "\n\n::\n\n    x = |y|\n\nArgs:\n"
        r"    a: \|b\|"
        "\n\nAttributes:\n    b,c: as a."
    )


def test_code_that_names_what_is_public_leads_there(conf):
    known = conf.names()
    assert known["guides.Flow"] == known["Flow"] == "pyro_vae.guides.Flow"
    assert known["Trainer"] == "pyro_vae.Trainer" and known["models"] == "pyro_vae.models"
    assert known["infer.Encoding"] == known["guides.Encoding"] == "pyro_vae.guides.Encoding"
    assert "collapse" not in known, "one of diagnostics, one of plots"


class Read(html.parser.HTMLParser):
    """What a page refers to, the places in it, and its words outside of code."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loaded, self.places, self.words = [], [], {"", "top"}, []
        self.within, self.formulas = [], 0
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.places.add(given.get("id") or "")
        self.formulas += tag == "math"
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag in ("script", "img", "iframe") and given.get("src"):
            self.loaded.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "preload"):
            self.loaded.append(given["href"])
        if tag in ("script", "style", "pre", "code", "math"):
            self.within.append(tag)

    def handle_endtag(self, tag):
        if self.within and self.within[-1] == tag:
            self.within.pop()

    def handle_data(self, data):
        if not self.within:
            self.words.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the whole site, built without a warning and without a network."""
    for name in ("sphinx", "furo", "myst_nb", "math_core"):
        pytest.importorskip(name, reason=WITH_DOCS)
    out = tmp_path_factory.mktemp("built") / "site"
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    nowhere = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https")}
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(SOURCE), str(out)]
    before = os.times()
    done = subprocess.run(
        command,
        env={**os.environ, **nowhere, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    after = os.times()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(out.parent.iterdir()) == [out], "nothing is written beside it"
    seconds = after.children_user + after.children_system
    assert seconds - before.children_user - before.children_system < MOST_SECONDS
    return out


@pytest.fixture(scope="module")
def pages(site):
    return {path: Read(path) for path in sorted(site.rglob("*.html"))}


@pytest.mark.slow
def test_no_link_is_dead(site, pages):
    dead = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            if re.match(r"(https?:|mailto:|data:)", link):
                inside = link.startswith("data:")
                assert inside or link not in page.loaded, f"{path.name} loads {link}"
                continue
            name, _, place = link.partition("#")
            name = unquote(name).partition("?")[0]
            target = (path.parent / name).resolve() if name else path
            inside = pages[target].places if target in pages else {""}
            if not target.is_file() or unquote(place) not in inside:
                dead.append(f"{path.relative_to(site)}: {link}")
    assert dead == []


@pytest.mark.slow
def test_all_of_the_api_is_there_and_formulas_are_formulas(pages, site):
    api = set().union(*(page.places for path, page in pages.items() if path.parent.name == "api"))
    for room in (getattr(pyro_vae, name) for name in pyro_vae.__all__):
        for name in getattr(room, "__all__", ()) if isinstance(room, ModuleType) else ():
            part = getattr(room, name)
            if callable(part) and name != "Encoding":
                assert f"{room.__name__}.{name}" in api
    assert {"pyro_vae.Trainer", "pyro_vae.load", "pyro_vae.save"} <= api
    for path, page in pages.items():
        assert not re.search(r"\\[a-z]{2,}|\$\$", "".join(page.words)), path
    assert all(pages[site / "systems" / f"{page.stem}.html"].formulas for page in SYSTEMS)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_site_in_a_browser(site, pages, tmp_path):
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        context = browser.new_context(viewport={"width": 1100, "height": 900}, offline=True)
        page = context.new_page()
        page.set_default_timeout(CLICK)
        api.expect.set_options(timeout=CLICK)
        complaints = []
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        try:
            click_through(page, api.expect, site)
            for path in pages:
                see(page, path)
        finally:
            page.screenshot(path=tmp_path / "last.png")
            browser.close()
        assert complaints == []


def click_through(page, expect, site):
    """From the start to a system, to the API, and by a search to a notebook."""
    page.goto((site / "index.html").as_uri())
    page.locator(".sidebar-tree").get_by_role("link", name="Systems", exact=True).click()
    page.locator("article").get_by_role("link", name="Ladder VAE", exact=True).click()
    expect(page.locator("h1")).to_contain_text("Ladder VAE")
    page.locator("article").get_by_role("link", name="guides.Ladder(program, like=x)").click()
    expect(page.locator("dt[id='pyro_vae.guides.Ladder']")).to_be_in_viewport()
    page.locator("dt[id='pyro_vae.guides.Ladder'] + dd").get_by_role(
        "link", name="models.VAE", exact=True
    ).first.click()
    expect(page.locator("dt[id='pyro_vae.models.VAE']")).to_be_in_viewport()
    for words, result in {
        "posterior collapse": "Posterior collapse",
        "SemiAmortized": "pyro_vae.guides.SemiAmortized",
        "rotation trick": "VQ-VAE",
    }.items():
        page.get_by_placeholder("Search").fill(words)
        page.get_by_placeholder("Search").press("Enter")
        found = page.locator("#search-results").get_by_role("link", name=result).first
        expect(found).to_be_visible()
        found.click()
        expect(page.locator("h1").first).to_be_visible()
    page.get_by_placeholder("Search").fill("xyzzyx")
    page.get_by_placeholder("Search").press("Enter")
    expect(page.locator("#search-results")).to_contain_text("did not match any documents")
    body = page.locator("body")
    before = body.get_attribute("data-theme")
    page.locator(".theme-toggle:visible").first.click()
    expect(body).not_to_have_attribute("data-theme", before)


def see(page, path):
    """Formulas, captions and pictures have a size; nothing sticks out of a narrow page."""
    for width in (1100, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
        captions = page.evaluate(
            "[...document.querySelectorAll('article caption')].map(c => c.offsetWidth)"
        )
        assert min(captions, default=width) > 200, (path, width)
    assert page.evaluate(
        "[...document.querySelectorAll('article math')].every(m => {"
        "const box = m.getBoundingClientRect(); return box.width > 2 && box.height > 2})"
    ), path
    assert page.evaluate(
        "[...document.querySelectorAll('article img')].every(i => {"
        "i.loading = 'eager'; return i.complete ? i.naturalWidth > 0 : true})"
    ), path
