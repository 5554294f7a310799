"""Functions of tensors that an evaluation calls many times: recorded where that pays."""

from __future__ import annotations

import collections
from collections.abc import Callable

import pyro
import torch
from torch import Tensor, nn

from ... import streams
from .rewriting import replayed

# Recording takes about as long as it saves in so many calls
CALLS_BEFORE_A_GRAPH = 100


class Repeated:
    """A function of tensors, recorded once it has been called often with inputs of one shape.

    Results and random numbers are those of the function, bit for bit, without gradients; Pyro's
    checks are left out. It lives as long as one evaluation, in which what the function closes
    over stays as it is. A function that cannot be recorded runs as it is.

    Args:
        function: takes tensors, returns a tensor or a tuple of tensors.
        programs: what it runs; where one is a plain function, whose state is hidden, nothing is
            recorded.
        after: calls with inputs of one shape that run as they are.
    """

    def __init__(self, function: Callable, *programs: Callable, after: int | None = None) -> None:
        self.function = function
        self.after = CALLS_BEFORE_A_GRAPH if after is None else after
        self._recordable = all(isinstance(p, nn.Module) for p in programs)
        self._calls: collections.Counter[tuple] = collections.Counter()
        self._recorded: dict[tuple, Callable] = {}

    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What the function returns."""
        shapes = tuple((t.shape, t.dtype) for t in inputs)
        self._calls[shapes] += 1
        with pyro.validation_enabled(False):
            if self._calls[shapes] == self.after + 1 and self._recordable:
                device = inputs[0].device
                with torch.random.fork_rng([device] if device.type == "cuda" else []):
                    self._recorded[shapes] = replayed(self.function, inputs)
            return self._recorded.get(shapes, self.function)(*inputs)


class Checked(Repeated):
    """The same, where what Pyro's checks refuse is refused: it comes out as NaN or infinite.

    Such a result is computed once more from the same random numbers with all checks, which raise,
    or let it pass.
    """

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the function returns: a tuple of tensors."""
        device = inputs[0].device
        before = streams.positions(device)
        result = super().__call__(*inputs)
        if all(part.isfinite().all() for part in result):
            return result
        streams.go_to(device, before)
        return self.function(*inputs)
