"""What is said about quantisers, levels and priors of codes, and that its advice works."""

import functools

import pyro
import pyro.distributions as dist
import torch
from advice import Cases

from pyro_vae import (
    Trainer,
    codebooks,
    diagnostics,
    guides,
    handlers,
    likelihoods,
    models,
    plots,
    priors,
)
from pyro_vae.codebooks import FiniteScalar, LookupFree, MovingAverage, Residual

cases = Cases()
LIKELIHOOD = likelihoods.Bernoulli()
X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()
Y = torch.arange(6) % 2


def vqvae(event_shape=(1, 8, 8), **options):
    sizes = {"channels": (4, 4), "blocks": 1, "likelihood": LIKELIHOOD}
    return models.VQVAE(event_shape, **{**sizes, **options})


@cases
def sizes(tmp):
    yield lambda: FiniteScalar((8, 1)), lambda: FiniteScalar((8, 5, 5, 5))
    yield lambda: LookupFree(20), lambda: LookupFree(8), lambda: Residual(2, MovingAverage(8, 2))
    yield lambda: FiniteScalar((8,) * 7), lambda: FiniteScalar((8,) * 3)
    yield lambda: Residual(2, LookupFree(4)), lambda: Residual(2, MovingAverage(512, 64))


@cases
def gradients(tmp):
    model = vqvae(codes=4, code_dim=2)
    yield (
        lambda: guides.NearestCode(model, gradient="rotation"),
        lambda: guides.NearestCode(model, gradient=codebooks.Rotation()),
        lambda: guides.NearestCode(model),
    )


@cases
def levels(tmp):
    books = [MovingAverage(4, 2) for _ in range(2)]
    yield (
        lambda: vqvae(codebook=books[0], levels=2),
        lambda: vqvae(codebook=books, levels=2),
        lambda: vqvae(codebook=books[0]),
    )
    yield lambda: vqvae(codebook="books"), lambda: vqvae(codebook=books)
    small = {"codes": 4, "code_dim": 2}
    yield lambda: vqvae(levels=2, hidden=(4,), **small), lambda: vqvae(levels=2, **small)
    yield lambda: vqvae((5,), levels=2, **small), lambda: vqvae((5,), codebook=books[0])
    yield (
        lambda: vqvae(levels=3, **small),
        lambda: vqvae(levels=2, **small),
        lambda: vqvae(levels=3, channels=(4,), **small),
    )


@cases
def codes(tmp):
    model = vqvae(codes=4, code_dim=2, levels=2, condition=2)
    guide, prior = guides.NearestCode(model), priors.CodePrior(model, width=4, layers=1)
    options = {"epochs": 1, "progress": False}
    yield lambda: prior.fit(guide, X, **options), lambda: prior.fit(guide, (X, Y), **options)
    grid = guide.codes(X)
    yield lambda: prior.log_prob(grid["z1"], y=Y), lambda: prior.log_prob(grid, y=Y)
    yield lambda: prior.log_prob(grid), lambda: prior.log_prob(grid, y=Y)
    yield (
        lambda: prior.log_prob({s: codes.float() for s, codes in grid.items()}, y=Y),
        lambda: prior.log_prob(guide.codes(X), y=Y),
    )


@cases
def another_model(tmp):
    plain, labelled = (vqvae(codes=4, code_dim=2, condition=k) for k in (0, 2))
    found = [priors.CodePrior(model, width=4, layers=1) for model in (plain, labelled)]
    for prior in found:
        prior.fitted_on.fill_(1)
    yield (
        lambda: handlers.replace_prior(plain, found[1]),
        lambda: handlers.replace_prior(plain, found[0]),
    )


@cases
def another_program(tmp):
    model, vae = vqvae(codes=4, code_dim=2), models.VAE((1, 8, 8), 2, likelihood=LIKELIHOOD)
    guide, bottom_up = guides.NearestCode(model), guides.BottomUp(vae)
    prior = priors.CodePrior(model, width=4, layers=1)
    prior.fitted_on.fill_(1)
    for draw in (priors.complete, plots.completions):
        right = functools.partial(draw, model, guide, prior, X)
        yield functools.partial(draw, vae, guide, prior, X), right
        yield functools.partial(draw, model, bottom_up, prior, X), right
        yield functools.partial(draw, model, guide, priors.StandardNormal(2), X), right
    yield lambda: plots.codes(vae), lambda: plots.codes(model)
    yield lambda: priors.CodePrior(vae), lambda: priors.CodePrior(model)
    yield (
        lambda: diagnostics.codebook(vae, bottom_up, X),
        lambda: diagnostics.codebook(model, guide, X),
    )
    like = X[:0], X[:1]
    none, one = (functools.partial(plots.samples, own, 4, like=x) for x in like)
    yield none, one


def own(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(torch.zeros(1, 8, 8), 1.0).to_event(3), obs=x)


@cases
def few_codes(tmp):
    def fit(epochs, lr):
        torch.manual_seed(0)
        model = vqvae(codebook=FiniteScalar((3, 3)))
        trainer = Trainer(model, guides.NearestCode(model), seed=0, lr=lr)
        # Outputs near the origin are all of one code
        torch.nn.init.zeros_(trainer.guide.encoder.last.weight)
        trainer.fit(X.repeat(10, 1, 1, 1), epochs=epochs, progress=False)

    yield lambda: fit(4, 1e-5), lambda: fit(40, 1e-2)


test_the_advice_works_on_what_provokes_it = cases.test()
