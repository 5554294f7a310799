"""What of a pair decides which operations it runs, and whether that is still the same."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from torch import nn

from ...recorded import Recorded

_PLAIN = (bool, int, float, str, type(None))
# Attributes of every nn.Module that decide nothing about the operations that it runs
_BOOKKEEPING = (frozenset(nn.Module().__dict__) - {"training"}) | {"arguments"}
_CALLED = ("_forward_hooks", "_forward_pre_hooks")
_BACKWARD = ("_backward_hooks", "_backward_pre_hooks")
_CHILDREN = ("_modules", "_parameters", "_buffers")
_END = object()
_requires_grad = operator.attrgetter("requires_grad")
_hooks = operator.attrgetter("_backward_hooks", "_post_accumulate_grad_hooks")


class Fingerprint:
    """The modules of a pair, their tensors and plain attributes.

    Args:
        model: generative program.
        guide: inference program.

    Attributes:
        key: hashable, equal for pairs that run the same operations on the same tensors.
        hooked: whether a parameter or a module has hooks on its gradient.
    """

    def __init__(self, model: nn.Module, guide: nn.Module) -> None:
        self.programs = (model, guide)
        # What was read: views of containers, and some attributes of each module
        self._views: list[Collection[Any]] = []
        self._attributes: list[dict[str, Any]] = []
        self._readers: list[Callable[[dict[str, Any]], tuple]] = []
        self._parameters: dict[int, nn.Parameter] = {}
        self._backward_hooks: list[Collection[Any]] = []
        self._comparable = True
        modules = tuple(self._modules())
        self.hooked = self._has_hooks()
        self.key = (self.hooked, *modules)
        self._empty = [view for view in self._views if not view]
        self._views = [view for view in self._views if view] + [(_END,)]
        self._counts = [*map(len, self._attributes)]
        self._contents = [*self._read(), _END]
        self._trainable = [*map(_requires_grad, self._parameters.values())]

    def holds(self, model: Callable, guide: Callable) -> bool:
        """Whether ``key`` is still that of this pair; runs at each step, so in C throughout."""
        if not self._comparable or self.programs != (model, guide):
            return False
        try:
            return (
                [*map(len, self._attributes)] == self._counts
                and [*map(_requires_grad, self._parameters.values())] == self._trainable
                and self._has_hooks() == self.hooked
                and not any(map(len, self._empty))
                and all(map(operator.is_, self._read(), self._contents))
            )
        except KeyError:  # an attribute has gone
            return False

    def _has_hooks(self) -> bool:
        on_parameters = itertools.chain.from_iterable(map(_hooks, self._parameters.values()))
        return any(on_parameters) or any(map(len, self._backward_hooks))

    def _read(self) -> Iterator[Any]:
        attributes = map(operator.call, self._readers, self._attributes)
        return itertools.chain.from_iterable(itertools.chain(attributes, self._views))

    def _modules(self) -> Iterator[Any]:
        stack: list[nn.Module | None] = list(self.programs)
        seen: set[int] = set()
        while stack:
            module = stack.pop()
            if module is None or id(module) in seen:
                continue
            seen.add(id(module))
            attributes = module.__dict__
            names = attributes.keys() - _BOOKKEEPING
            self._attributes.append(attributes)
            # At least two names (training is one), of which it returns a tuple
            self._readers.append(operator.itemgetter("_modules", *names))
            self._views += (attributes[name].values() for name in _CHILDREN)
            self._views += (attributes[name].values() for name in _CALLED)
            self._backward_hooks += (attributes[name] for name in _BACKWARD)
            yield tuple(id(hook) for name in _CALLED for hook in attributes[name].values())
            stack.extend(attributes["_modules"].values())
            yield id(module)
            for parameter in attributes["_parameters"].values():
                if parameter is not None:
                    self._parameters[id(parameter)] = parameter
                yield id(parameter), parameter is not None and parameter.requires_grad
            yield from map(id, attributes["_buffers"].values())
            for name in names:
                value = attributes[name]
                if isinstance(value, nn.Module):
                    stack.append(value)
                else:
                    yield name, self._guard(value)

    def _guard(self, value: Any) -> Any:
        """What of a module's attribute decides which operations it runs, hashable."""
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, tuple | list):
            self._views.append(value)
            return tuple(map(self._guard, value))
        if isinstance(value, Mapping):
            # Only a dict has a view of its values that tells the truth without a call
            self._comparable &= isinstance(value, dict)
            self._watch(value)
            return tuple((k, self._guard(v)) for k, v in value.items())
        if isinstance(value, Recorded):
            self._watch(vars(value))
            return tuple(self._guard(v) for k, v in vars(value).items() if k != "arguments")
        return id(value)

    def _watch(self, mapping: Mapping[Any, Any]) -> None:
        # Live: iterating a view again tells what is in the mapping then
        self._views += (mapping.keys(), mapping.values())
