"""How time and memory grow with layers, batch, latents, samples, length, rows and processes.

Run: python tests/benchmarks/growth.py [--threads 4] [--steps 20] [--values 3]

A step of the graph engine, and log p(x) of a batch by importance sampling; of tokens a step with a
causal GRU; a comparison of guides on 1,000 data; steps on rows of a memory-mapped array; steps of
``Trainer.fit`` in processes that share each batch by gloo, whose efficiency is the ms of one over
the ms times their number. Each row is a fresh process. Its peak memory is that above the imports
and a tiny case of the same kind: weights, Adam's moments, the recorded graph, and the tensors of a
step. Of rows it is what is held in the end besides the pages of the file: the order of an epoch.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import timing
import torch
from memory import Peak, anonymous
from systems import TOKENS, System, on, sequence, sequence_loss

from pyro_vae import Trainer, data, guides, infer, likelihoods, models, ranks
from pyro_vae.training.feeds import Resident
from pyro_vae.training.recomputing import recomputing

EVALUATION, GUIDES, RECOMPUTED = "samples of log p(x)", "guides compared", "layers, recomputed"
ROWS, PROCESSES = "rows of a file", "processes"
BASE = {"layers": 1, "batch": 128, "latents": 20, "particles": 1, EVALUATION: 0, "length": 0}
BASE |= {GUIDES: 0, RECOMPUTED: 0, ROWS: 0}
TINY = {**BASE, "batch": 2, "latents": 2}
# Columns of the file
WIDTH = 16
# For as long as the process lives
LASTING = contextlib.ExitStack()
VALUES = {
    "layers": (1, 2, 4, 8, 12),
    "batch": (32, 128, 512, 2048),
    "latents": (2, 20, 200),
    "particles": (1, 5, 50),
    EVALUATION: (50, 500, 5000),
    "length": (16, 32, 64, 128),
    RECOMPUTED: (1, 2, 4, 8, 12),
    GUIDES: (1, 2, 4, 8),
    ROWS: (10**4, 10**5, 10**6, 10**7),
    PROCESSES: (1, 2, 4),
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
        latents=(case["latents"],) * max(case["layers"], again := case[RECOMPUTED]),
        hidden=(hidden,),
        likelihood=likelihoods.Bernoulli(),
    ).to(device)
    guide, particles = guides.BottomUp(vae).to(device), case["particles"]
    if again:
        LASTING.enter_context(recomputing(vae, guide))
    if count := case[GUIDES]:
        compared = {str(i): guides.BottomUp(vae).to(device) for i in range(count)}
        rows = (torch.rand(1000, pixels) < 0.3).float().to(device)
        return lambda: infer.compare_guides(vae, compared, rows, importance_samples=10)
    x = (torch.rand(case["batch"], pixels) < 0.3).float().to(device)
    if samples := case[EVALUATION]:
        return lambda: infer.log_likelihood(vae, guide, x, importance_samples=samples)
    loss = infer.TraceELBO() if particles == 1 else infer.ImportanceWeightedELBO(particles)
    svi = infer.SVI(vae, guide, loss=loss, engine="graph")
    return lambda: svi.step(x)


def rows_of_a_file(n: int, device: str) -> Callable[[], object]:
    """Steps on the minibatches of an epoch of so many rows, all 0, of a file that is removed."""
    with tempfile.NamedTemporaryFile() as file:
        held = np.memmap(file.name, np.float32, mode="w+", shape=(n, WIDTH))
    feed = Resident(data.Dataset(torch.from_numpy(held)), BASE["batch"])
    vae = models.VAE((WIDTH,), 2, likelihood=likelihoods.Bernoulli(), hidden=(200,))
    svi = infer.SVI(*on((vae, guides.BottomUp(vae)), device), engine="graph")
    batches = itertools.chain.from_iterable(itertools.repeat(feed))
    return lambda: svi.step(next(batches)[0].to(device))


def in_processes(count: int, steps: int) -> float:
    """Median ms of a step of so many processes, on a batch that they share."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, __file__, "--member", "--steps", str(steps)]
    done = subprocess.run(command, env=found, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def member(steps: int) -> None:
    """One of the processes; the first one prints the time of a step."""
    torch.set_num_threads(1)
    with ranks.joined():
        torch.manual_seed(0)
        vae = models.VAE((784,), 20, likelihood=likelihoods.Bernoulli(), hidden=(200,))
        x, trainer = (torch.rand(512, 784) < 0.3).float(), Trainer(vae, guides.BottomUp(vae))
        trainer.fit(x, epochs=1 + steps, batch_size=512, progress=False)
        times = [row["seconds"] for row in trainer.history[1:]]
        if not ranks.rank():
            print(1e3 * statistics.median(times))


def measure(
    case: dict[str, int], steps: int, threads: int, device: str
) -> tuple[float, float | None]:
    """Median ms, and peak memory in MB where it can be known."""
    torch.set_num_threads(threads)
    # What is imported and allocated once, at the first use
    tiny = {**TINY, "particles": case["particles"], EVALUATION: min(50, case[EVALUATION])}
    timing.alternating({"tiny": work(tiny, device, pixels=4, hidden=4)}, 3, device)
    peak, before = Peak(device), anonymous()
    run = rows_of_a_file(case[ROWS], device) if case[ROWS] else work(case, device)
    if not (case[EVALUATION] or case[GUIDES]):
        timing.alternating({"recording": run}, 2, device)
    times = timing.alternating({"case": run}, steps, device)["case"]
    held = (anonymous() - before) / 2**20 if case[ROWS] else peak.megabytes()
    return 1e3 * statistics.median(times), held


def main(argv: list[str] | None = None) -> None:
    """One quantity after the other, the others at their base."""
    parser = timing.arguments(__doc__.splitlines()[0], rounds=20)
    parser.add_argument("--values", type=int, default=9, help="at most so many per quantity")
    parser.add_argument("--member", action="store_true", help="one of the processes")
    options = parser.parse_args(argv)
    if options.member:
        member(options.steps)
        return
    rows: list[dict[str, Any]] = []
    spawn = multiprocessing.get_context("spawn")
    for name, values in VALUES.items():
        # Estimates take seconds
        steps = min(options.steps, 3) if name in (EVALUATION, GUIDES) else options.steps
        for value in values[: options.values]:
            if name == PROCESSES:
                ms = in_processes(value, steps)
                rows.append({"quantity": name, "value": value, "ms": ms, "peak MB": None})
                continue
            case = {**BASE, name: value}
            with spawn.Pool(1) as pool:
                ms, peak = pool.apply(measure, (case, steps, options.threads, options.device))
            rows.append({"quantity": name, "value": value, "ms": ms, "peak MB": peak})
    timing.report("Growth, batch 128 and 20 latents unless told", rows, options)


if __name__ == "__main__":
    main()
