"""Where the minibatches of a run come from."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Sampler

from .. import ranks
from ..data import Dataset, DataSplits
from ..data.arguments import Arguments, Data, LabelData, part_of, tensors_of
from ..data.checks import as_values
from ..programs.checks import check_data, check_modalities
from ..programs.given import as_arguments, matched
from ..programs.labels import covariates_of
from ..programs.placing import device_of, dtype_of, seen_values
from .batches import FirstPass, labels_at_hand
from .order import Order

Batch = tuple[Data, LabelData]
Divide = Callable[[list[Any]], list[Any]]
_CHECKED_AT_ONCE = 10_000
# Data whose order takes 32 MiB
_MOST_HELD = 2**22


class Resident:
    """Minibatches of data that lie on the device, in a new random order each epoch.

    ``in_order`` leaves the data in their own. Of more than 2^22 data the order is not held, see
    ``Order``.

    In a run of several processes each gets its part of every minibatch. An epoch has ``count``
    data, its last batch ``last`` of them, which may be fewer than ``batch_size``.
    """

    def __init__(
        self, data: Dataset | Arguments, batch_size: int, *, in_order: bool = False
    ) -> None:
        self._in_order = in_order
        self.data, self.batch_size = data, batch_size
        self.device, self.count = data.device, len(data)
        self.last = self.count % batch_size or batch_size

    def __len__(self) -> int:
        """Steps in an epoch."""
        return math.ceil(self.count / self.batch_size) or 1

    def __iter__(self) -> Iterator[Batch]:
        """One epoch of x (b, *event_shape) and y (b,) or None; order and draws by torch's RNG."""
        if not self.count:
            return iter([(self.data, None)])
        n, size = self.count, self.batch_size
        if n > _MOST_HELD and not self._in_order:
            order: Tensor | Order = Order(n, self.device)
        else:
            arrange = torch.arange if self._in_order else torch.randperm
            order = ranks.same(arrange(n, device=self.device))
        rows = map(order.__getitem__, map(slice, range(0, n, size), range(size, n + size, size)))
        return map(self.data.batch, rows if ranks.size() == 1 else map(ranks.part, rows))


def parts(batches: list[Any]) -> list[Any]:
    """This process's part of every batch, for training; ``ValueError`` if one has too few data."""
    if (least := min(map(len, batches), default=ranks.size())) < ranks.size():
        raise ValueError(
            f"expected a datum of every batch for {ranks.size()} processes, got a batch of "
            f"{least}: choose another batch_size, or drop_last=True"
        )
    return [ranks.part(batch) for batch in batches]


def turns(batches: list[Any]) -> list[Any]:
    """Whole batches, those of this process, where nobody waits for the others."""
    return batches[ranks.rank() :: ranks.size()]


