"""Variational autoencoders as methods of a module, in the shape of Pyro's examples."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.transforms import affine_autoregressive
from pyro.infer import TraceGraph_ELBO
from torch import nn

from .pair import NormalHead, Pair, binary, mlp

D, Z = 6, 2


class VAE(nn.Module):
    """``examples/vae/vae.py``: each program registers the network that it uses."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = NormalHead(D, 5, Z)
        self.decoder = mlp(Z, 5, D)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = x.new_zeros(x.shape[0], Z)
            z = pyro.sample("latent", dist.Normal(z_loc, torch.ones_like(z_loc)).to_event(1))
            logits = self.decoder(z)
            pyro.sample("obs", dist.Bernoulli(logits=logits).to_event(1), obs=x)
            return logits

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("latent", dist.Normal(*self.encoder(x)).to_event(1))


def vae():
    module = VAE()
    return Pair(module.model, module.guide, binary(24, D), parts=(module,))


class FlowVAE(VAE):
    """A VAE whose guide is an inverse autoregressive flow, as ``examples/dmm.py --num-iafs``."""

    def __init__(self) -> None:
        super().__init__()
        self.iafs = nn.ModuleList([affine_autoregressive(Z, hidden_dims=[4]) for _ in range(2)])

    def guide(self, x):
        pyro.module("flow_vae", self)
        with pyro.plate("data", x.shape[0]):
            base = dist.Normal(*self.encoder(x)).to_event(1)
            pyro.sample("latent", dist.TransformedDistribution(base, [*self.iafs]))


def flow_vae():
    module = FlowVAE()
    return Pair(module.model, module.guide, binary(24, D), parts=(module,))


