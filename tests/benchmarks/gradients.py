"""Gradients of the bound: what a step takes, and the signal to noise of the guide's gradient.

Run: python tests/benchmarks/gradients.py [one-layer|convolutional|ladder] [--particles 1 8]
    [--draws 1000] [--threads 4] [--steps 50] [--json FILE]

The steps of all gradients alternate in one process, by the program and by the graph engine. The
signal to noise is |E g| / Std g of each parameter of the guide, averaged over these, as in
"Tighter Variational Bounds are Not Necessarily Better", Rainforth et al. (2018): of a small pair
that has been trained for a while, from so many draws of the gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import timing
import torch
from systems import SYSTEMS
from torch import Tensor

from pyro_vae import guides, infer, likelihoods, models


def objective(particles: int, gradient: str) -> infer.TraceELBO:
    """The bound with so many particles."""
    if particles == 1:
        return infer.TraceELBO("mean", gradient)
    return infer.ImportanceWeightedELBO(particles, "mean", gradient)


def gradients(particles: int) -> tuple[str, ...]:
    """Those that such a bound has."""
    return type(objective(particles, "total")).gradients


def steps(system: str, particles: int) -> dict[str, Callable[[], object]]:
    """A step of each gradient and engine, from the same weights."""
    x = SYSTEMS[system].data()
    return {
        f"{gradient}, k = {particles}, {engine}": functools.partial(
            infer.SVI(
                *SYSTEMS[system].build(), loss=objective(particles, gradient), engine=engine
            ).step,
            x,
        )
        for engine in ("eager", "graph")
        for gradient in gradients(particles)
    }


def small() -> tuple[models.VAE, guides.BottomUp, Tensor]:
    """A pair of two latents after some steps, and its data."""
    torch.manual_seed(0)
    vae = models.VAE((6,), 2, hidden=(8,), likelihood=likelihoods.Gaussian())
    guide, x = guides.BottomUp(vae), torch.randn(32, 2) @ torch.randn(2, 6)
    svi = infer.SVI(vae, guide, loss=infer.TraceELBO("mean"), engine="graph")
    for _ in range(300):
        svi.step(x)
    return vae, guide, x


def signal_to_noise(particles: int, gradient: str, draws: int) -> float:
    """|E g| / Std g, averaged over the guide's parameters."""
    vae, guide, x = small()
    svi = infer.SVI(vae, guide, loss=objective(particles, gradient), engine="graph")
    found = []
    for _ in range(draws):
        svi.gradient(x)
        found.append(torch.cat([p.grad.flatten() for p in guide.parameters()]))
    drawn = torch.stack(found)
    return float((drawn.mean(0).abs() / drawn.std(0)).mean())


def main(argv: list[str] | None = None) -> None:
    """Time the steps, then draw gradients."""
    parser = timing.arguments(__doc__.splitlines()[0], rounds=50)
    parser.add_argument("system", choices=SYSTEMS, nargs="?", default="one-layer")
    parser.add_argument("--particles", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    rows = []
    for particles in options.particles:
        runs = steps(options.system, particles)
        timing.alternating(runs, 3)  # recorded
        times = timing.alternating(runs, options.steps)
        for row in timing.compared(times, [next(iter(runs)), f"total, k = {particles}, graph"]):
            name, ms, eager, graph = row.values()
            rows.append({"name": name, "ms": ms, "/ total, eager": eager, "/ graph": graph})
    timing.report(f"{options.system}, {options.steps} steps", rows, options)
    print(
        "\n| k | " + " | ".join(infer.ImportanceWeightedELBO.gradients) + " |\n|---|---|---|---|"
    )
    for particles in (1, 8, 64):
        ratios = [signal_to_noise(particles, g, options.draws) for g in gradients(particles)]
        print(f"| {particles} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")


if __name__ == "__main__":
    main()
