"""What is said about likelihoods of counts, tables and heavy tails, and that its advice works."""

import functools

import numpy as np
import torch
from advice import Cases

from pyro_vae import Trainer, callbacks, data, likelihoods
from pyro_vae.guides import BottomUp
from pyro_vae.likelihoods import Gaussian, Mixed, Multinomial, NegativeBinomial, Nominal, Poisson
from pyro_vae.models import VAE

COUNTS = torch.poisson(torch.linspace(1, 6, 24).view(8, 3))
REAL = torch.linspace(-1, 2, 24).view(8, 3)
cases = Cases()


def vae(likelihood, shape=(3,)):
    return VAE(shape, 2, likelihood=likelihood, hidden=(4,))


def fit(likelihood, x, **options):
    model = vae(likelihood)
    return Trainer(model, BottomUp(model)).fit(x, epochs=1, progress=False, **options)


@cases
def counts(tmp):
    yield (
        lambda: fit(Poisson(), COUNTS.log1p()),
        lambda: fit(Poisson(), COUNTS),
        lambda: fit(likelihoods.LogNormal(), COUNTS.log1p() + 0.1),
        lambda: fit(Gaussian(), COUNTS.log1p()),
    )
    yield lambda: NegativeBinomial("learnt"), lambda: NegativeBinomial("learned")
    yield (
        lambda: NegativeBinomial("learnt"),
        NegativeBinomial(likelihoods.LearnedDispersion(initial=0.5)).named_parameters,
    )
    yield (
        lambda: likelihoods.ZeroInflated(Gaussian()),
        lambda: likelihoods.ZeroInflated(likelihoods.Poisson()),
        lambda: likelihoods.ZeroInflated(NegativeBinomial()),
    )
    yield lambda: Multinomial(0.5), lambda: Multinomial(int(COUNTS.sum(1).mean()))
    images = COUNTS.view(8, 1, 3)
    yield (
        lambda: vae(Multinomial(9), (1, 3)),
        lambda: fit(Multinomial(9), images.flatten(1)),
        lambda: vae(likelihoods.Poisson(), (1, 3)),
    )
    yield (
        lambda: vae(Poisson(loc=[0.0, 1.0])),
        lambda: vae(Poisson(loc=COUNTS.mean(0).log())),
    )
    exposure = COUNTS.sum(1)
    yield (
        lambda: Poisson()(REAL, offset=exposure[:3].log()),
        lambda: Poisson()(REAL, offset=exposure.log()),
    )
    none = torch.cat([exposure[:7], torch.zeros(1)])
    yield (
        lambda: Poisson()(REAL, offset=none.log()),
        lambda: Poisson()(REAL[none > 0], offset=none[none > 0].log()),
    )


@cases
def real_values(tmp):
    yield (
        lambda: fit(likelihoods.LogNormal(), REAL),
        lambda: fit(likelihoods.Poisson(), COUNTS),
        lambda: fit(likelihoods.NegativeBinomial(), COUNTS),
        lambda: fit(likelihoods.Gaussian(), REAL),
    )
    yield lambda: likelihoods.Laplace("optimal"), lambda: likelihoods.Laplace(sigma="learned")
    yield (
        lambda: likelihoods.StudentT(df="learnt"),
        lambda: likelihoods.StudentT(df=4.0),
        lambda: likelihoods.StudentT(df="learned"),
    )
    x, held = REAL, [callbacks.UpdateSigma(REAL)]
    laplace = functools.partial(likelihoods.Laplace, "learned")
    yield lambda: fit(laplace(), x, callbacks=held), lambda: fit(laplace(), x)


@cases
def tables(tmp):
    column = np.array([3, 7, 7, 9, 3, 3, 9, 7])
    found, numbers = np.unique(column, return_inverse=True)
    as_numbers = torch.tensor(numbers).float()[:, None].expand(8, 3)
    yield (
        lambda: fit(Nominal(3), torch.tensor(column).float()[:, None].expand(8, 3)),
        lambda: fit(Nominal(len(found)), as_numbers),
        lambda: fit(likelihoods.Gaussian(), REAL),
    )
    yield lambda: Nominal(1), lambda: Nominal(len(found)), lambda: likelihoods.Bernoulli()
    pair = {(0, 2): Gaussian(), 1: Poisson()}
    yield lambda: vae(Mixed({(0, 1): Gaussian()})), lambda: vae(Mixed(pair))
    yield lambda: Mixed({0: "gaussian"}), lambda: Mixed({0: likelihoods.Gaussian()})
    yield lambda: Mixed({0.5: Gaussian()}), lambda: Mixed({(0, 2): Gaussian()})
    named = {("a", "c"): Gaussian(), "b": Poisson()}
    yield lambda: Mixed(named), lambda: Mixed(named, names="abc"), lambda: Mixed(pair)
    yield lambda: vae(Mixed({"a": Gaussian()}, names="a")), lambda: vae(Mixed(named, names="abc"))
    yield (
        lambda: vae(Mixed({range(3): Gaussian()}), (1, 3)),
        lambda: fit(Mixed({range(3): Gaussian()}), REAL.view(8, 1, 3).flatten(1)),
    )
    twice = {range(3): Gaussian()}
    yield lambda: Mixed(twice, names="aab"), lambda: Mixed(twice, names="abc")
    loose, features = Mixed(pair), torch.zeros(2, 3)

    def built():
        VAE((3,), 1, likelihood=loose)
        return loose(features)

    yield lambda: loose(features), built


@cases
def columns(tmp):
    table = "a,city,b\n0.5,Rome,1\n1.5,Bonn,2\n0.1,Oslo,9\n0.3,Rome,0\n"
    path = tmp / "table.csv"
    path.write_text(table)
    d = data.load(path)
    yield lambda: likelihoods.for_columns(REAL), lambda: likelihoods.for_columns(data.load(path))
    images = data.Dataset(REAL.view(8, 1, 3))
    yield (
        lambda: likelihoods.for_columns(images),
        lambda: likelihoods.for_columns(data.Dataset(images.x.flatten(1))),
    )
    still = torch.cat([REAL, torch.full((8, 1), 7.5)], 1)
    yield (
        lambda: likelihoods.for_columns(data.Dataset(still)),
        lambda: likelihoods.for_columns(data.Dataset(still[:, :3])),
    )
    yield (
        lambda: likelihoods.for_columns(d, {7: "count"}),
        lambda: likelihoods.for_columns(d, {1: "count"}),
    )
    wanted = functools.partial(likelihoods.for_columns, d)
    yield lambda: wanted({"b": "counts"}), lambda: wanted({"b": "count"})


test_the_advice_works_on_what_provokes_it = cases.test()
