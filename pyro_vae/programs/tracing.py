"""Tracing programs, which say what they lack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyro import poutine
from pyro.poutine import Trace

from .labels import parameters_of
from .unwrapping import name_of


def trace(program: Callable, *args: Any, **kwargs: Any) -> Trace:
    """What a program does with arguments; a ``TypeError`` says what it needs besides them."""
    try:
        return poutine.trace(program).get_trace(*args, **kwargs)
    except TypeError:
        refuse_missing(program, args, kwargs)
        raise


def refuse_missing(program: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise ``TypeError`` for a program that needs more than these arguments."""
    parameters = parameters_of(program)
    given = {p.name for p in parameters[: len(args)]} | kwargs.keys()
    needed = [
        p.name
        for p in parameters
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and (p.default is p.empty or p.name in given)
    ]
    if not (missing := [name for name in needed if name not in given]):
        return
    shown = [name for name in needed if name in given]
    columns = ", ".join(f"{name!r}: {name}" for name in needed)
    raise TypeError(
        f"{name_of(program)}: the program takes more than {' and '.join(shown) or 'no data'}: it "
        f"needs {', '.join(map(repr, missing))} as well: pass data=({', '.join(needed)}) or "
        f"{{{columns}}}, or what is the same for all data by arguments={{name: value}}"
    )
