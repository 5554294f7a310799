"""Which parameters a pair trains: found once they are there, told where no step moves them."""

from __future__ import annotations

import functools
import inspect
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pyro.distributions.constraints import Constraint, real
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from ...programs.unwrapping import innermost
from .internals import children

_SHOWN = 10
# How far from a program its tensors are looked for: a list in an attribute of an object is 3
_DEPTH = 4


class UntrainedWarning(UserWarning):
    """Parameters of a pair that no step moves.

    Where that is meant, freeze them (``requires_grad_(False)``), or filter this category.
    """


class Sites(Messenger):
    """The trainable ``pyro.param`` sites that run inside: name -> the tensor in Pyro's store.

    ``constraints`` are those that they are declared with.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Tensor] = {}
        self.constraints: dict[str, Constraint] = {}

    def _pyro_post_param(self, msg: dict[str, Any]) -> None:
        value = msg["value"]
        # What a module's name stands for, where modules are not in the store
        parameter = value.unconstrained() if hasattr(value, "unconstrained") else value
        if parameter.requires_grad:
            self.found[msg["name"]] = parameter
            self.constraints[msg["name"]] = msg["kwargs"].get("constraint", real)

    def of_no(self, parameters: Iterable[Tensor]) -> dict[str, Constraint]:
        """Those that are in the store alone, not among these ``parameters`` of modules."""
        held = set(map(id, parameters))
        return {n: self.constraints[n] for n, p in self.found.items() if id(p) not in held}


def named_parameters(**programs: Callable) -> dict[str, nn.Parameter]:
    """The modules' trainable parameters, each once, under the role of the first that holds it."""
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for role, program in programs.items():
        if isinstance(program, nn.Module):
            for name, parameter in program.named_parameters():
                if parameter.requires_grad:
                    found.setdefault(id(parameter), (f"{role}.{name}", parameter))
    return dict(found.values())


class Waiting:
    """Parameters, by name, that have had no gradient yet; told, once, after so many steps."""

    def __init__(self, steps: int) -> None:
        self.steps = self._left = steps
        self.parameters: dict[str, Tensor] = {}

    def add(self, parameters: Mapping[str, Tensor]) -> None:
        """Wait for these as well."""
        self.parameters.update(parameters)
        self._left = self.steps

    def step(self) -> None:
        """Look at the gradients of a step."""
        self.parameters = {
            name: p for name, p in self.parameters.items() if p.grad is None and p.requires_grad
        }
        self._left -= 1
        if self.parameters and not self._left:
            names, self.parameters = list(self.parameters), {}
            steps = "the first step" if self.steps == 1 else f"{self.steps} steps"
            warnings.warn(
                f"these parameters got no gradient in {steps}: {_listed(names)}. They stay as "
                "they are until a step reaches them: use them in the program, or freeze them "
                "with requires_grad_(False)",
                UntrainedWarning,
                stacklevel=4,
            )


def tell_untrained(loss: Tensor, known: Iterable[Tensor | None], **programs: Callable) -> None:
    """Warn of tensors that a loss depends on and nobody trains.

    ``known`` are parameters of the optimizer, and data; ``programs``, model and guide by role.
    """
    held = set(map(id, known))
    others = [leaf for leaf in leaves_of(loss) if id(leaf) not in held]
    if names := _names_of(others, **programs):
        warnings.warn(
            f"nothing trains {_listed(names)}, on which the loss depends: declare the module to "
            "Pyro (pyro.module(name, module)), or hold it in a program that is an nn.Module; or "
            "freeze it with requires_grad_(False)",
            UntrainedWarning,
            stacklevel=4,
        )


def _listed(names: Iterable[str]) -> str:
    """Names in a row; of many the first."""
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def leaves_of(loss: Tensor) -> list[Tensor]:
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


def _names_of(tensors: list[Tensor], **programs: Callable) -> list[str]:
    """Where a program has each tensor: in a module, an attribute, a variable of a function.

    A name per tensor, such as "guide.layers[0].weight"; its shape for a parameter that is not
    found. Other tensors that are not found are made by the programs when they run, such as the
    input of a gradient penalty, and are left out.
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
        yield from value.named_parameters(prefix=name)
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
