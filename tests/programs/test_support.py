"""Likelihoods of one's own: every datum is compared with the support, not the first batch."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import Trainer
from pyro_vae.data.arguments import Arguments
from pyro_vae.guides import BottomUp
from pyro_vae.likelihoods import Likelihood
from pyro_vae.models import VAE
from pyro_vae.programs.checks import check_data


def likelihood(make, **attributes):
    return type("Mine", (Likelihood,), {"forward": lambda self, f: make(f), **attributes})()


POISSON = likelihood(lambda f: dist.Poisson(f.exp()))


def counts(n=500):
    return torch.poisson(torch.full((n, 4), 3.0))


def test_one_value_among_many_that_is_no_count():
    x = counts()
    POISSON.check(x)
    x[333, 2] = 1.6
    with pytest.raises(
        ValueError, match=r"Mine gives .* IntegerGreaterThan.*, got 1 .*first 1.6: r"
    ):
        POISSON.check(x)
    vae = VAE((4,), 2, likelihood=POISSON, hidden=(5,))
    trainer = Trainer(vae, BottomUp(vae), seed=0)
    with pytest.raises(ValueError, match="data: x: Mine gives probability to"):
        trainer.fit(x, epochs=1, progress=False)
    assert trainer.step == 0
    # The advice
    trainer.fit(x.round(), epochs=1, progress=False)


@pytest.mark.parametrize(
    ("make", "good", "bad"),
    [
        (lambda f: dist.Poisson(f), 2.0, -1.0),
        (lambda f: dist.Gamma(f.exp(), 1.0), 0.5, -0.5),
        (lambda f: dist.Beta(f.exp(), 1.0), 0.5, 1.5),
        (lambda f: dist.Binomial(5, logits=f), 5.0, 6.0),
        (lambda f: dist.NegativeBinomial(f.exp(), logits=f), 2.0, 0.5),
        (lambda f: dist.Geometric(logits=f), 2.0, 0.5),
        (lambda f: dist.LogNormal(f, 1.0), 0.5, -0.5),
    ],
)
def test_supports_of_elements(make, good, bad):
    x = torch.full((9, 3), good)
    likelihood(make).check(x)
    x[7, 1] = bad
    with pytest.raises(ValueError, match=f"got 1 outside, the first {bad:.4g}"):
        likelihood(make).check(x)


def test_supports_of_whole_data():
    mine = likelihood(lambda f: dist.Dirichlet(f.exp()))
    x = torch.full((9, 4), 0.25)
    mine.check(x)
    x[5] = torch.tensor([0.5, 0.5, 0.5, 0.0])
    with pytest.raises(
        ValueError, match=r"Simplex\(\), got 1 outside, the first one of values from"
    ):
        mine.check(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda f: dist.Uniform(f - 9, f + 9),
        lambda f: dist.Poisson(f.exp(), validate_args=False),
        lambda f: dist.MultivariateNormal(f, f[..., None] * f[..., None, :]),
        lambda f: dist.Normal(f, 1.0),
    ],
    ids=["depends on the features", "unchecked", "not made of these features", "real"],
)
def test_what_is_not_refused(make):
    likelihood(make).check(torch.full((5, 3), 1.6))


def test_looking_changes_nothing():
    class PerElement(Likelihood):
        def feature_shape(self, event_shape):
            self.rate = nn.Parameter(torch.rand(event_shape))
            return tuple(event_shape)

        def forward(self, features):
            self.seen = True
            return dist.Poisson((features + self.rate).exp())

    vae = VAE((4,), 2, likelihood=PerElement(), hidden=(5,))
    x = counts()
    before, state = vae.likelihood.rate, torch.get_rng_state()
    vae.likelihood.check(x)
    assert vae.likelihood.rate is before and vae.likelihood.training
    assert not hasattr(vae.likelihood, "seen") and torch.equal(torch.get_rng_state(), state)


def program(x, *, observe=lambda x: x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        pyro.sample("seen", dist.Poisson(z.exp()).to_event(1), obs=observe(x))


def test_every_program_is_looked_at():
    x = counts()
    check_data(program, x)
    x[333, 2] = 1.6
    with pytest.raises(ValueError, match=r"site 'seen' gives .*, got 1 outside, the first 1.6"):
        check_data(program, x)
    # Data that it makes others of are its own business
    check_data(lambda x: program(x, observe=torch.round), x + 0.2)


def of_totals(x, total):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("seen", dist.Binomial(total, logits=z), obs=x)


def test_bounds_of_each_datum_are_those_of_all():
    """Where the bounds of the first few tell nothing of the others."""
    total = torch.arange(3.0, 1503.0)
    x = (total / 2).floor()
    check_data(of_totals, Arguments((x, total)))
    x[1207] = total[1207] + 1
    with pytest.raises(
        ValueError, match=r"to IntegerInterval with .*, got 1 outside, the first 1211"
    ):
        check_data(of_totals, Arguments((x, total)))
