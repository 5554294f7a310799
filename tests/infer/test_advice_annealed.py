"""What is said about annealing, and that its advice works."""

import functools

import pyro
import pyro.distributions as dist
import torch
from advice import Cases
from torch import nn

from pyro_vae import infer
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

cases = Cases()
X = torch.randn(4, 3)
FEW = {"temperatures": 3, "chains": 2, "leapfrog": 1, "progress": False}
annealed = functools.partial(infer.annealed, **FEW)


class Program(nn.Module):
    """Draw z from a distribution, and observe x where there is one for it."""

    def __init__(self, z, x=None):
        super().__init__()
        self.z, self.x = z, x

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.z())
            if self.x is not None:
                pyro.sample("x", self.x(z), obs=x)


def around(centre):
    return dist.Normal(centre[..., None].float(), 1.0).expand([*centre.shape, 3]).to_event(1)


def coin():
    return dist.Bernoulli(torch.tensor(0.3))


def mixture(_):
    shifts = torch.tensor([0.0, 1.0])[:, None].expand(2, 3)
    parts = dist.Normal(shifts, 1.0).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.7, 0.3])), parts)


@cases
def latents(tmp):
    model, guide, normal = Program(coin, around), Program(coin), lambda: dist.Normal(0.0, 1.0)
    yield (
        lambda: annealed(model, guide, X),
        lambda: annealed(Program(normal, mixture), Program(normal), X),
        lambda: infer.importance(model, guide, X, samples=10),
    )


class Noisy(nn.Module):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.rand(len(x)), 1.0))


@cases
def densities(tmp):
    model = Program(lambda: dist.Normal(0.0, 1.0), around)
    yield lambda: annealed(model, Noisy(), X), lambda: annealed(model, None, X)


@cases
def folders(tmp):
    vae = VAE((3,), 2, likelihood=Gaussian(), hidden=(3,))
    run = functools.partial(annealed, vae, None, X)
    here = tmp / "here"
    run(folder=here)
    yield (
        lambda: run(folder=here, chains=3),
        lambda: run(folder=tmp / "there", chains=3),
        lambda: run(folder=here),
    )
    (file,) = here.iterdir()
    file.write_bytes(b"else")

    def without():
        file.unlink()
        run(folder=here)

    yield lambda: run(folder=here), lambda: run(folder=tmp / "third"), without


class OfSums(nn.Module):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("sum", dist.Normal(z, 1.0), obs=x.sum(-1))


@cases
def arguments(tmp):
    of_x, options = Program(lambda: dist.Normal(0.0, 1.0), around), {"like": X, "n": 3, **FEW}
    yield (
        lambda: infer.sandwich(OfSums(), None, **options),
        lambda: infer.sandwich(of_x, None, **options),
        lambda: annealed(OfSums(), None, X),
    )


test_advice = cases.test()
