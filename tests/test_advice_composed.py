"""What is said about guides that are made of guides, and that its advice works."""

import pyro
import pyro.distributions as dist
import torch
from advice import Cases
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyro_vae import infer
from pyro_vae.guides import (
    BottomUp,
    Composed,
    FullCovariance,
    Ladder,
    PerDatum,
    SemiAmortized,
)
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

X = torch.linspace(-1, 1, 24).view(8, 3)
cases = Cases()


def chain(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        v = pyro.sample("v", dist.Normal(z, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(v, 1.0).to_event(1), obs=x)


def shared(x):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(w * torch.ones(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def alike(x):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(w, 1.0).expand([3]).to_event(1), obs=x)


def summed(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        c = pyro.sample("c", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(z + c[..., None], 1.0).to_event(1), obs=x)


class Local(nn.Module):
    """q(z|x) q(v|x) of a chain, or a part of it."""

    def __init__(self, *sites):
        super().__init__()
        self.layer, self.sites = nn.Linear(3, 3), sites

    def forward(self, x):
        with pyro.plate("data", len(x)):
            for site in self.sites:
                pyro.sample(site, dist.Normal(self.layer(x), 1.0).to_event(1))


def bound(model, guide):
    return lambda: infer.SVI(model, guide).step(X)


@cases
def parts(tmp):
    upper = BottomUp(chain, like=X, sites=["z"])
    yield (
        lambda: Composed(Local("v", "z")),
        lambda: Composed(Local("v", "z"), model=chain, like=X)(X),
        lambda: Composed(BottomUp(chain, like=X, sites=["v"]), upper)(X),
    )

    def declared(like=None):
        part = Local("v", "z")
        part.latents, part.model = ("v", "z"), chain
        return Composed(part, like=like)

    yield declared, lambda: declared(X)(X)
    yield (
        lambda: Composed(Local("v"), Local("v", "z"), model=chain, like=X),
        lambda: Composed(Local("v"), Local("z"), model=chain, like=X)(X),
    )
    yield lambda: upper(X), lambda: Composed(Local("v"), upper)(X)


@cases
def latents_of_all_data(tmp):
    local = BottomUp(shared, like=X)
    both = Composed(local, globals=AutoNormal, model=shared, like=X)
    yield bound(shared, local), bound(shared, both)
    yield lambda: infer.elbo_terms(shared, local, X), lambda: infer.elbo_terms(shared, both, X)
    yield (
        bound(shared, Local("z")),
        bound(shared, Composed(Local("z"), globals=AutoNormal, model=shared, like=X)),
    )
    ladder = Ladder(shared, like=X)
    yield bound(shared, ladder), bound(shared, Composed(ladder, globals=AutoNormal, like=X))
    yield lambda: Composed(local), bound(shared, Composed(local, globals=AutoNormal))


@cases
def refining(tmp):
    own = Local("z", "v")
    yield (
        lambda: SemiAmortized(own),
        bound(chain, SemiAmortized(own, model=chain, like=X)),
        bound(chain, SemiAmortized(BottomUp(chain, like=X))),
    )
    yield (
        lambda: SemiAmortized(own, model=chain),
        lambda: SemiAmortized(own, model=chain, like=X)(X),
    )
    yield (
        lambda: SemiAmortized(FullCovariance(chain, like=X)),
        lambda: SemiAmortized(BottomUp(chain, like=X))(X),
        lambda: SemiAmortized(Ladder(chain, like=X))(X),
    )
    local = BottomUp(shared, like=X)
    yield (
        lambda: SemiAmortized(local),
        lambda: SemiAmortized(Composed(local, globals=AutoNormal))(X),
    )
    alone = AutoNormal(alike)
    yield lambda: SemiAmortized(alone, model=alike, like=X), lambda: alone(X)
    guide = BottomUp(summed, like=X)
    yield lambda: SemiAmortized(guide), lambda: guide(X)


@cases
def per_datum(tmp):
    vae = VAE((3,), 2, hidden=(4,), likelihood=Gaussian())
    yield (
        lambda: PerDatum(chain, X),
        lambda: PerDatum(vae, X)(X),
        bound(chain, BottomUp(chain, like=X)),
    )


test_the_advice_works_on_what_provokes_it = cases.test()
