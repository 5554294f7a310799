"""From which sites and arguments a running program computes each tensor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..ground.internals import DispatchMode
from .sites import is_penalty

# Operations that read no more of a tensor than its shape, type and device
_OF_SHAPES = ("_like", "new_")


class Origins(DispatchMode):
    """Notes from what each tensor is computed, views, in-place writes and scripts included.

    ``pyro.infer.inspect`` follows tensors of a class of its own, which in-place writes into other
    tensors lose, and which ``zeros_like`` hands on.

    Example:
        >>> a, b, c = torch.ones(3).unbind()
        >>> with Origins() as origins:
        ...     a = origins.begin(a, "a")
        ...     b[...] = 2 * a
        ...     c = torch.zeros_like(a)
        >>> sorted(origins.of(b)), sorted(origins.of(c))
        (['a'], [])
    """

    def __init__(self) -> None:
        super().__init__()
        # By storage, which views share
        self._found: dict[int, frozenset[Any]] = {}
        # What is freed makes room for others at the same place
        self._held: list[Tensor] = []

    def of(self, value: Any) -> frozenset[Any]:
        """Where a tensor comes from; nothing for what is none."""
        return frozenset().union(*(self._found.get(_place(t), ()) for t in _tensors(value)))

    def begin(self, value: Tensor, origin: Any) -> Tensor:
        """A copy that comes from nothing but ``origin``."""
        value = value.clone()
        self._note(value, frozenset([origin]))
        return value

    def _note(self, tensor: Tensor, origins: frozenset[Any]) -> None:
        if tensor.numel():
            self._found[_place(tensor)] = origins
            self._held.append(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation; what it returns comes from all that it is given."""
        result = func(*args, **(kwargs or {}))
        if not any(part in func.__name__ for part in _OF_SHAPES):
            given = self.of((args, kwargs))
            for tensor in _tensors(result) if given else ():
                self._note(tensor, given | self.of(tensor))
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors([*value.values()])


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0


class SiteOrigins(Messenger):
    """Has each site's value come from this site alone; around all handlers of a program.

    Attributes:
        observed: observed site -> value, as the program gives it.
    """

    def __init__(self, origins: Origins) -> None:
        super().__init__()
        self.origins = origins
        self.observed: dict[str, Any] = {}

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if not counts(msg):
            return
        if msg["is_observed"]:
            self.observed[msg["name"]] = msg["value"]
        if isinstance(msg["value"], Tensor):
            msg["value"] = self.origins.begin(msg["value"], msg["name"])


def counts(site: dict[str, Any]) -> bool:
    """Whether a sample site is a random variable of its own, which no mask takes away."""
    return not (
        site_is_subsample(site)
        or site["infer"].get("_deterministic", False)
        or is_penalty(site)
        or (site["is_observed"] and site["mask"] is False)
    )
