"""Median time of a training step: stock Pyro SVI, hand-written PyTorch and this library.

Run: python tests/benchmarks/step_time.py [--threads 4] [--steps 200] [--batch-size 128]

The 784-400-400-20 Bernoulli VAE on random binary data. They alternate in one process, step by
step, so that the machine's other work touches all alike. Before timing, they are checked to
compute the same loss from the same weights and noise.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import pyro
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae import guides, infer, likelihoods, models

STOCK, HAND_WRITTEN = "stock Pyro SVI", "hand-written PyTorch"


def build() -> tuple[models.VAE, guides.BottomUp]:
    """The pair, with the same weights each time."""
    torch.manual_seed(0)
    vae = models.VAE((784,), latents=20, hidden=(400, 400), likelihood=likelihoods.Bernoulli())
    return vae, guides.BottomUp(vae)


def hand_written(vae: models.VAE, guide: guides.BottomUp) -> Callable[[Tensor], Tensor]:
    """The same networks in a plain PyTorch step with a fused Adam."""
    q = guide.conditionals["z1"]
    optimizer = torch.optim.Adam([*vae.parameters(), *guide.parameters()], lr=1e-3, fused=True)

    def dense(network: nn.Module, h: Tensor) -> Tensor:
        for i, layer in enumerate(network.layers):
            h = layer(h)
            if i < network.hidden_layers:
                h = F.relu(h)
        return h

    def step(x: Tensor) -> Tensor:
        h = dense(q.network, x)
        loc, scale = q.loc(h), F.softplus(q.raw_scale(h)) + q.min_scale
        noise = torch.randn_like(loc)
        z = loc + scale * noise
        logits = dense(vae.decoder, z)
        log_likelihood = -F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        log_ratio = -0.5 * (z.square() - noise.square()) + scale.log()
        loss = -(log_likelihood + log_ratio.sum())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def contestants() -> dict[str, Callable[[Tensor], Tensor]]:
    """Name -> one training step."""
    return {
        STOCK: pyro.infer.SVI(*build(), pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO()).step,
        HAND_WRITTEN: hand_written(*build()),
        "pyro_vae, eager": infer.SVI(*build()).step,
        "pyro_vae, graph": infer.SVI(*build(), engine="graph").step,
    }


def main() -> None:
    """Check that all compute the same, then time them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=128)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    x = (torch.rand(arguments.batch_size, 784) < 0.3).float()

    steps = contestants()
    losses = {}
    for name, step in steps.items():
        torch.manual_seed(1)
        losses[name] = [float(step(x)) for _ in range(5)]
    for values in losses.values():
        expected = torch.tensor(losses[STOCK])
        torch.testing.assert_close(torch.tensor(values), expected, rtol=1e-4, atol=0)

    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.steps):
        for name, step in steps.items():
            start = time.perf_counter()
            step(x)
            times[name].append(time.perf_counter() - start)
    print(f"batch {arguments.batch_size}, {arguments.threads} threads, {arguments.steps} steps")
    print(f"{'':<22} median ms   / stock   / hand-written")
    for name, values in times.items():
        ratios = [
            statistics.median(a / b for a, b in zip(values, times[other], strict=True))
            for other in (STOCK, HAND_WRITTEN)
        ]
        median = 1e3 * statistics.median(values)
        print(f"{name:<22} {median:9.2f}   {ratios[0]:7.2f}   {ratios[1]:14.2f}")


if __name__ == "__main__":
    main()
