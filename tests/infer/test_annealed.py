"""Annealing against exact evidences, from guides that are wrong."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.distributions import Gamma, Normal

from pyro_vae.guides import BottomUp, Flow, FullCovariance, Labelled, Ladder, PerDatum
from pyro_vae.infer import annealed, importance
from pyro_vae.infer.annealing import inverse_temperatures
from pyro_vae.infer.path import prior_of
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import VAE

FEW = {"temperatures": 8, "chains": 3, "leapfrog": 2, "progress": False}
# Estimates of one datum that are compared with its exact evidence
COPIES = 40
SHORT = {"temperatures": 60, "chains": 8, "leapfrog": 2, "progress": False}


def assert_exact(found, exact):
    """E[w] = p(x), by estimates of ``COPIES`` copies of the data most of which are near."""
    ratio = (found.log_likelihood.double() - exact.double().repeat(COPIES)).exp()
    ratio = ratio.unflatten(0, (COPIES, -1))
    assert excess((ratio.mean(0) - 1) / (ratio.std(0) / COPIES**0.5), draws=COPIES) < 1
    assert ratio.log().abs().median(0).values.max() < 0.4


def integral(log_values, step):
    return log_values.logsumexp(0) + math.log(step)


@pytest.mark.parametrize("start", ["shifted", "overdispersed", "untrained", "prior"])
def test_bad_guides_reach_the_exact_evidence(linear, start):
    x = linear.data(40)
    guide = {
        "shifted": linear.guide(shift=1.5),
        "overdispersed": linear.guide(shift=0.5, widen=3.0),
        "untrained": BottomUp(linear.vae),
        "prior": None,
    }[start]
    found = annealed(linear.vae, guide, x, temperatures=200, leapfrog=2, progress=False)
    exact = linear.evidence().log_prob(x)
    assert abs(found.log_likelihood.mean() - exact.mean()) < 0.05
    z = (found.log_likelihood - exact) / found.standard_error
    assert excess(z, draws=16) < 1
    assert ((0.4 < found.acceptance) & (found.acceptance < 0.9)).all()


def test_with_the_exact_posterior_nothing_is_left_to_estimate(linear):
    x = linear.data(5)
    found = annealed(linear.vae, linear.guide(), x, **FEW)
    exact = linear.evidence().log_prob(x)
    torch.testing.assert_close(found.log_likelihood, exact, atol=2e-5, rtol=1e-5)
    assert (found.effective_sample_size > 3 - 1e-6).all()


def test_the_estimate_of_the_evidence_is_unbiased(linear):
    """Of few temperatures, where its logarithm is far from unbiased."""
    x = linear.data(1)
    repeated = x.expand(2000, 6)
    options = {"temperatures": 4, "chains": 1, "leapfrog": 2, "progress": False}
    guide = linear.guide(shift=0.7, widen=1.6)
    ratio = annealed(linear.vae, guide, repeated, **options).log_likelihood.double()
    ratio = ratio - linear.evidence().log_prob(x[0]).double()
    weights = ratio.exp()
    assert excess((weights.mean() - 1) / (weights.std() / 2000**0.5)) < 1
    assert excess(ratio.mean() / (ratio.std() / 2000**0.5)) > 1 and ratio.mean() < 0


def test_one_temperature_is_importance_sampling(linear):
    x, guide = linear.data(1).expand(300, 6), linear.guide(shift=0.5, widen=1.5)
    one = annealed(linear.vae, guide, x, temperatures=1, chains=20, progress=False)
    other = importance(linear.vae, guide, x, samples=20)
    assert one.acceptance.isnan().all()
    for name in ("log_likelihood", "standard_error", "effective_sample_size"):
        a, b = getattr(one, name), getattr(other, name)
        assert excess((a.mean() - b.mean()) / ((a.var() + b.var()) / 300) ** 0.5) < 1


def test_more_temperatures_leave_less(linear):
    x, guide = linear.data(1).expand(200, 6), linear.guide(shift=1.0)
    exact, before = linear.evidence().log_prob(x[0]), -math.inf
    for temperatures in (1, 4, 60):
        options = {"temperatures": temperatures, "chains": 2, "progress": False}
        left = annealed(linear.vae, guide, x, **options).log_likelihood - exact
        assert left.mean() > before + 0.05
        before = left.mean()
    assert before > -0.4


class Even(nn.Module):
    """Two latents, of which a decoder that is even in both makes four modes."""

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(even(z), 0.3).to_event(1), obs=x)


def even(z):
    return torch.stack([z[..., 0] ** 2, z.square().sum(-1)], -1)


class Spread(nn.Module):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_full((2,), 0.3), 1.5).to_event(1))


@pytest.mark.parametrize("guide", [Spread(), None])
def test_a_posterior_of_four_modes_against_quadrature(guide):
    x = torch.tensor([[0.6, 1.5], [1.0, 1.2], [0.1, 0.3]])
    line = torch.linspace(-5, 5, 501, dtype=torch.float64)
    z = torch.cartesian_prod(line, line)
    log_prior = Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_joint = [log_prior + Normal(even(z), 0.3).log_prob(datum).sum(-1) for datum in x.double()]
    exact = integral(torch.stack(log_joint, 1), (line[1] - line[0]) ** 2)
    assert_exact(annealed(Even(), guide, x.repeat(COPIES, 1), **SHORT), exact)


class Counts(nn.Module):
    """Rates of a Gamma distribution: counts are negative binomial."""

    def forward(self, x):
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
            pyro.sample("x", dist.Poisson(rate), obs=x)


class Lognormal(nn.Module):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.LogNormal(torch.log1p(x), 1.0))


@pytest.mark.parametrize("guide", [Lognormal(), None])
def test_a_positive_latent_against_the_negative_binomial(guide):
    x = torch.tensor([0.0, 1.0, 4.0, 15.0])
    exact = dist.NegativeBinomial(2.0, probs=torch.tensor(1 / 1.5)).log_prob(x)
    assert_exact(annealed(Counts(), guide, x.repeat(COPIES), **SHORT), exact)


class Coins(nn.Module):
    """A chance in (0, 1), a simplex below a positive latent, in a plate inside the datum."""

    def forward(self, flips, words):
        data = pyro.plate("data", len(flips), dim=-2)
        with data, pyro.plate("coins", 3, dim=-1):
            chance = pyro.sample("chance", dist.Beta(2.0, 1.0))
            pyro.sample("flips", dist.Binomial(10, chance), obs=flips)
        with data:
            topics = pyro.sample("topics", dist.Dirichlet(torch.tensor([1.0, 2.0, 0.5])))
            pyro.sample("words", dist.Multinomial(6, topics), obs=words)


def test_an_interval_and_a_simplex_of_a_program_of_two_columns():
    flips = torch.tensor([[0.0, 5.0, 10.0], [7.0, 7.0, 2.0]])
    words = torch.tensor([[6.0, 0.0, 0.0], [1.0, 3.0, 2.0]])
    columns = {"flips": flips.repeat(COPIES, 1), "words": words[:, None].repeat(COPIES, 1, 1)}
    found = annealed(Coins(), None, columns, plate="data", **SHORT)
    exact = dist.BetaBinomial(2.0, 1.0, total_count=10).log_prob(flips).sum(1)
    prior = torch.tensor([1.0, 2.0, 0.5])
    assert_exact(found, exact + dist.DirichletMultinomial(prior, total_count=6).log_prob(words))


class Nested(nn.Module):
    """The support of one latent depends on another; a function of its own argument names."""

    def forward(self, values, width):
        with pyro.plate("data", len(values)):
            top = pyro.sample("top", dist.Gamma(torch.tensor(3.0), width))
            low = pyro.sample("low", dist.Uniform(0.0, top))
            pyro.sample("seen", dist.Normal(low, 0.5), obs=values)


def test_a_support_that_depends_on_a_latent_against_quadrature():
    values = torch.tensor([0.5, 2.0])
    columns, own = {"values": values.repeat(COPIES)}, {"width": 2.0}
    found = annealed(Nested(), None, columns, arguments=own, **SHORT)
    top = torch.linspace(1e-3, 15, 3001, dtype=torch.float64)[:, None]
    within = Normal(0.0, 0.5).cdf(values.double()) - Normal(0.0, 0.5).cdf(values - top)
    log_joint = Gamma(3.0, 2.0).log_prob(top) + (within / top).log()
    assert_exact(found, integral(log_joint, top[1] - top[0]))


@pytest.mark.parametrize("make", [Flow, FullCovariance, Ladder, BottomUp])
def test_guides_of_hierarchies_with_labels(make):
    """Weights of draws of the prior have no heavy tail where the likelihood is wide."""
    vae = VAE((4,), (2, 2), likelihood=Gaussian(1.5), hidden=(4,), condition=3)
    guide, x, y = make(vae), torch.randn(2, 4), torch.tensor([0, 2])
    found = annealed(vae, guide, x.repeat(COPIES, 1), y=y.repeat(COPIES), **SHORT)
    exact = importance(vae, prior_of(vae), x, y=y, samples=50_000)
    assert exact.standard_error.max() < 0.01
    assert_exact(found, exact.log_likelihood)


def test_an_autoguide_and_one_per_datum(linear):
    x = linear.data(4)
    exact, x = linear.evidence().log_prob(x), x.repeat(COPIES, 1)
    wide = functools.partial(AutoNormal, init_scale=1.0)
    stock = wide(linear.vae)
    stock(x)
    for guide in (stock, PerDatum(linear.vae, x, autoguide=wide)):
        assert_exact(annealed(linear.vae, guide, x, **SHORT), exact)


class Sequences(nn.Module):
    """A positive latent per step, hidden where a sequence has ended."""

    def forward(self, x, length):
        shown = torch.arange(x.shape[1]) < length[:, None]
        with pyro.plate("data", len(x), dim=-2), pyro.plate("steps", x.shape[1], dim=-1):
            with poutine.mask(mask=shown):
                rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
                pyro.sample("x", dist.Poisson(rate), obs=x)


def test_steps_that_are_hidden_count_for_nothing():
    x, length = torch.tensor([[1.0, 4.0, 0.0], [2.0, 0.0, 3.0]]), torch.tensor([1, 3])
    columns = {"x": x.repeat(COPIES, 1), "length": length.repeat(COPIES)}
    found = annealed(Sequences(), None, columns, plate="data", **SHORT)
    each = dist.NegativeBinomial(2.0, probs=torch.tensor(1 / 1.5)).log_prob(x)
    assert_exact(found, torch.stack([each[0, 0], each[1].sum()]))


class Cliff(nn.Module):
    """NaN on one half of the line, to which no chain may go."""

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.sqrt().square(), 0.5), obs=x)


class Right(nn.Module):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(x.new_zeros(()), 3.0))


def test_what_is_nan_is_never_accepted():
    x = torch.tensor([0.1, 1.0])
    found = annealed(Cliff(), Right(), x.repeat(COPIES), **SHORT)
    line = torch.linspace(1e-4, 3, 3001, dtype=torch.float64)[:, None]
    log_joint = Normal(0.0, 1.0).log_prob(line) + Normal(line, 0.5).log_prob(x.double())
    assert_exact(found, integral(log_joint, line[1] - line[0]))
    assert ((0.3 < found.acceptance) & (found.acceptance < 1)).all()


def test_temperatures_are_from_0_to_1_and_symmetric():
    betas = torch.tensor(inverse_temperatures(10)).double()
    assert betas[0] == 0 and betas[-1] == 1 and (betas.diff() > 0).all()
    torch.testing.assert_close(betas, 1 - betas.flip(0))
    assert betas.diff()[0] < 0.3 * betas.diff()[5]


def test_results_are_told(linear):
    found = annealed(linear.vae, None, linear.data(3), **FEW)
    text = str(found)
    assert "3 data, 3 chains, 8 temperatures from the prior, 2 leapfrog steps" in text
    assert [line.split("  ")[1] for line in text.splitlines()[2:]] == [
        *("log p(x)", "Monte Carlo error", "effective sample size", "acceptance", "time")
    ]
    assert "<table>" in found.to_html() and found.start == "prior" and found.seconds > 0


def test_bernoulli_pictures_of_a_two_layer_model_agree_from_both_starts():
    vae = VAE((8,), (3, 2), likelihood=Bernoulli(), hidden=(6,))
    x = torch.rand(1, 8).round().expand(COPIES, 8)
    a, b = (annealed(vae, g, x, **SHORT).log_likelihood.exp() for g in (BottomUp(vae), None))
    assert excess((a.mean() - b.mean()) / ((a.var() + b.var()) / COPIES) ** 0.5, COPIES) < 1
    assert (a / b).log().abs().median() < 0.3


class Switched(nn.Module):
    """A mean that a coin chooses, which is summed out; with ``chance`` a guide of both."""

    def __init__(self, chance=None):
        super().__init__()
        self.chance = chance

    def forward(self, x):
        head = torch.full_like(x, 0.7) if self.chance is None else torch.sigmoid(self.chance * x)
        with pyro.plate("data", len(x)):
            side = pyro.sample("side", dist.Bernoulli(head), infer={"enumerate": "parallel"})
            if self.chance is None:
                z = pyro.sample("z", dist.Normal(4 * side - 2, 1.0))
                pyro.sample("x", dist.Normal(z, 0.5), obs=x)
            else:
                pyro.sample("z", dist.Normal(x + 0.6 * side - 0.3, 0.8))


@pytest.mark.parametrize("guide", [Switched(0.5), None])
def test_what_guide_or_prior_draw_and_the_model_marks_is_summed_out_of_both(guide):
    x = torch.tensor([-2.0, 0.0, 1.0, 3.0])
    parts = [math.log(p) + Normal(m, 1.25**0.5).log_prob(x) for p, m in ((0.3, -2), (0.7, 2))]
    exact = torch.stack(parts).logsumexp(0)
    assert_exact(annealed(Switched(), guide, x.repeat(COPIES), **SHORT), exact)


def test_labels_of_which_some_are_given_are_summed_out():
    options = {"condition": 3, "labels": "partial", "hidden": (4,)}
    vae = VAE((4,), 2, likelihood=Gaussian(1.5), **options)
    x, y = torch.randn(2, 4), torch.tensor([1, -1])
    exact = importance(vae, prior_of(vae), x, y=y, samples=20_000)
    assert exact.standard_error.max() < 0.02
    for guide in (Labelled(BottomUp(vae)), None):
        found = annealed(vae, guide, x.repeat(COPIES, 1), y=y.repeat(COPIES), **SHORT)
        assert_exact(found, exact.log_likelihood)
