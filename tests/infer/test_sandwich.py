"""Bounds from both sides, around exact evidences."""

import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import sigmas
from torch import nn

from pyro_vae.guides import BottomUp
from pyro_vae.handlers import scale_latents
from pyro_vae.infer import sandwich
from pyro_vae.likelihoods import Bernoulli, Gaussian, LogNormal, Multinomial, Tokens
from pyro_vae.models import VAE

FEW = {"temperatures": 10, "chains": 4, "leapfrog": 2, "importance_samples": 50, "progress": False}


@pytest.fixture
def drawn(monkeypatch):
    """The data that sandwiches drew."""
    found, module = [], sys.modules["pyro_vae.infer.sandwich"]
    weighed = module.weighed
    monkeypatch.setattr(
        module, "weighed", lambda *a, **k: (found.append(a[2]), weighed(*a, **k))[1]
    )
    return found


def errors(values):
    """The mean in units of its standard error."""
    return values.mean() / (values.std() / len(values) ** 0.5)


def test_the_exact_evidence_is_between_the_bounds_in_every_run(linear, drawn):
    guide = linear.guide(shift=1.0, widen=1.3)
    # So few that both are off by a nat, six standard errors
    options = {**FEW, "temperatures": 4, "chains": 2, "leapfrog": 1}
    for seed in range(20):
        found = sandwich(linear.vae, guide, seed=seed, **options)
        exact = linear.evidence().log_prob(drawn[-1]).mean()
        assert found.lower.mean() < exact < found.upper.mean()


def test_bounds_that_are_near_hold_within_their_errors(linear, drawn):
    found = sandwich(linear.vae, linear.guide(shift=1.0), **{**FEW, "temperatures": 80})
    exact, limit = linear.evidence().log_prob(drawn[-1]), sigmas(3, 100)
    for left in (found.lower - exact, exact - found.upper, found.importance - exact):
        assert errors(left) < limit
    assert abs(found.gap[0]) < 0.2


def test_the_weights_of_the_way_back_have_the_reciprocal_evidence_as_mean(linear, drawn):
    found = sandwich(linear.vae, None, n=2000, **{**FEW, "temperatures": 6, "chains": 1})
    exact = linear.evidence().log_prob(drawn[-1])
    back = (exact - found.upper).double().exp()
    assert abs(errors(back - 1)) < sigmas()
    assert errors(found.upper - exact) > sigmas() < errors(exact - found.lower)


def test_many_temperatures_bring_the_bounds_together(linear):
    far, near = (sandwich(linear.vae, None, **{**FEW, "temperatures": t}) for t in (4, 150))
    assert abs(near.gap[0]) < 0.1 < far.gap[0]


def test_a_conditional_model_and_handlers(drawn):
    vae = VAE((5,), (2, 2), likelihood=Bernoulli(), hidden=(4,), condition=3)
    guide, y = BottomUp(vae), torch.tensor([0, 1, 2, 2])
    found = sandwich(scale_latents(vae, 0.5), scale_latents(guide, 0.5), n=4, y=y, seed=1, **FEW)
    plain = sandwich(vae, guide, n=4, y=y, seed=1, **FEW)
    torch.testing.assert_close(found.upper, plain.upper, atol=1e-3, rtol=1e-3)
    assert drawn[0].shape == (4, 5) and set(drawn[0].unique().tolist()) <= {0.0, 1.0}
    assert sandwich(vae, guide, n=4, y=1, **FEW).lower.isfinite().all()


class Regression(nn.Module):
    """Two observed columns, one of them named, and a covariate that is kept."""

    def forward(self, inputs, *, counts, values):
        with pyro.plate("data", len(inputs)):
            slope = pyro.sample("slope", dist.Gamma(3.0, 2.0))
            pyro.sample("counts", dist.Poisson(slope * inputs.exp()), obs=counts)
            pyro.sample("values", dist.Normal(slope * inputs, 0.5), obs=values)


def test_a_program_of_ones_own_keeps_what_it_does_not_observe(drawn):
    inputs = torch.linspace(-1, 1, 30)
    columns = {"inputs": inputs, "counts": torch.zeros(30), "values": torch.zeros(30)}
    found = sandwich(Regression(), None, n=20, like=columns, **{**FEW, "temperatures": 80})
    seen = drawn[-1]
    assert torch.equal(seen["inputs"], inputs[:20])
    assert (seen["counts"] > 0).any() and (seen["values"] != 0).all()
    assert len(found.lower) == 20 and abs(found.gap[0]) < 0.1


@pytest.mark.parametrize("likelihood", [LogNormal(), Multinomial(5), Tokens(4)])
def test_likelihoods_whose_range_is_without_zeros(likelihood, drawn):
    vae = VAE((3,), 2, likelihood=likelihood, hidden=(3,))
    found = sandwich(vae, None, n=20, **FEW)
    assert found.lower.isfinite().all() and abs(found.gap[0]) < 1
    vae.check_data(drawn[-1])


def test_state_is_left_and_a_seed_gives_the_same_numbers(linear):
    guide = linear.guide(shift=0.5)
    stream = torch.get_rng_state()
    first, again = (sandwich(linear.vae, guide, n=5, seed=2, **FEW) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), stream)
    assert torch.equal(first.lower, again.lower) and torch.equal(first.upper, again.upper)
    assert not torch.equal(first.lower, sandwich(linear.vae, guide, n=5, seed=3, **FEW).lower)
    assert not any(p.grad is not None for p in linear.vae.parameters())


def test_results_are_told():
    vae = VAE((3,), 2, likelihood=Gaussian(), hidden=(3,))
    found = sandwich(vae, BottomUp(vae), n=4, **FEW)
    text = str(found)
    assert "4 data drawn from the model" in text and "10 temperatures from the guide" in text
    assert "50 importance samples" in text and "upper - lower" in text
    mean, error = found.gap
    assert mean == pytest.approx(float((found.upper - found.lower).mean()), abs=1e-5) and error > 0
    assert "<table>" in found.to_html()


class Sum(nn.Module):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("s", dist.Normal(z, 1.0), obs=x.sum(-1))


def test_what_is_no_argument_is_refused():
    with pytest.raises(ValueError, match="site 's': expected it to observe one of the program's"):
        sandwich(Sum(), None, like=torch.randn(5, 2), **FEW)
    with pytest.raises(TypeError, match="like: expected data"):
        sandwich(Sum(), None, **FEW)
    for change in ({"n": 0}, {"temperatures": 0}, {"chains": 0}, {"importance_samples": 0}):
        with pytest.raises(ValueError, match=next(iter(change))):
            sandwich(VAE((3,), 2, likelihood=Gaussian()), None, **{**FEW, **change})
