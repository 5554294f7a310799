"""The systems that are timed: a pair, and the loss of the same networks in plain PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae import guides, likelihoods, models
from pyro_vae.networks import GRU, CausalTransformer

Pair = tuple[models.VAE, guides.Guide]


class System(NamedTuple):
    """A pair, and the loss of the same networks in plain PyTorch."""

    build: Callable[[], Pair]
    hand_written: Callable[[models.VAE, guides.Guide], Callable[[Tensor], Tensor]]
    batch_size: int
    event_shape: tuple[int, ...] = (784,)
    tokens: int = 0
    linear: bool = False  # whether all its matrix products are those of linear layers

    def data(self, size: int | None = None, device: str = "cpu") -> Tensor:
        """Random binary data (size or batch_size, *event_shape), in torch's default type.

        Of ``tokens`` sequences of random lengths.
        """
        if self.tokens:
            shape = (size or self.batch_size, *self.event_shape)
            there = torch.arange(shape[1]) < torch.randint(1, shape[1], (shape[0], 1))
            x = torch.randint(1, self.tokens, shape) * there
            return x.to(device, torch.get_default_dtype())
        return (torch.rand(size or self.batch_size, *self.event_shape) < 0.3).to(
            device, torch.get_default_dtype()
        )


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


TOKENS, LENGTH, WIDTH = 100, 32, 128


def sequence(network: type[nn.Module] = GRU, length: int = LENGTH) -> Pair:
    """Tokens, by a causal decoder of such a network."""
    torch.manual_seed(0)
    vae = models.VAE(
        (length,),
        latents=20,
        likelihood=likelihoods.Tokens(TOKENS),
        decoder=models.SequenceDecoder((length,), 20, outputs=TOKENS, network=network(WIDTH)),
    )
    return vae, guides.BottomUp(vae)


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


def sequence_loss(vae: models.VAE, guide: guides.Guide) -> Callable[[Tensor], Tensor]:
    """As one writes it by hand."""
    q, decoder = guide.conditionals["z1"], vae.decoder
    encoder, last, logits_of = q.network, dense(q.network.last), decoder.last.layers[0]
    gru = isinstance(decoder.network, nn.GRU)

    def loss(x: Tensor) -> Tensor:
        tokens = x.long()
        padding = (tokens == 0).long()
        lengths = (padding.cumsum(1) == padding).sum(1)
        outputs, _ = encoder.network(encoder.reader(tokens))
        h = last(outputs[torch.arange(len(x), device=x.device), lengths - 1])
        loc, scale = q.loc(h), F.softplus(q.raw_scale(h)) + q.min_scale
        noise = torch.randn_like(loc)
        z = loc + scale * noise
        log_ratio = -0.5 * (z.square() - noise.square()) + scale.log()
        inputs = torch.cat([decoder.start(z).unsqueeze(1), decoder.reader(tokens[:, :-1])], 1)
        outputs = decoder.network(inputs)[0] if gru else transformed(decoder.network, inputs)
        counted = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)
        targets = tokens.masked_fill(~counted, -1)
        logits = logits_of(outputs).flatten(0, 1)
        return F.cross_entropy(logits, targets.flatten(), ignore_index=-1, reduction="sum") - (
            log_ratio.sum()
        )

    return loss


def transformed(network: nn.Module, inputs: Tensor) -> Tensor:
    """The layers of a transformer one after the other."""
    places = torch.arange(inputs.shape[1], device=inputs.device).unsqueeze(1) * network.rates
    h = inputs + torch.cat([places.sin(), places.cos()], -1)
    for block in network.blocks:
        query, key, value = block.ask(block.before(h)).chunk(3, -1)
        query, key, value = (
            v.unflatten(-1, (block.heads, -1)).transpose(1, 2) for v in (query, key, value)
        )
        found = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        h = h + block.mix(found.transpose(1, 2).flatten(2))
        h = h + block.dense(block.between(h))
    return network.norm(h)


SYSTEMS = {
    "one-layer": System(one_layer, one_layer_loss, 128, linear=True),
    "convolutional": System(convolutional, one_layer_loss, 128, (1, 28, 28)),
    "ladder": System(ladder, ladder_loss, 256, linear=True),
    "gru": System(sequence, sequence_loss, 64, (LENGTH,), TOKENS),
    "transformer": System(
        functools.partial(sequence, CausalTransformer), sequence_loss, 64, (LENGTH,), TOKENS
    ),
}


def on(pair: Pair, device: str) -> Pair:
    """The pair on a device."""
    return pair[0].to(device), pair[1].to(device)
