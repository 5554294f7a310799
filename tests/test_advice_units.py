"""What is said about the KL of units, and that its advice works."""

import functools

import pyro
import torch
from advice import Cases

from pyro_vae import Trainer, callbacks, diagnostics, guides, infer, likelihoods, plots
from pyro_vae.models import VAE

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
cases = Cases()


def pair(guide=guides.BottomUp):
    vae = VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(4,))
    return vae, guide(vae)


@cases
def terms(tmp):
    model, guide = pair()
    tied = infer.elbo_terms(*pair(guides.FullCovariance), X, per_unit=True)
    yield lambda: tied.per_unit["z1"], lambda: tied.kl["z1"]
    ask = functools.partial(infer.elbo_terms, model, guide, X)
    yield lambda: ask().per_unit["z1"], lambda: ask(per_unit=True).per_unit["z1"]
    for estimator in (infer.ImportanceWeightedELBO(3), pyro.infer.Trace_ELBO()):
        yield (
            lambda estimator=estimator: ask(per_unit=True, estimator=estimator),
            lambda: ask(per_unit=True, estimator=infer.TraceELBO()),
            lambda: ask(per_unit=True, estimator=infer.AnalyticELBO()),
        )


@cases
def counts(tmp):
    layers = functools.partial(diagnostics.layers, *pair(guides.FullCovariance), X)
    yield lambda: layers(criterion="kl"), lambda: layers(criterion="variance")


@cases
def histories(tmp):
    def trained(*hung, guide=guides.BottomUp):
        return Trainer(*pair(guide), seed=0).fit(X, epochs=1, callbacks=hung, progress=False)

    yield (
        lambda: plots.unit_kl(trained().history),
        lambda: plots.unit_kl(trained(callbacks.UnitKL(X)).history),
    )
    yield (
        lambda: trained(callbacks.UnitKL(X), guide=guides.FullCovariance),
        lambda: plots.history(trained(guide=guides.FullCovariance).history),
    )


test_the_advice_works_on_what_provokes_it = cases.test()
