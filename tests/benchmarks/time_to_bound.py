"""Time from the start of a process to a bound of MNIST's test data, of several scripts.

Run: PYTHONPATH=. PYRO_VAE_DATA=... python tests/benchmarks/time_to_bound.py [--bound -100]
    [--threads 1] [--steps 1]

The scripts are those of ``alone.py``: the same networks, batches and rate, dynamic binarisation,
and a look at the test data after each epoch. Ratios are those of processor time; ``epochs`` tells
what of them is luck. pythae takes part where it is installed.
"""

from __future__ import annotations

import os
import statistics

import alone
import timing


def main(argv: list[str] | None = None) -> None:
    """Let them alternate, each round from another seed."""
    parser = timing.arguments(__doc__.splitlines()[0], rounds=1)
    parser.add_argument("--bound", type=float, default=-100.0, help="nats per datum")
    parser.set_defaults(threads=1)
    options = parser.parse_args(argv)
    folder = os.environ["PYRO_VAE_DATA"]
    rounds = [
        {
            name: alone.measured(name, folder, options.bound, seed, options.threads)
            for name in alone.here()
        }
        for seed in range(options.steps)
    ]
    rows = alone.rows_of(rounds, [alone.BY_HAND, alone.SCRIPT])
    for row in rows:
        bounds = [r[row["name"]]["bounds"] for r in rounds]
        row["epochs"] = statistics.median(map(len, bounds))
        row["bound"] = statistics.median(b[-1] for b in bounds)
    title = f"Start of a process to a test bound of {options.bound:g} nats on MNIST"
    timing.report(title, rows, options)


if __name__ == "__main__":
    main()
