"""What is said about parts of batches, networks without activations and streams of processes."""

import drawing_networks
import pyro
import pyro.distributions as dist
import pyro.infer
import torch
from advice import Cases
from pyro import poutine
from torch import nn

from pyro_vae import Trainer, guides, handlers, regularizers
from pyro_vae.infer import SVI
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

N, D = 8, 3
X = torch.linspace(-1, 1, N * D).view(N, D)
cases = Cases()


def pair(**options):
    vae = VAE((D,), 2, hidden=(4,), likelihood=Gaussian(), **options)
    return vae, guides.BottomUp(vae, hidden=(4,))


def fit(pair, *, elbo="trace", **options):
    trainer = Trainer(*pair, seed=0, elbo=elbo)
    return lambda: trainer.fit(X, epochs=1, progress=False, **options)


@cases
def parts_of_batches(tmp):
    vae, guide = pair()
    penalised = handlers.regularize(guide, regularizers.MMD())
    yield fit((vae, guide), accumulate=2, elbo=pyro.infer.Trace_ELBO()), fit((vae, guide))
    yield fit((vae, penalised), accumulate=2), fit((vae, guide), accumulate=2)
    yield fit((vae, handlers.free_bits(guide, 1.0)), accumulate=2), fit((vae, guide))
    normed = pair(norm=nn.BatchNorm1d)
    yield fit(normed, accumulate=8), fit(normed, accumulate=4)

    def rigid(x):
        with pyro.plate("data", N):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[:, None].expand_as(x), 1.0).to_event(1), obs=x)

    def guess(x):
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", N):
            pyro.sample("z", dist.Normal(loc, 1.0))

    yield fit((rigid, guess), accumulate=2), fit((rigid, guess))

    def own_data():
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", N):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=X[:, 0])

    def guess_loc():
        pyro.sample("loc", dist.Normal(pyro.param("mean", torch.zeros(())), 1.0))

    yield tuple((lambda k=k: SVI(own_data, guess_loc, accumulate=k).step()) for k in (2, 1))

    def seen(x):
        loc = pyro.param("bias", torch.zeros(()))
        pyro.sample("x", dist.Normal(loc, 1.0).expand(x.shape[1:]).to_event(1), obs=x)

    def by_hand(x):
        with poutine.scale(scale=2 * N / len(x)), pyro.plate("data", len(x)):
            seen(x)

    def by_plate(x):
        with pyro.plate("data", 2 * N, subsample=torch.arange(len(x))):
            seen(x)

    yield tuple(
        (lambda f=f: SVI(f, lambda x: None, accumulate=2).step(X)) for f in (by_hand, by_plate)
    )


@cases
def networks_that_draw(tmp):
    pair = drawing_networks.Model(), drawing_networks.Guess()
    yield fit(pair, recompute=True), fit(pair)


test_the_advice_works_on_what_provokes_it = cases.test()
