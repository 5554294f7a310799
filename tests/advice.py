"""Messages that advise: where they stand, what provokes them, and what follows their advice."""

import ast
import functools
import importlib.util
import re
import tempfile
import warnings
from pathlib import Path

import pyro
import pytest

import pyro_vae

PACKAGE = Path(pyro_vae.__file__).parent
WITHOUT_TABLES = not any(importlib.util.find_spec(name) for name in ("pandas", "polars"))
# Of messages about tables alone
OF_TABLES = ("columns of numbers", "one column of labels")
_VERBS = (
    "add|ask|begin|bound|build|call|choose|check|convert|copy|create|declare|draw|drop|end|fill|"
    "freeze|give|go on|hold|import|join|leave|let|load|lower|make|mask|name|number|observe|pass|"
    "pip install|print|put|raise|read|remove|rename|rescale|reshape|return|round|run|sample|save|"
    "scale|see|set|show|start|subsample|take|train|try|turn|upgrade|use|warm|wrap|write"
)
_REMEDY = re.compile(
    rf"(^|[:;,.]\s+|\bor |[Ff]or .{{3,16}} )({_VERBS})\b(?! and |:| center| right)"
    r"|did you mean|the usual is|needs a guide|\bsuch as\b|\bor finite\.",
    re.IGNORECASE,
)


def texts(node):
    """Outermost strings of a tree that are no documentation, as (line, its fixed parts)."""
    if isinstance(node, ast.JoinedStr):
        yield node.lineno, [v.value if isinstance(v, ast.Constant) else "" for v in node.values]
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, str) and len(node.value) > 8:
            yield node.lineno, re.split(r"\{\d\}", node.value)
    elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        for child in ast.iter_child_nodes(node):
            if not (isinstance(child, ast.keyword) and child.arg in ("help", "description")):
                yield from texts(child)


def advice(tree):
    """The texts of a tree that say what to do; those of several lines are help and pages."""
    for line, parts in texts(tree):
        text = "{}".join(parts)
        if " " in text and "\n" not in text and _REMEDY.search(text):
            yield line, parts


def unsaid(wanted, said):
    """The texts, by where they stand, that are in no message; those of absent packages are not."""
    found = []
    for where, parts in wanted:
        absent = WITHOUT_TABLES and any(t in part for t in OF_TABLES for part in parts)
        if not absent and not any(_says(message, parts) for message in said):
            found.append(f"{where} {'{}'.join(parts)}")
    return found


def _says(message, parts):
    at = 0
    for part in parts:
        if (at := message.find(part, at)) < 0:
            return False
        at += len(part)
    return True


class Cases(list):
    """Functions of a folder that yield what provokes a message, and what follows its advice."""

    def __call__(self, case):
        self.append(case)
        return case

    def test(self):
        @pytest.mark.parametrize("case", self, ids=lambda case: case.__name__)
        def test(case):
            messages(case)

        return test


@functools.cache
def messages(case):
    """What the provocations of a case say; all that they advise is done, in silence."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for provoke, *follows in case(Path(folder)):
            found.append(said(provoke))
            # None, where an advice names no call
            for follow in filter(None, follows):
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("error")
                        follow()
                except Exception as error:
                    raise AssertionError(f"the advice of {found[-1]!r} failed") from error
    return found


def said(call):
    """The message of what a call raises or warns of, or the text that it returns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            if isinstance(text := call(), str) and text:
                return text
        except (Exception, SystemExit) as error:
            return str(error)
    raise AssertionError("nothing was said")
