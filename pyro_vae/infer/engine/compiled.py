"""Recorded graphs through ``torch.compile``'s compiler, and when that pays."""

from __future__ import annotations

import collections
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule

from ..elbo import ELBOTerms, Estimator
from .graph import Graph

_log = logging.getLogger("pyro_vae")
# Seconds that compiling takes: a start, and some for each operation. The part of a step that it
# saves, from nothing (convolutions) to a quarter (a ladder, 4 threads), and how surely it has to
# pay. Measured by tests/benchmarks/engine_choice.py
_START_SECONDS, _NODE_SECONDS = 6.0, 0.02
_SAVING, _MARGIN = 0.1, 3.0
_TIMED_STEPS = 20


class Compiler:
    """Compiles recorded graphs, forward and backward, with the random numbers of eager torch.

    The same compiler as in ``torch.compile``, entered below its tracing of Python: what a graph
    depends on is checked by ``Graph`` already. Results equal eager ones up to rounding.

    Args:
        announce: is told, once per graph, how long compiling took; default: the logger
            "pyro_vae", at level INFO.
    """

    def __init__(self, announce: Callable[[str], object] | None = None) -> None:
        self.announce = announce or _log.info

    def __call__(self, graph: GraphModule, inputs: Sequence[Tensor]) -> Callable:
        """What runs on such inputs and returns the same; ``graph.forward`` if compiling fails."""
        from torch._inductor.compile_fx import compile_fx  # takes seconds to import

        started = time.perf_counter()
        operations = len(graph.graph.nodes) - len(inputs)
        try:
            run = compile_fx(graph, list(inputs), config_patches={"fallback_random": True})
            # The backward is compiled when it first runs
            loss, *_ = run(*inputs)
            if loss.requires_grad:
                leaves = [t for t in inputs if t.requires_grad]
                torch.autograd.grad(loss, leaves, allow_unused=True)
        except Exception as error:  # a compiler has many ways to fail, such as no C++ at hand
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            warnings.warn(f"the recorded graph runs uncompiled: {reason}", stacklevel=2)
            return graph.forward
        seconds = time.perf_counter() - started
        self.announce(f"compiled a step of {operations} operations in {seconds:.1f} s")
        return run


class AutoCompiled:
    """An estimator under ``Graph`` that is compiled once the rest of a run is long enough.

    After some steps of one batch shape their median time is known. Compiling is taken to save 10%
    of each and to last 6 s and 0.02 s per recorded operation; it is done where what is saved in
    the steps to come is at least three times that. Where compiled steps then turn out to be no
    faster, the run goes on with the recorded ones.

    Args:
        estimator: as in ``Graph``.
        remaining: tells how many steps are still to come.
        after: as in ``Graph``.
        announce: as in ``Compiler``; is told too where a run goes back.
    """

    def __init__(
        self,
        estimator: Estimator,
        *,
        remaining: Callable[[], int],
        after: int = 0,
        announce: Callable[[str], object] | None = None,
    ) -> None:
        self.estimator, self.remaining, self._after = estimator, remaining, after
        self._announce = announce or _log.info
        self._graph = Graph(estimator, after=after)
        self._compiled = Graph(estimator, compile=Compiler(announce))
        self._choices: dict[torch.Size, _Choice] = collections.defaultdict(self._choice)
        self._previous: tuple[torch.Size, float] | None = None

    def __call__(
        self, model: Callable, guide: Callable, x: Tensor, y: Tensor | None = None
    ) -> tuple[Tensor, ELBOTerms]:
        """Loss and terms, as of ``Graph``, which is never compiled."""
        return self._graph(model, guide, x, y)

    def backward(
        self, model: Callable, guide: Callable, x: Tensor, y: Tensor | None = None
    ) -> tuple[Tensor, ELBOTerms]:
        """Loss, terms and gradients, as of ``Graph.backward``."""
        choice = self._choices[x.shape]
        if not choice.settled:
            self._time(x.shape, choice)
        return choice.engine.backward(model, guide, x, y)

    def _choice(self) -> _Choice:
        # Steps that run as they are before a graph is recorded tell nothing
        return _Choice(self._graph, skipped=self._after)

    def _time(self, shape: torch.Size, choice: _Choice) -> None:
        now, previous = time.perf_counter(), self._previous
        self._previous = shape, now
        # Steps of other shapes, such as an epoch's last batch, are few
        if previous is None or previous[0] != shape or not choice.told(now - previous[1]):
            return
        if choice.engine is self._graph:
            operations = self._graph.operations
            if self.pays(choice.median, self.remaining(), operations):
                choice.measure(self._compiled, skipped=1)
            else:
                choice.settled = True
        else:
            recorded, compiled = choice.before, choice.median
            choice.settled = True
            if compiled >= recorded:
                choice.engine = self._graph
                self._announce(
                    f"a compiled step takes {1e3 * compiled:.2f} ms, a recorded one "
                    f"{1e3 * recorded:.2f} ms: going on with recorded ones"
                )

    @staticmethod
    def pays(seconds: float, steps: int, operations: int) -> bool:
        """Whether compiling so many operations pays in so many steps of so many seconds."""
        cost = _START_SECONDS + _NODE_SECONDS * operations
        return operations > 0 and _SAVING * seconds * steps >= _MARGIN * cost


class _Choice:
    """The engine of one batch shape, and the times of its steps until it is settled."""

    def __init__(self, engine: Graph, skipped: int) -> None:
        self.settled, self.median = False, 0.0
        self.measure(engine, skipped)

    def measure(self, engine: Graph, skipped: int) -> None:
        """Go on with an engine, whose first steps do not count."""
        self.engine, self.before = engine, self.median
        self._skipped, self._seconds = skipped, list[float]()

    def told(self, seconds: float) -> bool:
        """Take in the time of a step; whether the median is known now."""
        self._seconds.append(seconds)
        counted = self._seconds[self._skipped :]
        if len(counted) < _TIMED_STEPS:
            return False
        self.median = statistics.median(counted)
        return True
