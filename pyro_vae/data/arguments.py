"""The arguments of a program of one's own: columns with a row per datum, and constants."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from enum import Enum
from numbers import Number
from types import BuiltinFunctionType
from typing import Any

import torch
from torch import Tensor

from ..ground.arguments import whole
from .checks import tensor

# An argument of a call: its position, or its name
Key = int | str
# Constants that are what they are for good
_PLAIN = (
    *(Number, str, bytes, type(None), Enum, type),
    *(BuiltinFunctionType, torch.dtype, torch.device),
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Arguments:
    """Arguments of a program's call, ``program(*args, **kwargs)``, for data of any form.

    The columns are tensors whose n rows belong to n data; all else are constants, the same in
    each call. It stands where data stand: it has a length, parts of it are taken by row numbers,
    and ``Trainer.fit`` draws minibatches of it.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.
        columns: which of them are columns; default: the tensors that have as many rows as the
            first tensor that has any.
        plate: name of the plate over the data; default: what is found in the programs.
        size: number of data where there is no column; otherwise that of the columns' rows.
        total: number of data in the whole data set, of which these may be a batch.

    Raises:
        ValueError: columns of unequal numbers of rows, or without any.
        TypeError: a column that is no tensor.

    Example:
        >>> data = Arguments((torch.zeros(4, 3), torch.ones(4)), {"scale": 2.0})
        >>> data, len(data[:2])
        (Arguments(4 x ((3,), ()), scale=2.0), 2)
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    columns: tuple[Key, ...] | None = None
    plate: str | None = None
    size: int | None = None
    total: int | None = None

    def __post_init__(self) -> None:
        """Find the columns, or compare those that are given."""
        if self.columns is None:
            rows = [(k, len(v)) for k, v in self.items() if isinstance(v, Tensor) and v.dim()]
            columns = tuple(k for k, n in rows if n == rows[0][1])
            object.__setattr__(self, "columns", columns)
        sizes = {key: _rows(key, self[key]) for key in self.columns}
        if len({*sizes.values()}) > 1:
            found = ", ".join(f"{n} of {named(key)}" for key, n in sizes.items())
            raise ValueError(
                f"data: expected as many rows in each, got {found}: pass what has no row per "
                "datum as a constant, arguments={name: value}"
            )
        if sizes:
            object.__setattr__(self, "size", next(iter(sizes.values())))
            if not self.size:
                raise ValueError("data: expected at least one datum, got columns without rows")

    def items(self) -> Iterator[tuple[Key, Any]]:
        """Position or name, and value, of each argument."""
        yield from enumerate(self.args)
        yield from self.kwargs.items()

    def __len__(self) -> int:
        """Count the data, n; 0 where there is no column to tell."""
        return 0 if self.size is None else self.size

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, rows: Key | slice | Tensor) -> Any:
        """The argument of a position or name; the data of a slice, row numbers or a mask."""
        if isinstance(rows, int):
            return self.args[rows]
        if isinstance(rows, str):
            return self.kwargs[rows]
        return self.each(lambda column: column[rows])

    @property
    def values(self) -> tuple[Tensor, ...]:
        """The columns."""
        return tuple(self[key] for key in self.columns or ())

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors among the arguments, constants too."""
        return tuple(value for _, value in self.items() if isinstance(value, Tensor))

    @property
    def constants(self) -> dict[Key, Any]:
        """The arguments that are no tensors."""
        return {key: value for key, value in self.items() if not isinstance(value, Tensor)}

    @property
    def device(self) -> torch.device:
        """Device of the first tensor; the CPU where there is none."""
        return next((t.device for t in self.tensors), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the first floating tensor; torch's default where there is none."""
        found = (t.dtype for t in self.tensors if t.is_floating_point())
        return next(found, torch.get_default_dtype())

    @property
    def key(self) -> Hashable:
        """What decides the operations of programs: layouts of tensors, and all constants.

        None where a constant cannot be told from others.
        """
        try:
            told = [(k, layout(v) if isinstance(v, Tensor) else _told(v)) for k, v in self.items()]
        except TypeError:
            return None
        return (*told, self.size, self.total, self.plate)

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient is asked for by data."""
        return any(t.requires_grad for t in self.tensors)

    def holding(self, tensors: Sequence[Tensor]) -> Arguments:
        """The same with others in place of ``tensors``."""
        new = iter(tensors)
        return self._with(lambda _, v: next(new) if isinstance(v, Tensor) else v)

    def each(self, change: Callable[[Tensor], Tensor]) -> Arguments:
        """The same with each column changed."""
        columns = self.columns or ()
        return self._with(lambda key, v: change(v) if key in columns else v)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Arguments:
        """Move all tensors to a device, floating ones to a floating type."""
        # What is copied to the CPU would be read before it is there
        ahead = torch.device(device).type == "cuda"

        def moved(_: Key, value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            kind = dtype if value.is_floating_point() else None
            return value.to(device, kind, non_blocking=ahead)

        return self._with(moved)

    def split(self, rows: int) -> list[Arguments]:
        """Parts of so many data, the last one of what is left."""
        if not self.columns:
            return [self]
        return [self[start : start + rows] for start in range(0, len(self), rows)]

    def repeated(self, k: int) -> Arguments:
        """All data k times over."""
        return self.each(lambda column: column.repeat(k, *(1,) * (column.dim() - 1)))

    def batch(self, index: Tensor) -> tuple[Arguments, None]:
        """Some rows, as a part of all of them, and no labels: as ``Dataset.batch``."""
        rows = index.to(self.device)
        return dataclasses.replace(self[rows], total=self.total or len(self)), None

    def batches(
        self, batch_size: int, *, shuffle: bool = False
    ) -> Iterator[tuple[Arguments, None]]:
        """Go once through the data, as ``Dataset.batches``."""
        whole("batch_size", batch_size, advice="use len(data) for one batch of everything")
        if not self.columns:
            return iter([(self, None)])
        arrange = torch.randperm if shuffle else torch.arange
        rows = arrange(len(self), device=self.device)
        return map(self.batch, rows.split(batch_size))

    # What a ``Dataset`` tells besides

    @property
    def x(self) -> Arguments:
        """All data, as programs are given them."""
        return self

    @property
    def y(self) -> None:
        """No labels: they are among the arguments."""

    binarize, factors, names, factor_names = None, None, (), ()

    @property
    def missing(self) -> bool:
        """Whether some values of columns are missing: NaN."""
        return any(bool(column.isnan().any()) for column in self.values)

    def replace(self, **changes: Any) -> Arguments:
        """A copy with other ``plate``, ``size`` or ``total``."""
        return dataclasses.replace(self, **changes)

    def __repr__(self) -> str:
        """Number of data, shapes of a datum in each column, and the constants."""
        shapes = ", ".join(
            (f"{key}: " if isinstance(key, str) else "") + str(tuple(self[key].shape[1:]))
            for key in self.columns or ()
        )
        rest = [(key, v) for key, v in self.items() if key not in (self.columns or ())]
        told = [
            f"{named(key)}={tuple(v.shape) if isinstance(v, Tensor) else v!r}" for key, v in rest
        ]
        n = "?" if self.size is None else self.size
        return f"Arguments({', '.join([f'{n} x ({shapes})', *told])})"

    def _with(self, change: Callable[[Key, Any], Any]) -> Arguments:
        args = tuple(change(i, v) for i, v in enumerate(self.args))
        kwargs = {name: change(name, v) for name, v in self.kwargs.items()}
        return dataclasses.replace(self, args=args, kwargs=kwargs)


def layout(tensor: Tensor) -> tuple[Any, ...]:
    """What decides the operations on a tensor."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _told(constant: Any) -> Any:
    """A constant as part of a key: by its type, since True is 1, and by its items.

    Raises ``TypeError`` for objects, which are the same when what they hold has changed.
    """
    if isinstance(constant, tuple | list):
        return type(constant), *map(_told, constant)
    if not isinstance(constant, _PLAIN):
        raise TypeError(type(constant))
    return type(constant), constant


