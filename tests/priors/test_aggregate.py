"""The fitted mixture against the mixture that was drawn from."""

import math

import pytest
import torch
from chance import excess, widened
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from pyro_vae import Trainer, infer, load
from pyro_vae.data import Dataset
from pyro_vae.guides import BottomUp, Delta
from pyro_vae.handlers import replace_prior
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import VAE
from pyro_vae.priors import AggregatePosterior, posterior_samples

N = 20_000
WEIGHTS = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
MEANS = torch.tensor([[-4.0, 0.0], [3.0, 3.0], [2.0, -3.0]], dtype=torch.float64)
COVARIANCES = torch.tensor(
    [[[1.0, 0.5], [0.5, 0.8]], [[0.3, -0.2], [-0.2, 0.5]], [[0.6, 0.0], [0.0, 0.1]]],
    dtype=torch.float64,
)


@pytest.fixture(scope="module")
def truth():
    return MixtureSameFamily(Categorical(WEIGHTS), MultivariateNormal(MEANS, COVARIANCES))


@pytest.fixture(scope="module")
def fitted(truth):
    torch.manual_seed(1)
    return AggregatePosterior(3).fit_samples(truth.sample((N,)))


def test_parameters_are_those_of_the_truth_up_to_their_errors(fitted):
    """The components overlap so little that the errors are those of labelled samples."""
    order = torch.cdist(MEANS, fitted.means).argmin(1)
    assert sorted(order.tolist()) == [0, 1, 2]
    error = (WEIGHTS * (1 - WEIGHTS) / N).sqrt()
    assert excess((fitted.weights[order] - WEIGHTS) / error) < 1
    n = N * WEIGHTS[:, None]
    variance = COVARIANCES.diagonal(dim1=1, dim2=2)
    assert excess((fitted.means[order] - MEANS) / (variance / n).sqrt()) < 1
    found = (fitted.scale_tril @ fitted.scale_tril.mT)[order]
    cross = variance[:, :, None] * variance[:, None]
    error = ((cross + COVARIANCES.square()) / n[:, :, None]).sqrt()
    assert excess((found - COVARIANCES) / error) < 1


def test_its_density_is_that_of_the_truth(truth, fitted):
    """2 N KL(truth || fit) is chi-squared with 17 degrees of freedom, below 48 in 9999 of 10^4."""
    torch.manual_seed(2)
    z = truth.sample((200_000,))
    difference = truth.log_prob(z) - fitted().log_prob(z)
    error = float(difference.std() / len(z) ** 0.5)
    assert -4 * error < float(difference.mean()) < 48 / (2 * N) + 4 * error
    assert error < 1e-3


def test_samples_have_the_density(fitted):
    z = fitted().sample((N,))
    weights, normals = fitted.weights, fitted.scale_tril @ fitted.scale_tril.mT
    mean = weights @ fitted.means
    second = torch.einsum(
        "k,kij->ij", weights, normals + fitted.means[:, :, None] * fitted.means[:, None]
    )
    covariance = second - mean[:, None] * mean
    assert excess((z.mean(0) - mean) / (covariance.diagonal() / N).sqrt()) < 1
    torch.testing.assert_close(torch.cov(z.T), covariance, rtol=0.05, atol=0.1)


def test_a_replaced_model_has_a_normalised_density():
    vae = VAE((1,), 1, likelihood=Gaussian(0.5), hidden=(8,)).double()
    guide, x = BottomUp(vae).double(), torch.randn(500, 1, dtype=torch.float64)
    prior = AggregatePosterior(3).fit(vae, guide, x)
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    x = torch.linspace(-12, 12, 2001, dtype=torch.float64)
    log_prior = prior().log_prob(z[:, None])
    assert float(log_prior.exp().sum() * (z[1] - z[0])) == pytest.approx(1, abs=1e-9)
    log_joint = (
        log_prior[:, None] + vae.decode(z[:, None]).expand((4001,)).log_prob(x[:, None, None]).T
    )
    area = (z[1] - z[0]) * (x[1] - x[0])
    assert float(log_joint.exp().sum() * area) == pytest.approx(1, abs=1e-6)
    model, x = replace_prior(vae, prior), x[[700, 1000, 1200]][:, None]
    exact = (log_joint.logsumexp(0) + (z[1] - z[0]).log())[[700, 1000, 1200]]
    estimate = infer.importance(model, widened(guide, 3.0), x, samples=20_000)
    assert estimate.standard_error.max() < 0.1
    assert excess((estimate.log_likelihood - exact) / estimate.standard_error) < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dimensions_without_spread_do_not_matter(dtype):
    z = torch.randn(500, 4, dtype=dtype)
    z[:, 1], z[:, 2] = 3.0, z[:, 0]
    prior = AggregatePosterior(4).fit_samples(z)
    log_prob = prior().log_prob(z)
    assert log_prob.isfinite().all() and log_prob.dtype == dtype
    assert (prior().sample((1000,))[:, 1] - 3).abs().max() < 0.01


def test_the_covariance_floor_is_added_to_the_diagonal():
    z = torch.randn(300, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64)
    z[:, 2] = 5.0
    for floor in (1e-6, 0.04, 2.0):
        prior = AggregatePosterior(1, covariance_floor=floor).fit_samples(z)
        expected = torch.cov(z.T, correction=0) + floor * torch.eye(3)
        torch.testing.assert_close(prior.scale_tril[0] @ prior.scale_tril[0].T, expected)


