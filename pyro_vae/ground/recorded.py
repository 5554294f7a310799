"""Objects that remember the arguments they were built from, so that a file can rebuild them."""

from __future__ import annotations

import importlib
import inspect
import numbers
import pkgutil
import weakref
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch

from . import names


class Recorded:
    """Base class whose instances keep their constructor's arguments in ``arguments``.

    Example:
        >>> class Point(Recorded):
        ...     def __init__(self, x, y=0):
        ...         self.x, self.y = x, y
        >>> Point(3).arguments
        {'x': 3}
    """

    arguments: dict[str, Any]
    # By the names that files have for them; of two with one name, such as those of a cell that was
    # run twice, the later
    classes: ClassVar[weakref.WeakValueDictionary[str, type]] = weakref.WeakValueDictionary()
    # What an argument means in files from before it was there, for each that is always written
    absent: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    # Names that are there for other parts of the library, which completion leaves out
    inside: ClassVar[tuple[str, ...]] = ("absent", "classes", "inside", "of_file")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Know the class by its name in files."""
        super().__init_subclass__(**kwargs)
        Recorded.classes[names.name_of(cls)] = cls
        # What help shows, where otherwise it would be that of __new__, or of a base
        if cls.__init__ in (object.__init__, torch.nn.Module.__init__):
            cls.__signature__ = inspect.Signature()
        elif any("__signature__" in vars(base) for base in cls.__mro__[1:]):
            own = inspect.signature(cls.__init__)
            cls.__signature__ = own.replace(parameters=[*own.parameters.values()][1:])

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the call before ``__init__`` runs; a bad call is left to ``__init__``."""
        self = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        try:
            bound = signature.bind_partial(self, *args, **kwargs).arguments
        except TypeError:
            bound = {}
        arguments = dict(bound)
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments.update(arguments.pop(name, {}))
        arguments.pop("self", None)
        for name in cls.absent:
            if name in signature.parameters:
                arguments.setdefault(name, signature.parameters[name].default)
        # nn.Module.__setattr__ would register modules among the arguments as children
        object.__setattr__(self, "arguments", arguments)
        return self

    def __dir__(self) -> list[str]:
        """What completion offers."""
        hidden = {name for base in type(self).__mro__ for name in vars(base).get("inside", ())}
        return [name for name in super().__dir__() if name not in hidden]

    @classmethod
    def of_file(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments that a file names, and what it means by those that it does not name.

        Where a default has changed since some version wrote files, here is the one before.
        """
        return arguments


# Classes that a file may name besides Recorded ones: nothing else is ever imported for it.
_TORCH_NAMESPACES = ("torch.nn", "torch.optim", "torch.optim.lr_scheduler")
_TORCH_BASES = (torch.nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)


def _torch_class(namespace: str, name: str) -> type | None:
    # A namespace also holds modules, functions and what it imported itself
    found = getattr(importlib.import_module(namespace), name, None)
    return found if inspect.isclass(found) and issubclass(found, _TORCH_BASES) else None


def _torch_name(value: Any) -> str | None:
    if not inspect.isclass(value):
        return None
    for namespace in _TORCH_NAMESPACES:
        if _torch_class(namespace, value.__name__) is value:
            return f"{namespace}.{value.__name__}"
    return None


def encode(value: Any, where: str, seen: dict[int, int] | None = None) -> Any:
    """Turn a constructor argument into JSON-able data; an object met twice is written once.

    Args:
        value: number, string, sequence, mapping, ``Recorded`` object or torch class.
        where: name of the argument, for the error.
        seen: ids of the ``Recorded`` objects already written; shared by the parts of one file.

    Raises:
        TypeError: for anything else, naming the argument and the way out.
    """
    seen = {} if seen is None else seen
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, torch.Tensor) and value.dim() == 0:
        return value.item()
    if isinstance(value, tuple | list | torch.Size):
        return [encode(v, f"{where}[{i}]", seen) for i, v in enumerate(value)]
    if isinstance(value, Recorded):
        if id(value) in seen:
            return {"$ref": seen[id(value)]}
        arguments = {k: encode(v, f"{where}.{k}", seen) for k, v in value.arguments.items()}
        seen[id(value)] = len(seen)
        return {
            "$class": names.name_of(type(value)),
            "$id": seen[id(value)],
            "arguments": arguments,
        }
    if name := _torch_name(value):
        return {"$torch": name}
    if isinstance(value, Mapping):
        return {str(k): encode(v, f"{where}[{k!r}]", seen) for k, v in value.items()}
    raise TypeError(
        f"{where}: expected a value that JSON can hold, got {type(value).__name__}. "
        "Save the tensors only with save(trainer, path, arguments=False), and load them into a "
        "pair that you build yourself with load(path, model=..., guide=...)"
    )


def _imported(name: str) -> type | None:
    """A class of this package that a file names, by importing what its room has."""
    package, place = importlib.import_module(names.PACKAGE), name.partition(".")[0]
    rooms = {module.name for module in pkgutil.iter_modules(package.__path__)} - {"__main__"}
    if place not in rooms:
        return None
    room = importlib.import_module(f"{names.PACKAGE}.{place}")
    for module in pkgutil.iter_modules(getattr(room, "__path__", ())):
        importlib.import_module(f"{room.__name__}.{module.name}")
    return Recorded.classes.get(name)


def takes(cls: type, argument: str) -> bool:
    """Whether the constructor of a class takes an argument of this name."""
    parameters = inspect.signature(cls.__init__).parameters
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _build(cls: type, arguments: dict[str, Any]) -> Any:
    """Call ``cls`` as it was called: the items of a ``*parts`` one by one."""
    several = ()
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name in cls.absent:
            arguments.setdefault(name, cls.absent[name])
        if parameter.kind is parameter.VAR_POSITIONAL:
            several = arguments.pop(name, ())
    return cls(*several, **arguments)


def rebuilt(value: Recorded) -> Any:
    """Another object of the same class, from the same arguments."""
    return _build(type(value), dict(value.arguments))


def decode(value: Any, built: dict[int, Any] | None = None) -> Any:
    """Rebuild what ``encode`` wrote; only ``Recorded`` and torch classes are ever constructed.

    Args:
        value: JSON data.
        built: objects by id; shared by the parts of one file.

    Raises:
        ValueError: a class that this process does not know, or a reference to nothing.
    """
    built = {} if built is None else built
    if isinstance(value, list):
        return tuple([decode(v, built) for v in value])
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        if value["$ref"] not in built:
            raise ValueError(f"file refers to object {value['$ref']!r}, which it does not hold")
        return built[value["$ref"]]
    if "$torch" in value:
        namespace, _, name = str(value["$torch"]).rpartition(".")
        found = _torch_class(namespace, name) if namespace in _TORCH_NAMESPACES else None
        if found is None:
            raise ValueError(f"file names {value['$torch']!r}, which is not a torch class")
        return found
    if "$class" in value:
        name = names.current(value["$class"])
        cls = Recorded.classes.get(name) or _imported(name)
        if cls is None:
            raise ValueError(
                f"file needs the class {value['$class']!r}: import the module that defines it "
                "before loading"
            )
        given = names.renamed(name, value["arguments"])
        arguments = {k: decode(v, built) for k, v in given.items()}
        result = _build(cls, cls.of_file(arguments))
        built[value["$id"]] = result
        return result
    return {k: decode(v, built) for k, v in value.items()}
