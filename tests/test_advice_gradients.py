"""What is said about the gradients of the bound, and that its advice works."""

import pyro
import pyro.distributions as dist
import torch
from advice import Cases
from pyro.distributions.transforms import affine_coupling, planar
from torch import nn

from pyro_vae.infer import ImportanceWeightedELBO

X = torch.linspace(-1, 1, 8).view(4, 2)
cases = Cases()


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def switched(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Bernoulli(torch.full((len(x), 2), 0.5)).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self, made):
        super().__init__()
        self.net, self.made = nn.Linear(2, 2), made

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.made(self.net(x)))


def flow(transform):
    def made(h):
        base = dist.Normal(h, 1.0).to_event(1)
        return dist.TransformedDistribution(base, [transform])

    return Guide(made)


def bound(gradient, *pair, particles=1):
    def run():
        loss, _ = ImportanceWeightedELBO(particles, gradient=gradient)(*pair, X)
        loss.backward()

    return run


@cases
def reparametrised(tmp):
    pair = switched, Guide(lambda h: dist.Bernoulli(logits=h).to_event(1))
    yield bound("path", *pair), bound("total", *pair)
    weighted = {"particles": 3}
    yield bound("doubly-reparametrised", *pair, **weighted), bound("total", *pair, **weighted)


@cases
def inverses(tmp):
    without = model, flow(planar(2))
    yield (
        bound("path", *without),
        bound("total", *without),
        bound("path", model, flow(affine_coupling(2))),
    )


test_the_advice_works_on_what_provokes_it = cases.test()
