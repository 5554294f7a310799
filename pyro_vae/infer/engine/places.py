"""Where the objects that a program reaches lie: read, watched, and put back."""

from __future__ import annotations

import types
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import nn

# Attributes of every nn.Module that decide nothing about the operations that it runs
BOOKKEEPING = (frozenset(nn.Module().__dict__) - {"training"}) | {"arguments"}


@dataclass(eq=False)
class Place:
    """Where references lie: in ``holder``, an object that a person calls ``label``.

    Of its contents those of ``names`` count, or all where that is None. ``counted`` tells whether
    contents of other names do, too, as soon as there are more of them.
    """

    holder: Any
    label: str
    names: tuple[str, ...] | None = None
    counted: bool = False

    def read(self) -> list[Any]:
        """The contents."""
        return list(self.holder)

    def write(self, contents: list[Any]) -> None:
        """Put back what ``read`` gave."""
        self.holder.clear()
        add = self.holder.update if isinstance(self.holder, set) else self.holder.extend
        add(contents)

    def view(self) -> list[Collection[Any]]:
        """What tells the contents when it is iterated over."""
        return [self.holder]

    def differing(self, contents: list[Any]) -> str:
        """A name for what is no longer in ``contents``."""
        return self.label


class Entries(Place):
    """All keys, then all values."""

    def read(self) -> list[Any]:
        """As of ``Place``."""
        return [*self.holder.keys(), *self.holder.values()]

    def write(self, contents: list[Any]) -> None:
        """As of ``Place``."""
        if isinstance(self.holder, types.MappingProxyType):
            return
        half = len(contents) // 2
        self.holder.clear()
        self.holder.update(zip(contents[:half], contents[half:], strict=True))

    def view(self) -> list[Collection[Any]]:
        """As of ``Place``."""
        # Live: iterating a view again tells what is in the mapping then
        return [self.holder.keys(), self.holder.values()]


class Children(Entries):
    """Modules, tensors or hooks of a module, whose names do not count."""

    def view(self) -> list[Collection[Any]]:
        """As of ``Place``."""
        return [self.holder.values()]


class Names(Place):
    """Some keys of a mapping: attributes of a module, globals that a function reads."""

    def read(self) -> list[Any]:
        """As of ``Place``."""
        return [self.holder.get(name) for name in self.names]

    def differing(self, contents: list[Any]) -> str:
        """As of ``Place``."""
        pairs = zip(self.names, self.read(), contents, strict=True)
        return next((f"{self.label}.{n}" for n, a, b in pairs if a is not b), self.label)

    def write(self, contents: list[Any]) -> None:
        """As of ``Place``."""
        self.holder.update(zip(self.names, contents, strict=True))


class Attributes(Names):
    """All attributes of a module; those that count are read."""

    def write(self, contents: list[Any]) -> None:
        """As of ``Place``."""
        for name in self.holder.keys() - BOOKKEEPING - frozenset(self.names):
            del self.holder[name]
        super().write(contents)


class OfClass(Names):
    """Attributes of a class, in ``vars`` of which nothing can be written."""

    owner: type

    def write(self, contents: list[Any]) -> None:
        """As of ``Place``."""
        for name, value in zip(self.names, contents, strict=True):
            if self.holder.get(name) is not value:
                setattr(self.owner, name, value)


class Slots(Place):
    """Attributes that lie in no ``__dict__``."""

    def read(self) -> list[Any]:
        """As of ``Place``."""
        return [getattr(self.holder, name, None) for name in self.names]

    def write(self, contents: list[Any]) -> None:
        """As of ``Place``."""
        for name, value in zip(self.names, contents, strict=True):
            object.__setattr__(self.holder, name, value)


class Cell(Place):
    """A variable of an outer function."""

    def view(self) -> list[Collection[Any]]:
        """As of ``Place``."""
        return [self.read()]

    def read(self) -> list[Any]:
        """As of ``Place``."""
        try:
            return [self.holder.cell_contents]
        except ValueError:  # not assigned yet
            return []

    def write(self, contents: list[Any]) -> None:
        """As of ``Place``."""
        if contents:
            self.holder.cell_contents = contents[0]
        else:
            del self.holder.cell_contents
