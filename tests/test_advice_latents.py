"""What is said about latents that masks hide or that have bounds, and that its advice works."""

import functools

import pyro
import pyro.distributions as dist
import torch
from advice import Cases
from pyro import poutine

from pyro_vae import data, diagnostics, guides, handlers, infer, likelihoods, models, priors
from pyro_vae.infer import TraceELBO
from pyro_vae.regularizers import MMD

LENGTHS = torch.tensor([1.0] * 20 + [2.0] * 21)
STEPS = torch.randn(41, 2, generator=torch.Generator().manual_seed(0))
X = torch.cat([STEPS, LENGTHS[:, None]], 1)
cases = Cases()


def sequence(x, seen=True):
    """z1 and z2, of which the second is there for sequences of length 2."""
    with pyro.plate("data", len(x)):
        for t in range(2):
            with poutine.mask(mask=x[:, 2] > t):
                loc = torch.zeros(len(x), 2) if seen else x[:, :2]
                z = pyro.sample(f"z{t + 1}", dist.Normal(loc, 1.0).to_event(1))
                if seen:
                    pyro.sample(f"x{t + 1}", dist.Normal(z[:, 0], 1.0), obs=x[:, t])


PAIR = sequence, functools.partial(sequence, seen=False)
LONG = X[20:]


@cases
def masks(tmp):
    alone = X[19:]
    yield (
        lambda: diagnostics.collapse(*PAIR, alone),
        lambda: diagnostics.collapse(*PAIR, LONG),
        lambda: diagnostics.collapse(*PAIR, X),
        lambda: infer.elbo_terms(*PAIR, alone).kl,
    )
    yield lambda: diagnostics.rarity(*PAIR, X), lambda: diagnostics.rarity(*PAIR, LONG)

    def scored(x, **options):
        factors = {"factors": x[:, :1] > 0, "factor_names": ["a"]}
        return diagnostics.disentanglement(*PAIR, data.Dataset(x, **factors), folds=2, **options)

    yield lambda: scored(X), lambda: scored(X, site="z1"), lambda: scored(LONG)
    draws = functools.partial(priors.posterior_samples, *PAIR, site="z2")
    prior = priors.AggregatePosterior(2)
    yield lambda: draws(X), lambda: draws(LONG), lambda: prior.fit_samples(draws(LONG))

    def longer(x, seen=True):
        with pyro.plate("all", len(x)):
            loc = torch.zeros(len(x), 2) if seen else x[:, :2]
            z = pyro.sample("z0", dist.Normal(loc, 1.0).to_event(1))
            if seen:
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[:, :2])
        sequence(x, seen)

    model, guide = longer, functools.partial(longer, seen=False)
    penalized = functools.partial(handlers.regularize, guide, MMD())
    yield (
        lambda: TraceELBO()(model, penalized(site="z1"), X),
        lambda: TraceELBO()(model, penalized(site="z0"), X),
        lambda: TraceELBO()(model, guide, X),
    )


@cases
def bounds(tmp):
    vqvae = models.VQVAE((1, 8, 8), codes=4, likelihood=likelihoods.Bernoulli())
    pair, x = (vqvae, guides.NearestCode(vqvae)), torch.ones(1, 1, 8, 8)
    yield (
        lambda: infer.traverse(*pair, x[0], site="z1"),
        lambda: infer.decode(vqvae, {"z1": infer.encode(pair[1], x).sample["z1"]}, x=x),
    )


@cases
def arguments(tmp):
    def program(x, lengths, seen=True):
        sequence(torch.cat([x, lengths[:, None]], 1), seen)

    pair = program, functools.partial(program, seen=False)
    known = [functools.partial(each, lengths=LENGTHS[:2]) for each in pair]
    yield lambda: infer.check_pair(*pair, X[:2, :2]), lambda: infer.check_pair(*known, X[:2, :2])


test_the_advice_works_on_what_provokes_it = cases.test()
