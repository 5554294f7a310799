"""The order of the house: its floors, what each file imports, and what tests reach into.

Run: python tests/house.py [CHECKOUT], by default this one, prints all of it.
"""

from __future__ import annotations

import ast
import importlib.util
import itertools
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = "pyro_vae"
# A file imports only from floors before its own, and from its own
FLOORS = (
    *(
        "version",
        "ranks",
        "distributions",
        "ground",
        "storage",
        "data",
        "programs",
        "schedules",
        "regularizers",
    ),
    *("networks", "conditionals", "likelihoods", "handlers", "infer", "codebooks"),
    *("models", "guides", "priors", "export", "plots", "diagnostics", "callbacks", "training"),
    *("report", "estimators", "notebook", "experiments", "cli", "__main__", "__init__"),
)
MOST_FLAT, MOST_LINES, MOST_PRIVATE = 9, 400, 38

Graph = Mapping[str, set[str]]


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text())


def modules(checkout: Path) -> dict[str, Path]:
    """The file of each module of the package; that of a folder is its ``__init__``."""
    found = {}
    for path in sorted((checkout / PACKAGE).rglob("*.py")):
        parts = path.relative_to(checkout).with_suffix("").parts
        found[".".join(parts[:-1] if path.stem == "__init__" else parts)] = path
    return found


def imports(checkout: Path) -> dict[str, set[str]]:
    """The modules that each module imports, at its top, in a function or for types only."""
    files = modules(checkout)
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        inside = module if path.stem == "__init__" else module.rpartition(".")[0]
        found = graph[module] = set()
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                source = "." * node.level + (node.module or "")
                source = importlib.util.resolve_name(source, inside)
                names = (f"{source}.{alias.name}" for alias in node.names)
                found |= {name if name in files else source for name in names}
        found &= files.keys() - {module}
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """Modules that import each other, by whatever way."""

    def reached(module: str) -> set[str]:
        found, left = set(), [module]
        while left:
            new = graph[left.pop()] - found
            found |= new
            left += new
        return found

    beyond = {module: reached(module) for module in graph}
    found = {frozenset(m for m in beyond[n] if n in beyond[m]) for n in graph if n in beyond[n]}
    return sorted(sorted(circle) for circle in found)


def room(module: str) -> str:
    """The folder or file at the top that a module belongs to."""
    return (*module.split("."), "__init__")[1]


def upward(graph: Graph) -> list[str]:
    """Imports from floors above the module's own; those from rooms that are on no floor, too."""
    floor = {name: number for number, name in enumerate(FLOORS)}
    return [
        f"{module} -> {other}"
        for module, others in graph.items()
        for other in sorted(others)
        if floor.get(room(other), len(FLOORS)) > floor.get(room(module), -1)
    ]


def flat(checkout: Path) -> list[str]:
    """Files at the top of the package."""
    paths = (checkout / PACKAGE).glob("*.py")
    return sorted(path.stem for path in paths if path.stem != "__init__")


def lengths(checkout: Path) -> dict[str, int]:
    """Lines of each file of the package, the longest first."""
    lines = {
        str(path.relative_to(checkout)): len(path.read_text().splitlines())
        for path in modules(checkout).values()
    }
    return dict(sorted(lines.items(), key=lambda item: -item[1]))


def docstrings(checkout: Path) -> list[str]:
    """Of modules, classes and functions."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = itertools.chain.from_iterable(ast.walk(parsed(p)) for p in modules(checkout).values())
    texts = (ast.get_docstring(node, clean=False) for node in nodes if isinstance(node, kinds))
    return [text for text in texts if text]


def private(checkout: Path) -> list[str]:
    """Where tests say ``obj._name``, of whomever, or import a ``_name``; not of ``self``."""

    def names(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
            yield node.attr

    return [
        f"{path.relative_to(checkout)}:{node.lineno} {name}"
        for path in sorted((checkout / "tests").rglob("*.py"))
        for node in ast.walk(parsed(path))
        for name in names(node)
        if name.startswith("_") and not name.startswith("__")
    ]


def main(checkout: Path) -> None:
    """Print all."""
    graph, lines, texts = imports(checkout), lengths(checkout), docstrings(checkout)
    long = {file: count for file, count in lines.items() if count > MOST_LINES}
    told = sum(len(text.splitlines()) for text in texts)
    rooms = {room(module) for module in graph}
    arrows = {(room(m), room(n)) for m, others in graph.items() for n in others}
    for title, found in {
        f"Flat modules (at most {MOST_FLAT})": flat(checkout),
        "Rooms on no floor": sorted(rooms - {*FLOORS}),
        "Circles": [f"{len(circle)}: {', '.join(circle)}" for circle in circles(graph)],
        "Upward imports": upward(graph),
        f"Files above {MOST_LINES} lines": [f"{count} {file}" for file, count in long.items()],
        f"Private names in tests (at most {MOST_PRIVATE})": private(checkout),
    }.items():
        print(f"{title}: {len(found)}", *found, sep="\n    ")
    print(
        f"{len(lines)} files in {len(rooms)} rooms, {sum(a != b for a, b in arrows)} arrows "
        f"between rooms, {sum(lines.values())} lines, {told} of them in {len(texts)} docstrings"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve())
