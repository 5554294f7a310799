"""How a program is given its data: the one rule for programs of any signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..data.arguments import Arguments, Data, Key
from .labels import label_arguments, parameters_of
from .unwrapping import name_of


def arguments_of(
    program: Callable, x: Data, y: Tensor | None = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a program is called with: of its own arguments those that it takes.

    Model and guide are given the same, as by stock Pyro, but for what one of them does not take.
    """
    if not isinstance(x, Arguments):
        return (x,), label_arguments(program, y)
    taken = _taken(program, x)
    args = tuple(v for i, v in enumerate(x.args) if i in taken)
    return args, {name: v for name, v in x.kwargs.items() if name in taken}


def call(program: Callable, x: Data, y: Tensor | None = None) -> Any:
    """Run a program on data, and on labels where it takes them."""
    args, kwargs = arguments_of(program, x, y)
    return program(*args, **kwargs)


def check_arguments(x: Arguments, *programs: Callable) -> None:
    """Raise ``TypeError`` for arguments that no program takes, or that one of them lacks."""
    taken = set().union(*(_taken(program, x) for program in programs))
    for key, _ in x.items():
        if key not in taken:
            told = f"argument {key + 1}" if isinstance(key, int) else f"the argument {key!r}"
            raise TypeError(
                f"data: expected what {' or '.join(map(_signature, programs))} takes, got {told} "
                "besides: leave it out, or add it to a program"
            )
    for program in programs:
        if lacking := missing(program, x):
            raise TypeError(
                f"data: expected {', '.join(map(repr, lacking))} as well for "
                f"{_signature(program)}, got {x!r}: pass a tuple or a mapping of tensors with a "
                "row per datum, and constants by arguments={name: value}"
            )


def names_of(*programs: Callable) -> list[str]:
    """The names of all arguments that programs take."""
    kept = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = [p.name for program in programs for p in parameters_of(program) if p.kind not in kept]
    return list(dict.fromkeys(found))


def positional(program: Callable) -> list[inspect.Parameter]:
    """The parameters that a program names and takes by position."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p for p in parameters_of(program) if p.kind in kinds]


def takes_second(program: Callable) -> bool:
    """Whether a program takes data as its second argument: one that it needs, or may be None."""
    found = positional(program)
    return len(found) > 1 and found[1].default in (inspect.Parameter.empty, None)


def _taken(program: Callable, x: Arguments) -> set[Key]:
    """Positions and names of the arguments that a program takes."""
    found: set[Key] = set()
    position = 0
    for p in parameters_of(program):
        if p.kind is p.VAR_POSITIONAL:
            found.update(range(position, len(x.args)))
        elif p.kind is p.VAR_KEYWORD:
            found.update(x.kwargs)
        else:
            if p.kind is not p.KEYWORD_ONLY:
                found.add(position)
                position += 1
            if p.kind is not p.POSITIONAL_ONLY:
                found.add(p.name)
    return found


def missing(program: Callable, x: Arguments) -> list[str]:
    """Arguments that a program needs and is not given."""
    found, position = [], 0
    for p in parameters_of(program):
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        given = p.name in x.kwargs
        if p.kind is not p.KEYWORD_ONLY:
            given, position = given or position < len(x.args), position + 1
        if p.default is p.empty and not given:
            found.append(p.name)
    return found


def _signature(program: Callable) -> str:
    shown = ", ".join(str(p).partition(":")[0] for p in parameters_of(program))
    return f"{name_of(program)}({shown})"
