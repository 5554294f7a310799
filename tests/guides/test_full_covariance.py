import pytest
import torch

from pyro_vae import infer
from pyro_vae.guides import BottomUp, FullCovariance
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE


class Correlated:
    """x|z ~ N(W z + b, sigma^2 I) with columns of W that are far from orthogonal."""

    sigma = 0.7

    def __init__(self, k=3):
        self.vae = VAE((6,), latents=k, likelihood=Gaussian(self.sigma), hidden=())
        layer = self.vae.decoder.layers[0]
        with torch.no_grad():
            layer.weight.copy_(0.4 * torch.randn(6, k) + 0.8 * torch.randn(6, 1))
        self.vae.requires_grad_(False)
        self.W, self.b = layer.weight, layer.bias
        self.precision = torch.eye(k) + self.W.T @ self.W / self.sigma**2

    def posterior(self, x):
        covariance = self.precision.inverse()
        return (x - self.b) @ self.W / self.sigma**2 @ covariance, covariance

    def evidence(self):
        covariance = self.W @ self.W.T + self.sigma**2 * torch.eye(6)
        return torch.distributions.MultivariateNormal(self.b, covariance)

    def mean_field_gap(self):
        """min KL(q || p(z|x)) over diagonal q: sigma_i^-2 = precision_ii."""
        return float(0.5 * (self.precision.diagonal().log().sum() - self.precision.logdet()))


@pytest.fixture
def correlated():
    return Correlated()


def train(model, guide, x, lrs=(0.05, 0.01, 0.002), steps=200):
    for lr in lrs:
        svi = infer.SVI(
            model,
            guide,
            lambda p, lr=lr: torch.optim.Adam(p, lr=lr),
            infer.TraceELBO("mean"),
            engine="graph",
        )
        for _ in range(steps):
            svi.step(x)


def test_the_exact_posterior_is_found_and_mean_field_stays_below_by_the_known_gap(correlated):
    x = correlated.evidence().sample((200,))
    full, mean_field = FullCovariance(correlated.vae), BottomUp(correlated.vae)
    for guide in (full, mean_field):
        train(correlated.vae, guide, x)
    mean, covariance = correlated.posterior(x)
    q = full.conditionals["z1"](x)
    correlation = covariance / (covariance.diag()[:, None] * covariance.diag()).sqrt()
    assert correlation.tril(-1).abs().max() > 0.5
    scale = covariance.diag().sqrt()
    error = (q.covariance_matrix - covariance) / (scale[:, None] * scale)
    assert error.square().mean().sqrt() < 0.05
    assert ((q.mean - mean) / scale).square().mean().sqrt() < 0.05
    evidence = correlated.evidence().log_prob(x)
    gaps = {
        guide: float(
            (evidence - infer.elbo_terms(correlated.vae, guide, x, samples=50).elbo).mean()
        )
        for guide in (full, mean_field)
    }
    assert abs(gaps[full]) < 0.02
    assert correlated.mean_field_gap() > 0.2
    assert gaps[mean_field] == pytest.approx(correlated.mean_field_gap(), abs=0.02)


def test_each_layer_has_a_covariance_and_sees_the_layer_below():
    vae = VAE((6,), (4, 3), likelihood=Gaussian(), hidden=(5,))
    guide, x = FullCovariance(vae), torch.randn(7, 6)
    q1 = guide.conditionals["z1"](x)
    q2 = guide.conditionals["z2"](q1.mean)
    assert q1.covariance_matrix.shape == (7, 4, 4)
    assert q2.covariance_matrix.shape == (7, 3, 3)
    torch.testing.assert_close(guide.encode(x).mean["z2"], q2.mean)
    assert repr(guide).splitlines()[:2] == [
        "FullCovariance",
        "  q(z1, z2|x) = q(z1|x) q(z2|z1)",
    ]
