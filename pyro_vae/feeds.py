"""Where the minibatches of a run come from."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from . import ranks
from .data import Dataset
from .data.checks import as_values
from .infer.checks import check_data
from .infer.dataset import as_dataset, device_of, dtype_of, matched, seen_values

Batch = tuple[Tensor, Tensor | None]
_CHECKED_AT_ONCE = 10_000


class Resident:
    """Minibatches of data that lie on the device, in a new random order each epoch.

    In a run of several processes each gets its part of every minibatch.

    Args:
        data: n data.
        batch_size: data per step; the last batch may be shorter.
    """

    def __init__(self, data: Dataset, batch_size: int) -> None:
        self.data, self.batch_size = data, batch_size

    @property
    def count(self) -> int:
        """Data in an epoch."""
        return len(self.data)

    def __len__(self) -> int:
        """Steps in an epoch."""
        return math.ceil(self.count / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """One epoch of x (b, *event_shape) and y (b,) or None; order and draws by torch's RNG."""
        order = ranks.same(torch.randperm(self.count, device=self.data.device))
        return (self.data.batch(ranks.part(rows)) for rows in order.split(self.batch_size))


class Loaded:
    """Minibatches of a ``torch.utils.data.DataLoader``, for data that do not fit on the device.

    A batch is a tensor x (b, *event_shape), or a pair (x, y) with integer labels y (b,); ``uint8``
    is divided by 255, on the device. For a GPU the next batch is copied while the present one is
    trained on, where the loader has ``pin_memory=True``.

    Args:
        loader: decides on order, batch size and workers; ``shuffle=True`` draws a new order each
            epoch, from its ``generator`` where it has one, else from torch's global RNG.
        device: where the batches shall be.
        dtype: floating type of x.

    Raises:
        ValueError: a loader that does not tell how many batches it gives, or gives none.
        TypeError: batches of another form.
    """

    def __init__(self, loader: DataLoader, device: torch.device, dtype: torch.dtype) -> None:
        self.loader, self.device, self.dtype = loader, device, dtype
        self._begun: Iterator[Any] | None = None
        try:
            steps = len(loader)
        except TypeError as error:
            raise ValueError(
                "a DataLoader that tells how many batches it gives was expected, got one of an "
                f"{type(loader.dataset).__name__} without length: give this a __len__"
            ) from error
        if not steps:
            raise ValueError("a DataLoader with at least one batch was expected, got none")

    @functools.cached_property
    def data(self) -> Dataset:
        """The data of the first batch, with which the first pass begins."""
        batches = iter(self.loader)
        first = next(batches)
        self._begun = itertools.chain([first], batches)
        return Dataset(*self._placed(first))

    def __len__(self) -> int:
        """Steps in an epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        """One epoch of x (b, *event_shape) and y (b,) or None."""
        batches, self._begun = self._begun or iter(self.loader), None
        return self._ahead(batches) if self.device.type == "cuda" else map(self._placed, batches)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """As ``Dataset.batches``, but the loader decides on the size."""
        return iter(self)

    def _ahead(self, batches: Iterable[Any]) -> Iterator[Batch]:
        copying = torch.cuda.Stream(self.device)

        def staged() -> Iterator[tuple[Batch, torch.cuda.Event]]:
            for batch in batches:
                with torch.cuda.stream(copying):
                    result = self._placed(batch), copying.record_event()
                yield result

        pipeline = staged()
        upcoming = next(pipeline, None)
        while upcoming is not None:
            (x, y), copied = upcoming
            upcoming = next(pipeline, None)
            training = torch.cuda.current_stream(self.device)
            training.wait_event(copied)
            for tensor in (x,) if y is None else (x, y):
                tensor.record_stream(training)
            yield x, y

    def _placed(self, batch: Any) -> Batch:
        parts = (batch,) if isinstance(batch, Tensor) else batch
        tensors = isinstance(parts, tuple | list) and all(isinstance(p, Tensor) for p in parts)
        if not tensors or len(parts) not in (1, 2):
            if isinstance(batch, Mapping):
                got = f"a dict of {', '.join(map(repr, batch))}"
            else:
                inside = f" of {', '.join(type(p).__name__ for p in batch)}"
                got = type(batch).__name__ + (inside if isinstance(batch, tuple | list) else "")
            raise TypeError(
                f"expected a batch x or (x, y) of tensors from the DataLoader, got {got}: let its "
                "data set or its collate_fn return these"
            )
        x, *y = (part.to(self.device, non_blocking=True) for part in parts)
        return as_values(x).to(self.dtype), y[0].long() if y else None


def source(
    data: Any, name: str, model: Callable, guide: Callable, *, device: torch.device | None
) -> Dataset | Loaded:
    """Data in any form that ``Trainer.fit`` takes, where the pair is and in its type.

    Args:
        data: a ``Dataset``, a tensor (n, *event_shape), a pair (x, y), or a ``DataLoader``.
        name: the argument, for errors.
        model: generative program.
        guide: inference program.
        device: where to put the data in place of the pair's device.
    """
    if not isinstance(data, DataLoader):
        return matched(as_dataset(data), model, guide, device=device)
    device = device or device_of(model, guide, default=torch.device("cpu"))
    try:
        return Loaded(data, device, dtype_of(model, guide, default=torch.float32))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def check_source(data: Dataset | Loaded, name: str, model: Callable) -> None:
    """Raise for data, or a first batch, that the model cannot have produced."""
    try:
        data = data.data if isinstance(data, Loaded) else data
        # By parts, since 8-bit data take four times their memory as numbers
        for start in range(0, len(data), _CHECKED_AT_ONCE):
            part = data[start : start + _CHECKED_AT_ONCE]
            check_data(model, seen_values(part), part.y)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from error
