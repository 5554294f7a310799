"""The site: API from the docstrings, a page per system, the notebooks with what they show.

Run: sphinx-build -W notebooks FOLDER. It needs no network, and neither does what it writes.
"""

from __future__ import annotations

import collections
import contextlib
import inspect
import io
import json
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from math_core import LatexError, LatexToMathML
from sphinx import addnodes
from sphinx.application import Sphinx

import pyro_vae
from pyro_vae.cli.options import parse

ROOT = Path(__file__).parents[1]
# Of the help of the command line, whatever the terminal
os.environ["COLUMNS"] = "84"

project = "pyro_vae"
release = version = pyro_vae.__version__
project_copyright = "the pyro_vae authors, Apache-2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["**/.ipynb_checkpoints", "static"]

html_theme = "furo"
html_title = f"pyro_vae {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
# Pages that are opened as files may not fetch others
html_show_search_summary = False
html_show_sourcelink = False
html_math_renderer = "mathml"
pygments_style, pygments_dark_style = "friendly", "github-dark"

# Formulas of docstrings are text, and so is what their quotes hold; dashes alone are set
smartquotes_action = "D"
highlight_language = "none"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Shapes"]

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_render_markdown_format = "gfm"
# A widget needs a kernel: its text stands for it
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
nb_ipywidgets_js = {}

# Pages whose text has its place elsewhere
_PAGES = {
    "README.md": "index",
    "CHANGELOG.md": "more/changes",
    "LICENSE": "more/license",
    "pyro_vae/programs/README.md": "more/programs",
    "pyro_vae/experiments/README.md": "more/experiments",
    "tests/benchmarks/README.md": "more/speed",
}
_LINK = re.compile(r"(\[[^\]\[]*\])\((?!https?:|#)([^)\s]+)\)")
_INCLUDE = re.compile(r"```\{include\} (\S+)\n```\n")


def read(app: Sphinx, page: str, content: list[str]) -> None:
    """A page's text: what it includes is in place, and its links lead to pages of the site."""
    source = Path(app.env.doc2path(page))
    if source.suffix == ".ipynb":
        content[0] = shown(content[0])
    text = inside(content[0], source)
    content[0] = _INCLUDE.sub(lambda match: included(source.parent / match[1]), text)


def included(path: Path) -> str:
    """The text of a page that has its place elsewhere."""
    return inside(path.read_text(), path.resolve())


def shown(text: str) -> str:
    """A notebook without the cells that test it and the state of its widgets."""
    notebook = json.loads(text)
    notebook["metadata"].pop("widgets", None)
    notebook["cells"] = [
        cell for cell in notebook["cells"] if "check" not in cell["metadata"].get("tags", [])
    ]
    return json.dumps(notebook)


def inside(text: str, source: Path) -> str:
    """Links to files of the repository as links of the site; what is not on it stays as text."""

    def place(match: re.Match[str]) -> str:
        words, link = match.groups()
        name, _, anchor = link.partition("#")
        path = Path(os.path.normpath(source.parent / name))
        if not path.is_relative_to(ROOT):
            return match[0]
        found = page(path.relative_to(ROOT))
        return f"{words}({found}{anchor and '#' + anchor})" if found else words[1:-1]

    return _LINK.sub(place, text)


def page(path: Path) -> str | None:
    """Where a file or folder of the repository is on the site."""
    if str(path) in _PAGES:
        return f"/{_PAGES[str(path)]}.md"
    if path.parts[0] == "notebooks":
        return f"/{path.relative_to('notebooks')}"
    room = path.with_suffix("").parts[1:]
    return f"/api/{room[0]}.md" if len(room) == 1 and room[0] in pyro_vae.__all__ else None


def mathml(text: str, *, block: bool) -> str:
    """A formula in LaTeX as MathML, which browsers draw by themselves."""
    try:
        return LatexToMathML().convert_with_local_state(text, displaystyle=block)
    except LatexError as error:
        raise ValueError(f"formula {text!r}: {error}") from error


def formula(writer: Any, node: nodes.math | nodes.math_block) -> None:
    """What stands for a formula on a page."""
    block = isinstance(node, nodes.math_block)
    text = mathml(node.astext(), block=block)
    writer.body.append(f'<div class="formula">{text}</div>' if block else text)
    raise nodes.SkipNode


