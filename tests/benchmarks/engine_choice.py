"""What compiling a recorded step costs and saves, for the constants of ``infer.AutoCompiled``.

Run: python tests/benchmarks/engine_choice.py [one-layer] [convolutional] [ladder] [--threads 4]

Seconds of compiling (cold: in an empty cache; warm: in another process that finds the cache) by
the number of recorded operations, and what it saves of each step, with one thread and with
``--threads``. Each row is two fresh processes. From two systems on, a straight line through the
cold seconds is told.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from unittest import mock

import timing
import torch
from systems import SYSTEMS, on
from torch import Tensor
from torch.fx import GraphModule

from pyro_vae import infer
from pyro_vae.infer.engine.compiled import Compiler

GRAPH, COMPILED = "graph", "compile"


class TimedCompiler:
    """Compiles, and keeps how many seconds that took."""

    seconds = 0.0

    def __call__(self, graph: GraphModule, inputs: Sequence[Tensor]) -> Callable:
        """As ``Compiler``."""
        made: list[Callable] = []
        self.seconds += timing.seconds(
            lambda: made.append(Compiler()(graph, inputs)), inputs[0].device.type
        )
        return made[0]


def measure(name: str, threads: int, steps: int, device: str) -> dict[str, Any]:
    """Operations, seconds of compiling, and ms of a step under both engines."""
    # Compiling that fails is no measurement
    warnings.filterwarnings("error", message="the recorded graph runs uncompiled")
    torch.set_num_threads(threads)
    system, compiler = SYSTEMS[name], TimedCompiler()
    engines = {
        GRAPH: infer.Graph(infer.TraceELBO()),
        COMPILED: infer.Graph(infer.TraceELBO(), compile=compiler),
    }
    x = system.data(device=device)
    runs = {}
    for engine, graph in engines.items():
        svi = infer.SVI(*on(system.build(), device), engine=graph)
        runs[engine] = lambda svi=svi: svi.step(x)
    timing.alternating(runs, 3, device)  # recorded and compiled
    times = timing.alternating(runs, steps, device)
    saved = (1 - b / a for a, b in zip(times[GRAPH], times[COMPILED], strict=True))
    return {
        "operations": engines[GRAPH].operations,
        "seconds": compiler.seconds,
        GRAPH: 1e3 * statistics.median(times[GRAPH]),
        COMPILED: 1e3 * statistics.median(times[COMPILED]),
        "saved": statistics.median(saved),
    }


def alone(*job: Any) -> dict[str, Any]:
    """``measure`` in a fresh process, which unlike a pool's may have compiling ones of its own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(measure, *job).result()


def row(name: str, threads: int, steps: int, device: str) -> dict[str, Any]:
    """With an empty cache, then with the one that this left."""
    with tempfile.TemporaryDirectory() as folder:
        with mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=folder):
            cold = alone(name, threads, steps, device)
            warm = alone(name, threads, 1, device)
    gained = (cold[GRAPH] - cold[COMPILED]) / 1e3
    return {
        "system": name,
        "threads": threads,
        "operations": cold["operations"],
        "cold, s": cold["seconds"],
        "warm, s": warm["seconds"],
        "graph, ms": cold[GRAPH],
        "compiled, ms": cold[COMPILED],
        "saved": cold["saved"],
        "steps that pay": round(cold["seconds"] / gained) if gained > 0 else None,
    }


def main(argv: list[str] | None = None) -> None:
    """A row per system and number of threads."""
    parser = timing.arguments(__doc__.splitlines()[0], rounds=60)
    parser.add_argument("systems", nargs="*", help=f"default: {', '.join(SYSTEMS)}")
    options = parser.parse_args(argv)
    if unknown := set(options.systems) - set(SYSTEMS):
        parser.error(f"unknown systems: {', '.join(sorted(unknown))}")
    rows = [
        row(name, threads, options.steps, options.device)
        for name in options.systems or SYSTEMS
        for threads in sorted({1, options.threads})
    ]
    timing.report("Compiling recorded steps", rows, options)
    operations = [r["operations"] for r in rows]
    if len(set(operations)) > 1:
        line = statistics.linear_regression(operations, [r["cold, s"] for r in rows])
        print(f"\ncold: {line.intercept:.1f} s and {line.slope:.3f} s per operation")


if __name__ == "__main__":
    main()
