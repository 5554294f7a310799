"""What a person passes for data: x, with labels or without, or the programs' own arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from ..data import Dataset
from ..data.arguments import Arguments, Data, as_column
from ..data.given import as_dataset
from ..ground.arguments import known
from .calling import check_arguments, names_of, positional, takes_second
from .labels import accepts_labels, as_labels
from .placing import device_of, dtype_of, like
from .unwrapping import is_ours
from .values import check_tensor

# Numbers that may be indices, which no program wants as floating ones
_INDICES = (torch.int8, torch.int16, torch.int32, torch.int64)
# Of mappings that stand for x, or for x and labels
_PAIRS = ({"x"}, {"x", "y"}, {"data"}, {"data", "target"})


def as_arguments(
    data: Any,
    *programs: Callable,
    arguments: Mapping[str, Any] | None = None,
    plate: str | None = None,
    name: str = "data",
    labelled: bool = False,
) -> Arguments | None:
    """Data as the arguments of programs of one's own.

    None where they are x, or x with labels y, which the contract of this library gives to
    programs: any data of its own models; a tensor, or one with whole-number labels that a program
    takes as ``y``.

    Args:
        data: a tensor, a tuple or a mapping of tensors or arrays, ``Arguments``, or None for
            programs that take constants alone.
        programs: model and guide, or one of them.
        arguments: constants, by name.
        plate: name of the plate over the data.
        name: what the data are called in errors.
        labelled: whether labels need not be for the programs, as for colours of a picture.

    Raises:
        TypeError: data that no program takes, or not all that a program needs.
        ValueError: columns of unequal length, an unknown name among ``arguments``.
    """
    if any(map(is_ours, programs)):
        if arguments or isinstance(data, Arguments):
            raise TypeError(
                f"arguments: expected none, as the programs of this library take x and y, got "
                f"{', '.join(map(repr, arguments or ())) or repr(data)}: pass x, or (x, y)"
            )
        return None
    if not isinstance(data, Arguments):
        own = bool(arguments) or plate is not None
        found = _columns(data, programs, own=own, labelled=labelled, name=name)
        if found is None:
            return None
        args, kwargs = found
        columns = (*range(len(args)), *kwargs)
        data = Arguments(args, kwargs, columns)
    for key in arguments or ():
        known("arguments", key, names_of(*programs))
    constants = {k: v for k, v in (arguments or {}).items() if k not in data.kwargs}
    changed = data.replace(kwargs={**data.kwargs, **constants}, plate=plate or data.plate)
    check_arguments(changed, *programs)
    # Functions have parameters of a type that nobody knows
    return changed.to(
        device_of(*programs, default=changed.device), getattr(like(*programs), "dtype", None)
    )


def matched(
    data: Any,
    *programs: Callable,
    name: str = "data",
    device: torch.device | str | None = None,
    arguments: Mapping[str, Any] | None = None,
    plate: str | None = None,
    labelled: bool = False,
) -> Dataset | Arguments:
    """``data`` on the device and in the floating dtype of the programs' first parameter.

    They are anything that ``as_dataset`` or ``as_arguments`` takes, where the other arguments are
    explained. A ``device`` takes the place of the programs'.
    """
    options = {"arguments": arguments, "plate": plate, "name": name, "labelled": labelled}
    own = as_arguments(data, *programs, **options)
    if own is not None:
        return own if device is None else own.to(device)
    data = as_dataset(data, name)
    data.check_classes(*programs)
    dtype = dtype_of(*programs, default=data.dtype)
    data = data.to(device or device_of(*programs, default=data.device))
    return data if data.dtype == dtype else data.replace(x=data.x.to(dtype))


def given(
    x: Any,
    y: Any,
    *programs: Callable,
    arguments: Mapping[str, Any] | None = None,
    plate: str | None = None,
) -> tuple[Data, Tensor | None]:
    """The data of an evaluation, and labels: a tensor as it is, else ``as_arguments``."""
    data = x if y is None else (x, y)
    own = as_arguments(data, *programs, arguments=arguments, plate=plate, name="x")
    if own is not None:
        return own, None
    if y is None and (pair := _pair(x)) is not None:
        x, y = pair
    check_tensor(x)
    return x, as_labels(y, len(x), x.device)


def _columns(
    data: Any, programs: tuple[Callable, ...], *, own: bool, labelled: bool, name: str
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]] | None:
    """Positional and keyword arguments; None for x, with labels or without."""
    if data is None:
        return (), {}
    if isinstance(data, Dataset):
        if data.y is None or _take_labels(programs):
            return ((data.x,), {}) if own and data.y is None else None
        if not any(map(takes_second, programs)):
            return None
        if data.binarize:
            raise ValueError(
                f"{name}: expected data that stay as they are for a program whose labels are no "
                "argument y, got binarize='dynamic': call the argument y, or pass "
                "data.binarized(generator)"
            )
        return (data.x, data.y), {}
    if isinstance(data, TensorDataset):
        data = data.tensors
    if (pair := _pair(data)) is not None:
        x, y = pair
        if y is not None and _take_labels(programs):
            if are_labels(y) and not own:
                return None
            return (as_column(x, "x"),), {"y": as_column(y, "y")}
        if labelled and are_labels(y) and not any(map(takes_second, programs)):
            return None
        data = x if y is None else pair
    if isinstance(data, Mapping):
        return (), {str(k): as_column(v, str(k)) for k, v in data.items()}
    if isinstance(data, tuple):
        return tuple(as_column(v, f"{name}[{i}]") for i, v in enumerate(data)), {}
    kept = isinstance(data, Tensor) and (data.dim() == 1 or data.dtype in _INDICES)
    return ((as_column(data, "x"),), {}) if own or kept else None


def _take_labels(programs: tuple[Callable, ...]) -> bool:
    """Whether the second of two data is labels y: not what is the second argument of a program.

    Pyro's autoguides take any keywords, whatever their model takes.
    """
    seconds = [p.name for program in programs for p in positional(program)[1:2]]
    others = {*seconds} - {"y", "size"}
    return any(map(accepts_labels, programs)) and ("y" in names_of(*programs) or not others)


def _pair(data: Any) -> tuple[Any, Any] | None:
    """X and y, where data are these two or x alone in one."""
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, Mapping) and {*map(str.lower, map(str, data))} in _PAIRS:
        data = tuple(data[key] for key in sorted(data))
    if not isinstance(data, tuple) or not 1 <= len(data) <= 2:
        return None
    return (*data, None)[:2]


def are_labels(y: Any) -> bool:
    """Whether these are classes of data: whole numbers, or text, one per datum or for all."""
    if y is None:
        return True
    if isinstance(y, Tensor):
        return not y.is_floating_point() and (y.dim() < 2 or y.shape[1:].numel() == 1)
    if isinstance(y, np.ndarray):
        return y.dtype.kind not in "fc" and (y.ndim < 2 or y[0].size == 1)
    return True
