"""A pair whose guide draws its latent within a network."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn


class Drawing(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return pyro.sample("z", dist.Normal(self.loc, 1.0).expand([len(x)]))


class Guess(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Drawing()

    def forward(self, x):
        with pyro.plate("data", len(x)):
            return self.inner(x)


class Model(nn.Module):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[:, None].expand_as(x), 1.0).to_event(1), obs=x)
