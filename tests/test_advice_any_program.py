"""What is said about guides of any program before training, and that its advice works."""

import functools

import pyro
import pyro.distributions as dist
import torch
from advice import Cases
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal

from pyro_vae import Trainer, infer
from pyro_vae.guides import BottomUp, Composed, Ladder, NearestCode
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE, VQVAE

N, D = 8, 3
X = torch.linspace(-1, 1, N * D).view(N, D)
cases = Cases()


def program(latent=lambda x: dist.Normal(0.0, 1.0), number=lambda z: z):
    """Observes x around a number that is made of a latent of each datum."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = number(pyro.sample("z", latent(x)))
            pyro.sample("x", dist.Normal(z[:, None].expand(-1, D), 1.0).to_event(1), obs=x)

    return model


def read(x):
    """The observed data alone, given z."""
    return lambda z: pyro.sample("x", dist.Normal(z[..., None] + x * 0, 1.0).to_event(1), obs=x)


def built(model, like=X):
    return lambda: BottomUp(model, like=like)


def fit(model, guide, data=X, **options):
    return lambda: Trainer(model, guide, **options).fit(data, epochs=1, progress=False)


plain = program()


@cases
def models(tmp):
    yield lambda: BottomUp("model", like=X), built(plain)
    yield lambda: BottomUp(plain), built(plain)

    def own(data=X):
        plain(data)

    yield lambda: BottomUp(lambda: own(), like={}), built(own)

    def no_plate(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[:, None].expand(-1, D), 1.0).to_event(2), obs=x)

    yield built(no_plate), built(plain)

    def some(x):
        plain(x)
        if x[0, 0] < 0:
            pyro.sample("more", dist.Normal(0.0, 1.0))

    def hidden(x):
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=x[:, 0] < 0):
                pyro.sample("more", dist.Normal(torch.zeros(len(x)), 1.0))
            read(x)(pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0)))

    yield built(some), lambda: Ladder(hidden, like=X)
    yield built(hidden), lambda: Ladder(hidden, like=X)

    codes = VQVAE((1, 8, 8), 4, 2, likelihood=Gaussian(), hidden=(4, 4))
    pixels = torch.zeros(2, 1, 8, 8)
    yield built(codes, pixels), lambda: NearestCode(codes).codes(pixels)

    def outside(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            read(x)(w.expand(len(x)))

    yield built(outside), fit(outside, AutoNormal(outside))

    chain = VAE((D,), latents=(2, 2), likelihood=Gaussian(), hidden=(4,))
    yield (
        lambda: BottomUp(chain, sites=["z2"], encoder=torch.nn.Linear(D, 4)),
        lambda: BottomUp(chain, sites=["z2"]),
    )


@cases
def latents(tmp):
    def coin(x):
        return dist.Bernoulli(torch.full((len(x),), 0.3))

    def marked(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            read(x)(pyro.sample("z", dist.Normal(k, 1.0)))

    guide = BottomUp(marked, like=X)
    objective = TraceEnum_ELBO(max_plate_nesting=1)
    yield built(program(coin)), built(marked)
    yield (
        fit(marked, guide),
        # A trainer tells that its history has fewer columns then
        lambda: infer.SVI(marked, guide, torch.optim.Adam, loss=objective).step(X),
    )

    def shared(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            read(x)(pyro.sample("z", dist.Normal(w.expand(len(x)), 1.0)))

    local = BottomUp(shared, like=X)
    yield (
        fit(shared, local),
        lambda: fit(shared, Composed(local, globals=AutoNormal, like=X))(),
    )


@cases
def supports(tmp):
    def bounded(x):
        return dist.Uniform(x[:, 0] - 1, x[:, 0] + 1)

    def scaled(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Uniform(torch.zeros(len(x)), 1.0))
            read(x)(x[:, 0] - 1 + 2 * u)

    yield built(program(bounded)), built(scaled)
    sphere = program(
        lambda x: dist.ProjectedNormal(torch.ones(2)).expand([len(x)]), lambda z: z[:, 0]
    )
    direction = program(
        lambda x: dist.Normal(torch.ones(len(x), 2), 1.0).to_event(1), lambda z: z[:, 0]
    )
    yield built(sphere), built(direction)

    def part(size):
        def model(x):
            with pyro.plate("data", len(x), dim=-2):
                with pyro.plate("time", 5, subsample_size=size, dim=-1):
                    pyro.sample("step", dist.Normal(0.0, 1.0).expand([len(x), size]))
                pyro.sample("x", dist.Normal(0.0, 1.0).expand([D]).to_event(1), obs=x[:, None])

        return model

    yield built(part(3)), built(part(5))


@cases
def data(tmp):
    guide = BottomUp(plain, like=X)
    wide = torch.cat([X, X], 1)
    yield (
        lambda: infer.check_pair(plain, guide, wide),
        lambda: infer.check_pair(plain, guide, X),
        lambda: BottomUp(lambda x: plain(x[:, :D]), like=wide),
    )
    yield built(plain, wide), built(plain)

    def two(x, y):
        plain(x + y[:, None])

    yield built(two), built(two, (X, X[:, 0]))
    yield built(plain, torch.full_like(X, torch.nan)), built(plain)
    yield (
        built(lambda x, y: plain(x), {"x": X, "y": torch.full((N,), torch.nan)}),
        built(lambda x, y: plain(x), {"x": X, "y": torch.zeros(N)}),
    )
    yield lambda: BottomUp(plain, like=X, order="chain"), built(plain)
    yield lambda: BottomUp(plain, like=X, sites="z"), lambda: BottomUp(plain, like=X, sites=["z"])


@cases
def shared(tmp):
    def model(x):
        mean = pyro.sample("mean", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    yield built(model), fit(model, AutoNormal(model))


@cases
def masks(tmp):
    def model(x, apart):
        shown = torch.arange(2) < 1
        with pyro.plate("data", len(x), dim=-2 if apart else -1):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            if apart:
                with pyro.plate("parts", 2, dim=-1):
                    z = pyro.sample("z", dist.Gamma(a.exp(), 1.0).mask(shown))
            else:
                z = dist.Gamma(a.exp()[:, None].expand(-1, 2), 1.0).mask(shown).to_event(1)
                z = pyro.sample("z", z)
            z = z[..., 0].reshape(a.shape)
            data = x[:, :1] if apart else x[:, 0]
            pyro.sample("x", dist.Normal(z, 1.0), obs=data)

    def run(apart):
        program = functools.partial(model, apart=apart)
        return lambda: infer.elbo_terms(program, Ladder(program, like=X, hidden=(4,)), X)

    yield run(False), run(True)


test_the_advice_works_on_what_provokes_it = cases.test()
