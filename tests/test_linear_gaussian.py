"""The linear variational autoencoder, whose evidence and optimum are closed forms.

At its optimum it is probabilistic PCA: "Probabilistic Principal Component Analysis", Tipping,
Bishop (1999); "Don't Blame the ELBO!", Lucas, Tucker, Grosse, Norouzi (2019).
"""

import math

import pytest
import torch
from chance import excess, widened
from sklearn.decomposition import PCA
from torch.distributions import MultivariateNormal

from pyro_vae import Trainer, callbacks, guides, infer
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

D, K = 8, 3


def marginal(vae):
    """N(b, W W^T + sigma^2 I), the evidence of a linear model."""
    layer = vae.decoder.layers[0]
    W, b = layer.weight.detach(), layer.bias.detach()
    return MultivariateNormal(b, W @ W.T + vae.likelihood.sigma**2 * torch.eye(len(b)))


def covering(vae):
    """A guide with the posterior's mean and the prior's scale, which is the wider of both."""
    guide, layer = guides.BottomUp(vae), vae.decoder.layers[0]
    head, W = guide.conditionals["z1"], layer.weight.detach()
    gain = torch.linalg.solve(W.T @ W + vae.likelihood.sigma**2 * torch.eye(W.shape[1]), W.T)
    with torch.no_grad():
        head.loc.weight.copy_(gain)
        head.loc.bias.copy_(-gain @ layer.bias)
    return widened(guide, 1.0)


class ProbabilisticPCA:
    """Maximum likelihood from the eigenvalues of the covariance."""

    def __init__(self, x, k):
        d = x.shape[1]
        eigenvalues = torch.linalg.eigvalsh(torch.cov(x.T.double(), correction=0)).flip(0)
        self.variance = float(eigenvalues[k:].mean())
        log_det = eigenvalues[:k].log().sum() + (d - k) * math.log(self.variance)
        self.log_likelihood = float(-0.5 * (d * math.log(2 * math.pi) + log_det + d))


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(5)
    W = torch.linalg.qr(torch.randn(D, K, generator=generator)).Q * torch.tensor([2.0, 1.5, 1.0])
    z = torch.randn(600, K, generator=generator)
    return z @ W.T + 0.5 * torch.randn(600, D, generator=generator) + torch.arange(D) / D


@pytest.fixture(scope="module")
def trained(data):
    torch.manual_seed(0)
    sigma = math.sqrt(ProbabilisticPCA(data, K).variance)
    vae = VAE((D,), latents=K, likelihood=Gaussian(sigma), hidden=())
    trainer = Trainer(vae, guides.BottomUp(vae), elbo="analytic", seed=0)
    for trainer.lr in (5e-2, 1e-2, 2e-3):
        trainer.fit(data, epochs=100, batch_size=200, progress=False)
    return trainer


@pytest.mark.parametrize("latents", [1, 3, 7])
@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_log_likelihood_is_the_exact_marginal(latents, sigma):
    vae = VAE((D,), latents=latents, likelihood=Gaussian(sigma), hidden=())
    x = marginal(vae).sample((50,))
    estimate = infer.importance(vae, covering(vae), x, samples=4000)
    difference = estimate.log_likelihood - marginal(vae).log_prob(x)
    error = estimate.standard_error.square().sum().sqrt() / len(x)
    assert excess(difference.mean() / error) < 1
    assert excess(difference / estimate.standard_error) < 1


def test_reference_is_that_of_scikit_learn(data):
    """Which divides the covariance by n - 1, so that its own model is a little less likely."""
    reference = ProbabilisticPCA(data, K)
    pca = PCA(K).fit(data)
    assert reference.variance == pytest.approx(pca.noise_variance_ * 599 / 600, rel=1e-4)
    assert 0 < reference.log_likelihood - pca.score(data) < 1e-4


def test_training_reaches_probabilistic_pca(data, trained):
    best = ProbabilisticPCA(data, K).log_likelihood
    reached = float(marginal(trained.model).log_prob(data).mean())
    assert abs(reached - best) < 0.005 * abs(best)
    assert reached < best


def test_the_bound_is_tight_at_the_optimum(data, trained):
    best = ProbabilisticPCA(data, K).log_likelihood
    bound = infer.elbo_terms(trained.model, trained.guide, data, samples=100).elbo.mean()
    assert abs(float(bound) - best) < 0.005 * abs(best)
    estimate = infer.log_likelihood(trained.model, trained.guide, data, importance_samples=200)
    assert abs(float(estimate.mean()) - best) < 0.005 * abs(best)


def test_the_decoder_spans_the_principal_axes(data, trained):
    learnt = torch.linalg.qr(trained.model.decoder.layers[0].weight.detach()).Q
    axes = torch.linalg.svd(data - data.mean(0), full_matrices=False).Vh[:K]
    cosines = torch.linalg.svdvals(axes @ learnt)
    assert cosines.min() > 0.99


def test_the_decoder_has_the_eigenvalues_of_probabilistic_pca(data, trained):
    """The singular values of W squared are lambda_i - sigma^2."""
    weight = trained.model.decoder.layers[0].weight.detach()
    eigenvalues = torch.linalg.eigvalsh(torch.cov(data.T, correction=0)).flip(0)[:K]
    expected = eigenvalues - ProbabilisticPCA(data, K).variance
    torch.testing.assert_close(
        torch.linalg.svdvals(weight).square(), expected, rtol=0.05, atol=0.0
    )


def test_the_guide_finds_the_exact_posterior(data, trained):
    """E[z|x] = (W^T W + sigma^2 I)^-1 W^T (x - b)."""
    layer, variance = trained.model.decoder.layers[0], trained.model.likelihood.sigma**2
    W, b = layer.weight.detach(), layer.bias.detach()
    exact = torch.linalg.solve(W.T @ W + variance * torch.eye(K), W.T @ (data - b).T).T
    found = trained.guide.encode(data).mean["z1"]
    assert (found - exact).square().mean().sqrt() < 0.05


def trained_sigma(data, sigma, **options):
    torch.manual_seed(0)
    vae = VAE((D,), latents=K, likelihood=Gaussian(sigma), hidden=())
    trainer = Trainer(vae, guides.BottomUp(vae), elbo="analytic", seed=0)
    for trainer.lr in (5e-2, 1e-2, 2e-3):
        trainer.fit(data, epochs=60, batch_size=200, progress=False, **options)
    return vae


@pytest.mark.parametrize("sigma", ["learned", "optimal"])
def test_sigma_reaches_the_noise_of_probabilistic_pca(data, sigma):
    """The mean of the eigenvalues that the latents leave out."""
    vae, reference = trained_sigma(data, sigma), ProbabilisticPCA(data, K)
    assert float(vae.likelihood.sigma**2) == pytest.approx(reference.variance, rel=0.02)
    reached = float(marginal(vae).log_prob(data).mean())
    assert reference.log_likelihood - 0.02 < reached < reference.log_likelihood


def test_alternating_sigma_reaches_the_noise_of_probabilistic_pca(data):
    """Up to three standard errors of the last update, from one draw of z per datum."""
    vae = trained_sigma(data, "learned", callbacks=[callbacks.UpdateSigma(data)])
    expected = pytest.approx(ProbabilisticPCA(data, K).variance, rel=3 * (2 / data.numel()) ** 0.5)
    assert float(vae.likelihood.sigma**2) == expected