def test_the_most_likely_of_several_starts_is_kept():
    """The likelihood of data without clusters has a maximum near almost every start."""
    z = torch.randn(200, 2, dtype=torch.float64)

    def likelihood(starts, seed):
        prior = AggregatePosterior(10, initializations=starts, seed=seed).fit_samples(z)
        return float(prior().log_prob(z).mean())

    gains = [likelihood(6, seed) - likelihood(1, seed) for seed in range(3)]
    assert min(gains) > -1e-9 and max(gains) > 5e-3


def test_it_is_fitted_to_samples_not_to_means(linear):
    """q(z) of the exact posterior under the model's own data is the prior, N(0, I)."""
    prior = AggregatePosterior(1, initializations=1).fit(
        linear.vae, linear.guide(), linear.data(N)
    )
    torch.testing.assert_close(prior.scale_tril[0], torch.eye(2), rtol=0.03, atol=0.03)
    widths = linear.posterior(linear.data(10))[1]
    assert widths.max() > 0.4


def test_the_samples_are_those_of_the_top_latent():
    vae = VAE((6,), (4, 2), likelihood=Gaussian(), hidden=(5,))
    guide, x = Delta(vae), torch.randn(2500, 6)
    before = torch.get_rng_state()
    z = posterior_samples(vae, guide, x)
    assert torch.equal(torch.get_rng_state(), before) and vae.training
    torch.testing.assert_close(z, guide.encode(x).mean["z2"])
    below = posterior_samples(vae, guide, x, site="z1")
    torch.testing.assert_close(below, guide.encode(x).mean["z1"])
    model = replace_prior(vae, AggregatePosterior(2).fit(vae, guide, x))
    assert torch.equal(model.prior.fitted_on, torch.tensor(2500))
    with pytest.raises(ValueError, match=r"site: expected one of .*z2, got 'z9'"):
        posterior_samples(vae, guide, x, site="z9")


def test_labels_binarisation_and_seed():
    vae = VAE((6,), 2, likelihood=Bernoulli(), hidden=(5,), condition=3)
    guide = BottomUp(vae)
    data = Dataset(torch.rand(60, 6), torch.arange(60) % 3, binarize="dynamic")
    a, b, c = (AggregatePosterior(2, seed=seed).fit(vae, guide, data) for seed in (0, 0, 1))
    assert torch.equal(a.means, b.means) and not torch.equal(a.means, c.means)
    assert vae.sample(6, y=torch.arange(6) % 3, prior=a).shape == (6, 6)


def test_file(tmp_path):
    vae = VAE((6,), 2, likelihood=Gaussian(), hidden=(5,))
    guide, x = BottomUp(vae), torch.randn(60, 6)
    model = replace_prior(vae, AggregatePosterior(3).fit(vae, guide, x))
    built = VAE((6,), 2, likelihood=Gaussian(), hidden=(5,), top_down={"z1": model.prior})
    for written in (model, built):
        Trainer(written, guide, seed=0).fit(x, epochs=1, progress=False).save(tmp_path / "file")
        again = load(tmp_path / "file")
        assert repr(again.model) == repr(written)
        assert torch.equal(
            infer.elbo_terms(again.model, again.guide, x).elbo,
            infer.elbo_terms(written, guide, x).elbo,
        )
    replaced = load(tmp_path / "file").model.conditionals["z1"]
    assert repr(replaced) == "AggregatePosterior(3 components of size 2, fitted on 60 samples)"


def test_it_moves_with_the_model():
    vae = VAE((6,), 2, likelihood=Gaussian(), hidden=(5,))
    model = replace_prior(vae, AggregatePosterior(2).fit(vae, BottomUp(vae), torch.randn(60, 6)))
    assert model.double().sample(3).dtype == torch.float64


class TestErrors:
    def test_before_fit(self):
        vae = VAE((6,), 2, likelihood=Gaussian())
        prior = AggregatePosterior()
        assert repr(prior) == "AggregatePosterior(10 components, not fitted)"
        for use in (prior, lambda: replace_prior(vae, prior), lambda: vae.sample(2, prior=prior)):
            with pytest.raises(ValueError, match=r"not fitted yet: call prior\.fit\(model, guide"):
                use()

    def test_arguments(self):
        for name, value, expected in (
            ("components", 0, "whole number of at least 1"),
            ("initializations", 0, "whole number of at least 1"),
            ("covariance_floor", 0.0, "positive finite number"),
            ("covariance_floor", math.nan, "positive finite number"),
        ):
            with pytest.raises(ValueError, match=f"{name}: expected a {expected}, got {value}"):
                AggregatePosterior(**{name: value})

    def test_data(self):
        with pytest.raises(ValueError, match="expected at least 3 for 3 components, got 2"):
            AggregatePosterior(3).fit_samples(torch.randn(2, 2))
        with pytest.raises(ValueError, match="NaN or infinite"):
            AggregatePosterior(1).fit_samples(torch.full((5, 2), math.nan))

    def test_another_size(self, linear):
        prior = AggregatePosterior(1).fit_samples(torch.randn(50, 3))
        with pytest.raises(ValueError, match=r"expected a prior of event shape \(2,\), got \(3,"):
            replace_prior(linear.vae, prior)
