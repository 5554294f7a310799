"""What a program is below all handlers."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import nn

from .methods import Method, as_program, held_by


def below_handlers(program: Any) -> Any:
    """The program below all handlers, Pyro's own among them."""
    return _unwrapped(program)[0]


def handlers_of(program: Any) -> list[Any]:
    """What is around the program below all handlers, the outermost first."""
    return _unwrapped(program)[1]


def _unwrapped(program: Any) -> tuple[Any, list[Any]]:
    around: list[Any] = []
    while True:
        arguments = program.args if isinstance(program, functools.partial) else ()
        # What poutine.scale(program, ...) and its like return, also as decorators of methods
        if len(arguments) > 1 and isinstance(arguments[0], Messenger):
            handler, program, *rest = arguments
            around.append(handler)
            if rest:
                program = functools.partial(program, *rest)
        elif getattr(program, "program", None) is not None:
            if not isinstance(program, Method):
                around.append(getattr(program, "effect", program))
            program = program.program
        else:
            return program, around


def innermost(program: Any) -> Any:
    """The one module that has the program below all handlers, where it is a method; else that."""
    if not isinstance(program, nn.Module) or getattr(program, "program", None) is not None:
        program = below_handlers(program)
    if isinstance(program, nn.Module):
        return program
    held = held_by(program)
    return held[0] if len(held) == 1 else as_program(program)


def is_ours(program: Any) -> bool:
    """Whether this is a model of this library, or a guide of one."""
    inner = innermost(program)
    return hasattr(inner, "latent_sizes") or hasattr(getattr(inner, "model", None), "latent_sizes")


def name_of(program: Any) -> str:
    """The name of a program's class or function, whatever handlers it is under."""
    program = below_handlers(program)
    while isinstance(program, functools.partial):
        program = program.func
    name = getattr(program, "__name__", type(program).__name__)
    return f"{type(program.__self__).__name__}.{name}" if inspect.ismethod(program) else name