class CVAE(nn.Module):
    """``examples/cvae/cvae.py``: one part of an image is given, a frozen net guesses the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.baseline_net = mlp(D, 4, D)
        self.prior_net = NormalHead(D, 4, Z)
        self.generation_net = mlp(Z, 4, D)
        self.recognition_net = NormalHead(D, 4, Z)

    @staticmethod
    def together(xs, ys):
        return torch.where(xs == -1, ys, xs).flatten(1)

    def guess(self, xs):
        with torch.no_grad():
            return self.baseline_net(xs.flatten(1)).sigmoid().view(xs.shape)

    def model(self, xs, ys=None):
        pyro.module("generation_net", self)
        with pyro.plate("data"):
            prior = self.prior_net(self.together(xs, self.guess(xs)))
            zs = pyro.sample("z", dist.Normal(*prior).to_event(1))
            loc = self.generation_net(zs).sigmoid()
            if ys is None:
                pyro.deterministic("y", loc.detach())
            else:
                hidden = xs == -1
                seen = loc[hidden.flatten(1)].view(len(xs), -1)
                wanted = ys[hidden].view(len(xs), -1)
                pyro.sample("y", dist.Bernoulli(seen).to_event(1), obs=wanted)
            return loc

    def guide(self, xs, ys=None):
        with pyro.plate("data"):
            if ys is None:
                loc, scale = self.prior_net(self.together(xs, self.guess(xs)))
            else:
                loc, scale = self.recognition_net(self.together(xs, ys))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def cvae():
    module, ys = CVAE(), binary(24, D).view(24, 2, 3)
    xs = ys.clone()
    xs[:, 1] = -1
    return Pair(module.model, module.guide, (xs, ys), parts=(module,))


class AIR(nn.Module):
    """``examples/air``: objects one after the other, present or not, with learned baselines."""

    def __init__(self, steps: int = 2) -> None:
        super().__init__()
        self.steps = steps
        self.decode = mlp(Z, 4, D)
        self.rnn = nn.LSTMCell(D + Z + 1, 4)
        self.predict = nn.Linear(4, 1)
        self.encode = NormalHead(D + 4, 4, Z)
        self.bl_predict = nn.Linear(D + Z + 1, 1)

    def model(self, data, batch_size=None):
        pyro.module("decode", self.decode)
        with pyro.plate("data", data.size(0)) as ix:
            batch = data[ix]
            present = batch.new_ones(len(batch), 1)
            x = torch.zeros_like(batch)
            for t in range(self.steps):
                present = pyro.sample(f"z_pres_{t}", dist.Bernoulli(0.5 * present).to_event(1))
                with poutine.mask(mask=present.squeeze(-1).bool()):
                    prior = dist.Normal(batch.new_zeros(len(batch), Z), 1.0).to_event(1)
                    what = pyro.sample(f"z_what_{t}", prior)
                x = x + self.decode(what) * present
            pyro.sample("obs", dist.Normal(x, 0.5).to_event(1), obs=batch)

    def guide(self, data, batch_size=None):
        pyro.module("air", self)
        with pyro.plate("data", data.size(0), subsample_size=batch_size) as ix:
            batch = data[ix]
            n = len(batch)
            state = batch.new_zeros(n, 4), batch.new_zeros(n, 4)
            present, what = batch.new_ones(n, 1), batch.new_zeros(n, Z)
            for t in range(self.steps):
                inputs = torch.cat([batch, what, present], -1)
                state = self.rnn(inputs, state)
                baseline = (self.bl_predict(inputs.detach()) * present.detach()).squeeze(-1)
                present = pyro.sample(
                    f"z_pres_{t}",
                    dist.Bernoulli(self.predict(state[0]).sigmoid() * present).to_event(1),
                    infer={"baseline": {"baseline_value": baseline}},
                )
                with poutine.mask(mask=present.squeeze(-1).bool()):
                    encoded = self.encode(batch, state[0])
                    what = pyro.sample(f"z_what_{t}", dist.Normal(*encoded).to_event(1))


def air():
    module, x = AIR(), binary(24, D)
    return Pair(module.model, module.guide, x, elbo=TraceGraph_ELBO, parts=(module,))


class Encoder(nn.Module):
    def __init__(self, words: int, topics: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(words, 6), nn.Softplus(), nn.Dropout(0.2))
        self.mean, self.lv = nn.Linear(6, topics), nn.Linear(6, topics)
        self.mean_norm = nn.BatchNorm1d(topics, affine=False)
        self.lv_norm = nn.BatchNorm1d(topics, affine=False)

    def forward(self, docs):
        hidden = self.hidden(docs)
        return self.mean_norm(self.mean(hidden)), (0.5 * self.lv_norm(self.lv(hidden))).exp()


class ProdLDA(nn.Module):
    """The tutorial on topic models: BatchNorm and dropout in both networks, counts of words."""

    def __init__(self, words: int = 8, topics: int = 3) -> None:
        super().__init__()
        self.topics, self.encoder = topics, Encoder(words, topics)
        norm = nn.BatchNorm1d(words, affine=False)
        self.decoder = nn.Sequential(nn.Dropout(0.2), nn.Linear(topics, words, bias=False), norm)

    def model(self, docs):
        pyro.module("decoder", self.decoder)
        with pyro.plate("documents", docs.shape[0]):
            loc = docs.new_zeros(docs.shape[0], self.topics)
            logtheta = pyro.sample("logtheta", dist.Normal(loc, torch.ones_like(loc)).to_event(1))
            probs = self.decoder(logtheta.softmax(-1)).softmax(-1)
            total = int(docs.sum(-1).max())
            words = dist.Multinomial(total, probs, validate_args=False)
            pyro.sample("obs", words, obs=docs)

    def guide(self, docs):
        pyro.module("encoder", self.encoder)
        with pyro.plate("documents", docs.shape[0]):
            pyro.sample("logtheta", dist.Normal(*self.encoder(docs)).to_event(1))


def prodlda():
    module = ProdLDA()
    probs = torch.tensor([[5.0, 4, 3, 1, 1, 1, 1, 1], [1.0, 1, 1, 1, 1, 3, 4, 5]])
    docs = dist.Multinomial(20, probs[torch.arange(24) % 2]).sample()
    return Pair(module.model, module.guide, docs, parts=(module,))