_SECTION = re.compile(r"(Args|Attributes|Example|Raises|Returns|Shapes|Warns|Yields):$")
_CODE = re.compile(r"(``.+?``)")
_UNLINKED = nodes.reference | nodes.title | addnodes.pending_xref


def docstring(_app: Sphinx, what: str, _name: str, _of: Any, _options: Any, lines: list) -> None:
    """Plain text as reST: indented formulas are blocks, and signs in prose are no markup."""
    if what == "property":
        # Else what stands before a colon is taken for its type
        lines[:1] = lines[0].replace(": ", ":\n", 1).splitlines()
    section, block, out = "", False, []
    for line in lines:
        if line and not line.startswith(" "):
            found = _SECTION.match(line)
            section, block = found[1] if found else "", False
        if line.startswith("    ") and not section and not block:
            out += ["::", ""]
            block = True
        if section == "Attributes":
            # Else all names but the last are taken for its type
            line = re.sub(r"^    \w+(, \w+)+:", lambda match: match[0].replace(", ", ","), line)
        out.append(line if block or section == "Example" else prose(line))
    lines[:] = out


def bases(_app: Sphinx, _name: str, _of: Any, _options: Any, found: list) -> None:
    """In place of a private base its own."""
    found[:] = [base.__bases__[0] if base.__name__.startswith("_") else base for base in found]


def prose(line: str) -> str:
    """A line without markup except code and what is bold."""
    parts = _CODE.split(line)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"\||(?<!\*)\*(?!\*)|(?<=\w)_(?=\W|$)", r"\\\g<0>", parts[i])
    return "".join(parts)


def names() -> dict[str, str]:
    """What code in a text may name -> the full name: ``guides.Flow``, ``Flow`` where it is one."""
    found, places, bare = {}, {}, collections.defaultdict(set)
    for name in pyro_vae.__all__:
        found[name] = f"pyro_vae.{name}"
        room = getattr(pyro_vae, name)
        for part in public(room) if isinstance(room, ModuleType) else ():
            # Some stand in two rooms, and have one place on the site
            full = places.setdefault(getattr(room, part), f"pyro_vae.{name}.{part}")
            found[f"{name}.{part}"] = full
            if part[0].isupper():
                bare[part].add(full)
    return found | {part: full for part, (full, *others) in bare.items() if not others}


def public(room: ModuleType) -> list[str]:
    """The classes and functions of a room."""
    own = [n for n, part in vars(room).items() if getattr(part, "__module__", "") == room.__name__]
    listed = getattr(room, "__all__", [name for name in own if not name.startswith("_")])
    parts = {name: getattr(room, name) for name in listed}
    return [n for n, part in parts.items() if inspect.isclass(part) or inspect.isfunction(part)]


def linked(app: Sphinx, tree: nodes.document) -> None:
    """Code that begins with a public name leads to it."""
    known = names()
    for code in list(tree.findall(nodes.literal)):
        match = re.match(r"(?:pyro_vae\.)?([\w.]+)(\(.*\))?$", code.astext(), flags=re.DOTALL)
        # Titles are copied into the table of contents, where nothing resolves links
        if match and match[1] in known and not isinstance(code.parent, _UNLINKED):
            target = {"reftype": "obj", "reftarget": known[match[1]]}
            link = addnodes.pending_xref(refdomain="py", refdoc=app.env.docname, **target)
            code.replace_self(link)
            link += code


def told(*arguments: str) -> str:
    """What the command line prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        parse(arguments)
    return out.getvalue()


class Help(Directive):
    """The help of a command."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """As a block."""
        text = told(*self.arguments, "--help")
        return [nodes.literal_block(text, text, language="text")]


def within(app: Sphinx) -> None:
    """MyST-NB keeps what it extracts with the rest of what Sphinx keeps, not beside the site."""
    folder = str(Path(app.doctreedir, "notebooks"))
    app.env.mystnb_config = app.env.mystnb_config.copy(output_folder=folder)


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx asks for."""
    app.connect("builder-inited", within)
    app.connect("source-read", read)
    # Before napoleon
    app.connect("autodoc-process-docstring", docstring, priority=100)
    app.connect("autodoc-process-bases", bases)
    app.connect("doctree-read", linked)
    app.add_directive("help", Help)
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
