"""Median time of a training step: stock Pyro SVI, hand-written PyTorch and this library.

Run: python tests/benchmarks/step_time.py [one-layer|convolutional|ladder|gru|transformer]
    [--batch-size 128] [--threads 4] [--steps 200] [--compile] [--device cuda] [--json FILE]

The 784-400-400-20 Bernoulli VAE, a convolutional one, or the five-layer ladder with BatchNorm of
Sonderby et al. (2016), on random binary data; or a causal decoder, on 32 random tokens. The
contestants alternate in one process, step by step, so that the machine's other work touches all
alike; "arithmetic" is the products of matrices and the fused Adam alone. Before timing, all others
are checked to take the same steps from the same weights and noise, in double precision.
"""

from __future__ import annotations

import statistics

import timing
import torch
from contestants import (
    ARITHMETIC,
    HAND_WRITTEN,
    STOCK,
    arithmetic,
    check_equal,
    contestants,
    exact,
)
from systems import SYSTEMS


def main(argv: list[str] | None = None) -> None:
    """Check that all compute the same, then time them."""
    parser = timing.arguments(__doc__.splitlines()[0], rounds=200)
    parser.add_argument("system", choices=SYSTEMS, nargs="?", default="one-layer")
    parser.add_argument("--batch-size", type=int, help="default: 128, of the ladder 256")
    parser.add_argument("--compile", action="store_true", help="compiled contestants too")
    options = parser.parse_args(argv)
    system, device = SYSTEMS[options.system], options.device
    batch_size = options.batch_size or system.batch_size
    torch.set_num_threads(options.threads)

    with exact():
        steps = contestants(system, device, compiled=options.compile)
        check_equal(steps, system.data(batch_size, device))

    steps, x = (
        contestants(system, device, compiled=options.compile),
        system.data(batch_size, device),
    )
    if system.linear:
        steps[ARITHMETIC] = arithmetic(system, device)
    runs = {name: lambda step=step: step(x) for name, step in steps.items()}
    timing.alternating(runs, 3, device)  # compiled and recorded
    times = timing.alternating(runs, options.steps, device)
    by_hand = {name: statistics.median(t) for name, t in times.items() if "hand-written" in name}
    bases = [STOCK, HAND_WRITTEN, min(by_hand, key=by_hand.get), *({ARITHMETIC} & steps.keys())]
    bases = list(dict.fromkeys(bases))
    title = f"{options.system}, batch {batch_size}, {options.steps} steps"
    timing.report(title, timing.compared(times, bases), options)


if __name__ == "__main__":
    main()
