"""What programs can reach: all objects whose contents may decide what they compute."""

from __future__ import annotations

import argparse
import array
import collections
import collections.abc
import functools
import io
import itertools
import queue
import random
import sys
import sysconfig
import threading
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...conditionals.hand_over import HandOver
from ...ground.recorded import Recorded
from . import internals
from .places import BOOKKEEPING, Attributes, Cell, Children, Entries, Names, OfClass, Place, Slots

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
# What stands in every class and says nothing
_OF_CLASSES = frozenset(vars(type("_", (), {}))) | {"__slots__", "__annotations__"}
_NAMESPACES = (
    types.SimpleNamespace,
    argparse.Namespace,
    collections.UserDict,
    collections.UserList,
    queue.Queue,
    threading.local,
)
# Contents that change without a trace: no record keeps them, and nothing puts them back
_UNWATCHED = (array.array, bytearray, collections.abc.Iterator, queue.SimpleQueue)
# What is not looked into because it says all by its identity, or decides nothing
_STAYING = (
    *(type, range, slice, types.ModuleType, types.CodeType, io.IOBase, HandOver),
    *(type(...), type(NotImplemented), types.BuiltinFunctionType, types.MethodWrapperType),
    *(types.WrapperDescriptorType, types.MethodDescriptorType, types.ClassMethodDescriptorType),
    *(types.GetSetDescriptorType, types.MemberDescriptorType, types.GenericAlias),
    *(torch.dtype, torch.layout, torch.memory_format, torch.finfo, torch.iinfo),
    # What is kept for a key, as an estimator does for a program
    *(np.dtype, np.ufunc, weakref.WeakKeyDictionary),
)
_STAYING_OF = frozenset(
    "_abc _thread abc dataclasses datetime decimal enum fractions inspect logging operator "
    "pathlib re typing uuid".split()
)
_GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)
# What there is to look into
_PARTS: dict[type, Callable[[Any], tuple]] = {
    types.MethodType: lambda method: (method.__self__, method.__func__),
    property: lambda value: (value.fget, value.fset),
    staticmethod: lambda value: (value.__func__,),
    classmethod: lambda value: (value.__func__,),
    functools.cached_property: lambda value: (value.func,),
}
_OURS = frozenset(("torch", "pyro", "pyro_vae", "numpy"))
# More objects that are no modules are not looked into, and longer collections neither
_MOST_OBJECTS, _LONGEST = 5_000, 10_000


