"""Functions of tensors that an evaluation calls many times: recorded where that pays."""

from __future__ import annotations

import collections
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import pyro
from torch import Tensor, nn

from ...ground import streams
from ...programs.methods import as_program
from .rewriting import recorded
from .state import State, Tensors, alike

# Recording takes about as long as it saves in so many calls
CALLS_BEFORE_A_GRAPH = 25
T = TypeVar("T")


class Repeated:
    """A function of tensors, recorded once it has been called often with inputs of one shape.

    Results and random numbers are those of the function, bit for bit, without gradients; Pyro's
    checks are left out. It lives as long as one evaluation, in which what the function closes
    over stays as it is. A function that cannot be recorded runs as it is. The 1st, 2nd, 4th, 8th
    and so on replays are compared with the function; a difference ends the record, with a warning.

    It returns a tensor or a tuple of tensors. Where one of the ``programs`` that it runs is a
    plain function, whose state is hidden, nothing is recorded. The first ``after`` calls with
    inputs of one shape run as they are.
    """

    def __init__(self, function: Callable, *programs: Callable, after: int | None = None) -> None:
        self.function, self.programs = function, tuple(map(as_program, programs))
        self.after = CALLS_BEFORE_A_GRAPH if after is None else after
        self._recordable = all(isinstance(p, nn.Module) for p in self.programs)
        self._calls: collections.Counter[tuple] = collections.Counter()
        self._recorded: dict[tuple, _Replay] = {}

    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What the function returns."""
        shapes = tuple((t.shape, t.dtype) for t in inputs)
        self._calls[shapes] += 1
        with pyro.validation_enabled(False):
            count = self._calls[shapes] - self.after
            if count == 1 and self._recordable and (replay := self._accepted(inputs)):
                self._recorded[shapes] = replay
            if shapes not in self._recorded:
                return self.function(*inputs)
            if count & (count - 1):
                return self._recorded[shapes](*inputs)
            return self._beside(shapes, count, inputs)

    def _accepted(self, inputs: Sequence[Tensor]) -> _Replay | None:
        """A record, unless the function cannot be recorded, or leaves something else behind."""
        state = State(self.programs, inputs, inputs[0].device)
        if state.unwatched is not None:
            return None
        try:
            graph, constants = recorded(self.function, inputs)
            state.restore()
            state.outcome(lambda: _as_tuple(self.function(*inputs)))
            state.check()
        except Exception:  # recording runs into whatever a program does
            return None
        finally:
            state.restore()
        # Without the inputs, which would stay in memory, and are others in each call
        given = set(map(id, inputs))
        tensors = [t for t in state.tensors if id(t) not in given]
        return _Replay(graph.forward, constants, [*tensors, *constants])

    def _beside(
        self, shapes: tuple, count: int, inputs: Sequence[Tensor]
    ) -> Tensor | tuple[Tensor, ...]:
        """The function itself, with which the record is compared."""
        replay, device = self._recorded[shapes], inputs[0].device
        state = Tensors([*replay.tensors, *inputs], device)
        found = state.outcome(lambda: _as_tuple(replay(*inputs)))
        state.restore()
        result = self.function(*inputs)
        expected = state.outcome(lambda: _as_tuple(result))
        if not alike(found, expected, exactly=device.type == "cpu"):
            del self._recorded[shapes]
            # Last digits may be those of another way that a layer takes while it is recorded
            if count > 1 and not alike(found, expected, exactly=False):
                warnings.warn(
                    f"call {count} of an evaluation is not what its record gives: the programs "
                    f"run from here on, and results may be wrong since call {count // 2}",
                    stacklevel=4,
                )
        return result


class _Replay:
    """A recorded function, and the tensors that it may change."""

    def __init__(
        self, run: Callable, constants: Sequence[Tensor], tensors: Sequence[Tensor]
    ) -> None:
        self._run, self._constants, self.tensors = run, constants, tensors

    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self._run(*inputs, *self._constants)


def _as_tuple(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else result


class Checked(Repeated):
    """The same, where what Pyro's checks refuse is refused, see ``finite_or_checked``."""

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the function returns: a tuple of tensors."""
        return finite_or_checked(super().__call__, self.function, inputs)


def finite_or_checked(
    run: Callable[..., T],
    function: Callable[..., T],
    inputs: Sequence[Any],
    parts: Callable[[T], Iterable[Tensor]] = iter,
) -> T:
    """What runs without Pyro's checks, where these would let it pass.

    What they refuse comes out as NaN or infinite. Such a result is computed once more from the
    same random numbers by ``function``, with all checks, which raise, or let it pass. The first
    input is a tensor; ``parts`` gives the tensors of a result.
    """
    device = inputs[0].device
    before = streams.positions(device)
    result = run(*inputs)
    if all(part.isfinite().all() for part in parts(result)):
        return result
    streams.go_to(device, before)
    return function(*inputs)
