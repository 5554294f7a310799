"""The name of each class in files, which stays when the class moves."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping

PACKAGE = "pyro_vae"
# How the modules of its classes begin
OURS = f"{PACKAGE}."
# Where the code has what older files name by a module or a package of another name
_MOVED = {
    "conditionals": "conditionals",
    "flows": "conditionals",
    "masked": "networks",
    "precision": "training",
    "programs": "programs",
    "recorded": "ground",
    "trainer": "training",
}
# Arguments that have another name now: class -> name in older files -> name
_GUIDES = ("BottomUp", "Delta", "Flow", "FullCovariance", "Ladder")
ARGUMENTS: dict[str, Mapping[str, str]] = {f"guides.{g}": {"vae": "model"} for g in _GUIDES}


@functools.cache
def rooms() -> frozenset[str]:
    """The folders and files at the top of the package."""
    package = importlib.import_module(PACKAGE)
    return frozenset(room.name for room in pkgutil.iter_modules(package.__path__)) - {"__main__"}


def is_ours(cls: type) -> bool:
    """Whether a class is one of the package."""
    return cls.__module__.startswith(OURS)


def name_of(cls: type) -> str:
    """The name that files have for a class: its room and its own, such as "guides.Ladder".

    A class from outside of the package is named by its place; one of a module that is named like
    a room, such as a user's ``guides``, with a dot before it.

    Example:
        >>> from pyro_vae.guides import Ladder
        >>> name_of(Ladder)
        'guides.Ladder'
    """
    if is_ours(cls):
        return f"{cls.__module__.split('.')[1]}.{cls.__qualname__.lstrip('_')}"
    dot = "." if cls.__module__.partition(".")[0] in rooms() else ""
    return f"{dot}{cls.__module__}.{cls.__qualname__}"


def current(name: str) -> str:
    """The present name of a class that a file of any version names.

    Files of formats 1 and 2 name the module, such as "pyro_vae.flows.AutoregressiveFlow".

    Example:
        >>> current("pyro_vae.guides.ladder.Ladder"), current("guides.Ladder"), current("my.Model")
        ('guides.Ladder', 'guides.Ladder', 'my.Model')
        >>> current("pyro_vae.flows.AutoregressiveFlow")
        'conditionals.AutoregressiveFlow'
    """
    package, _, rest = name.partition(".")
    if package != PACKAGE:
        return name
    room, _, place = rest.partition(".")
    return f"{_MOVED.get(room, room)}.{place.rpartition('.')[2].lstrip('_')}"


def renamed(cls: str, arguments: Mapping[str, object]) -> dict[str, object]:
    """The arguments of a class that a file names, by their present names."""
    names = ARGUMENTS.get(cls, {})
    return {names.get(key, key): value for key, value in arguments.items()}
