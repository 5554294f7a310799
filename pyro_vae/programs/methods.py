"""Methods, partials and programs under Pyro's handlers as modules: what they run is in sight."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable
from typing import Any

from torch import nn

# What a callable consists of -> its module, as long as anybody holds that
_made: weakref.WeakValueDictionary[Any, Method] = weakref.WeakValueDictionary()


class Method(nn.Module):
    """A ``program`` that is no module itself, with the modules that it runs as children.

    It is in training mode where one of them is.
    """

    def __init__(self, program: Callable) -> None:
        super().__init__()
        self.program = program
        for number, module in enumerate(held_by(program), 1):
            self.add_module("module" if number == 1 else f"module{number}", module)

    @property
    def training(self) -> bool:
        """Mode of the modules; assigned, it changes nothing: they have modes of their own."""
        return any(module.training for module in self.children())

    @training.setter
    def training(self, mode: bool) -> None: ...

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program."""
        return self.program(*args, **kwargs)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy stands for the program's copy from here on."""
        super().__setstate__(state)
        _made.setdefault(_key(self.program), self)

    def _get_name(self) -> str:
        name = getattr(self.program, "__name__", None)
        return super()._get_name() if name is None else f"{type(self.module).__name__}.{name}"


def held_by(program: Any) -> tuple[nn.Module, ...]:
    """The modules that a program shows: itself, that of a method, those in a partial."""
    if isinstance(program, Method):
        return tuple(program.children())
    if isinstance(program, nn.Module):
        return (program,)
    if inspect.ismethod(program):
        inside = (program.__self__,)
    elif isinstance(program, functools.partial):
        inside = (program.func, *program.args, *program.keywords.values())
    else:
        return ()
    return tuple({id(m): m for value in inside for m in held_by(value)}.values())


def as_program(program: Callable) -> Callable:
    """A program as one module, where it shows modules; else as it is.

    Bound methods of a module, ``functools.partial``s and what Pyro's handlers return become a
    ``Method``, the same one for the same method as long as anybody holds it.
    """
    if isinstance(program, nn.Module) or not callable(program) or not held_by(program):
        return program
    found = _made.get(key := _key(program))
    if found is None:
        found = _made[key] = Method(program)
    return found


def _key(value: Any) -> Any:
    """Equal for what runs the same: a method is another object each time it is asked for."""
    if inspect.ismethod(value):
        return id(value.__self__), id(value.__func__)
    if isinstance(value, functools.partial):
        named = ((name, _key(held)) for name, held in value.keywords.items())
        return (_key(value.func), *map(_key, value.args), *named)
    return id(value)
