"""Guides of latents of any support: in it, with a density of integral one, near the posterior."""

import contextlib

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess, sigmas
from pyro import poutine
from stepping import trained
from torch import nn

from pyro_vae import guides, infer

N = 4
FAMILIES = {
    "BottomUp": guides.BottomUp,
    "FullCovariance": guides.FullCovariance,
    "Flow": lambda model, like, **options: guides.Flow(
        model, like=like, step_hidden=16, **options
    ),
}


def moved(base, transform):
    return lambda: dist.TransformedDistribution(base(), [transform])


def factors():
    return dist.LKJCholesky(3, 20.0)


def normals():
    return dist.Normal(torch.zeros(3), 0.5).to_event(1)


# Site of two numbers or more, concentrated so that a wider guide bounds all weights
PRIORS = {
    "positive": lambda: dist.Gamma(20.0, torch.ones(2)).to_event(1),
    "log-normal": lambda: dist.LogNormal(torch.zeros(2), 0.5).to_event(1),
    "unit interval": lambda: dist.Beta(20.0, torch.full((2,), 30.0)).to_event(1),
    "simplex": lambda: dist.Dirichlet(torch.tensor([20.0, 30.0, 40.0])),
    "ordered": moved(normals, dist.transforms.OrderedTransform()),
    "correlations": moved(factors, dist.transforms.CorrMatrixCholeskyTransform().inv),
    "Cholesky factor": factors,
    "matrix": lambda: dist.Normal(torch.zeros(2, 3), 1.0).to_event(2),
    "dense normal": lambda: dist.MultivariateNormal(
        torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    ),
}
# Plates inside a datum: their sizes by dimensions, and that of the data
PLATES = {
    "none": ({}, -1),
    "to the right": ({-1: 3}, -2),
    "to the left": ({-2: 3}, -1),
    "around": ({-1: 2, -3: 2}, -2),
}


def unrelated(prior, plates="none"):
    """A program whose data tell nothing of its latent, and so have an evidence of their own."""
    inner, dim = PLATES[plates]

    def model(x):
        with pyro.plate("data", len(x), dim=dim) as rows:
            with contextlib.ExitStack() as stack:
                for at, size in inner.items():
                    stack.enter_context(pyro.plate(f"plate_{-at}", size, dim=at))
                pyro.sample("z", prior())
            obs = x.reshape(-1, *[1] * (-dim - 1))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=obs)
        return rows

    return model


def widened(guide):
    """Wider than the prior, and no member of a poorer family any more."""
    with torch.no_grad():
        for parameter in guide.conditionals.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    for head in guide.conditionals.values():
        head = getattr(head, "base", head)
        nn.init.zeros_(head.raw_scale.weight)
        nn.init.constant_(head.raw_scale.bias, 1.2)
    return guide


def draws(guide, x, k):
    return poutine.trace(guide).get_trace(x.repeat(k)).nodes["z"]


def ratios(guide, x, prior, dim=-1, k=4000):
    """Importance weights p(z) / q(z) of k draws for each datum, (k, n), and the draws."""
    site = poutine.trace(guide).get_trace(x.repeat(k)).nodes["z"]
    log_weights = prior.log_prob(site["value"]) - site["fn"].log_prob(site["value"])
    log_weights = log_weights.movedim(dim, 0).reshape(k * len(x), -1).sum(1)
    return log_weights.double().exp().reshape(k, len(x)), site["value"]


def check_integral(weights):
    """E_q[p(z) / q(z)] is 1, with the prior's own density."""
    error = weights.std(0) / len(weights) ** 0.5
    assert (error < 0.1).all()
    assert excess((weights.mean(0) - 1) / error, draws=len(weights)) < 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prior", PRIORS)
def test_draws_are_in_the_support_and_the_density_integrates_to_one(prior, family):
    x, model = torch.randn(N), unrelated(PRIORS[prior])
    guide = widened(FAMILIES[family](model, like=x, hidden=(4,)))
    weights, z = ratios(guide, x, PRIORS[prior]())
    assert PRIORS[prior]().support.check(z).all()
    check_integral(weights)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prior", ["positive number", "simplex", "ordered"])
@pytest.mark.parametrize("plates", [name for name in PLATES if name != "none"])
def test_so_it_does_in_plates_inside_a_datum(plates, prior, family):
    made = PRIORS.get(prior, lambda: dist.Gamma(20.0, 1.0))
    x, model = torch.randn(N), unrelated(made, plates)
    guide = widened(FAMILIES[family](model, like=x, hidden=(4,)))
    inner, dim = PLATES[plates]
    weights, z = ratios(guide, x, made(), dim)
    shape = [1] * -min(dim, *inner, -1)
    for at, size in {**inner, dim: 4000 * N}.items():
        shape[at] = size
    assert z.shape == (*shape, *made().event_shape)
    check_integral(weights)


@pytest.mark.parametrize("family", FAMILIES)
def test_importance_finds_the_evidence_of_data_that_tell_nothing(family):
    x = torch.randn(N)
    model = unrelated(PRIORS["simplex"], "to the right")
    guide = widened(FAMILIES[family](model, like=x, hidden=(4,)))
    found = infer.importance(model, guide, x, samples=2000)
    error = found.log_likelihood - dist.Normal(0.0, 1.0).log_prob(x)
    assert (found.standard_error < 0.2).all()
    assert excess(error / found.standard_error, draws=2000) < 1


class Conjugate(nn.Module):
    """A latent of a prior, and what is observed given it."""

    def __init__(self, prior, observed):
        super().__init__()
        self.prior, self.observed = prior, observed

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.observed(z), obs=x)


CONCENTRATION = torch.tensor([1.0, 2.0, 3.0])
# Prior, likelihood, evidence in closed form
CONJUGATE = {
    "Gamma-Poisson": (
        lambda: dist.Gamma(2.0, 0.1),
        dist.Poisson,
        dist.GammaPoisson(2.0, 0.1),
    ),
    "Beta-Binomial": (
        lambda: dist.Beta(2.0, 3.0),
        lambda z: dist.Binomial(10, z),
        dist.BetaBinomial(2.0, 3.0, 10),
    ),
    "LogNormal": (
        lambda: dist.LogNormal(0.5, 1.0),
        lambda z: dist.LogNormal(z.log(), 0.6),
        dist.LogNormal(0.5, 1.36**0.5),
    ),
    "Dirichlet-Multinomial": (
        lambda: dist.Dirichlet(CONCENTRATION),
        lambda z: dist.Multinomial(20, z),
        dist.DirichletMultinomial(CONCENTRATION, 20),
    ),
}
TRAINED = [
    *((name, "BottomUp") for name in CONJUGATE),
    ("Dirichlet-Multinomial", "FullCovariance"),
    ("Dirichlet-Multinomial", "Flow"),
]


@pytest.mark.parametrize(("name", "family"), TRAINED)
def test_conjugate_pairs_reach_their_evidence(name, family):
    prior, observed, evidence = CONJUGATE[name]
    model = Conjugate(prior, observed)
    x = evidence.sample((100,))
    guide = FAMILIES[family](model, like=x, hidden=(16,))
    trained(model, guide, x, steps=120, lr=0.05)
    exact = evidence.log_prob(x)
    gap = (exact - infer.elbo_terms(model, guide, x, samples=200).elbo).mean()
    assert gap < 0.15
    found = infer.importance(model, guide, x, samples=2000)
    error = found.standard_error.square().sum().sqrt() / len(x)
    assert abs((found.log_likelihood - exact).mean()) < sigmas() * error
