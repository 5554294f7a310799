"""What is said about latents that are maps, and that its advice works."""

import functools

import torch
from advice import Cases

from pyro_vae import guides, infer, likelihoods, plots, priors
from pyro_vae.cli.options import parse
from pyro_vae.models import VAE

X = (torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5).float()
cases = Cases()


def vae(latents=((2, 4, 4), 3), event_shape=(1, 8, 8), **options):
    return VAE(event_shape, latents, likelihood=likelihoods.Bernoulli(), **options)


@cases
def shapes(tmp):
    yield lambda: vae(()), functools.partial(vae, 20)
    yield lambda: vae(event_shape=()), vae
    yield (
        lambda: vae(((8, 0, 4), 32)),
        lambda: vae(((8, 14, 14), (16, 7, 7), 32), (1, 28, 28)),
    )
    yield (
        lambda: vae(((2, 3, 3),)),
        *(functools.partial(vae, ((2, s, s),)) for s in (8, 4, 2, 1)),
    )
    yield lambda: vae((3, (2, 4, 4))), lambda: vae(((2, 4, 4), 3))


@cases
def kinds(tmp):
    yield (
        lambda: vae(((2, 4, 4),), kind="array"),
        lambda: vae(32, kind="array"),
        lambda: vae(((2, 4, 4),), kind="image"),
    )
    yield (
        lambda: vae(((2, 4),), (8,), kind="signal"),
        lambda: vae(((2, 4),), (1, 8), kind="signal")(X[:, :, 0]),
    )


@cases
def options(tmp):
    for name in ("--hidden", "--latents"):
        yield (
            lambda name=name: parse(["train", name, "8,x"]),
            lambda name=name: parse(["train", name, "20"]),
            lambda name=name: parse(["train", name, "64,32,16"]),
        )


@cases
def widths(tmp):
    yield (
        lambda: vae(((2, 4, 4),), hidden=(30,)),
        lambda: vae(((2, 4, 4),)),
        lambda: vae(((2, 4, 4),), channels=(32, 64)),
    )


@cases
def richer_guides(tmp):
    model = vae(((2, 4, 4),))
    for guide in (guides.Flow, guides.FullCovariance):
        yield functools.partial(guide, model), lambda: guides.BottomUp(model)(X)


@cases
def pictures(tmp):
    model = vae(((2, 4, 4), 3))
    guide = guides.Ladder(model)
    yield (
        lambda: plots.latent_scatter(guide, X, site="z1"),
        lambda: plots.latent_scatter(guide, X, site="z2"),
        lambda: plots.layer_samples(model, "z1"),
        lambda: plots.traversals(model, guide, X[0], site="z1"),
    )
    yield (
        lambda: plots.traversals(model, guide, X[0], site="z1", dims=[()] * 0),
        lambda: plots.traversals(model, guide, X[0], site="z1", dims=[0]),
    )
    yield (
        lambda: plots.traversals(model, guide, X[0], site="z1", dims=[(2,)]),
        lambda: plots.traversals(model, guide, X[0], site="z1", dims=[(0,)]),
    )
    three = vae(((3, 4, 4),))
    yield (
        lambda: plots.latent_grid(three, like=X, steps=2),
        lambda: plots.traversals(three, guides.Ladder(three), X[0]),
        lambda: plots.latent_grid(vae(2), like=X, steps=2),
    )
    yield (
        lambda: plots.kl_maps(infer.elbo_terms(model, guide, X).kl),
        lambda: plots.kl_maps(infer.elbo_terms(model, guide, X, per_unit=True).per_unit),
    )


@cases
def aggregates(tmp):
    def fit(model):
        return priors.AggregatePosterior(2).fit(model, guides.Ladder(model), X)

    yield (
        lambda: fit(vae(((2, 4, 4),))),
        lambda: priors.AggregatePosterior(2).fit(
            model := vae(((8, 14, 14), 32), (1, 28, 28)),
            guides.Ladder(model),
            torch.zeros(6, 1, 28, 28),
        ),
    )


test_the_advice_works_on_what_provokes_it = cases.test()
