"""What a person passes for data: x, with labels or without, or the programs' own arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import TensorDataset

from ..data import Dataset
from ..data.arguments import Arguments, Data, LabelData, as_column
from ..data.checks import complete
from ..data.conditions import classes_of
from ..data.frames import check_columns
from ..data.given import as_dataset
from ..ground.arguments import known
from .calling import check_arguments, names_of, positional, takes_second
from .kinds import check_kinds
from .labels import (
    accepts_labels,
    as_labels,
    as_whole,
    covariates_of,
    labels_for,
    labels_of_data,
    lacks_labels,
    parameters_of,
)
from .missing import takes_missing
from .placing import device_of, dtype_of, like
from .unwrapping import is_ours
from .values import check_programs, check_tensor

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
        arguments: constants, by name; those of ``Arguments`` themselves go before them.
        plate: name of the plate over the data.
        name: what the data are called in errors.
        labelled: whether labels need not be for the programs, as for colours of a picture.

    Raises:
        TypeError: data that no program takes, or not all that a program needs.
        ValueError: columns of unequal length, an unknown name among ``arguments``, data that were
            said to be of another kind than programs are made for.
    """
    if any(map(is_ours, programs)):
        if arguments or isinstance(data, Arguments):
            raise TypeError(
                f"arguments: expected none, as the programs of this library take x and y, got "
                f"{', '.join(map(repr, arguments or ())) or repr(data)}: pass x, or (x, y)"
            )
        return None
    if isinstance(data, Dataset) and data.kind_said:
        check_kinds(data, programs)
    if not isinstance(data, Arguments):
        own = bool(arguments) or plate is not None
        found = _columns(data, programs, own=own, labelled=labelled, name=name)
        if found is None:
            return None
        args, kwargs = found
        columns = (*range(len(args)), *kwargs)
        data = Arguments(args, kwargs, columns)
        _check_constants(arguments, data, programs)
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
    explained. A ``device`` takes the place of the programs'. ``ValueError`` for missing values
    of a ``Dataset`` unless a program takes them.
    """
    options = {"arguments": arguments, "plate": plate, "name": name, "labelled": labelled}
    own = as_arguments(data, *programs, **options)
    if own is not None:
        return own if device is None else own.to(device)
    for program in programs:
        # As lacks_labels does, without a call in each fit
        if getattr(program, "partly_labelled", False) is True and _pair(data, programs):
            x, y = _pair(data, programs)
            data = x, as_whole(y)
    data = as_dataset(data, name)
    data.check_classes(*programs)
    if data.y is not None and (y := labels_of_data(data.y, len(data), *programs)) is not data.y:
        names = data.names if isinstance(y, Arguments) else classes_of(data)[1] or None
        data = data.replace(y=y, names=None if y is None else names)
    if data.missing and not takes_missing(*programs):
        complete(data.x)
    if data.columns:
        check_columns(data.columns, programs)
    dtype = dtype_of(*programs, default=data.dtype)
    data = data.to(device or device_of(*programs, default=data.device))
    return data if data.dtype == dtype else data.replace(x=data.x.to(dtype))


def given(
    x: Any,
    y: Any,
    *programs: Callable,
    arguments: Mapping[str, Any] | None = None,
    plate: str | None = None,
) -> tuple[Data, LabelData]:
    """The data of an evaluation, and labels: a tensor as it is, else ``as_arguments``.

    Of a model, and of a guide after it, which have to be programs.
    """
    check_programs(*programs)
    data = x if y is None else {"x": x, "y": y}
    own = as_arguments(data, *programs, arguments=arguments, plate=plate, name="x")
    if own is not None:
        return own, None
    if y is None and (pair := _pair(x, programs)) is not None:
        x, y = pair
    check_tensor(x)
    if covariates_of(*programs) is not None:
        return x, labels_for(programs[0], y, len(x), x.device)
    if any(map(lacks_labels, programs)):
        y = as_whole(y)
    return x, as_labels(y, len(x), x.device)


def _columns(
    data: Any, programs: tuple[Callable, ...], *, own: bool, labelled: bool, name: str
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]] | None:
    """Positional and keyword arguments; None for x, with labels or without."""
    if data is None:
        return (), {}
    if isinstance(data, TorchDataset) and not isinstance(data, TensorDataset):
        data = _read(data, programs, own=own, name=name)
    if isinstance(data, Dataset):
        if data.y is None or _take_labels(programs):
            return ((data.x,), {}) if own and data.y is None else None
        if not any(map(takes_second, programs)):
            return None if labelled else _without_labels(programs, name)
        if data.binarize:
            raise ValueError(
                f"{name}: expected data that stay as they are for a program whose labels are no "
                "argument y, got binarize='dynamic': call the argument y, or pass "
                "data.binarized(generator)"
            )
        return (data.x, data.y), {}
    if _is_list(data):
        data = tuple(data)
    if (pair := _pair(data, programs)) is not None:
        x, y = pair
        by_name = isinstance(data, Mapping)
        if y is not None and _take_labels(programs):
            if by_name or not _in_order(programs, y, name):
                if are_labels(y) and not own:
                    return None
                return (as_column(x, "x"),), {"y": as_column(y, "y")}
        second = any(map(takes_second, programs))
        if labelled and are_labels(y) and not second:
            return None
        if y is None:
            data = x
        elif second or not by_name:
            data = pair
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, Mapping):
        there = {str(k): v for k, v in data.items() if v is not None}
        return (), {k: as_column(v, k) for k, v in there.items()}
    if isinstance(data, tuple):
        return tuple(as_column(v, f"{name}[{i}]") for i, v in enumerate(data)), {}
    return ((as_column(data, "x"),), {}) if own or _stays(data) else None


def _stays(data: Any) -> bool:
    """Whether data have one number each, or whole numbers, of which no ``Dataset`` is made."""
    if isinstance(data, Tensor):
        return data.dim() == 1 or data.dtype in _INDICES
    if isinstance(data, np.ndarray):
        return data.ndim == 1 or data.dtype.kind == "i"
    return isinstance(data, list) and bool(data) and isinstance(data[0], int | float)


def _is_list(data: Any) -> bool:
    """Whether a list is of columns: of arrays that differ, and so are no rows."""
    if not isinstance(data, list) or not all(isinstance(v, Tensor | np.ndarray) for v in data):
        return False
    return len({tuple(v.shape) for v in data}) > 1


def _read(data: TorchDataset, programs: tuple[Callable, ...], *, own: bool, name: str) -> Any:
    """The columns of a data set of torch, each item read once; itself where it is x, or x and y.

    A ``Dataset`` where x, or the second of two, are none of the arguments by themselves.
    """
    first = data[0] if len(data) else None
    items = lambda: [data[i] for i in range(len(data))]  # noqa: E731
    if isinstance(first, Mapping):
        read = items()
        return {key: [item[key] for item in read] for key in first}
    if not isinstance(first, tuple | list):
        return as_dataset(data, name) if own else data
    if len(first) == 2 and are_labels(first[1]):
        asked = own or (not _take_labels(programs) and any(map(takes_second, programs)))
        return as_dataset(data, name) if asked else data
    return tuple(map(list, zip(*items(), strict=True)))


def _check_constants(arguments: Any, data: Arguments, programs: tuple[Callable, ...]) -> None:
    """Raise ``TypeError`` for constants that are no mapping, or that the data have as well."""
    if arguments is not None and not isinstance(arguments, Mapping):
        raise TypeError(
            f"arguments: expected a mapping from name to constant, got {arguments!r}: pass "
            "arguments={name: value}"
        )
    by_position = {p.name for f in programs for p in positional(f)[: len(data.args)]}
    for key in arguments or ():
        if key in data.kwargs or key in by_position:
            raise TypeError(
                f"arguments: expected constants that the data do not have, got {key!r}, which "
                "is among these: leave it out of one of them"
            )


def _without_labels(programs: tuple[Callable, ...], name: str) -> None:
    """Raise ``TypeError`` where labels may be meant for an argument that is not the second."""
    for program in programs:
        for p in parameters_of(program):
            may = p.kind is p.KEYWORD_ONLY and p.default in (p.empty, None) and p.name != "size"
            if may or p.kind is p.VAR_POSITIONAL:
                raise TypeError(
                    f"{name}: expected labels as an argument y, or as the second, for a program "
                    f"that takes {str(p).partition(':')[0]}, got a Dataset with labels: pass "
                    f"data={{'x': data.x, 'labels': data.y}}, by the program's own names, or "
                    "data.x alone"
                )


def _in_order(programs: tuple[Callable, ...], y: Any, name: str) -> bool:
    """Whether two data are the first two arguments of programs that take y elsewhere, too."""
    for program in programs:
        parameters = positional(program)
        if [p.name for p in parameters[:1]] == ["y"]:
            return True
        for p in parameters[1:2]:
            if p.name in ("y", "size") or not takes_second(program):
                continue
            if p.default is inspect.Parameter.empty or not are_labels(y):
                return True
            raise TypeError(
                f"{name}: expected names for the second of two, which may be {p.name!r} or 'y', "
                f"got a tuple: pass data={{{parameters[0].name!r}: x, {p.name!r}: values}}, or "
                f"data={{{parameters[0].name!r}: x, 'y': values}}"
            )
    return False


def _take_labels(programs: tuple[Callable, ...]) -> bool:
    """Whether the second of two data is labels y: not what is the second argument of a program.

    Pyro's autoguides take any keywords, whatever their model takes.
    """
    seconds = [p.name for program in programs for p in positional(program)[1:2]]
    others = {*seconds} - {"y", "size"}
    return any(map(accepts_labels, programs)) and ("y" in names_of(*programs) or not others)


def _pair(data: Any, programs: tuple[Callable, ...]) -> tuple[Any, Any] | None:
    """X and y, where data are these two or x alone in one."""
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, Mapping) and {*map(str.lower, map(str, data))} in _PAIRS:
        x, *_ = keys = sorted(data)
        if any(_by_name(program, x) for program in programs):
            return None
        data = tuple(data[key] for key in keys)
    if not isinstance(data, tuple) or not 1 <= len(data) <= 2:
        return None
    return (*data, None)[:2]


def _by_name(program: Callable, x: str) -> bool:
    """Whether a program has an argument x that is not its first, or names none of them."""
    parameters = parameters_of(program)
    if not (found := positional(program)):
        return not any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return found[0].name != x and x in names_of(program)


def are_labels(y: Any) -> bool:
    """Whether these are classes of data: whole numbers, or text, one per datum or for all."""
    if y is None:
        return True
    if isinstance(y, Mapping | Arguments):
        return False
    if isinstance(y, Tensor):
        return not y.is_floating_point() and (y.dim() < 2 or y.shape[1:].numel() == 1)
    if not isinstance(y, np.ndarray):
        y = np.asarray(y)
    return y.dtype.kind not in "fc" and (y.ndim < 2 or y[0].size == 1)