class Loaded:
    """Minibatches of a ``torch.utils.data.DataLoader``, for data that do not fit on the device.

    A batch is a tensor x (b, *event_shape), or a pair (x, y) with integer labels y (b,); ``uint8``
    is divided by 255, on the device. For a GPU the next batch is copied while the present one is
    trained on, where the loader has ``pin_memory=True``. ``batch_size`` is None where the loader's
    sampler decides.

    A run of several processes takes the same loader in each of them, see ``Trainer.fit``. Process
    0 draws the order. Data that a ``DistributedSampler`` repeats, to give all equally many, count
    twice. A stream that has ``rank`` and ``num_replicas``, as that sampler has, gives each process
    its own data, as many batches in all. ``divided`` tells whether each sees a part only.

    Args:
        loader: decides on order, batch size and workers; ``shuffle=True`` draws a new order each
            epoch, from its ``generator`` where it has one, else from torch's global RNG.
        device: where the batches shall be.
        dtype: floating type of x.
        divide: of a list of batches, each a list of indices, what this process loads; ``parts``
            or ``turns``.
        epoch: number of the first pass.
        check: is called for each batch of the first pass, where one process trains.
        own: a batch as the arguments of programs of one's own, None for x or (x, y).
        covariates: ``models.Covariates`` of the model, with which y is a mapping.

    Raises:
        ValueError: a loader that does not tell how many batches it gives, or gives none; one
            whose ``DistributedSampler`` is not for the processes of this run.
        TypeError: batches of another form; in a run of several processes, a loader without
            indices to divide.
    """

    def __init__(
        self,
        loader: DataLoader,
        device: torch.device,
        dtype: torch.dtype,
        *,
        divide: Divide = parts,
        epoch: int = 0,
        check: FirstPass | None = None,
        own: Callable[[Any], Arguments | None] = lambda _: None,
        covariates: Any = None,
    ) -> None:
        self._own, self._covariates = own, covariates
        self.loader, self.device, self.dtype, self._check = loader, device, dtype, check
        self.batch_size = loader.batch_size
        self._begun: Iterator[Any] | None = None
        inner = getattr(loader.batch_sampler, "sampler", None)
        stream = loader.dataset if isinstance(loader.dataset, IterableDataset) else None
        found = (loader.sampler, loader.batch_sampler, inner, stream)
        self._samplers = list({id(sampler): sampler for sampler in found}.values())
        self._epoch = epoch
        try:
            self._steps = len(loader)
        except TypeError as error:
            raise ValueError(
                "a DataLoader that tells how many batches it gives was expected, got one of an "
                f"{type(loader.dataset).__name__} without length: give this a __len__"
            ) from error
        if not self._steps:
            raise ValueError("a DataLoader with at least one batch was expected, got none")
        self.divided, self._in_turn = False, divide is turns
        if ranks.size() > 1:
            self._divide(divide)

    def _divide(self, divide: Divide) -> None:
        """Let this process load its part; raise where there are no parts."""
        loader = self.loader
        for sampler in self._samplers:
            # As DistributedSampler: each process already has other data
            if hasattr(sampler, "num_replicas") and hasattr(sampler, "rank"):
                if (sampler.rank, sampler.num_replicas) != (ranks.rank(), ranks.size()):
                    raise ValueError(
                        f"a {type(sampler).__name__} of rank {ranks.rank()} of {ranks.size()} "
                        f"was expected, got rank {sampler.rank} of {sampler.num_replicas}: make "
                        "it within ranks.joined()"
                    )
                self.divided, self._in_turn = True, False
                return
        stream = isinstance(loader.dataset, IterableDataset)
        if stream or loader.batch_sampler is None:
            got = f"a stream, {type(loader.dataset).__name__}" if stream else "batch_size=None"
            raise TypeError(
                "a DataLoader with batches of indices was expected, which several processes "
                f"divide, got one of {got}: give it a data set with __getitem__ and a batch_size, "
                "or train in one process"
            )
        # Each process needs a batch to look at
        self.divided = divide is not turns or self._steps >= ranks.size()
        if self.divided:
            self.loader = _divided(loader, divide)

    @property
    def count(self) -> int | None:
        """Data in an epoch; None where the loader's data set does not tell."""
        try:
            return len(self.loader.dataset)
        except (TypeError, NotImplementedError):
            return None

    @property
    def y(self) -> Tensor | None:
        """Labels of all data, where the data set holds them."""
        return labels_at_hand(self.loader)

    @property
    def last(self) -> int | None:
        """Data in the last batch of an epoch; None where the loader does not tell."""
        size, count = self.batch_size, self.count
        if size is None or count is None:
            return None
        return size if self.loader.drop_last else count % size or size

    @functools.cached_property
    def data(self) -> Dataset | Arguments:
        """The data of the first batch, in all processes, with which the first pass begins."""
        batches = self._pass()
        first = next(batches)
        self._begun = itertools.chain([first], batches)
        x, y = self._placed(first)
        if self.divided and not self._in_turn:
            x = x.each(ranks.gathered) if isinstance(x, Arguments) else ranks.gathered(x)
            if y is not None:
                y = y.each(ranks.gathered) if isinstance(y, Arguments) else ranks.gathered(y)
        return x if isinstance(x, Arguments) else Dataset(x, y, channels="first")

    def __len__(self) -> int:
        """Steps in an epoch."""
        return self._steps

    def __iter__(self) -> Iterator[Batch]:
        """One epoch of x (b, *event_shape) and y (b,) or None."""
        batches, self._begun = self._begun or self._pass(), None
        check, self._check = self._check, None
        placed = self._ahead(batches) if self.device.type == "cuda" else map(self._placed, batches)
        # An error in one process would let the others wait
        return placed if check is None or ranks.size() > 1 else self._checked(placed, check)

    def _checked(self, placed: Iterator[Batch], check: FirstPass) -> Iterator[Batch]:
        for number, batch in enumerate(placed, 1):
            check(number, batch)
            yield batch
        check.end()

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """As ``Dataset.batches``, but the loader decides on the size."""
        return iter(self)

    def _pass(self) -> Iterator[Any]:
        for sampler in self._samplers:
            if set_epoch := getattr(sampler, "set_epoch", None):
                set_epoch(self._epoch)
        self._epoch += 1
        return iter(self.loader)

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
            for tensor in tensors_of(x, y):
                tensor.record_stream(training)
            yield x, y

    def _placed(self, batch: Any) -> Batch:
        batch = tuple(batch) if isinstance(batch, list) else batch
        if (found := self._own(batch)) is not None:
            return part_of(found.to(self.device, self.dtype), self.count), None
        parts, y = (batch,) if isinstance(batch, Tensor) else batch, None
        several = self._covariates is not None and isinstance(parts, tuple)
        if several and isinstance(parts[-1], Mapping):
            parts, y = parts[:-1], self._covariates.columns(parts[-1])
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
        x, *classes = (part.to(self.device, non_blocking=True) for part in parts)
        x = part_of(as_values(x).to(self.dtype), self.count)
        return x, classes[0].long() if classes else y


