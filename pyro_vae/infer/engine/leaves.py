"""The tensors that a loss depends on, and what a person calls them."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ...programs.unwrapping import innermost
from .internals import children

# How far from a program its tensors are looked for: a list in an attribute of an object is 3
_DEPTH = 4


def leaves(loss: Tensor) -> list[Tensor]:
    """The leaves of a loss: tensors whose gradient its backward pass adds to."""
    stack, seen, found = [loss.grad_fn], set(), []
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            found.append(leaf)
        stack += map(operator.itemgetter(0), node.next_functions)
    return found


def names_of(tensors: list[Tensor], **programs: Callable) -> list[str]:
    """Where a program has each tensor: in a module, an attribute, a variable of a function.

    Args:
        tensors: to be named.
        programs: a model and a guide by their roles.

    Returns:
        A name per tensor, such as "guide.layers[0].weight"; its shape for a parameter that is not
        found. Other tensors that are not found are made by the programs when they run, such as
        the input of a gradient penalty, and are left out.
    """
    if not tensors:
        return []
    wanted, names = {id(t) for t in tensors}, {}
    for role, program in programs.items():
        program = innermost(program)
        root = role if isinstance(program, nn.Module) else ""
        for name, tensor in _tensors(program, root, _DEPTH, set()):
            if id(tensor) in wanted:
                names.setdefault(id(tensor), name)
    return [
        names.get(id(t), f"a parameter of shape {tuple(t.shape)}")
        for t in tensors
        if id(t) in names or isinstance(t, nn.Parameter)
    ]


def _tensors(value: Any, name: str, depth: int, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """All tensors within reach of a value, each under the name that leads there."""
    if isinstance(value, Tensor):
        yield name, value
        return
    if depth < 0 or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        for key, parameter in value.named_parameters(prefix=name):
            yield key, parameter
        depth += 1
    for key, inner in _inside(value):
        joined = f"{name}{key}" if key.startswith("[") or not name else f"{name}.{key}"
        yield from _tensors(inner, joined, depth - 1, seen)


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, nn.Module):
        yield from children(value).items()
        yield from ((k, v) for k, v in vars(value).items() if not k.startswith("_"))
    elif isinstance(value, Mapping):
        yield from ((f"[{k!r}]", v) for k, v in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"[{i}]", v) for i, v in enumerate(value))
    elif isinstance(value, functools.partial):
        yield from (("func", value.func), *value.keywords.items())
        yield from ((f"args[{i}]", v) for i, v in enumerate(value.args))
    elif inspect.ismethod(value):
        yield "self", value.__self__
    elif inspect.isfunction(value):
        try:
            found = inspect.getclosurevars(value)
        except ValueError:  # a variable that is not set yet
            return
        yield from {**found.globals, **found.nonlocals}.items()
        yield from ((f"[default {i}]", v) for i, v in enumerate(value.__defaults__ or ()))
    elif hasattr(value, "__dict__") and not (inspect.isclass(value) or inspect.ismodule(value)):
        yield from vars(value).items()
