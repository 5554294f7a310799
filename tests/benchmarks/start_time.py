"""From the start of a process to the end of the first training step, of several scripts.

Run: PYTHONPATH=. python tests/benchmarks/start_time.py [--threads 1] [--steps 5]

The scripts are those of ``alone.py``, one after the other in each round; a first round, which is
not counted, writes byte code. Ratios are those of processor time, which other work on the machine
touches least.
"""

from __future__ import annotations

import alone
import timing


def main(argv: list[str] | None = None) -> None:
    """Let them alternate."""
    parser = timing.arguments(__doc__.splitlines()[0], rounds=5)
    parser.set_defaults(threads=1)
    options = parser.parse_args(argv)
    rounds = [
        {name: alone.measured(name, threads=options.threads) for name in alone.here()}
        for _ in range(options.steps + 1)
    ]
    rows = alone.rows_of(rounds[1:], [alone.BY_HAND, alone.SCRIPT])
    timing.report("Start of a process to the end of step 1", rows, options)


if __name__ == "__main__":
    main()
