"""Objects that remember the arguments they were built from, so that a file can rebuild them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch


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

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Record the call before ``__init__`` runs; a bad call is left for ``__init__`` to raise."""
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
        # nn.Module.__setattr__ would register modules among the arguments as children
        object.__setattr__(self, "arguments", arguments)
        return self


# Classes that a file may name besides Recorded ones: nothing else is ever imported for it.
_TORCH_NAMESPACES = ("torch.nn", "torch.optim", "torch.optim.lr_scheduler")


def _qualified_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _torch_name(value: Any) -> str | None:
    if not inspect.isclass(value):
        return None
    for namespace in _TORCH_NAMESPACES:
        if getattr(importlib.import_module(namespace), value.__name__, None) is value:
            return f"{namespace}.{value.__name__}"
    return None


def encode(value: Any, where: str, reference: Callable[[Any], str | None]) -> Any:
    """Turn a constructor argument into JSON-able data.

    Args:
        value: number, string, sequence, mapping, ``Recorded`` object or torch class.
        where: name of the argument, for the error.
        reference: gives the name of an object that the file already holds, else None.

    Raises:
        TypeError: for anything else, naming the argument and the way out.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor) and value.dim() == 0:
        return value.item()
    if isinstance(value, tuple | list | torch.Size):
        return [encode(v, f"{where}[{i}]", reference) for i, v in enumerate(value)]
    if name := reference(value):
        return {"$ref": name}
    if isinstance(value, Recorded):
        arguments = {
            k: encode(v, f"{where}.{k}", reference) for k, v in value.arguments.items()
        }
        return {"$class": _qualified_name(type(value)), "arguments": arguments}
    if name := _torch_name(value):
        return {"$torch": name}
    if isinstance(value, Mapping):
        return {str(k): encode(v, f"{where}[{k!r}]", reference) for k, v in value.items()}
    raise TypeError(
        f"{where}: expected a value that JSON can hold, got {type(value).__name__}. "
        "Save the tensors only and rebuild the pair yourself: "
        "save(trainer, path, arguments=False), then load(path, model=..., guide=...)"
    )


def _recorded_classes(cls: type = Recorded) -> dict[str, type]:
    found = {_qualified_name(cls): cls}
    for sub in cls.__subclasses__():
        found.update(_recorded_classes(sub))
    return found


def decode(value: Any, references: Mapping[str, Any]) -> Any:
    """Rebuild what ``encode`` wrote; only ``Recorded`` and torch classes are ever constructed.

    Raises:
        ValueError: a class that this process does not know.
    """
    if isinstance(value, list):
        return tuple(decode(v, references) for v in value)
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return references[value["$ref"]]
    if "$torch" in value:
        namespace, _, name = str(value["$torch"]).rpartition(".")
        if namespace not in _TORCH_NAMESPACES:
            raise ValueError(f"file names {value['$torch']!r}, which is not a torch class")
        return getattr(importlib.import_module(namespace), name)
    if "$class" in value:
        cls = _recorded_classes().get(value["$class"])
        if cls is None:
            raise ValueError(
                f"file needs the class {value['$class']!r}: import the module that defines it "
                "before loading"
            )
        return cls(**{k: decode(v, references) for k, v in value["arguments"].items()})
    return {k: decode(v, references) for k, v in value.items()}