def named(key: Key) -> str:
    """What an argument is called in errors."""
    return f"data[{key}]" if isinstance(key, int) else key


def _rows(key: Key, value: Any) -> int:
    if not isinstance(value, Tensor) or not value.dim():
        shape = "one number" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(
            f"{named(key)}: expected a tensor with a row per datum, got {shape}: pass a constant "
            "as arguments={name: value}"
        )
    return len(value)


def as_column(value: Any, name: str) -> Tensor:
    """A tensor of real numbers, as it is where it is one, for a column of ``Arguments``."""
    if isinstance(value, Tensor):
        return value
    found = tensor(value, name)
    return found.to(torch.get_default_dtype()) if found.is_floating_point() else found


# Data and labels of a call, as the tensors in them

Data = Tensor | Arguments
# Classes, or several kinds of labels by their names
LabelData = Tensor | Arguments | None


def tensors_of(x: Data, y: LabelData) -> tuple[Tensor, ...]:
    """The tensors in the arguments of a call, in order."""
    found = x.tensors if isinstance(x, Arguments) else (x,)
    if isinstance(y, Arguments):
        return *found, *y.tensors
    return found if y is None else (*found, y)


def part_of(x: Data, total: int | None) -> Data:
    """Data that know of how many in all they are a part."""
    if isinstance(x, Arguments):
        return x if total is None or not x.columns else x.replace(total=total)
    x.total = total
    return x


def joined(first: Any, second: Any) -> Any:
    """The rows of both, one after the other."""
    if isinstance(first, Arguments):
        rest = iter(second.values)
        return first.each(lambda column: torch.cat([column, next(rest)]))
    return torch.cat([first, second])


def columns_of(x: Data) -> tuple[Tensor, ...]:
    """What has a row per datum."""
    return x.values if isinstance(x, Arguments) else (x,)


def holding(x: Data, y: LabelData, tensors: Sequence[Tensor]) -> tuple[Data, LabelData]:
    """The arguments of such a call with these tensors in their place."""
    if isinstance(x, Arguments):
        return x.holding(tensors), None
    if isinstance(y, Arguments):
        return tensors[0], y.holding(tensors[1:])
    return tensors[0], None if y is None else tensors[1]
