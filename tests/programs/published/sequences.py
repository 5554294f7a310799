"""Sequences of unequal length, captures, and series of time."""

from __future__ import annotations

import functools

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.forecast import ForecastingModel
from pyro.contrib.mue.models import ProfileHMM
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch import nn

from .pair import NormalHead, Pair, mlp

D, Z, T = 4, 2, 3


class DMM(nn.Module):
    """``examples/dmm.py``: five arguments, masks for what a sequence lacks, annealing inside."""

    def __init__(self) -> None:
        super().__init__()
        self.emitter, self.trans = mlp(Z, 5, D), NormalHead(Z, 5, Z)
        self.combiner = NormalHead(Z + 4, 5, Z)
        self.rnn = nn.RNN(D, 4, batch_first=True)
        self.z_0, self.z_q_0 = nn.Parameter(torch.zeros(Z)), nn.Parameter(torch.zeros(Z))
        self.h_0 = nn.Parameter(torch.zeros(1, 1, 4))

    def model(self, batch, backwards, mask, lengths, annealing_factor=1.0):
        pyro.module("dmm", self)
        z_prev = self.z_0.expand(len(batch), Z)
        with pyro.plate("z_minibatch", len(batch)):
            for t in pyro.markov(range(1, batch.size(1) + 1)):
                there = mask[:, t - 1 : t]
                with poutine.scale(scale=annealing_factor):
                    prior = dist.Normal(*self.trans(z_prev)).mask(there).to_event(1)
                    z_prev = pyro.sample(f"z_{t}", prior)
                seen = dist.Bernoulli(logits=self.emitter(z_prev)).mask(there).to_event(1)
                pyro.sample(f"obs_x_{t}", seen, obs=batch[:, t - 1])

    def guide(self, batch, backwards, mask, lengths, annealing_factor=1.0):
        pyro.module("dmm", self)
        hidden, _ = self.rnn(backwards, self.h_0.expand(1, len(batch), 4).contiguous())
        hidden = turned(hidden, lengths)
        z_prev = self.z_q_0.expand(len(batch), Z)
        with pyro.plate("z_minibatch", len(batch)):
            for t in pyro.markov(range(1, batch.size(1) + 1)):
                there = mask[:, t - 1 : t]
                with poutine.scale(scale=annealing_factor):
                    q = dist.Normal(*self.combiner(z_prev, hidden[:, t - 1]))
                    z_prev = pyro.sample(f"z_{t}", q.mask(there).to_event(1))


def turned(sequences, lengths):
    """Each sequence backwards, up to its length."""
    steps = torch.arange(sequences.size(1))
    index = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    return sequences.gather(1, index[..., None].expand_as(sequences))


def dmm():
    module, lengths = DMM(), 1 + torch.arange(24) % T
    there = (torch.arange(T) < lengths[:, None]).float()
    on = torch.tensor([0.9, 0.9, 0.1, 0.1])
    batch = torch.bernoulli(torch.where(torch.arange(24)[:, None, None] % 2 == 0, on, 1 - on))
    batch = batch.expand(24, T, D) * there[..., None]
    data = batch, turned(batch, lengths), there.bool(), lengths
    return Pair(module.model, module.guide, data, {"annealing_factor": 1.0}, parts=(module,))


def hmm_model(sequences, lengths, hidden_dim=2):
    """``examples/hmm.py``, model 1: states are summed out, all parameters are latents."""
    n, length, size = sequences.shape
    stay = 0.8 * torch.eye(hidden_dim) + 0.2
    probs_x = pyro.sample("probs_x", dist.Dirichlet(stay).to_event(1))
    prior = dist.Beta(0.5, 1.5).expand([hidden_dim, size]).to_event(2)
    probs_y = pyro.sample("probs_y", prior)
    tones = pyro.plate("tones", size, dim=-1)
    with pyro.plate("sequences", n, dim=-2):
        x = torch.zeros((), dtype=torch.long)
        for t in pyro.markov(range(length)):
            with poutine.mask(mask=(t < lengths)[:, None]):
                state = dist.Categorical(probs_x[x])
                x = pyro.sample(f"x_{t}", state, infer={"enumerate": "parallel"})
                with tones:
                    seen = dist.Bernoulli(probs_y[x.squeeze(-1)])
                    pyro.sample(f"y_{t}", seen, obs=sequences[:, t])


def hmm():
    lengths = 1 + torch.arange(12) % T
    sequences = torch.bernoulli(torch.tensor([0.8, 0.8, 0.2, 0.2]).expand(12, T, D))
    guide = AutoDelta(poutine.block(hmm_model, expose=["probs_x", "probs_y"]))
    return Pair(
        hmm_model,
        guide,
        (sequences, lengths),
        {"hidden_dim": 2},
        elbo=lambda: TraceEnum_ELBO(max_plate_nesting=2),
        minibatches=False,
        parts=(guide,),
    )


def cjs_model(capture_history, sex):
    """``examples/capture_recapture``: animals, alive or not, each year."""
    n, years = capture_history.shape
    phi = pyro.sample("phi", dist.Uniform(0.0, 1.0))
    rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
    with pyro.plate("animals", n, dim=-1):
        alive, seen_before = torch.ones(n), torch.zeros(n).bool()
        for t in pyro.markov(range(years)):
            with poutine.mask(mask=seen_before):
                lives = dist.Bernoulli(phi * alive)
                alive = pyro.sample(f"z_{t}", lives, infer={"enumerate": "parallel"})
                caught = dist.Bernoulli(rho * alive)
                pyro.sample(f"y_{t}", caught, obs=capture_history[:, t])
            seen_before = seen_before | capture_history[:, t].bool()


def capture_recapture():
    history, sex = torch.bernoulli(torch.full((12, 3), 0.6)), torch.arange(12) % 2
    guide = AutoDelta(poutine.block(cjs_model, expose=["phi", "rho"]))
    return Pair(
        cjs_model,
        guide,
        (history, sex),
        elbo=lambda: TraceEnum_ELBO(max_plate_nesting=1),
        minibatches=False,
        parts=(guide,),
    )


class LocalLevel(ForecastingModel):
    """``pyro.contrib.forecast``: one series, whose noise is drawn in a plate of time."""

    def model(self, zero_data, covariates):
        weight = pyro.sample("weight", dist.Normal(0, 1).expand([2]).to_event(1))
        step = pyro.sample("step", dist.LogNormal(-1.0, 1.0))
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 1.0))
        with self.time_plate:
            drift = pyro.sample("drift", dist.Normal(0, step))
        level = drift.cumsum(-1)[..., None] + (weight * covariates).sum(-1, keepdim=True)
        self.predict(dist.Normal(0, noise[..., None, None]), level)


def forecast():
    time = torch.arange(8.0)
    covariates = torch.stack([torch.ones(8), time / 8], -1)
    series = (0.5 * time + torch.randn(8).cumsum(0))[:, None]
    model = LocalLevel()
    guide = AutoNormal(model)
    data = {"data": series, "covariates": covariates}
    return Pair(model, guide, None, data, parts=(model, guide), minibatches=False)


def profile_hmm():
    """``pyro.contrib.mue.ProfileHMM`` itself: sequences one-hot, global latents, a scale."""
    module = ProfileHMM(latent_seq_length=3, alphabet_length=4)
    sequences = torch.eye(4)[torch.randint(4, (10, 5))]
    scale = {"local_scale": torch.tensor(1.0)}
    other = functools.partial(AutoNormal, module.model)
    return Pair(module.model, module.guide, sequences, scale, parts=(module,), other=other)
