"""What is said about labels that are missing, and that its advice works."""

import functools
import math

import torch
from advice import Cases
from torch import nn

from pyro_vae import Trainer, data, guides, likelihoods
from pyro_vae.models import VAE

X, Y = torch.zeros(6, 4), torch.tensor([0, 1, 2, -1, -1, -1])
cases = Cases()


def built(labels="partial", condition=3, noise=None):
    noise = noise or likelihoods.Bernoulli()
    options = {"condition": condition, "labels": labels}
    return VAE((4,), 2, likelihood=noise, hidden=(3,), **options)


def fit(vae, guide, y=Y, x=X):
    trainer = Trainer(vae, guide, elbo="enumerate")
    given = x if y is None else (x, y)
    return lambda: trainer.fit(given, epochs=1, progress=False)


@cases
def models(tmp):
    without = {"condition": 0}
    yield lambda: built(**without), built, lambda: built("all", **without)
    optimal, learned = map(likelihoods.Gaussian, ("optimal", "learned"))
    yield lambda: built(noise=optimal), lambda: built(noise=learned)


@cases
def labels(tmp):
    vae = built()
    guide = guides.BottomUp(vae)
    good = [fit(vae, guide), fit(vae, guide, None)]
    yield (lambda: vae(X, y=Y[:5])), (lambda: vae(X, y=Y)), (lambda: vae(X))
    yield fit(vae, guide, Y + 1), good[0]
    yield fit(vae, guide, Y.clamp(max=1)), *good
    z = torch.zeros(6, 2)
    by = functools.partial(vae.decode, z)
    for y in (None, Y):
        yield lambda y=y: by(y=y), lambda: by(y=1), lambda: by(y=Y.clamp(min=0))
    missing = Y.float().where(Y >= 0, math.nan)
    marked = data.Dataset(X, torch.where(missing.isnan(), -1, missing).long())
    seen = missing[:3].long()
    yield (
        lambda: data.Dataset(X, missing),
        lambda: data.Dataset(X[:3], seen),
        fit(vae, guide, None, marked),
    )


@cases
def families(tmp):
    vae = built()
    guide = guides.BottomUp(vae)
    told = lambda: guides.Labelled(guides.BottomUp(vae))  # noqa: E731
    full = guides.BottomUp(built("all"))
    yield lambda: full.classify(X), lambda: guide.classify(X)
    yield lambda: guides.Labelled(full), told
    yield lambda: guides.Labelled(vae), told
    yield lambda: guides.Labelled(told()), lambda: guides.Labelled(told().guide)
    network = nn.Linear(4, 2)
    ended = nn.Sequential(network, nn.Linear(2, 3))
    yield (
        lambda: guides.Labelled(guide, classifier=network),
        lambda: guides.Labelled(guide, classifier=ended),
    )
    yield lambda: guides.PerDatum(vae, X), lambda: guides.BottomUp(vae), told


test_advice = cases.test()
