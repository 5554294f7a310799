"""Mixtures, whose assignments stock Pyro sums out."""

from __future__ import annotations

import functools

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta
from torch.distributions import constraints
from torch.nn.functional import pad

from .pair import Pair

K = 2


@config_enumerate
def gmm_model(data):
    """The tutorial on Gaussian mixtures: latents of all data, and assignments of each."""
    weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(K)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("components", K):
        locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(data)):
        k = pyro.sample("assignment", dist.Categorical(weights))
        pyro.sample("obs", dist.Normal(locs[k], scale), obs=data)


def points(n=16):
    return torch.where(torch.arange(n) % 2 == 0, 0.0, 8.0) + torch.randn(n)


def enumeration():
    return TraceEnum_ELBO(max_plate_nesting=1)


def gmm():
    guide = AutoDelta(poutine.block(gmm_model, expose=["weights", "locs", "scale"]))
    options = {"elbo": enumeration, "parts": (guide,), "minibatches": False}
    return Pair(gmm_model, guide, points(), **options)


def stick_breaking(beta):
    remaining = (1 - beta).cumprod(-1)
    return pad(beta, (0, 1), value=1.0) * pad(remaining, (1, 0), value=1.0)


def dirichlet_model(data, truncation=3):
    """The tutorial on Dirichlet processes: sticks broken up to a truncation."""
    with pyro.plate("beta_plate", truncation - 1):
        beta = pyro.sample("beta", dist.Beta(1.0, 1.0))
    with pyro.plate("mu_plate", truncation):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("data", len(data)):
        z = pyro.sample("z", dist.Categorical(stick_breaking(beta)))
        pyro.sample("obs", dist.Normal(mu[z], 1.0), obs=data)


def dirichlet_guide(data, truncation=3, prefix=""):
    start = 1.0 + torch.rand(truncation - 1)
    kappa = pyro.param(f"{prefix}kappa", start, constraint=constraints.positive)
    tau = pyro.param(f"{prefix}tau", lambda: 4 + 3 * torch.randn(truncation))
    ones = torch.ones(len(data), truncation) / truncation
    phi = pyro.param(f"{prefix}phi", ones, constraint=constraints.simplex)
    with pyro.plate("beta_plate", truncation - 1):
        pyro.sample("beta", dist.Beta(1.0, kappa))
    with pyro.plate("mu_plate", truncation):
        pyro.sample("mu", dist.Normal(tau, 0.5))
    with pyro.plate("data", len(data)):
        pyro.sample("z", dist.Categorical(phi))


def dirichlet_process():
    return Pair(
        dirichlet_model,
        dirichlet_guide,
        points(),
        {"truncation": 3},
        minibatches=False,
        other=lambda: functools.partial(dirichlet_guide, prefix="other_"),
    )


def toy_model(data):
    """``examples/toy_mixture_model_discrete_enumeration.py``: discrete latents in the guide."""
    p = pyro.param("p_model", torch.tensor([0.3, 0.6, 0.8]), constraint=constraints.unit_interval)
    with pyro.plate("data", len(data)):
        z = pyro.sample("z", dist.Categorical(torch.ones(3) / 3))
        pyro.sample("obs", dist.Bernoulli(p[z]), obs=data)


@config_enumerate
def toy_guide(data, prefix=""):
    logits = pyro.param(f"{prefix}logits_q", lambda: 0.1 * torch.randn(2, 3))
    with pyro.plate("data", len(data)):
        pyro.sample("z", dist.Categorical(logits=logits[data.long()]))


def toy_mixture():
    flips = (torch.arange(12) % 3 == 0).float()
    other = functools.partial(toy_guide, prefix="other_")
    return Pair(toy_model, toy_guide, flips, elbo=enumeration, other=lambda: other)
