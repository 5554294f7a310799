"""What is said about programs whose structure is asked for, and that its advice works."""

import pyro
import pyro.distributions as dist
import torch
from advice import Cases
from pyro import poutine

from pyro_vae.infer import faithful_inverse, structure

N, D = 6, 3
X = torch.linspace(-1, 1, N * D).view(N, D)
# 0, 1, ..., 5 in the first column
LENGTHS = torch.cat([torch.arange(N)[:, None] * 1.0, X[:, 1:]], 1)
cases = Cases()


def program(latent, before=lambda x: None, after=lambda x, z: None):
    """Observes x given what ``latent`` draws inside the plate of the data."""

    def model(x):
        before(x)
        with pyro.plate("data", len(x)):
            z = latent(x)
            loc = z.reshape(len(x), -1)[:, :1]
            pyro.sample("x", dist.Normal(loc, 1.0).expand([len(x), D]).to_event(1), obs=x)
        after(x, z)

    return model


def normal(x):
    return pyro.sample("z", dist.Normal(0.0, 1.0))


def read(model, like=None):
    return lambda: structure(model, like)


@cases
def data(tmp):
    yield read(program(normal)), read(program(normal), X)

    def two(x, y):
        program(lambda x: pyro.sample("z", dist.Normal(y, 1.0)))(x)

    yield read(two), read(two, (X, X[:, 0]))
    weight = torch.ones(D)
    linear = program(lambda x: pyro.sample("z", dist.Normal(x @ weight, 1.0)))
    yield read(linear, X[:, :2]), read(linear, X)


@cases
def plates(tmp):
    def without(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0).expand([len(x), D]).to_event(2), obs=x)

    yield read(without, X), read(program(normal), X)

    def total(x, z):
        pyro.sample("total", dist.Normal(z.sum(), 1.0))

    def inside(x):
        z = normal(x)
        pyro.sample("total", dist.Normal(z, 1.0))
        return z

    yield read(program(normal, after=total), X), read(program(inside), X)


@cases
def sites(tmp):
    def steps(count):
        def latent(x):
            z = torch.zeros(len(x))
            for t in range(count(x)):
                with poutine.mask(mask=x[:, 0] > t):
                    z = pyro.sample(f"z{t}", dist.Normal(z, 1.0))
            return z

        return program(latent)

    yield (
        read(steps(lambda x: int(x[:, 0].max())), LENGTHS),
        read(steps(lambda x: N), LENGTHS),
    )
    wide = dist.Normal(torch.zeros(N, 2), 1.0)

    def observing(p):
        def model(x):
            with pyro.plate("data", len(x), dim=-2):
                z = pyro.sample("z", p)
                pyro.sample("x", dist.Normal(z.sum(), 1.0), obs=x[:, :1])

        return model

    declared = dist.Normal(torch.zeros(N, 1, 2), 1.0).to_event(1)
    yield read(observing(wide), X), read(observing(declared), X)


@cases
def inversion(tmp):
    def mixture(**options):
        def latent(x):
            return pyro.sample("k", dist.Bernoulli(0.5), **options)

        return lambda: faithful_inverse(structure(program(latent), X))

    yield mixture(), mixture(infer={"enumerate": "parallel"})


test_the_advice_works_on_what_provokes_it = cases.test()
