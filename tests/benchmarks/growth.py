"""How time and memory grow with layers, batch, latents, importance samples and length.

Run: python tests/benchmarks/growth.py [--threads 4] [--steps 20] [--values 3]

A step of the graph engine, and log p(x) of a batch by importance sampling; of tokens a step with a
causal GRU. Each row is a fresh
process. Its peak memory is that above the imports and a tiny case of the same kind: weights,
Adam's moments, the recorded graph, and the tensors of a step.
"""

from __future__ import annotations

import functools
import multiprocessing
import statistics
from collections.abc import Callable
from typing import Any

import timing
import torch
from memory import Peak
from systems import TOKENS, System, on, sequence, sequence_loss

from pyro_vae import guides, infer, likelihoods, models

EVALUATION = "samples of log p(x)"
BASE = {"layers": 1, "batch": 128, "latents": 20, "particles": 1, EVALUATION: 0, "length": 0}
TINY = {**BASE, "batch": 2, "latents": 2}
VALUES = {
    "layers": (1, 2, 4, 8, 12),
    "batch": (32, 128, 512, 2048),
    "latents": (2, 20, 200),
    "particles": (1, 5, 50),
    EVALUATION: (50, 500, 5000),
    "length": (16, 32, 64, 128),
}


def work(
    case: dict[str, int], device: str, *, pixels: int = 784, hidden: int = 200
) -> Callable[[], object]:
    """One step, or one estimate of log p(x)."""
    if length := case["length"]:
        build = functools.partial(sequence, length=length)
        system = System(build, sequence_loss, case["batch"], (length,), TOKENS)
        svi, x = infer.SVI(*on(build(), device), engine="graph"), system.data(device=device)
        return lambda: svi.step(x)
    torch.manual_seed(0)
    vae = models.VAE(
        (pixels,),
        latents=(case["latents"],) * case["layers"],
        hidden=(hidden,),
        likelihood=likelihoods.Bernoulli(),
    ).to(device)
    guide, particles = guides.BottomUp(vae).to(device), case["particles"]
    x = (torch.rand(case["batch"], pixels) < 0.3).float().to(device)
    if samples := case[EVALUATION]:
        return lambda: infer.log_likelihood(vae, guide, x, importance_samples=samples)
    loss = infer.TraceELBO() if particles == 1 else infer.ImportanceWeightedELBO(particles)
    svi = infer.SVI(vae, guide, loss=loss, engine="graph")
    return lambda: svi.step(x)


def measure(
    case: dict[str, int], steps: int, threads: int, device: str
) -> tuple[float, float | None]:
    """Median ms, and peak memory in MB where it can be known."""
    torch.set_num_threads(threads)
    # What is imported and allocated once, at the first use
    tiny = {**TINY, "particles": case["particles"], EVALUATION: min(50, case[EVALUATION])}
    timing.alternating({"tiny": work(tiny, device, pixels=4, hidden=4)}, 3, device)
    peak = Peak(device)
    run = work(case, device)
    if not case[EVALUATION]:
        timing.alternating({"recording": run}, 2, device)
    times = timing.alternating({"case": run}, steps, device)["case"]
    return 1e3 * statistics.median(times), peak.megabytes()


def main(argv: list[str] | None = None) -> None:
    """One quantity after the other, the others at their base."""
    parser = timing.arguments(__doc__.splitlines()[0], rounds=20)
    parser.add_argument("--values", type=int, default=9, help="at most so many per quantity")
    options = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    spawn = multiprocessing.get_context("spawn")
    for name, values in VALUES.items():
        # Estimates take seconds
        steps = min(options.steps, 3) if name == EVALUATION else options.steps
        for value in values[: options.values]:
            case = {**BASE, name: value}
            with spawn.Pool(1) as pool:
                ms, peak = pool.apply(measure, (case, steps, options.threads, options.device))
            rows.append({"quantity": name, "value": value, "ms": ms, "peak MB": peak})
    timing.report("Growth, batch 128 and 20 latents unless told", rows, options)


if __name__ == "__main__":
    main()
