"""What is said about data of which some are missing, and that its advice works."""

import pyro
import pyro.distributions as dist
import torch
from advice import Cases
from missing_values import holes
from torch import nn
from torch.nn import functional

from pyro_vae import Trainer, guides, handlers, infer, likelihoods, models
from pyro_vae.guides import BottomUp

X = holes(torch.randn(12, 3, generator=torch.Generator().manual_seed(0)))
cases = Cases()


def vae(likelihood=None):
    return models.VAE((3,), 2, likelihood=likelihood or likelihoods.Gaussian(), hidden=(4,))


def fit(model, guide, x=X):
    return Trainer(model, guide).fit(x, epochs=1, progress=False)


@cases
def handler(tmp):
    plain = vae()
    model = handlers.missing(plain)
    guide = BottomUp(model)
    yield (
        lambda: infer.elbo_terms(plain, BottomUp(plain), X),
        lambda: infer.elbo_terms(plain, BottomUp(plain), X.nan_to_num()),
        lambda: infer.elbo_terms(plain, BottomUp(plain), X[~X.isnan().any(1)]),
        lambda: fit(model, guide),
    )
    yield lambda: infer.impute(plain, guide, X), lambda: infer.impute(model, guide, X)
    yield (
        lambda: handlers.missing(guide),
        lambda: BottomUp(handlers.missing(BottomUp(vae()).model)),
    )


class Own(nn.Module):
    """A guide that may know of missing values."""

    def __init__(self, *, knows):
        super().__init__()
        self.knows, self.layer = knows, nn.Linear(6 if knows else 3, 2)

    def forward(self, x):
        seen = torch.cat([x.nan_to_num(), x.isnan().to(x)], 1) if self.knows else x
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(self.layer(seen), 1.0).to_event(1))


@cases
def unaware(tmp):
    plain = vae()
    model = handlers.missing(plain)
    yield (
        lambda: fit(model, BottomUp(plain)),
        lambda: fit(model, BottomUp(handlers.missing(plain))),
    )
    yield lambda: fit(model, Own(knows=False)), lambda: fit(model, Own(knows=True))


@cases
def nothing_seen(tmp):
    model = handlers.missing(vae())
    row, column = X.clone(), X.clone()
    row[4], column[:, 1] = torch.nan, torch.nan
    yield (
        lambda: fit(model, BottomUp(model), row),
        lambda: fit(model, BottomUp(model), row[~row.isnan().all(1)]),
    )
    narrow = handlers.missing(models.VAE((2,), 2, likelihood=likelihoods.Gaussian()))
    left = column[:, [0, 2]]
    yield (
        lambda: fit(model, BottomUp(model), column),
        lambda: fit(narrow, BottomUp(narrow), left[~left.isnan().all(1)]),
    )


class Joint(likelihoods.Likelihood):
    def forward(self, features):
        return dist.MultivariateStudentT(torch.tensor(5.0), features, torch.eye(3))


@cases
def joint(tmp):
    model, other = handlers.missing(vae(Joint())), handlers.missing(vae())
    guide = BottomUp(model)
    yield (
        lambda: fit(model, guide),
        lambda: fit(other, BottomUp(other)),
        lambda: fit(model, guide, X.nan_to_num()),
        lambda: fit(model, guide, X[~X.isnan().any(1)]),
    )


@cases
def depended_on(tmp):
    def regression(x, u):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            mean = functional.softplus(z) + u.unsqueeze(-1)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    u = torch.arange(12.0).where(torch.arange(12) != 5, torch.nan)
    model = handlers.missing(regression)
    guide = guides.BottomUp(model, like=(X, u.nan_to_num()))
    yield (
        lambda: infer.elbo_terms(model, guide, (X, u)),
        lambda: infer.elbo_terms(model, guide, (X, u.nan_to_num())),
        lambda: infer.elbo_terms(model, guide, (X[~u.isnan()], u[~u.isnan()])),
    )


test_the_advice_works_on_what_provokes_it = cases.test()
