"""A user's own classes, as they are handed in for the names in a file."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from . import names
from .recorded import DEFINED, Recorded, known, missing

# Some, or names in the file -> classes
Given = Collection[type] | Mapping[str, type]


class Chosen:
    """The class for each name in a file: of this package, of those ``given``, or defined already.

    What the file describes is put into ``described`` before the first one is asked for.

    Raises:
        TypeError: something else is given than classes that derive from ``Recorded``.
    """

    def __init__(self, given: Given | None) -> None:
        self.described: Any = ()
        self._given = [] if given is None else _pairs(given)
        self._own: dict[str, type] | None = None

    def __call__(self, name: str) -> type:
        """The class; ``ValueError`` where there is none, or several could be meant."""
        found = DEFINED.get(name) or known(name)
        if found is not None and found.__module__.startswith(names.OURS):
            return found
        if self._own is None:
            self._own = self._choose()
        found = self._own.get(name, found)
        if found is None:
            wanted = [n for n in _described(self.described) if n not in self._own and not known(n)]
            got = ", ".join(dict.fromkeys(cls.__name__ for _, cls in self._given))
            raise ValueError(missing(wanted, f" besides {got}" if got else ""))
        return found

    def _choose(self) -> dict[str, type]:
        """The class that is given for each name that is not one of this package."""
        fitting = {}
        for name in _described(self.described):
            found = known(name)
            if found is None or not names.is_ours(found):
                last = name.rpartition(".")[2]
                exact = [cls for key, cls in self._given if key == name]
                fitting[name] = exact or [cls for key, cls in self._given if key == last]
        uses = Counter(cls for classes in fitting.values() for cls in classes)
        exact = {key for key, _ in self._given}
        for name, classes in fitting.items():
            if len(classes) > 1 or (name not in exact and any(uses[cls] > 1 for cls in classes)):
                alike = [n for n in fitting if fitting[n] == classes]
                raise ValueError(
                    f"classes: expected one for each of {alike}, got {classes}: pass a mapping "
                    f"from each of these names, classes={{{name!r}: {classes[0].__name__}, ...}}"
                )
        return {name: classes[0] for name, classes in fitting.items() if classes}


def _pairs(given: Given) -> list[tuple[str, type]]:
    several = isinstance(given, Collection) and not isinstance(given, str)
    classes = given.values() if isinstance(given, Mapping) else given if several else ()
    wrong = [c for c in classes if not (inspect.isclass(c) and issubclass(c, Recorded))]
    if wrong or not several:
        raise TypeError(
            "classes: expected a list of classes that derive from pyro_vae.Recorded, or a mapping "
            f"from their names, got {wrong[0] if wrong else given!r}: pass classes=[Decoder] or "
            "classes={'Decoder': Decoder}"
        )
    if isinstance(given, Mapping):
        return [*given.items()]
    classes = dict.fromkeys(classes)
    return [(name, c) for c in classes for name in (names.name_of(c), c.__name__)]


def _described(value: Any) -> list[str]:
    """The names of all classes in a description, each once."""
    return [*dict.fromkeys(_all(value))]


def _all(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$class"), str):
            yield names.current(value["$class"])
        value = [*value.values()]
    for part in value if isinstance(value, list | tuple) else ():
        yield from _all(part)
