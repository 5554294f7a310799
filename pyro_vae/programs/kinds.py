"""What the dimensions of data mean to programs of one's own: as these say, or the data."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..data import Dataset
from ..data.arguments import Arguments
from ..ground.arguments import known
from ..ground.kinds import KINDS
from .calling import names_of, positional
from .unwrapping import below_handlers, innermost, name_of


def kind_of(*things: Any) -> str | None:
    """The kind of data that is said first, by data or by a model; None for a guess by the shape.

    Data are a ``Dataset``, or a tensor with the attribute ``kind``.
    """
    for thing in (thing for thing in things if thing is not None):
        if isinstance(thing, Dataset) and not thing.kind_said:
            continue
        data = isinstance(thing, Dataset | Tensor)
        kind = getattr(thing, "kind", None) if data else _kind_in(thing)
        if isinstance(kind, Mapping) and len(kind) == 1:
            (kind,) = kind.values()
        if isinstance(kind, str) and kind in KINDS:
            return kind
    return None


def _kind_in(program: Callable) -> Any:
    """What a program calls ``kind``, or what it is a method or a partial of."""
    held = below_handlers(program)
    while (kind := getattr(held, "kind", None)) is None:
        if isinstance(held, functools.partial):
            held = held.func
        elif inspect.ismethod(held):
            held = held.__self__
        else:
            return getattr(innermost(program), "kind", None)
    return kind


def first_of(model: Callable, names: Sequence[str]) -> str | None:
    """The argument of which a kind is meant that is said of none by name."""
    first = next((p.name for p in positional(model)), None)
    return next(iter(names), None) if first is None else first


def kinds_said(model: Callable, names: Sequence[str], like: Any = None) -> dict[str, str]:
    """Argument of a program -> kind of its data, for those of which the program or data tell.

    A program does so by an attribute ``kind``: that of its first argument, or a mapping from
    arguments to kinds. What else it may call so counts for nothing. A ``Dataset`` tells of the
    first argument, tensors with the attribute among ``Arguments`` of themselves.

    Args:
        model: the program, under handlers or not.
        names: its arguments with a row per datum.
        like: data of the form that it is given.

    Raises:
        ValueError: a kind of no argument, an unknown one, or another one than that of the data.
    """
    told = _kind_in(model)
    found: dict[str, str] = {}
    first, own = first_of(model, names), {*names, *names_of(model)}
    if isinstance(told, str) and told in KINDS and first is not None:
        found = {first: told}
    elif isinstance(told, Mapping) and not own.isdisjoint(told):
        for name, kind in told.items():
            known("kind", name, own)
            known(f"kind[{name!r}]", kind, KINDS)
        found = dict(told)
    if isinstance(like, Dataset) and like.kind_said and first is not None:
        _check_same(like.kind, found.setdefault(first, like.kind), name_of(model))
    for name, value in like.kwargs.items() if isinstance(like, Arguments) else ():
        if (kind := getattr(value, "kind", None)) in KINDS:
            _check_same(kind, found.setdefault(name, kind), name_of(model))
    return {name: kind for name, kind in found.items() if name in names}


def check_kinds(data: Dataset, programs: Sequence[Callable]) -> None:
    """Raise ``ValueError`` for data of another kind than programs of one's own are made for.

    Of guides of this library the networks tell, what they call ``read_as``. Dense ones that are
    but a guess read any data alike, other than tokens.
    """
    for program in programs:
        told = _kind_in(program)
        if isinstance(told, str) and told in KINDS:
            _check_same(data.kind, told, name_of(program))
        parts = program.modules() if isinstance(program, nn.Module) else ()
        for part in parts:
            read = getattr(part, "read_as", {})
            if read and (first := first_of(program, tuple(read))) in read:
                guess = first not in part.arguments.said
                if guess and not KINDS[read[first]].dims and data.kind != "tokens":
                    continue
                _check_same(data.kind, read[first], f"{name_of(program)} with networks")


def _check_same(kind: str, told: str, whose: str) -> None:
    if kind != told:
        raise ValueError(
            f"kind: these data were said to be of kind {kind!r}, got a {whose} for {told!r}: "
            f"pass data.replace(kind={told!r}), or build guides for like=data, of a program "
            f"whose attribute kind is {kind!r}"
        )
