"""The second stage: what it samples, that it refuses to score, and the proper pair."""

import pytest
import torch
from chance import excess
from pyro.infer import Trace_ELBO

from pyro_vae import handlers, infer, load, save
from pyro_vae.guides import BottomUp
from pyro_vae.handlers import replace_prior
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE
from pyro_vae.priors import TwoStage


@pytest.fixture
def pair():
    vae = VAE((6,), (3, 2), likelihood=Gaussian(), hidden=(5,))
    return vae, BottomUp(vae)


@pytest.fixture(scope="module")
def narrow():
    """A first stage whose posteriors lie far from N(0, I), and its second stage."""
    torch.manual_seed(0)
    vae = VAE((6,), 2, likelihood=Gaussian(), hidden=())
    guide = BottomUp(vae)
    x = torch.randn(1000, 6) * 0.3 + 2
    prior = TwoStage(2, hidden=(32,)).fit(vae, guide, x, epochs=40, lr=5e-3)
    return vae, guide, x, prior


def test_samples_match_the_posterior_samples(narrow):
    _, guide, x, prior = narrow
    z = guide.encode(x).sample["z1"]
    drawn = prior().sample((1000,))
    error = (z.var(0) / 500).sqrt()
    assert ((drawn.mean(0) - z.mean(0)) / error).abs().max() < 6
    torch.testing.assert_close(drawn.std(0), z.std(0), rtol=0.2, atol=0)
    assert z.mean(0).abs().max() > 10 * error.max()


def test_the_bound_of_the_stack_is_that_of_its_parts(narrow):
    vae, guide, x, prior = narrow
    model, stacked = prior.stack(vae, guide)
    terms = infer.elbo_terms(model, stacked, x, samples=50)
    first = infer.elbo_terms(vae, guide, x, samples=50)
    torch.testing.assert_close(
        terms.reconstruction.mean(), first.reconstruction.mean(), rtol=0.01, atol=0.02
    )
    with torch.no_grad():
        q = guide.conditionals["z1"](x)
        z = q.sample((50,))
        expected = first.reconstruction.mean() + (prior.bound(z) - q.log_prob(z)).mean()
    assert abs(terms.elbo.mean() - expected) < 0.05
    assert terms.elbo.mean() > first.elbo.mean() + 0.3
    log_p = infer.log_likelihood(model, stacked, x[:50], importance_samples=500)
    assert log_p.mean() > terms.elbo[:50].mean() - 0.05


def test_the_stack_samples_what_the_replaced_model_samples(narrow):
    vae, guide, _, prior = narrow
    a, b = vae.sample(20_000, prior=prior), prior.stack(vae, guide)[0].sample(20_000)
    error = (a.var(0) / 10_000).sqrt()
    assert excess((a.mean(0) - b.mean(0)) / error) < 1
    own = vae.sample(20_000)
    assert ((own.mean(0) - b.mean(0)) / error).abs().max() > 10


def test_the_stack_shares_every_parameter(pair):
    vae, guide = pair
    prior = TwoStage(2, latents=4, hidden=(8,))
    model, stacked = prior.stack(vae, guide)
    assert model.latent_sizes == {"z3": 4, "z2": 2, "z1": 3}
    held = {id(p) for program in (model, stacked) for p in program.parameters()}
    given = {id(p) for program in (vae, guide, prior) for p in program.parameters()}
    assert held == given
    assert infer.check_pair(model, stacked, torch.zeros(3, 6)).guide_order == ("z1", "z2", "z3")


def test_scoring_is_refused(pair):
    vae, guide = pair
    x = torch.randn(8, 6)
    prior = TwoStage(2, hidden=(8,)).fit(vae, guide, x, epochs=1)
    model = replace_prior(vae, prior)
    assert model.sample(4).shape == (4, 6)
    z = {"z1": torch.randn(4, 3)}
    torch.testing.assert_close(model.decode(z).mean, vae.decode(z).mean)
    for score in (
        lambda: infer.elbo_terms(model, guide, x),
        lambda: infer.log_likelihood(model, guide, x, importance_samples=2),
        lambda: Trace_ELBO().loss(model, guide, x),
    ):
        with pytest.raises(NotImplementedError, match=r"prior\.stack\(model, guide\)"):
            score()


def test_file(pair, tmp_path):
    vae, guide = pair
    x = torch.randn(8, 6)
    prior = TwoStage(2, hidden=(8,)).fit(vae, guide, x, epochs=1)
    save(replace_prior(vae, prior), tmp_path / "file")
    again = load(tmp_path / "file")
    assert repr(again.prior) == "TwoStage(size=2, latents=2, fitted on 8 samples)"
    with torch.random.fork_rng():
        expected = vae.sample(3, prior=prior)
    assert torch.equal(again.sample(3), expected)


def test_errors(pair):
    vae, guide = pair
    with pytest.raises(ValueError, match="size: expected a whole number of at least 1, got 0"):
        TwoStage(0)
    prior = TwoStage(2, hidden=(8,))
    with pytest.raises(ValueError, match=r"not fitted yet: call prior\.fit"):
        vae.sample(2, prior=prior)
    with pytest.raises(ValueError, match="expected latents of size 3, got 2"):
        TwoStage(3).fit(vae, guide, torch.zeros(4, 6))
    with pytest.raises(TypeError, match=r"expected a models\.VAE and a guides\.BottomUp"):
        prior.stack(handlers.scale_latents(vae, 0.5), guide)
    skip = VAE((6,), 2, likelihood=Gaussian(), skip=True)
    with pytest.raises(ValueError, match="without skip connections and labels"):
        prior.stack(skip, BottomUp(skip))
