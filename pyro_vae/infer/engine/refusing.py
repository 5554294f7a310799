"""Reads of tensors' values while a program is recorded, which a record could not repeat."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ...ground.internals import DispatchMode
from .internals import SIZING, UNSAFE_INDEX, schema

_ATEN = torch.ops.aten
_DEPENDING = (torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output)
_DRAWING = torch.Tag.nondeterministic_seeded
_INDEXED = (_ATEN.index.Tensor, UNSAFE_INDEX)


def leaves(value: Any) -> Iterator[Any]:
    """What arguments or results of an operation hold, as torch's own tree functions tell it.

    Those ask of each value whether its class was registered: a fifth of the time of recording.
    """
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        yield value
        return
    for part in value:
        yield from leaves(part)


def _always(given: tuple) -> bool:
    return True


def _counts(given: tuple) -> bool:
    return any(isinstance(value, Tensor) for value in given[1:])


def _nests(given: tuple) -> bool:
    sequences = [value for value in given if isinstance(value, list | tuple)]
    return any(isinstance(leaf, Tensor) for leaf in leaves(sequences))


# Methods and functions that read values, or change them, past torch's dispatcher; and of which
# arguments they do
_METHODS = ("tolist", "numpy", "__array__", "__dlpack__", "apply_", "map_", "map2_")
_READING: list[tuple[Any, str, Callable[[tuple], bool]]] = [
    *((Tensor, name, _always) for name in _METHODS),
    *((owner, "to_dlpack", _always) for owner in (torch, torch.utils.dlpack)),
    *((owner, "tensor_split", _counts) for owner in (Tensor, torch)),
    *((torch, name, _nests) for name in ("tensor", "as_tensor", "asarray")),
    (Tensor, "new_tensor", _nests),
]


class ValueRead(RuntimeError):
    """A program asks for the values of a tensor, or for a size that they decide."""


def _refuse(how: str) -> NoReturn:
    raise ValueRead(f"it reads values of a tensor, or a size that they decide, by {how}")


@contextlib.contextmanager
def refused_functions() -> Iterator[None]:
    """Raise ``ValueRead`` in this thread where values are read past torch's dispatcher.

    Torch's own switch for functions would not do: layers look at it, and take another way.
    """
    recording, before = threading.get_ident(), []
    for owner, name, reads in _READING:
        original = getattr(owner, name)

        def read(
            *args: Any,
            _original: Callable = original,
            _name: str = name,
            _reads: Callable[[tuple], bool] = reads,
            **kwargs: Any,
        ) -> Any:
            if threading.get_ident() == recording and _reads((*args, *kwargs.values())):
                _refuse(_name)
            return _original(*args, **kwargs)

        before.append((owner, name, vars(owner).get(name)))
        setattr(owner, name, functools.wraps(original)(read))
    try:
        yield
    finally:
        for owner, name, value in before:
            if value is None:  # inherited
                delattr(owner, name)
            else:
                setattr(owner, name, value)


class RefusedOperations(DispatchMode):
    """Raises ``ValueRead`` at operations whose result or its size is decided by values.

    Tensors that are made while it is on, of numbers that a program holds, are no such values.
    """

    def __init__(self) -> None:
        super().__init__()
        self._constants: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        constant = func is _ATEN.lift_fresh.default or (
            all(tensor in self._constants for tensor in given) and _DRAWING not in func.tags
        )
        if not constant and _depends(func, given):
            _refuse(str(func).removeprefix("aten."))
        result = func(*args, **kwargs)
        if constant:
            made = (leaf for leaf in leaves(result) if isinstance(leaf, Tensor))
            self._constants.update((tensor, True) for tensor in made)
        elif schema(func).is_mutable:
            self._constants.clear()
        return result


def _depends(func: Any, given: list[Tensor]) -> bool:
    if func in _INDEXED:
        return any(t.dtype in (torch.bool, torch.uint8) for t in given[1:])
    return func in SIZING or any(tag in func.tags for tag in _DEPENDING)
