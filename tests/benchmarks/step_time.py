"""Median time of a training step: stock Pyro SVI, hand-written PyTorch and this library.

Run: python tests/benchmarks/step_time.py [one-layer|ladder] [--threads 4] [--steps 200]

The 784-400-400-20 Bernoulli VAE, or the five-layer ladder with BatchNorm of Sonderby et al.
(2016), on random binary data. The contestants alternate in one process, step by step, so that the
machine's other work touches all alike. Before timing, they are checked to compute the same loss
from the same weights and noise.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import pyro
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae import guides, infer, likelihoods, models

STOCK, HAND_WRITTEN = "stock Pyro SVI", "hand-written PyTorch"
Pair = tuple[models.VAE, guides.Guide]


class System(NamedTuple):
    """A pair, and the loss of the same networks in plain PyTorch."""

    build: Callable[[], Pair]
    hand_written: Callable[[models.VAE, guides.Guide], Callable[[Tensor], Tensor]]
    batch_size: int


def one_layer() -> Pair:
    """The pair, with the same weights each time."""
    torch.manual_seed(0)
    vae = models.VAE((784,), latents=20, hidden=(400, 400), likelihood=likelihoods.Bernoulli())
    return vae, guides.BottomUp(vae)


def ladder() -> Pair:
    """Five layers with BatchNorm."""
    torch.manual_seed(0)
    vae = models.VAE(
        (784,),
        latents=(64, 32, 16, 8, 4),
        hidden=[(w, w) for w in (512, 256, 128, 64, 32)],
        likelihood=likelihoods.Bernoulli(),
        activation=nn.LeakyReLU,
        norm=nn.BatchNorm1d,
    )
    return vae, guides.Ladder(vae)


def dense(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The layers of an MLP as one ``nn.Sequential``."""
    layers: list[nn.Module] = []
    for i, layer in enumerate(network.layers):
        layers.append(layer)
        if i < network.hidden_layers:
            layers += [batch_norm(network.norms[i]), network.activation]
    return nn.Sequential(*layers)


def batch_norm(norm: nn.Module) -> nn.Module:
    """The module that a user would have written."""
    return getattr(norm, "norm", norm)


def head(module: nn.Module) -> nn.Module:
    """A linear layer, with its normalisation where there is one."""
    if isinstance(module, nn.Linear):
        return module
    return nn.Sequential(module[0], batch_norm(module[1]))


def negative_log_likelihood(logits: Tensor, x: Tensor) -> Tensor:
    """Of all data."""
    return F.binary_cross_entropy_with_logits(logits, x, reduction="sum")


def one_layer_loss(vae: models.VAE, guide: guides.Guide) -> Callable[[Tensor], Tensor]:
    """As one writes it by hand."""
    q = guide.conditionals["z1"]
    encoder, decoder = dense(q.network), dense(vae.decoder)

    def loss(x: Tensor) -> Tensor:
        h = encoder(x)
        loc, scale = q.loc(h), F.softplus(q.raw_scale(h)) + q.min_scale
        noise = torch.randn_like(loc)
        z = loc + scale * noise
        log_ratio = -0.5 * (z.square() - noise.square()) + scale.log()
        return negative_log_likelihood(decoder(z), x) - log_ratio.sum()

    return loss


def ladder_loss(vae: models.VAE, guide: guides.Guide) -> Callable[[Tensor], Tensor]:
    """As one writes it by hand: up, then down with the prior's own networks."""
    sites = vae.latents
    up = [
        (dense(guide.networks[s]), head(guide.heads[s].loc), head(guide.heads[s].raw_scale))
        for s in reversed(sites)
    ]
    down = [
        (dense(c.network), head(c.loc), head(c.raw_scale))
        for c in (vae.conditionals[s] for s in sites[1:])
    ]
    decoder, floor = dense(vae.decoder), guide.heads[sites[0]].min_scale

    def loss(x: Tensor) -> Tensor:
        h, proposals = x, []
        for network, loc, scale in up:
            h = network(h)
            proposals.append((loc(h), F.softplus(scale(h)) + floor))
        loc, scale = proposals.pop()
        noise = torch.randn_like(loc)
        z = loc + scale * noise
        log_ratio = (0.5 * (noise.square() - z.square()) + scale.log()).sum()
        for network, p_loc, p_scale in down:
            h = network(z)
            mean, spread = p_loc(h), F.softplus(p_scale(h)) + floor
            loc, scale = proposals.pop()
            ratio = (scale / spread).square()
            weight = 1 / (1 + ratio)
            loc, scale = weight * (loc + ratio * mean), scale * weight.sqrt()
            noise = torch.randn_like(loc)
            z = loc + scale * noise
            squares = noise.square() - ((z - mean) / spread).square()
            log_ratio = log_ratio + (0.5 * squares + scale.log() - spread.log()).sum()
        return negative_log_likelihood(decoder(z), x) - log_ratio

    return loss


SYSTEMS = {
    "one-layer": System(one_layer, one_layer_loss, 128),
    "ladder": System(ladder, ladder_loss, 256),
}


def hand_written(system: System) -> Callable[[Tensor], Tensor]:
    """A plain PyTorch step with a fused Adam."""
    vae, guide = system.build()
    loss_of = system.hand_written(vae, guide)
    optimizer = torch.optim.Adam([*vae.parameters(), *guide.parameters()], lr=1e-3, fused=True)

    def step(x: Tensor) -> Tensor:
        loss = loss_of(x)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def contestants(system: System) -> dict[str, Callable[[Tensor], Tensor]]:
    """Name -> one training step."""
    build = system.build
    return {
        STOCK: pyro.infer.SVI(*build(), pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO()).step,
        HAND_WRITTEN: hand_written(system),
        "pyro_vae, eager": infer.SVI(*build()).step,
        "pyro_vae, graph": infer.SVI(*build(), engine="graph").step,
    }


def main() -> None:
    """Check that all compute the same, then time them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("system", choices=SYSTEMS, nargs="?", default="one-layer")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, help="default: 128, of the ladder 256")
    arguments = parser.parse_args()
    system = SYSTEMS[arguments.system]
    batch_size = arguments.batch_size or system.batch_size
    torch.set_num_threads(arguments.threads)
    x = (torch.rand(batch_size, 784) < 0.3).float()

    steps = contestants(system)
    losses = {}
    for name, step in steps.items():
        torch.manual_seed(1)
        losses[name] = [float(step(x)) for _ in range(2)]
    for values in losses.values():
        expected = torch.tensor(losses[STOCK])
        torch.testing.assert_close(torch.tensor(values), expected, rtol=1e-4, atol=0)

    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.steps):
        for name, step in steps.items():
            start = time.perf_counter()
            step(x)
            times[name].append(time.perf_counter() - start)
    print(
        f"{arguments.system}, batch {batch_size}, {arguments.threads} threads, "
        f"{arguments.steps} steps"
    )
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
