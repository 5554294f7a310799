"""Ratio of the step times of two checkouts, round by round.

Run: python tests/benchmarks/old_and_new.py OLD [one-layer|convolutional|ladder]
    [--engine eager|graph|compile] [--threads 1] [--steps 200] [--json FILE]

OLD is a checkout of another commit, such as ``git worktree add ../old COMMIT`` makes. Each of the
two has a process of its own, which takes a few steps when it is its turn; they alternate, so that
the machine's other work touches both alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import timing
import torch

HERE = Path(__file__).resolve()
ENGINES = ("eager", "graph", "compile")
_STEPS, _WARM_UP = 5, 30


def work(system: str, engine: str, threads: int) -> None:
    """Take steps for each line that comes in, and print the seconds that one took."""
    from systems import SYSTEMS

    from pyro_vae import infer

    torch.set_num_threads(threads)
    programs, x = SYSTEMS[system].build(), SYSTEMS[system].data()
    svi = infer.SVI(*programs, engine=engine)
    for _ in range(_WARM_UP):
        svi.step(x)
    for _ in sys.stdin:
        started = time.perf_counter()
        for _ in range(_STEPS):
            svi.step(x)
        print((time.perf_counter() - started) / _STEPS, flush=True)


class Worker:
    """A process that runs ``work`` with the library of one checkout."""

    def __init__(self, checkout: Path, options: argparse.Namespace) -> None:
        arguments = [options.system, "--engine", options.engine, "--threads", options.threads]
        self.process = subprocess.Popen(
            [sys.executable, HERE, checkout, *map(str, arguments), "--work"],
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self) -> float:
        """Seconds of a step, of the few taken now."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def main(argv: list[str] | None = None) -> None:
    """Let the two alternate, and tell the median of the ratios new / old."""
    parser = timing.arguments(__doc__.splitlines()[0], rounds=200)
    parser.add_argument("old", type=Path, help="the other checkout")
    parser.add_argument("system", nargs="?", default="one-layer")
    parser.add_argument("--engine", choices=ENGINES, default="graph")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(threads=1)
    options = parser.parse_args(argv)
    if options.work:
        work(options.system, options.engine, options.threads)
        return
    names = {"old": options.old.resolve(), "new": HERE.parents[2]}
    workers = {name: Worker(checkout, options) for name, checkout in names.items()}
    for worker in workers.values():
        worker()
    rounds = [{name: worker() for name, worker in workers.items()} for _ in range(options.steps)]
    for worker in workers.values():
        worker.process.communicate()
    times = {name: [r[name] for r in rounds] for name in workers}
    ratios = sorted(r["new"] / r["old"] for r in rounds)
    quarter = len(ratios) // 4
    rows = timing.compared(times, ["old"])
    rows[-1]["quartiles"] = f"{ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f}"
    rows[0]["quartiles"] = None
    rows[-1]["/ old"] = f"{statistics.median(ratios):.3f}"
    title = f"{options.system}, {options.engine}, {options.steps} rounds of {_STEPS} steps"
    timing.report(title, rows, options)


if __name__ == "__main__":
    main()
