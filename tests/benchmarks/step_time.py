"""Median time of a training step: stock Pyro SVI, hand-written PyTorch and this library.

Run: python tests/benchmarks/step_time.py [one-layer|convolutional|ladder] [--batch-size 128]
    [--threads 4] [--steps 200] [--compile] [--device cuda] [--json FILE]

The 784-400-400-20 Bernoulli VAE, a convolutional one, or the five-layer ladder with BatchNorm of
Sonderby et al. (2016), on random binary data. The contestants alternate in one process, step by
step, so that the machine's other work touches all alike. Before timing, they are checked to
compute the same loss from the same weights and noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pyro
import timing
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae import guides, infer, likelihoods, models

STOCK, HAND_WRITTEN = "stock Pyro SVI", "hand-written PyTorch"
COMPILED = "hand-written, compiled"
Pair = tuple[models.VAE, guides.Guide]


class System(NamedTuple):
    """A pair, and the loss of the same networks in plain PyTorch."""

    build: Callable[[], Pair]
    hand_written: Callable[[models.VAE, guides.Guide], Callable[[Tensor], Tensor]]
    batch_size: int
    event_shape: tuple[int, ...] = (784,)


def one_layer() -> Pair:
    """The pair, with the same weights each time."""
    torch.manual_seed(0)
    vae = models.VAE((784,), latents=20, hidden=(400, 400), likelihood=likelihoods.Bernoulli())
    return vae, guides.BottomUp(vae)


def convolutional() -> Pair:
    """Images, with the default networks."""
    torch.manual_seed(0)
    vae = models.VAE((1, 28, 28), latents=20, likelihood=likelihoods.Bernoulli())
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
    images = len(vae.event_shape) > 1
    encoder = q.network if images else dense(q.network)
    decoder = vae.decoder if images else dense(vae.decoder)

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
    "convolutional": System(convolutional, one_layer_loss, 128, (1, 28, 28)),
    "ladder": System(ladder, ladder_loss, 256),
}


def on(pair: Pair, device: str) -> Pair:
    """The pair on a device."""
    return pair[0].to(device), pair[1].to(device)


def hand_written(
    system: System, device: str = "cpu", *, compiled: bool = False
) -> Callable[[Tensor], Tensor]:
    """A plain PyTorch step with a fused Adam, as it is or compiled with its optimizer step."""
    vae, guide = on(system.build(), device)
    loss_of = system.hand_written(vae, guide)
    optimizer = torch.optim.Adam([*vae.parameters(), *guide.parameters()], lr=1e-3, fused=True)
    if compiled:
        loss_of = torch.compile(loss_of)
        optimizer.step = torch.compile(optimizer.step)

    def step(x: Tensor) -> Tensor:
        loss = loss_of(x)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def contestants(
    system: System, device: str = "cpu", *, compiled: bool = False
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Name -> one training step."""

    def pair() -> Pair:
        return on(system.build(), device)

    steps = {
        STOCK: pyro.infer.SVI(*pair(), pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO()).step,
        HAND_WRITTEN: hand_written(system, device),
        "pyro_vae, eager": infer.SVI(*pair()).step,
        "pyro_vae, graph": infer.SVI(*pair(), engine="graph").step,
    }
    if compiled:
        steps[COMPILED] = hand_written(system, device, compiled=True)
        steps["pyro_vae, compile"] = infer.SVI(*pair(), engine="compile").step
    return steps


def main(argv: list[str] | None = None) -> None:
    """Check that all compute the same, then time them."""
    parser = timing.arguments(__doc__.splitlines()[0], rounds=200)
    parser.add_argument("system", choices=SYSTEMS, nargs="?", default="one-layer")
    parser.add_argument("--batch-size", type=int, help="default: 128, of the ladder 256")
    parser.add_argument("--compile", action="store_true", help="compiled contestants too")
    options = parser.parse_args(argv)
    system = SYSTEMS[options.system]
    batch_size = options.batch_size or system.batch_size
    torch.set_num_threads(options.threads)
    x = (torch.rand(batch_size, *system.event_shape) < 0.3).float().to(options.device)

    steps = contestants(system, options.device, compiled=options.compile)
    losses = {}
    for name, step in steps.items():
        torch.manual_seed(1)
        losses[name] = [float(step(x)) for _ in range(2)]
    expected = torch.tensor(losses[STOCK])
    for name, values in losses.items():
        # torch.compile draws other random numbers
        rtol = 1e-2 if name == COMPILED else 1e-4
        torch.testing.assert_close(torch.tensor(values), expected, rtol=rtol, atol=0)

    runs = {name: lambda step=step: step(x) for name, step in steps.items()}
    times = timing.alternating(runs, options.steps, options.device)
    bases = [name for name in (STOCK, HAND_WRITTEN, COMPILED) if name in times]
    title = f"{options.system}, batch {batch_size}, {options.steps} steps"
    timing.report(title, timing.compared(times, bases), options)


if __name__ == "__main__":
    main()
