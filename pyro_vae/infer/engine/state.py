"""What a run of a program leaves behind: looked at, compared, and undone."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from ...ground import streams
from .internals import GENERATORS
from .places import Place
from .reaching import Reached

Outcome = list[Tensor | None]


class Changed(Exception):
    """A program changes something besides tensors, which no record does."""


class Tensors:
    """Values of tensors and of their gradients, and where torch's random streams are.

    The streams are those of ``device``, that of the data.
    """

    def __init__(self, tensors: Iterable[Tensor], device: torch.device) -> None:
        self.tensors: list[Tensor] = []
        self._values: Outcome = []
        self._gradients: list[Tensor | None] = []
        self._held: Outcome = []
        self._device, self._streams = device, streams.positions(device)
        self.add(tensors)

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Look at more tensors, as they are now."""
        known = set(map(id, self.tensors))
        more = list({id(t): t for t in tensors if id(t) not in known and not is_lazy(t)}.values())
        self.tensors += more
        self._values += map(_copy, more)
        self._gradients += map(_gradient, more)
        self._held += (_copy(_gradient(t)) for t in more)

    def now(self) -> Outcome:
        """The same as they are now."""
        unchanged = zip(self.tensors, self._values, strict=True)
        return [
            *(value if equal(tensor, value) else _copy(tensor) for tensor, value in unchanged),
            *(_copy(_gradient(t)) for t in self.tensors),
            *streams.positions(self._device).values(),
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Undo all changes."""
        for tensor, value in zip(self.tensors, self._values, strict=True):
            if tensor.shape != value.shape:
                tensor.data = value.clone()
            elif not equal(tensor, value):
                tensor.copy_(value)
        for tensor, held, value in zip(self.tensors, self._gradients, self._held, strict=True):
            if held is not None and not equal(held, value):
                held.copy_(value)
            if _gradient(tensor) is not held:
                tensor.grad = held
        streams.go_to(self._device, self._streams)

    def outcome(self, run: Callable[[], Iterable[Tensor]]) -> Outcome:
        """What a call gives and leaves behind."""
        return [*map(_copy, run()), *self.now()]


class State(Tensors):
    """All that programs and estimators can reach, and more ``tensors``, as they are now."""

    def __init__(
        self, roots: Iterable[Any], tensors: Iterable[Tensor], device: torch.device
    ) -> None:
        self._roots, self._reached = tuple(roots), Reached(*roots)
        self._places = [*self._reached.long, *self._reached.places]
        self._contents = [place.read() for place in self._places]
        self._arrays = [array.copy() for array in self._reached.arrays.values()]
        self.unwatched = self._reached.unwatched
        self._generators = [*self._reached.generators.values(), *GENERATORS]
        self._positions = [*map(_position_of, self._generators)]
        stored = [value for _, value in pyro.get_param_store().named_parameters()]
        super().__init__([*self._reached.tensors.values(), *stored, *tensors], device)

    def restore(self) -> None:
        """Undo all changes."""
        for place, contents in self._differing():
            place.write(contents)
        for array, value in zip(self._reached.arrays.values(), self._arrays, strict=True):
            if array.tobytes() != value.tobytes():
                np.copyto(array, value)
        for generator, position in zip(self._generators, self._positions, strict=True):
            _go_to(generator, position)
        super().restore()

    def check(self) -> None:
        """Raise ``Changed`` where anything but a tensor differs from what it was."""
        positions = [*map(_position_of, self._generators)]
        if pickle.dumps(positions) != pickle.dumps(self._positions):
            raise Changed("it draws random numbers from other streams than torch's global one")
        differing, long = list(self._differing()), self._reached.long
        # The key tells what counts of all but long collections
        if any(p in long for p, _ in differing) or Reached(*self._roots).key != self._reached.key:
            names = [place.differing(contents) for place, contents in differing]
            raise Changed(f"what it reads changes when it runs: {[*names, 'an array'][0]}")

    def _differing(self) -> Iterator[tuple[Place, list[Any]]]:
        """Places whose contents are others than they were, and these."""
        for place, contents in zip(self._places, self._contents, strict=True):
            if not _same(place.read(), contents):
                yield place, contents


def _position_of(generator: Any) -> Any:
    """Where a random stream of any kind is."""
    if isinstance(generator, torch.Generator | np.random.RandomState):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.bit_generator.state


def _go_to(generator: Any, state: Any) -> None:
    """Put a random stream where ``_position_of`` found it."""
    if isinstance(generator, torch.Generator | np.random.RandomState):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.bit_generator.state = state


def lying(tensor: Tensor) -> tuple[Any, ...]:
    """Where the values of a tensor lie, and how."""
    kind = tensor.shape, tensor.dtype, tensor.device, tensor.layout
    strided = tensor.layout is torch.strided
    return (*kind, tensor.stride(), tensor.data_ptr()) if strided else kind


def _gradient(tensor: Tensor) -> Tensor | None:
    return tensor.grad if tensor.is_leaf else None


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()


def _same(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(a is b for a, b in zip(first, second, strict=True))


def equal(a: Tensor | None, b: Tensor | None) -> bool:
    """To the last bit, NaN included."""
    if a is None or b is None:
        return a is b
    if a.shape != b.shape or a.layout != b.layout or a.dtype != b.dtype:
        return False
    if a.layout is not torch.strided:
        a, b = a.to_dense(), b.to_dense()
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())


def close(a: Tensor | None, b: Tensor | None, most: float = 0.0) -> bool:
    """Up to the order of sums, which no GPU and no compiler promises.

    What cancels but for rounding, such as the gradient of a bias before batch normalisation,
    differs by so much of what was summed, whose norm is ``most``.
    """
    if a is None or b is None or not a.is_floating_point() or a.layout is not torch.strided:
        return equal(a, b)
    finite = b.isfinite()
    if a.shape != b.shape or not torch.equal(a.isfinite(), finite):
        return False
    rounding = 16 * torch.finfo(b.dtype).eps * most
    a, b = (torch.where(finite, t, 0).double() for t in (a, b))
    return bool((a - b).norm() <= 1e-2 * b.norm() + 1e-4 * (1 + b.numel()) ** 0.5 + rounding)


def alike(found: Outcome, expected: Outcome, *, exactly: bool) -> bool:
    """Whether two outcomes are the same, to the last bit or up to rounding."""
    if len(found) != len(expected):
        return False
    if exactly:
        return all(map(equal, found, expected))
    # What nothing has changed stands in both
    pairs = [(a, b) for a, b in zip(found, expected, strict=True) if a is not b]
    most = max((_norm(b) for _, b in pairs), default=0.0)
    return all(close(a, b, most) for a, b in pairs)


def _norm(tensor: Tensor | None) -> float:
    """Of its finite values; 0 of what is summed without rounding."""
    if tensor is None or not tensor.is_floating_point() or tensor.layout is not torch.strided:
        return 0.0
    return float(torch.where(tensor.isfinite(), tensor, 0).double().norm())
