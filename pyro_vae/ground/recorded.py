"""Objects that remember the arguments they were built from, so that a file can rebuild them."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import numbers
import pkgutil
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch

from . import names

# By the names that files have for them; of two with one name, such as those of a cell that was run
# twice, the later
DEFINED: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()


class Recorded:
    """A mixin for parts of your own that ``save`` writes and ``load(path, classes=)`` rebuilds.

    Instances keep the arguments of their constructor in ``arguments``. A file holds the name of
    the class, these arguments with the defaults of those that were left out, and, of a module, the
    tensors of its ``state_dict``: never code. So a decoder, conditional, guide, likelihood, prior
    or model of your own goes into the file of whatever holds it, if its arguments are None,
    numbers, strings, 0-d tensors (which come back as numbers), sequences (as tuples), mappings
    with strings as keys, classes of ``torch.nn`` and ``torch.optim``, or objects that are recorded
    themselves; ``save`` refuses any other by its name. What else is changed after the constructor
    has returned is in no file.

    ``load(path, classes=[Decoder])`` builds it again, and so does ``Trainer.resume``. A class is
    found by its own name, so that its module may have moved since; where two have one name, pass
    ``classes={"first.Decoder": Decoder, ...}`` with the names in the file. One that is not among
    them has to be defined already, in a module of the name that the file has: nothing is imported
    because a file names it. All classes of this library with arguments derive from this one, so
    that subclasses of a guide or a likelihood need no more.

    Two attributes may be overridden where a constructor has changed since files were written:
    ``of_file``, a class method from the arguments in a file to those of today, and ``absent``, a
    mapping from new arguments to what they mean in files without them.

    Example:
        >>> import tempfile
        >>> from pyro_vae import likelihoods, load, models, save
        >>> class Decoder(Recorded, torch.nn.Module):
        ...     def __init__(self, width: int) -> None:
        ...         super().__init__()
        ...         self.layers = torch.nn.Sequential(
        ...             torch.nn.Linear(2, width), torch.nn.SiLU(), torch.nn.Linear(width, 6)
        ...         )
        ...
        ...     def forward(self, z):
        ...         return self.layers(z)
        >>> vae = models.VAE((6,), 2, likelihood=likelihoods.Gaussian(), decoder=Decoder(16))
        >>> vae.decoder.arguments
        {'width': 16}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(vae, folder + "/vae.pt")
        ...     again = load(folder + "/vae.pt", classes=[Decoder])
        >>> type(again.decoder).__name__, again.decoder.arguments
        ('Decoder', {'width': 16})
    """

    arguments: dict[str, Any]
    # What an argument means in files from before it was there, for each that is always written
    absent: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    # Names that are there for other parts of the library, or torch, which completion leaves out
    inside: ClassVar[tuple[str, ...]] = (
        "absent",
        "extra_repr",
        "get_extra_state",
        "inside",
        "of_file",
        "set_extra_state",
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Know the class by its name in files."""
        super().__init_subclass__(**kwargs)
        DEFINED[names.name_of(cls)] = cls
        # What help shows, where otherwise it would be that of __new__, or of a base
        if cls.__init__ in (object.__init__, torch.nn.Module.__init__):
            cls.__signature__ = inspect.Signature()
        elif any("__signature__" in vars(base) for base in cls.__mro__[1:]):
            own = inspect.signature(cls.__init__)
            cls.__signature__ = own.replace(parameters=[*own.parameters.values()][1:])

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the call before ``__init__`` runs; a bad call is left to ``__init__``."""
        self = super().__new__(cls)
        # Bound, whatever it calls itself
        signature = inspect.signature(self.__init__)
        try:
            bound = signature.bind_partial(*args, **kwargs).arguments
        except TypeError:
            bound = {}
        arguments = dict(bound)
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments.update(arguments.pop(name, {}))
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


# Written and read as they are, most of all arguments
_PLAIN = frozenset({type(None), bool, int, float, str})
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
        return [
            v if type(v) in _PLAIN else encode(v, f"{where}[{i}]", seen)
            for i, v in enumerate(value)
        ]
    if isinstance(value, Recorded):
        if id(value) in seen:
            return {"$ref": seen[id(value)]}
        given = value.arguments
        if not names.is_ours(type(value)):
            given = {**_own_defaults(type(value)), **given}
        arguments = {
            k: v if type(v) in _PLAIN else encode(v, f"{where}.{k}", seen)
            for k, v in given.items()
        }
        seen[id(value)] = len(seen)
        return {
            "$class": names.name_of(type(value)),
            "$id": seen[id(value)],
            "arguments": arguments,
        }
    if name := _torch_name(value):
        return {"$torch": name}
    # Other keys than strings would come back as strings, and those with a $ as something else
    if isinstance(value, Mapping) and all(type(k) is str and k[:1] != "$" for k in value):
        return {k: encode(v, f"{where}[{k!r}]", seen) for k, v in value.items()}
    raise TypeError(
        f"{where}: expected a value that JSON can hold, got {type(value).__name__}. "
        "Save the tensors only with save(trainer, path, arguments=False), and load them into a "
        "pair that you build yourself with load(path, model=..., guide=...)"
    )


def _with_constructor(cls: type) -> type:
    return next(base for base in cls.__mro__ if "__init__" in vars(base))


def _own_defaults(cls: type) -> dict[str, Any]:
    # Those of a user's constructor may change without a word
    found: dict[str, Any] = {}
    if names.is_ours(_with_constructor(cls)):
        return found
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if parameter.default is not parameter.empty:
            with contextlib.suppress(TypeError):
                encode(parameter.default, name)
                found[name] = parameter.default
    return found


def known(name: str) -> type | None:
    """The class of a present name in a file: of this package, or of a user and defined already.

    Only this package is ever imported.
    """
    found = DEFINED.get(name)
    place = name.partition(".")[0]
    if found is not None or place not in names.rooms():
        return found
    room = importlib.import_module(f"{names.PACKAGE}.{place}")
    for module in pkgutil.iter_modules(getattr(room, "__path__", ())):
        importlib.import_module(f"{room.__name__}.{module.name}")
    # Files from before have no dot before the name of a user's module that is named like a room
    return DEFINED.get(name) or DEFINED.get(f".{name}")


def find(name: str) -> type:
    """The class that is ``known``; ``ValueError`` for none."""
    found = known(name)
    if found is None:
        raise ValueError(missing([name]))
    return found


def missing(wanted: Sequence[str], given: str = "") -> str:
    """What is said of classes that are needed for a file, where some others were given."""
    several = len(wanted) > 1
    own = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in wanted))
    return (
        f"file needs the class{'es' * several} {', '.join(map(repr, wanted))}{given}: import the "
        f"module{'s' * several} that define{'s' * (not several)} {'them' if several else 'it'} "
        f"before loading, or pass classes=[{own}]"
    )


def takes(cls: type, argument: str) -> bool:
    """Whether the constructor of a class takes an argument of this name."""
    parameters = inspect.signature(cls.__init__).parameters
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _build(cls: type, arguments: dict[str, Any]) -> Any:
    """Call ``cls`` as it was called: the items of a ``*parts`` one by one."""
    several, signature = (), inspect.signature(cls.__init__)
    for name, parameter in signature.parameters.items():
        if name in cls.absent:
            arguments.setdefault(name, cls.absent[name])
        if parameter.kind is parameter.VAR_POSITIONAL:
            several = arguments.pop(name, ())
    given = sorted(arguments)
    # By name they would not do; what stands before several items was given, by position
    by_place = {inspect.Parameter.POSITIONAL_ONLY}
    if several:
        by_place.add(inspect.Parameter.POSITIONAL_OR_KEYWORD)
    ahead = [
        arguments.pop(name)
        for name, parameter in signature.parameters.items()
        if parameter.kind in by_place and name in arguments
    ]
    try:
        signature.bind(None, *ahead, *several, **arguments)
    except TypeError as error:
        if names.is_ours(cls):
            raise
        raise ValueError(
            f"{cls.__name__}: its constructor {inspect.signature(cls)} does not take the "
            f"arguments {given} that the file has for it ({error}): pass the class "
            "as it was in classes=[...], or give it a class method of_file that changes them"
        ) from error
    return _called(cls, "constructor", cls, *ahead, *several, **arguments)


def _called(
    cls: type, what: str, function: Callable[..., Any], /, *args: Any, **named: Any
) -> Any:
    """Name a user's class in whatever its own code raises, which tells nothing of a file."""
    try:
        return function(*args, **named)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if names.is_ours(cls):
            raise
        raise ValueError(
            f"{cls.__name__}: its {what} raised {type(error).__name__} for the arguments in the "
            f"file: {error}"
        ) from error


def rebuilt(value: Recorded) -> Any:
    """Another object of the same class, from the same arguments."""
    return _build(type(value), dict(value.arguments))


def decode(
    value: Any, built: dict[int, Any] | None = None, find: Callable[[str], type] = find
) -> Any:
    """Rebuild what ``encode`` wrote; only ``Recorded`` and torch classes are ever constructed.

    Args:
        value: JSON data.
        built: objects by id; shared by the parts of one file.
        find: the class of a name.

    Raises:
        ValueError: a class that cannot be found, a user's class that takes other arguments, or a
            reference to nothing.
    """
    built = {} if built is None else built
    if isinstance(value, list):
        return tuple([decode(v, built, find) for v in value])
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
        cls, given = find(name), value["arguments"]
        if not cls.__module__.startswith(names.OURS):
            name = names.name_of(_with_constructor(cls))
        if name in names.ARGUMENTS:
            given = names.renamed(name, given)
        arguments = {
            k: v if type(v) in _PLAIN else decode(v, built, find) for k, v in given.items()
        }
        result = _build(cls, _called(cls, "of_file", cls.of_file, arguments))
        built[value["$id"]] = result
        return result
    return {k: decode(v, built, find) for k, v in value.items()}
