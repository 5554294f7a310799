"""What is shown of distributions with a mean, without a formula for it, and without any."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import LEVEL, excess
from scipy import stats
from torch import nn

from pyro_vae import Trainer, diagnostics, guides, infer, models, plots
from pyro_vae.likelihoods import Gaussian, Likelihood
from pyro_vae.programs.means import mean_of


class Moved(nn.Module):
    """A flow that knows no mean: z = loc + logit(u) / 2, u of a Beta(3, 3/2), on all reals.

    E[logit u] = digamma(a) - digamma(b), Var[logit u] = trigamma(a) + trigamma(b).
    """

    def __init__(self, features, size):
        super().__init__()
        self.loc = nn.Linear(features, size)

    def forward(self, x):
        loc = self.loc(x)
        base = dist.Beta(torch.full_like(loc, 3.0), 1.5).to_event(1)
        moves = [dist.transforms.SigmoidTransform().inv, dist.transforms.AffineTransform(loc, 0.5)]
        return dist.TransformedDistribution(base, moves)

    def mean(self, x):
        a, b = torch.tensor([3.0, 1.5]).digamma()
        return self.loc(x) + (a - b) / 2


class Noise(Likelihood):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, features):
        return self.make(features)


@pytest.fixture
def pair():
    vae = models.VAE((1, 4, 4), 2, likelihood=Gaussian(), hidden=(5,))
    flow = nn.Sequential(nn.Flatten(), Moved(16, 2))
    return vae, guides.BottomUp(vae, conditionals={"z1": flow})


def test_the_mean_of_a_flow_is_that_of_its_draws(pair):
    vae, guide = pair
    x = torch.randn(30, 1, 4, 4)
    expected = guide.conditionals["z1"][1].mean(x.flatten(1)).detach()
    sd = torch.tensor([3.0, 1.5]).polygamma(1).sum().sqrt() / 2
    found = guide.encode(x).mean["z1"]
    error = (found - expected) / (sd / 1000**0.5)
    assert excess(error) < 1
    assert LEVEL < stats.chi2.sf(error.square().sum(), error.numel()) < 1 - LEVEL
    again = torch.get_rng_state()
    torch.testing.assert_close(infer.encode(guide, x).mean["z1"], found)
    means = infer.reconstruct(vae, guide, x)
    assert torch.equal(means, infer.reconstruct(vae, guide, x))
    assert not torch.equal(again, torch.get_rng_state())


def test_all_that_shows_a_flow_works(pair):
    vae, guide = pair
    x, y = torch.randn(20, 1, 4, 4), torch.arange(20) % 3
    trainer = Trainer(vae, guide).fit(x, validation=x, epochs=1, progress=False)
    assert set(trainer.history[-1]["active_units"]) == {"z1"}
    assert diagnostics.collapse(vae, guide, x).units["z1"].variance.shape == (2,)
    plots.latent_scatter(guide, x, y=y)
    plots.traversals(vae, guide, x[:1])
    plots.reconstructions(vae, guide, x[:4])
    assert infer.interpolate(vae, guide, x[0], x[1], steps=3).shape == (3, 1, 4, 4)


def test_a_guide_whose_mean_does_not_exist_says_so():
    vae = models.VAE((6,), 2, likelihood=Gaussian(), hidden=(5,))

    class Heavy(nn.Module):
        def forward(self, x):
            return dist.Cauchy(x[..., :2], 1.0).to_event(1)

    guide, x = guides.BottomUp(vae, conditionals={"z1": Heavy()}), torch.randn(5, 6)
    for use in (lambda: guide.encode(x), lambda: infer.reconstruct(vae, guide, x)):
        with pytest.raises(ValueError, match=r"site 'z1': .* a Cauchy whose mean is NaN or inf"):
            use()


WITHOUT = {
    "Cauchy": lambda f: dist.Cauchy(f, 1.0),
    "StudentT": lambda f: dist.StudentT(0.9, f, 1.0).to_event(1),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_a_likelihood_without_a_mean_is_an_error_and_no_picture(name):
    vae = models.VAE((1, 4, 4), 2, likelihood=Noise(WITHOUT[name]), hidden=(5,))
    guide, x = guides.BottomUp(vae), torch.randn(5, 1, 4, 4)
    for use in (
        lambda: vae.sample(3, mean=True),
        lambda: infer.reconstruct(vae, guide, x),
        lambda: plots.reconstructions(vae, guide, x),
        lambda: plots.samples(vae, 3, mean=True),
        lambda: plots.latent_grid(vae, like=x, steps=3),
        lambda: plots.uncertainty(vae, guide, x),
        lambda: infer.traverse(vae, guide, x[0], site="z1"),
    ):
        with pytest.raises(ValueError, match=rf"site 'x': .* a {name} whose mean is NaN or inf"):
            use()
    # What the message says to do
    assert vae.sample(3).isfinite().all()
    assert vae.decode(torch.zeros(2, 2)).sample().isfinite().all()


def test_a_likelihood_without_a_formula_for_its_mean():
    """The median of a logit-normal of location 0 is 1/2, and so is its mean, by symmetry."""

    def logit_normal(f):
        return dist.TransformedDistribution(
            dist.Normal(torch.zeros_like(f), 1.0), [dist.transforms.SigmoidTransform()]
        )

    vae = models.VAE((6,), 2, likelihood=Noise(logit_normal), hidden=(5,))
    shown = infer.reconstruct(vae, guides.BottomUp(vae), torch.full((5, 6), 0.5))
    assert (shown - 0.5).abs().max() < 0.05


def test_a_category_is_shown_as_the_most_probable():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert mean_of(dist.Categorical(logits=logits), "k").tolist() == [1, 0]

    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=logits[0]))
            loc = k.unsqueeze(-1).float().expand(-1, 2)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=x))

    x = torch.tensor([[5.0, 0.0], [0.0, 5.0]])
    assert infer.encode(guide, x).mean["k"].tolist() == [0, 1]
    assert infer.reconstruct(model, guide, x).tolist() == [[0.0, 0.0], [1.0, 1.0]]


def test_the_average_is_that_of_a_thousand_draws_whatever_its_size(monkeypatch):
    moved = [dist.transforms.AffineTransform(torch.tensor([1.0, 2.0]), 1.0)]
    p = dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0), moved)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    assert excess((mean_of(p, "z") - torch.tensor([1.0, 2.0])) * 1000**0.5) < 1
    assert torch.equal(state, torch.get_rng_state())
    monkeypatch.setattr("pyro_vae.programs.means._DRAWN", 7)
    assert excess((mean_of(p, "z") - torch.tensor([1.0, 2.0])) * 1000**0.5) < 1
