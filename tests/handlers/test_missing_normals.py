"""Joint normals of which parts are missing, against marginals and conditionals by numpy."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy.stats import multivariate_normal

from pyro_vae import Trainer, guides, handlers, infer, likelihoods
from pyro_vae.models import VAE
from pyro_vae.programs.missing import completed, hiding

N, D = 6, 4
GENERATOR = torch.Generator().manual_seed(4)
LOC = torch.randn(N, D, generator=GENERATOR).double()
FACTOR = torch.randn(D, 2, generator=GENERATOR).double()
NOISE = torch.tensor([0.3, 0.5, 0.7, 0.9]).double()
COVARIANCE = FACTOR @ FACTOR.T + NOISE.diag()
X = torch.randn(N, D, generator=GENERATOR).double()
GONE = torch.tensor(
    [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1]]
).bool()
GAPPY = X.masked_fill(GONE, torch.nan)
KINDS = {
    "covariance": lambda: dist.MultivariateNormal(LOC, COVARIANCE),
    "a factor": lambda: dist.MultivariateNormal(LOC, scale_tril=torch.linalg.cholesky(COVARIANCE)),
    "low rank": lambda: dist.LowRankMultivariateNormal(LOC, FACTOR, NOISE),
    "expanded": lambda: dist.MultivariateNormal(LOC[:1], COVARIANCE).expand([N]),
}


def marginals(loc):
    found = []
    for row, gone, mean in zip(X.numpy(), GONE.numpy(), loc.numpy(), strict=True):
        seen = ~gone
        covariance = COVARIANCE.numpy()[np.ix_(seen, seen)]
        exact = multivariate_normal.logpdf(row[seen], mean[seen], covariance) if any(seen) else 0.0
        found.append(exact)
    return torch.tensor(np.array(found))


def observed(p, x, program=handlers.missing):
    def model(x):
        with pyro.plate("data", N):
            pyro.sample("x", p, obs=x)

    trace = poutine.trace(program(model)).get_trace(x)
    trace.compute_log_prob()
    return trace.nodes["x"]["log_prob"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_seen_has_its_exact_marginal(kind):
    p = KINDS[kind]()
    torch.testing.assert_close(observed(p, GAPPY), marginals(p.loc.expand(N, D)))
    # Rows without NaN are what they are without the handler, to the bit
    assert torch.equal(observed(p, GAPPY)[0], observed(p, X, lambda model: model)[0])
    assert torch.equal(observed(p, X), observed(p, X, lambda model: model))


def test_gradients_are_those_of_the_marginals():
    loc, factor = LOC.clone().requires_grad_(), FACTOR.clone().requires_grad_()
    full = (factor @ factor.T + NOISE.diag()).expand(N, D, D)
    expected = 0.0
    for i in range(N - 1):
        seen = ~GONE[i]
        p = dist.MultivariateNormal(loc[i, seen], full[i][seen][:, seen])
        expected = expected + p.log_prob(X[i, seen])
    expected = torch.autograd.grad(expected, (loc, factor), retain_graph=True)
    for p in (
        dist.MultivariateNormal(loc, full),
        dist.LowRankMultivariateNormal(loc, factor, NOISE),
    ):
        total = observed(p, GAPPY).sum()
        found = torch.autograd.grad(total, (loc, factor), retain_graph=True)
        torch.testing.assert_close(found, expected)
        assert not found[0][-1].any() and not found[0][GONE].any()


@pytest.mark.parametrize("kind", ["covariance", "low rank"])
def test_what_is_missing_is_drawn_given_what_is_seen(kind):
    p = completed(hiding(KINDS[kind]().to_event(0)), GAPPY)
    draws = p.sample((4000,))
    torch.testing.assert_close(draws[:, ~GONE], X[~GONE].expand(4000, -1))
    for i in range(1, N):
        gone, seen = GONE[i], ~GONE[i]
        gain = COVARIANCE[gone][:, seen] @ torch.linalg.inv(COVARIANCE[seen][:, seen])
        mean = LOC[i, gone] + gain @ (X[i, seen] - LOC[i, seen])
        rest = COVARIANCE[gone][:, gone] - gain @ COVARIANCE[seen][:, gone]
        torch.testing.assert_close(p.mean[i, gone], mean)
        error = 5 * rest.diagonal().sqrt() / 4000**0.5
        assert ((draws[:, i, gone].mean(0) - mean).abs() < error).all()
        torch.testing.assert_close(
            draws[:, i, gone].T.cov(correction=0).reshape(rest.shape), rest, atol=0.3, rtol=0
        )


def test_imputation_is_the_conditional_mean():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            p = dist.MultivariateNormal(z @ torch.eye(2, D).double(), COVARIANCE)
            pyro.sample("x", p, obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))

    total = COVARIANCE + torch.eye(2, D).double().T @ torch.eye(2, D).double()
    torch.manual_seed(0)
    found = infer.impute(handlers.missing(model), guide, GAPPY, samples=4000, draws=2)
    for i in range(1, N):
        gone, seen = GONE[i], ~GONE[i]
        gain = total[gone][:, seen] @ torch.linalg.inv(total[seen][:, seen])
        spread = (total[gone][:, gone] - gain @ total[seen][:, gone]).diagonal().sqrt()
        away = (found.mean[i, gone] - gain @ X[i, seen]).abs()
        assert (away < 5 * spread / found.effective_sample_size[i] ** 0.5).all()
        assert torch.equal(found.draws[:, i, seen], X[i, seen].expand(2, -1))


class Correlated(likelihoods.Likelihood):
    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(FACTOR.float())

    def forward(self, features):
        return dist.LowRankMultivariateNormal(features, self.factor, NOISE.float())


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_a_model_of_correlated_noise_trains(engine):
    model = handlers.missing(VAE((D,), 2, likelihood=Correlated(), hidden=(4,)))
    trainer = Trainer(model, guides.BottomUp(model), seed=0, lr=0.01, engine=engine)
    x = GAPPY[:-1].float().repeat(8, 1)
    trainer.fit(x, epochs=30, batch_size=40, progress=False)
    assert trainer.history[-1]["elbo"] > trainer.history[0]["elbo"] + 0.2
