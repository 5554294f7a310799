"""The name of each class in files, which stays when the class moves."""

from __future__ import annotations

from collections.abc import Mapping

PACKAGE = "pyro_vae"
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


def name_of(cls: type) -> str:
    """The name that files have for a class: its room and its own, such as "guides.Ladder".

    A class from outside of the package is named by its place, which has to be imported before a
    file is read.

    Example:
        >>> from pyro_vae.guides import Ladder
        >>> name_of(Ladder)
        'guides.Ladder'
    """
    package, _, rest = cls.__module__.partition(".")
    if package != PACKAGE or not rest:
        return f"{cls.__module__}.{cls.__qualname__}"
    return f"{rest.split('.')[0]}.{cls.__qualname__.lstrip('_')}"


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
