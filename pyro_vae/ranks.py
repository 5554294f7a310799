"""The processes of one run on many devices, and what they tell each other.

Several processes train one pair, from data or a ``DataLoader``, and go on from checkpoints as one
process does::

    torchrun --nproc-per-node 2 -m pyro_vae train --data digits --checkpoint 500 --out runs/two

A script that ``torchrun`` starts does the same with its ``Trainer.fit`` within ``joined()``.
A process alone is a run of one: every function here then returns what it was given.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = [
    "World",
    "agreed",
    "by_first",
    "check_alike",
    "check_batches",
    "count",
    "diverge",
    "each",
    "gathered",
    "in_turn",
    "joined",
    "mean",
    "most",
    "part",
    "rank",
    "same",
    "size",
    "total",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)


T = TypeVar("T")
Rows = TypeVar("Rows", bound=Sequence[Any] | Tensor)


@dataclass(frozen=True)
class World:
    """This process among those of a run.

    Attributes:
        rank: its number; 0 writes the files.
        size: how many there are.
        device: where it computes.
    """

    rank: int
    size: int
    device: torch.device


_world: World | None = None


@contextlib.contextmanager
def joined(device: torch.device | str = "cpu") -> Iterator[World]:
    """Join the other processes that ``torchrun`` started; alone without it.

    Inside, ``Trainer.fit`` in all processes is one run: each takes a part of every minibatch, and
    process 0 writes the checkpoints.

    Args:
        device: "cpu" (the processes talk by gloo), or "cuda" for a GPU each (by nccl).

    Example:
        >>> with joined() as world:
        ...     world
        World(rank=0, size=1, device=device(type='cpu'))
    """
    global _world
    device, size = torch.device(device), int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    _world = World(dist.get_rank(), size, device)
    try:
        yield _world
    finally:
        _world = None
        dist.destroy_process_group()
        # What still holds the group, in a cycle, would end its threads while Python shuts down
        gc.collect()


def rank() -> int:
    """The number of this process, 0 where it is alone."""
    return 0 if _world is None else _world.rank


def size() -> int:
    """How many processes there are."""
    return 1 if _world is None else _world.size


def total(value: Tensor) -> Tensor:
    """The sum over the processes, without gradient."""
    if _world is not None:
        value = value.detach().clone()
        dist.all_reduce(value)
    return value


def mean(value: Tensor) -> Tensor:
    """The mean of all elements in all processes, which may hold unequal numbers of them."""
    if _world is None:
        return value.mean()
    pair = total(torch.stack([value.sum(), value.new_tensor(float(value.numel()))]))
    return pair[0] / pair[1]


def count(value: Tensor) -> Tensor | int:
    """The rows in all processes."""
    if _world is None:
        return len(value)
    return total(torch.full((), float(len(value)), device=value.device))


def same(value: Tensor) -> Tensor:
    """The value of process 0."""
    if _world is not None:
        value = value.contiguous().clone()
        dist.broadcast(value, 0)
    return value


def most(values: list[int]) -> list[int]:
    """The largest of each whole number in all processes."""
    if _world is None:
        return values
    tensor = torch.tensor(values, device=_world.device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.tolist()


def gathered(value: Tensor) -> Tensor:
    """The rows of all processes, in order."""
    if _world is None:
        return value
    parts: list[Any] = [None] * _world.size
    dist.all_gather_object(parts, value.cpu())
    return torch.cat(parts).to(value.device)


def agreed(value: T) -> T:
    """The plain data of process 0."""
    if _world is None:
        return value
    held: list[Any] = [value]
    dist.broadcast_object_list(held, 0)
    return held[0]


def each(value: T) -> list[T]:
    """The plain data of all processes, in order."""
    if _world is None:
        return [value]
    held: list[Any] = [None] * _world.size
    dist.all_gather_object(held, value)
    return held


def part(rows: Rows) -> Rows:
    """What this process takes of a batch's rows; the parts differ by one row at most."""
    if _world is None:
        return rows
    least, more = divmod(len(rows), _world.size)
    start = _world.rank * least + min(_world.rank, more)
    return rows[start : start + least + (_world.rank < more)]


def check_batches(n: int, batch_size: int) -> None:
    """Raise ``ValueError`` where a batch of an epoch has no datum for some process."""
    least = n % batch_size or min(n, batch_size)
    if least < size():
        raise ValueError(
            f"batch_size: expected a datum of every batch for {size()} processes, got {least} in "
            f"the last batch of {n} data: choose another batch_size, or drop some data"
        )


def check_alike(facts: Mapping[str, Any]) -> None:
    """Raise ``ValueError``, in all processes, for a fact that differs between them."""
    told = each(facts)
    for name in told[0] if told[1:] else ():
        values = [process[name] for process in told]
        if values != values[:1] * len(values):
            raise ValueError(
                f"{name}: expected the same in all {size()} processes, got "
                f"{', '.join(map(repr, values))}: call fit alike in each of them"
            )


def by_first(action: Callable[[], Any]) -> None:
    """Do in process 0 what one alone does, such as writing a file; its error is raised in all."""
    error = None
    if not rank():
        try:
            action()
        except Exception as caught:
            if _world is None:
                raise
            error = caught
    if (error := agreed(error)) is not None:
        raise error


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """Process 0 first, the others when it is done: to fetch what all read."""
    if rank():
        dist.barrier()
    yield
    if _world is not None and not rank():
        dist.barrier()


def diverge() -> None:
    """Let every process but 0 draw other random numbers, since each has other data."""
    if _world is None:
        return
    with torch.random.fork_rng():
        seed = int(same(torch.randint(2**62, (), device=_world.device)))
    if _world.rank:
        torch.manual_seed(seed + _world.rank)
