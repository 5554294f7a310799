"""What is missing is drawn from, and averaged over, its distribution given what is seen."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess, widened
from missing_values import LinearGaussian, holes
from pyro import poutine
from sklearn.datasets import load_wine

from pyro_vae import Trainer, guides, handlers, infer, likelihoods
from pyro_vae.models import VAE


@pytest.fixture(scope="module")
def exact():
    return LinearGaussian()


@pytest.fixture(scope="module")
def x(exact):
    return holes(exact.vae.sample(60), 0.5)


def test_means_are_the_exact_conditional_means(exact, x):
    """Under the exact posterior, and under another guide, which its weights put right."""
    _, completed = exact.given(x)
    gone = x.isnan()
    other = widened(guides.BottomUp(exact.model, hidden=(4,)), 1.3)
    for guide, samples in ((exact.guide, 400), (other, 4000)):
        found = infer.impute(exact.model, guide, x, samples=samples)
        errors = (found.mean - completed)[gone] / found.standard_error[gone]
        assert excess(errors) < 1
        assert torch.equal(found.mean[~gone], x[~gone])
        assert (found.standard_error[~gone] == 0).all()
        assert (found.effective_sample_size <= samples * (1 + 1e-9)).all()
    same = infer.importance(exact.model, other, x, samples=4000)
    assert torch.allclose(found.effective_sample_size, same.effective_sample_size, rtol=0.3)


def test_the_error_is_that_of_repeated_runs(exact, x):
    guide = widened(guides.BottomUp(exact.model, hidden=(4,)), 1.3)
    runs = []
    for seed in range(40):
        torch.manual_seed(seed)
        runs.append(infer.impute(exact.model, guide, x[:20], samples=500))
    gone = x[:20].isnan()
    found = torch.stack([run.mean[gone] for run in runs]).var(0).mean()
    told = torch.stack([run.standard_error[gone] for run in runs]).square().mean()
    assert 0.6 < float(found / told) < 1.6


def test_draws_are_of_the_exact_conditional_distribution(exact):
    row = exact.vae.sample(1)
    row[0, :2] = torch.nan
    found = infer.impute(exact.model, exact.guide, row, samples=4000, draws=4000).draws[:, 0]
    assert torch.equal(found[:, 2:], row[:, 2:].expand(4000, 2))
    covariance = exact.W @ exact.W.T + exact.noise
    a, b, c = covariance[:2, :2], covariance[:2, 2:], covariance[2:, 2:]
    residual = row[0, 2:] - exact.b[2:]
    mean = exact.b[:2] + b @ torch.linalg.solve(c, residual)
    scale = torch.linalg.cholesky(a - b @ torch.linalg.solve(c, b.T))
    u = torch.linalg.solve_triangular(scale, (found[:, :2] - mean).T, upper=False)
    # Draws share samples, of which each is chosen about once: a variance of 2 / n
    assert excess(u.mean(1) * math.sqrt(4000 / 2)) < 1
    moments = (u @ u.T / 4000 - torch.eye(2)) * math.sqrt(4000 / 2)
    assert excess(moments[[0, 0, 1], [0, 1, 1]] / torch.tensor([2**0.5, 1.0, 2**0.5])) < 1


def test_a_datum_of_which_nothing_is_seen_is_completed_by_the_model(exact):
    x = torch.full((1, 4), torch.nan)
    found = infer.impute(exact.model, exact.guide, x, samples=2000, draws=2000)
    assert excess((found.mean - exact.b) / found.standard_error) < 1
    assert math.isclose(float(found.effective_sample_size), 2000, rel_tol=1e-6)


def test_a_training_set_with_half_missing_is_completed_almost_as_well_as_can_be(exact):
    """By model and guide that have seen nothing else."""
    torch.manual_seed(0)
    whole = exact.vae.sample(600)
    x = holes(whole, 0.5)
    model = handlers.missing(VAE((4,), 2, likelihood=likelihoods.Gaussian("learned"), hidden=()))
    guide = guides.FullCovariance(model, hidden=(32,))
    trainer = Trainer(model, guide, lr=1e-2, seed=0, elbo=infer.ImportanceWeightedELBO(5))
    trainer.fit(x, epochs=40, batch_size=100, progress=False)
    gone = x.isnan()
    found = infer.impute(model, guide, x, samples=200).mean
    best, columns = exact.given(x)[1], x.nanmean(0).expand_as(x)
    errors = [float((v - whole)[gone].square().mean()) for v in (best, found, columns)]
    assert errors[1] < 1.15 * errors[0] and errors[1] < 0.6 * errors[2]
    log_p = infer.log_likelihood(model, guide, x, importance_samples=200)
    assert float((log_p - exact.given(x)[0]).mean()) > -0.1


def test_on_wine_it_is_better_than_column_means():
    table = torch.from_numpy(load_wine().data).float()
    table = (table - table.mean(0)) / table.std(0)
    x = holes(table, 0.3)
    torch.manual_seed(0)
    model = handlers.missing(
        VAE((13,), 3, likelihood=likelihoods.Gaussian("learned"), hidden=(32,))
    )
    guide = guides.BottomUp(model)
    trainer = Trainer(model, guide, lr=5e-3, seed=0, elbo=infer.ImportanceWeightedELBO(5))
    trainer.fit(x, epochs=60, batch_size=64, progress=False)
    found = infer.impute(model, guide, x, samples=200)
    gone = x.isnan()
    squares = [(v - table).square() * gone for v in (x.nanmean(0), found.mean)]
    # Paired, by wine
    better = (squares[0] - squares[1]).sum(1)
    error = float(better.std()) / math.sqrt(len(better))
    assert float(better.mean()) > 5 * error
    assert float(squares[1].sum() / squares[0].sum()) < 0.75


def test_sites_have_each_their_own():
    """A count and a class besides numbers, of a program."""
    weights = torch.tensor([[0.0, 2.0], [1.0, -2.0]])

    def program(x, count, kind):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.1).to_event(1), obs=x)
            pyro.sample("count", dist.Poisson(z[..., 0].exp()), obs=count)
            pyro.sample("kind", dist.Categorical(logits=z @ weights.T), obs=kind)

    torch.manual_seed(0)
    shape = torch.zeros(30, 2)
    drawn = poutine.trace(poutine.uncondition(program)).get_trace(shape, shape[:, 0], shape[:, 0])
    data = {s: drawn.nodes[s]["value"].float() for s in ("x", "count", "kind")}
    whole = {s: v.clone() for s, v in data.items()}
    data["count"][::3], data["kind"][1::3], data["x"][2::3, 0] = (torch.nan,) * 3
    model = handlers.missing(program)
    guide = guides.FullCovariance(model, like=data, hidden=(16,))
    Trainer(model, guide, lr=3e-2, seed=0).fit(data, epochs=80, progress=False)
    found = infer.impute(model, guide, data, samples=500, draws=3)
    assert {*found.mean} == {*found.draws} == {"x", "count", "kind"}
    # Numbers are almost told by z, and the rest is a function of z
    rate, z = found.mean["count"][::3], whole["x"][::3]
    assert torch.allclose(rate, z[:, 0].exp() * math.exp(0.005), rtol=0.3)
    logits = whole["x"][1::3] @ weights.T
    clear = (logits[:, 0] - logits[:, 1]).abs() > 1.5
    assert torch.equal(found.mean["kind"][1::3][clear], logits.argmax(1)[clear].float())
    assert found.standard_error["kind"][1::3].isnan().all()
    assert set(found.draws["kind"][:, 1::3].unique().tolist()) <= {0.0, 1.0}
    for site, value in data.items():
        seen = ~value.isnan()
        assert torch.equal(found.draws[site][:, seen], value[seen].expand(3, -1))


def test_labels_guides_of_each_datum_and_parts(exact):
    x, y = holes(torch.randn(12, 4)), torch.arange(12) % 2
    model = handlers.missing(VAE((4,), 2, likelihood=likelihoods.Gaussian(), condition=2))
    found = infer.impute(model, guides.BottomUp(model), x, y=y, samples=10, draws=2)
    assert found.mean.isfinite().all() and found.draws.shape == (2, 12, 4)
    guide = guides.PerDatum(exact.model, x)
    state = torch.get_rng_state()
    found = infer.impute(exact.model, guide, x, samples=10)
    assert found.mean.isfinite().all() and torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_completed_is_refused(exact, x):
    with pytest.raises(TypeError, match="model: expected one to which NaN means missing, got VAE"):
        infer.impute(exact.vae, exact.guide, x)
    with pytest.raises(ValueError, match="samples: expected a whole number of at least 1, got 0"):
        infer.impute(exact.model, exact.guide, x, samples=0)
    with pytest.raises(ValueError, match="draws: expected a whole number of at least 1, got -1"):
        infer.impute(exact.model, exact.guide, x, draws=-1)
    with pytest.raises(ValueError, match="the guide is a point mass"):
        infer.impute(exact.model, guides.Delta(exact.model), x)


def test_columns_of_several_kinds_are_completed_each_in_its_way():
    """Numbers by their mean, categories by the likeliest, against a loop over the classes."""
    parts = {0: likelihoods.Gaussian(0.5), 1: likelihoods.Bernoulli(), 2: likelihoods.Nominal(3)}
    torch.manual_seed(0)
    vae = VAE((3,), 2, likelihood=likelihoods.Mixed(parts), hidden=(8,))
    model = handlers.missing(vae)
    guide = guides.BottomUp(model)
    full = torch.stack(
        [torch.randn(30), torch.randint(0, 2, (30,)), torch.randint(0, 3, (30,))], 1
    )
    x = full.where(torch.rand(30, 3) > 0.4, torch.nan)
    x = x[~x.isnan().all(1)]
    Trainer(model, guide, seed=0).fit(x, epochs=3, batch_size=10, progress=False)
    found = infer.impute(model, guide, x, samples=50, draws=4)
    seen = ~x.isnan()
    for values in (found.mean, *found.draws):
        assert torch.equal(values[seen], x[seen])
        assert not values.isnan().any()
        assert (values[:, 2] == values[:, 2].round()).all() and (values[:, 2] <= 2).all()
    assert ((found.mean[:, 1] >= 0) & (found.mean[:, 1] <= 1)).all()
    log_p = infer.elbo_terms(model, guide, x).reconstruction
    alone = infer.elbo_terms(model, guide, x[:1]).reconstruction
    assert log_p.isfinite().all() and alone.shape == (1,)
