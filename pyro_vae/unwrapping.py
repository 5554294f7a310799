"""The program below all handlers, and its name."""

from __future__ import annotations

import functools
from typing import Any


def innermost(program: Any) -> Any:
    """The program below all handlers."""
    while hasattr(program, "program"):
        program = program.program
    return program


def name_of(program: Any) -> str:
    """The name of a program's class or function, whatever handlers it is under."""
    program = innermost(program)
    while isinstance(program, functools.partial):
        program = program.func
    return getattr(program, "__name__", type(program).__name__)