class Reached:
    """A walk from some programs through modules, functions, plain objects and collections.

    Looked into are attributes, collections, closures and, of functions and classes that belong to
    no library, the globals that they name and the attributes of the class.

    References lie in ``places`` and, not looked into, in ``long`` collections. Tensors, arrays and
    generators are held by identity, as they were met; ``backward_hooks`` are collections of hooks
    on the gradients of modules, and ``unwatched`` says whose contents nothing can watch or put
    back, or is None. ``blind`` tells whether anything was met that may change and is not looked
    into: long collections, objects of Python's library, and all where there are too many of them.
    ``key`` is hashable, and equal where all contents are equal; objects that are
    not looked into count by their identity.
    """

    def __init__(self, *roots: Any) -> None:
        self.places: list[Place] = []
        self.tensors: dict[int, Tensor] = {}
        self.arrays: dict[int, np.ndarray] = {}
        self.generators: dict[int, Any] = {}
        self.unwatched: str | None = None
        self.blind = False
        self.long: list[Place] = []
        self.backward_hooks = [*internals.HOOKS_ON_BACKWARD]
        self._numbers: dict[int, int] = {}
        # What is still to be visited, how, and where it was met
        self._stack: list[tuple[Callable[[Any], object], Any, str]] = []
        self._key: list[Any] = []
        self._within = "the pair"
        for hooks in internals.HOOKS:
            self._add(Children(hooks, "torch's hooks on all modules"))
        self._key += map(self._token, roots)
        while self._stack:
            visit, value, self._within = self._stack.pop()
            visit(value)
        self.key = tuple(self._key)
        del self._numbers, self._stack, self._key

    def _token(self, value: Any) -> Any:
        """What of a value decides which operations run, hashable; visits it later."""
        kind = type(value)
        if kind in _PLAIN:
            # Zeros of both signs are equal, and numbers of several types
            return (kind, value.hex()) if kind is float else (kind, value)
        if isinstance(value, np.generic):
            return kind, value.tobytes()
        if isinstance(value, torch.device):
            return kind, value
        if isinstance(value, tuple | frozenset):
            return (kind, *map(self._token, value))
        visit = self._visitor(value)
        if visit is None:
            if isinstance(value, _UNWATCHED) and not isinstance(value, io.IOBase):
                self.unwatched = f"a {kind.__name__} in {self._within}"
            self.blind = self.blind or not (isinstance(value, Tensor) or _stays(value))
            return id(value)
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._numbers)
            self._stack.append((visit, value, self._within))
        return kind, number

    def _visitor(self, value: Any) -> Callable[[Any], object] | None:
        if isinstance(value, nn.Module):
            return self._module
        if isinstance(value, Tensor):
            self.tensors[id(value)] = value
            return None
        if len(self._numbers) > _MOST_OBJECTS:
            return None
        for kinds, visit in (
            (np.ndarray, self._array),
            (_GENERATORS, self._generator),
            (types.FunctionType, self._function),
            (functools.partial, self._partial),
            (tuple(_PARTS), self._parts),
            (type, self._class if _is_own(getattr(value, "__module__", None)) else None),
            (dict | types.MappingProxyType, self._collection),
            (list | set | collections.deque, self._collection),
        ):
            if isinstance(value, kinds):
                return visit
        return self._object if _is_open(value) else None

    def _add(self, place: Place) -> None:
        self.places.append(place)
        self._within = place.label
        counting = place.read() if place.names else itertools.chain(*place.view())
        self._key.append((place.names, *map(self._token, counting)))

    def _module(self, module: nn.Module) -> None:
        attributes, label = module.__dict__, type(module).__name__
        self._key.append(id(module))
        names = tuple(sorted(attributes.keys() - BOOKKEEPING))
        self._add(Attributes(attributes, label, names, counted=True))
        for held in internals.contents(module):
            self._add(Children(held, label))
        self.backward_hooks += internals.backward_hooks(module)
        self._classes(module)

    def _object(self, value: Any) -> None:
        label = type(value).__name__
        attributes = getattr(value, "__dict__", None)
        self._key.append(type(value))
        if isinstance(value, Recorded):
            if names := tuple(sorted(attributes.keys() - BOOKKEEPING)):
                self._add(Attributes(attributes, label, names, counted=True))
        elif attributes is not None:
            self._add(Entries(attributes, label))
        slots = itertools.chain.from_iterable(
            (given,) if isinstance(given := vars(cls).get("__slots__", ()), str) else given
            for cls in type(value).__mro__
        )
        if names := tuple(n for n in slots if hasattr(value, n) and not n.startswith("__")):
            self._add(Slots(value, label, names))
        self._classes(value)

    def _classes(self, value: Any) -> None:
        self._key += (self._token(c) for c in type(value).__mro__ if _is_own(c.__module__))

    def _class(self, cls: type) -> None:
        if names := tuple(vars(cls).keys() - _OF_CLASSES):
            place = OfClass(vars(cls), cls.__name__, names, counted=True)
            place.owner = cls
            self._add(place)

    def _collection(self, value: Any) -> None:
        kind = Entries if isinstance(value, Mapping) else Place
        name = type(value).__name__
        if len(value) <= _LONGEST:
            self._add(kind(value, f"a {name} in {self._within}"))
        else:
            self.long.append(kind(value, f"a long {name}"))
            self.blind = True
        if hasattr(value, "__dict__"):
            self._object(value)

    def _function(self, function: types.FunctionType) -> None:
        label = function.__name__
        self._key.append(id(function))
        for cell in function.__closure__ or ():
            self._add(Cell(cell, f"a variable around {label}"))
        defaults = function.__defaults__, function.__kwdefaults__
        self._key += map(self._token, (*defaults, function.__dict__))
        if not _is_own(function.__module__):
            return
        named = tuple(dict.fromkeys(_names(function.__code__)))
        variables = function.__globals__
        if names := tuple(name for name in named if name in variables):
            self._add(Names(variables, f"globals of {label}", names))
        for name in names:
            module = variables[name]
            if isinstance(module, types.ModuleType) and _is_own(module.__name__):
                if inside := tuple(n for n in named if n in vars(module)):
                    self._add(Names(vars(module), name, inside))

    def _parts(self, value: Any) -> None:
        of = next(of for kind, of in _PARTS.items() if isinstance(value, kind))
        self._key += map(self._token, of(value))

    def _partial(self, partial: functools.partial) -> None:
        self._key += map(self._token, (partial.func, partial.args))
        self._add(Entries(partial.keywords, "a functools.partial"))

    def _array(self, array: np.ndarray) -> None:
        self.arrays[id(array)] = array
        self._key.append((id(array), array.shape, array.dtype.str, array.tobytes()))

    def _generator(self, generator: Any) -> None:
        self.generators[id(generator)] = generator
        self._key.append(id(generator))


def _names(code: types.CodeType) -> Iterator[str]:
    """All names that a function's code mentions, and those of functions in it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _is_own(module: str | None) -> bool:
    """Whether a module is a person's own and belongs to no library."""
    return module is not None and _is_root_own(module.partition(".")[0])


@functools.cache
def _is_root_own(root: str) -> bool:
    if root in _OURS or root in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(root), "__file__", None) or ""
    paths = sysconfig.get_paths()
    return not file.startswith((paths["purelib"], paths["platlib"]))


def _stays(value: Any) -> bool:
    """Whether what is not looked into says all by its identity."""
    kind = type(value)
    if kind is object or kind.__module__.partition(".")[0] in _STAYING_OF:
        return True
    return isinstance(value, _STAYING)


def _is_open(value: Any) -> bool:
    """Whether an object is looked into: one with attributes that is not of Python's library."""
    cls = type(value)
    if cls is HandOver:  # checks by itself whether what it holds is of use
        return False
    if isinstance(value, _NAMESPACES):
        return True
    module = str(cls.__module__)
    root = module.partition(".")[0]
    if root in sys.stdlib_module_names or module.startswith(__package__):
        return False
    return hasattr(value, "__dict__") or _is_own(module)
