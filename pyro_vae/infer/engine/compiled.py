"""Recorded graphs through ``torch.compile``'s compiler."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule

from .internals import compiled
from .rewriting import of_operators

_log = logging.getLogger("pyro_vae")


class Compiler:
    """Compiles recorded graphs, forward and backward, with the random numbers of eager torch.

    The same compiler as in ``torch.compile``, entered below its tracing of Python: what a graph
    depends on is checked by ``Graph`` already. Results equal eager ones up to rounding.
    ``announce`` is told, once per graph, how long compiling took; default: the logger "pyro_vae".
    """

    def __init__(self, announce: Callable[[str], object] | None = None) -> None:
        self.announce = announce

    def __call__(self, graph: GraphModule, inputs: Sequence[Tensor]) -> Callable:
        """What runs on such inputs and returns the same; ``graph.forward`` if compiling fails."""
        started = time.perf_counter()
        operations = len(graph.graph.nodes) - len(inputs)
        try:
            run = compiled(of_operators(graph), inputs)
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
        announce = self.announce or _log.info
        announce(f"compiled a step of {operations} operations in {seconds:.1f} s")
        return run
