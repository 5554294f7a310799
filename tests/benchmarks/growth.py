"""How time and memory of a step grow with layers, batch, latents and importance samples.

Run: python tests/benchmarks/growth.py [--threads 4] [--steps 20] [--values 3]

Each row is a fresh process, whose peak resident memory above that of the imports is told.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
from typing import Any

import timing
import torch

from pyro_vae import guides, infer, likelihoods, models

BASE = {"layers": 1, "batch": 128, "latents": 20, "particles": 1}
VALUES = {
    "layers": (1, 2, 4, 8, 12),
    "batch": (32, 128, 512, 2048),
    "latents": (2, 20, 200),
    "particles": (1, 5, 50),
}


def measure(options: dict[str, int], steps: int, threads: int, device: str) -> tuple[float, float]:
    """Median ms of a step under the graph engine, and peak memory in MB."""
    torch.set_num_threads(threads)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.manual_seed(0)
    vae = models.VAE(
        (784,),
        latents=(options["latents"],) * options["layers"],
        hidden=(200,),
        likelihood=likelihoods.Bernoulli(),
    ).to(device)
    particles = options["particles"]
    loss = infer.TraceELBO() if particles == 1 else infer.ImportanceWeightedELBO(particles)
    svi = infer.SVI(vae, guides.BottomUp(vae).to(device), loss=loss, engine="graph")
    x = (torch.rand(options["batch"], 784) < 0.3).float().to(device)
    for _ in range(2):
        svi.step(x)
    times = timing.alternating({"step": lambda: svi.step(x)}, steps, device)["step"]
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if device != "cpu":
        peak = torch.cuda.max_memory_allocated() / 2**20
    return 1e3 * statistics.median(times), peak


def main(argv: list[str] | None = None) -> None:
    """One quantity after the other, the others at their base."""
    parser = timing.arguments(__doc__.splitlines()[0], rounds=20)
    parser.add_argument("--values", type=int, default=9, help="at most so many per quantity")
    options = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    spawn = multiprocessing.get_context("spawn")
    for name, values in VALUES.items():
        for value in values[: options.values]:
            case = {**BASE, name: value}
            with spawn.Pool(1) as pool:
                job = (case, options.steps, options.threads, options.device)
                ms, peak = pool.apply(measure, job)
            rows.append({"quantity": name, "value": value, "ms": ms, "peak MB": peak})
    timing.report("Growth of a step of the graph engine", rows, options)


if __name__ == "__main__":
    main()
