"""Methods of one module, one of them swapped out, for ``parallel_all``."""

import warnings

import pyro
import pyro.distributions as dist
import torch
from parallel_cases import X
from torch import nn

from pyro_vae import Trainer, infer


class Both(nn.Module):
    """Point masses, so that the whole batch and its parts give the same numbers."""

    def __init__(self):
        super().__init__()
        self.encoder, self.second, self.decoder = (nn.Linear(6, 6) for _ in range(3))

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(self.encoder(x)).to_event(1))


class Apart(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(self.encoder(x)).to_event(1))


def run():
    torch.manual_seed(0)
    both, apart = Both(), Apart(nn.Linear(6, 6))
    trainer = Trainer(both.model, both.guide, seed=0, lr=1e-2, optimizer=torch.optim.SGD)
    options = {"epochs": 2, "batch_size": 11, "progress": False}
    with warnings.catch_warnings(action="ignore", category=infer.UntrainedWarning):
        trainer.fit(X, **options).swap_guide(apart).fit(X, **options)
    return {**both.state_dict(), "apart": apart.encoder.weight.detach()}
