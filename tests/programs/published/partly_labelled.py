"""Labels as a second argument, treatments and outcomes: programs of several observed sites."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib import cevae as contrib
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.nn import PyroModule
from torch import nn
from torch.distributions import constraints

from .pair import NormalHead, Pair, binary, mlp

D, Z, K = 6, 2, 3


class SSVAE(nn.Module):
    """``examples/vae/ss_vae_M2.py``: one-hot labels, observed where they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder_y = mlp(D, 5, K)
        self.encoder_z = NormalHead(D + K, 5, Z)
        self.decoder = mlp(Z + K, 5, D)

    def model(self, xs, ys=None):
        pyro.module("ss_vae", self)
        with pyro.plate("data"):
            prior = dist.Normal(xs.new_zeros(len(xs), Z), xs.new_ones(len(xs), Z)).to_event(1)
            zs = pyro.sample("z", prior)
            alpha = xs.new_ones(len(xs), K) / K
            ys = pyro.sample("y", dist.OneHotCategorical(alpha), obs=ys)
            zs = zs.expand(*ys.shape[:-1], Z)
            logits = self.decoder(torch.cat([zs, ys], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=xs)

    def guide(self, xs, ys=None):
        with pyro.plate("data"):
            if ys is None:
                ys = pyro.sample("y", dist.OneHotCategorical(logits=self.encoder_y(xs)))
            loc, scale = self.encoder_z(xs.expand(*ys.shape[:-1], D), ys)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def one_hot(n):
    return torch.eye(K)[torch.arange(n) % K]


def ss_vae():
    module = SSVAE()
    return Pair(module.model, module.guide, (binary(24, D), one_hot(24)), parts=(module,))


def ss_vae_unlabelled():
    module = SSVAE()
    guide = config_enumerate(module.guide, "parallel", expand=True)
    return Pair(
        module.model,
        guide,
        binary(24, D),
        elbo=lambda: TraceEnum_ELBO(max_plate_nesting=1),
        parts=(module,),
    )


def flat(net, inputs):
    """A network with BatchNorm, which takes two dimensions, on inputs of more."""
    out = net(inputs.reshape(-1, inputs.shape[-1]))
    return out.reshape(*inputs.shape[:-1], -1)


def normed(*sizes):
    return nn.Sequential(
        nn.Linear(sizes[0], sizes[1]),
        nn.BatchNorm1d(sizes[1]),
        nn.ReLU(),
        nn.Linear(sizes[1], sizes[2]),
    )


def halves(h):
    loc, raw = h.chunk(2, -1)
    return loc, nn.functional.softplus(raw) + 1e-3


class SCANVI(nn.Module):
    """``examples/scanvi``: labels enter the guide alone, as a term of classification."""

    def __init__(self) -> None:
        super().__init__()
        self.z2_decoder = normed(Z + K, 5, 2 * Z)
        self.x_decoder = normed(Z, 5, 2 * D)
        self.z2l_encoder = normed(D, 5, 2 * Z + 2)
        self.classifier = normed(Z, 5, K)
        self.z1_encoder = normed(Z + K, 5, 2 * Z)
        self.scale_factor, self.alpha = 1 / (24 * D), 0.1

    def model(self, x, y=None):
        pyro.module("scanvi", self)
        ones = x.new_ones(D)
        theta = pyro.param("inverse_dispersion", 10 * ones, constraint=constraints.positive)
        with pyro.plate("batch", len(x)), poutine.scale(scale=self.scale_factor):
            z1 = pyro.sample("z1", dist.Normal(0, x.new_ones(Z)).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(K)), obs=y)
            z1 = z1.expand(*y.shape[:-1], Z)
            moments = halves(flat(self.z2_decoder, torch.cat([z1, y], -1)))
            z2 = pyro.sample("z2", dist.Normal(*moments).to_event(1))
            total = pyro.sample("l", dist.LogNormal(3.0, 0.5 * x.new_ones(1)).to_event(1))
            gate, mu = flat(self.x_decoder, z2).chunk(2, -1)
            logits = (total * mu.softmax(-1) + 1e-6).log() - (theta + 1e-6).log()
            counts = dist.ZeroInflatedNegativeBinomial(
                total_count=theta, gate_logits=gate, logits=logits, validate_args=False
            )
            pyro.sample("x", counts.to_event(1), obs=x)

    def guide(self, x, y=None):
        pyro.module("scanvi", self)
        with pyro.plate("batch", len(x)), poutine.scale(scale=self.scale_factor):
            loc, scale = halves(self.z2l_encoder((1 + x).log()))
            pyro.sample("l", dist.LogNormal(loc[..., -1:] + 3, scale[..., -1:]).to_event(1))
            z2 = pyro.sample("z2", dist.Normal(loc[..., :-1], scale[..., :-1]).to_event(1))
            labels = dist.OneHotCategorical(logits=flat(self.classifier, z2))
            if y is None:
                y = pyro.sample("y", labels)
            else:
                told = -self.alpha * labels.log_prob(y)
                pyro.factor("classification_loss", told, has_rsample=False)
            z2 = z2.expand(*y.shape[:-1], Z)
            moments = halves(flat(self.z1_encoder, torch.cat([z2, y], -1)))
            pyro.sample("z1", dist.Normal(*moments).to_event(1))


def counts(n):
    rates = torch.tensor([[8.0, 6, 4, 2, 1, 1], [1.0, 1, 2, 4, 6, 8], [4.0, 4, 4, 4, 4, 4]])
    return torch.poisson(rates[torch.arange(n) % K])


def scanvi():
    module = SCANVI()
    return Pair(module.model, module.guide, (counts(24), one_hot(24)), parts=(module,))


def scanvi_unlabelled():
    module = SCANVI()
    return Pair(
        module.model,
        config_enumerate(module.guide, "parallel", expand=True),
        counts(24),
        elbo=lambda: TraceEnum_ELBO(max_plate_nesting=1),
        parts=(module,),
    )


def cevae():
    """``pyro.contrib.cevae`` itself: the guide observes treatment and outcome as well."""
    config = {
        "feature_dim": 4,
        "latent_dim": Z,
        "hidden_dim": 5,
        "num_layers": 2,
        "outcome_dist": "bernoulli",
    }
    model, guide = contrib.Model(config), contrib.Guide(config)
    # Without names stock Pyro takes networks of one for those of the other, and trains these alone
    names = PyroModule("cevae")
    names.model, names.guide = model, guide
    z = torch.randn(24)
    x = z[:, None] + 0.5 * torch.randn(24, 4)
    t = torch.bernoulli(z.sigmoid())
    y = torch.bernoulli((z + 2 * t - 1).sigmoid())
    return Pair(
        model,
        guide,
        {"x": x, "t": t, "y": y},
        elbo=contrib.TraceCausalEffect_ELBO,
        parts=(model, guide),
    )
