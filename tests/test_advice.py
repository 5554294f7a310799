"""No message of the package advises what nobody has tried on the input that provokes it."""

import ast
import importlib
import re
from pathlib import Path

from advice import PACKAGE, advice, messages

# Texts that only look like advice: those that explain the command line and a page's style
NO_ADVICE = ()
NOT_YET = ()


def test_every_advice_was_followed_on_what_provokes_it():
    modules = [importlib.import_module(p.stem) for p in Path(__file__).parent.glob("test_*advice_*.py")]
    modules += [importlib.import_module("test_data_advice")]
    said = [m for module in modules for case in module.cases for m in messages(case)]
    left = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for line, pattern in advice(ast.parse(path.read_text())):
            if not any(re.search(pattern, message, re.DOTALL) for message in said):
                left.append(f"{path.relative_to(PACKAGE)}:{line} {pattern}")
    assert not left, "\n".join(left)
