"""What is said about annealing, and that its advice works."""

import functools

import pyro
import pyro.distributions as dist
import torch
from advice import Cases
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyro_vae import infer
from pyro_vae.guides import BottomUp
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


class Marked(nn.Module):
    """A mean that a coin chooses, or that coin alone."""

    def __init__(self, *, moving=True):
        super().__init__()
        self.moving = moving

    def forward(self, x):
        with pyro.plate("data", len(x)):
            side = pyro.sample("side", coin(), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(side, 1.0)) if self.moving else side
            pyro.sample("x", around(z), obs=x)


def nothing(x):
    pass


@cases
def nothing_that_moves(tmp):
    model = Marked(moving=False)
    yield (
        lambda: annealed(model, nothing, X),
        lambda: infer.importance(model, nothing, X, samples=1),
    )
    yield (
        lambda: annealed(model, None, X),
        lambda: infer.importance(model, lambda *args, **kwargs: None, X, samples=1),
    )


class Both(nn.Module):
    """A guide of a mean and of the coin that chooses it."""

    def __init__(self, mark=None):
        super().__init__()
        self.mark = mark

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("side", coin(), infer={"enumerate": self.mark})
            pyro.sample("z", dist.Normal(0.0, 1.0))


@cases
def marks_of_guides(tmp):
    yield lambda: annealed(Marked(), Both(), X), lambda: annealed(Marked(), Both("parallel"), X)


class Uncounted(Both):
    """A mean that may be any whole number."""

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("count", dist.Poisson(1.0), infer={"enumerate": self.mark})
            pyro.sample("x", around(z), obs=x)


def count(x):
    with pyro.plate("data", len(x)):
        pyro.sample("count", dist.Poisson(1.0))


@cases
def endless_sums(tmp):
    yield (
        lambda: infer.importance(Uncounted("parallel"), nothing, X, samples=2),
        lambda: infer.importance(Uncounted(), count, X, samples=2),
    )


@cases
def data_of_ones_own(tmp):
    vae = VAE((3,), 2, likelihood=Gaussian(), hidden=(3,))
    own = AutoNormal(vae)
    own(X)
    run = functools.partial(infer.sandwich, vae, n=3, **FEW)
    yield lambda: run(own), lambda: run(None), lambda: run(BottomUp(vae))


@cases
def latents(tmp):
    model, guide, normal = Program(coin, around), Program(coin), lambda: dist.Normal(0.0, 1.0)
    yield (
        lambda: annealed(model, guide, X),
        lambda: annealed(Marked(), None, X),
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
    (tmp / "file").touch()
    yield lambda: run(folder=tmp / "file"), lambda: run(folder=tmp / "fourth")
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