class _Divided(Sampler):
    """What this process loads of the batches that process 0 draws."""

    def __init__(self, batches: Iterable[Any], divide: Divide) -> None:
        self.batches, self.divide = batches, divide

    def __iter__(self) -> Iterator[Any]:
        yield from self.divide(ranks.agreed(None if ranks.rank() else list(self.batches)))


def _divided(loader: DataLoader, divide: Divide) -> DataLoader:
    """The loader with other batches; a copy, so that classes derived from DataLoader stay."""
    new = copy.copy(loader)
    vars(new).update(batch_sampler=_Divided(loader.batch_sampler, divide), _iterator=None)
    if ranks.rank():
        # Its seed is the same in all processes: workers would draw the same numbers in each
        new.generator = None
    return new


def source(
    data: Any,
    name: str,
    model: Callable,
    guide: Callable,
    *,
    device: torch.device | None,
    divide: Divide = parts,
    epoch: int = 0,
    arguments: Mapping[str, Any] | None = None,
    plate: str | None = None,
) -> Dataset | Arguments | Loaded:
    """Data in any form that ``Trainer.fit`` takes, where the pair is and in its type.

    ``name`` is "data" or "validation", as ``Trainer.fit`` calls them, and ``device`` goes before
    that of the pair. ``divide`` and ``epoch`` are for a ``DataLoader``, see ``Loaded``;
    ``arguments`` and ``plate`` are those of programs of one's own, see ``matched``.
    """
    own = {"arguments": arguments, "plate": plate}
    if isinstance(data, DataSplits):
        data = data.train if name == "data" else data.validation or data.test
    if not isinstance(data, DataLoader):
        return matched(data, model, guide, name=name, device=device, **own)
    device = device or device_of(model, guide, default=torch.device("cpu"))
    if isinstance(arguments, Mapping):
        # Once, not with each batch
        own["arguments"] = Arguments(kwargs=arguments, columns=()).to(device).kwargs
    try:
        dtype = dtype_of(model, guide, default=torch.float32)

        def as_own(batch: Any) -> Arguments | None:
            return as_arguments(batch, model, guide, name="a batch of the DataLoader", **own)

        loaded = {"divide": divide, "epoch": epoch, "own": as_own}
        loaded["check"] = FirstPass(name, model)
        return Loaded(data, device, dtype, **loaded, covariates=covariates_of(model))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error


def check_source(
    data: Dataset | Arguments | Loaded, name: str, model: Callable, guide: Callable | None = None
) -> None:
    """Raise for data, or a first batch, that the model cannot have produced.

    With a ``guide`` that is to be trained, also for data without one of its modalities.
    """
    try:
        whole, data = data, data.data if isinstance(data, Loaded) else data
        if isinstance(data, Arguments):
            if guide is not None and whole is data:
                check_modalities(data, guide)
            return check_data(model, data)
        # By parts, since 8-bit data take four times their memory as numbers
        for start in range(0, len(data), _CHECKED_AT_ONCE):
            part = data[start : start + _CHECKED_AT_ONCE]
            check_data(model, seen_values(part), part.y)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error
