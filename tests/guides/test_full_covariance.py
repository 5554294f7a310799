import math

import pyro.distributions as dist
import pytest
import torch

from pyro_vae import Trainer, diagnostics, infer
from pyro_vae.ground import recorded
from pyro_vae.guides import BottomUp, FullCovariance
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE


class Correlated:
    """x|z ~ N(W z + b, sigma^2 I) with columns of W that are far from orthogonal."""

    sigma = 0.7

    def __init__(self):
        self.vae = VAE((6,), latents=3, likelihood=Gaussian(self.sigma), hidden=())
        layer = self.vae.decoder.layers[0]
        with torch.no_grad():
            gram = torch.tensor([[3.0, 2.7, 0.5], [2.7, 3.0, 0.0], [0.5, 0.0, 1.0]])
            Q = torch.linalg.qr(torch.randn(6, 3)).Q
            layer.weight.copy_(Q @ torch.linalg.cholesky(gram).T)
        self.vae.requires_grad_(False)
        self.W, self.b = layer.weight, layer.bias
        self.precision = torch.eye(3) + self.W.T @ self.W / self.sigma**2

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


def nearly_singular(relative):
    """A guide at which training arrives by a learning rate that is too high."""
    torch.manual_seed(0)
    vae = VAE((6,), 4, likelihood=Gaussian(), hidden=(5,))
    guide = FullCovariance(vae, relative=relative)
    head = guide.conditionals["z1"]
    with torch.no_grad():
        head.raw_scale.bias.fill_(-30.0)
        (head.relative if relative else head.lower).bias.fill_(1e5)
    return vae, guide


def test_rounding_makes_no_bound():
    """KL >= 0, so that no bound is above E[log p(x|z)] but by chance."""
    x = torch.randn(50, 6)
    terms = infer.elbo_terms(*nearly_singular(True), x)
    assert terms.kl["z1"].min() > -20
    vae, guide = nearly_singular(False)
    assert infer.elbo_terms(vae, guide, x).elbo.mean() > 1e3
    with pytest.warns(UserWarning, match=r"the bound, .* is above E\[log p\(x\|z\)\].*Lower lr"):
        diagnostics.evaluate(vae, guide, x, importance_samples=0)


def test_a_learning_rate_that_is_too_high_is_seen_in_the_bound():
    torch.manual_seed(0)
    vae = VAE((20,), 8, likelihood=Gaussian(), hidden=(32,))
    x = torch.randn(200, 5) @ torch.randn(5, 20)
    trainer = Trainer(vae, FullCovariance(vae), lr=1.0, seed=0)
    trainer.fit(x, epochs=4, batch_size=50, progress=False)
    for row in trainer.history:
        assert row["elbo"] < row["reconstruction"] < -0.5 * 20 * math.log(2 * math.pi)


class Overstated(torch.nn.Module):
    """A conditional whose density is too low by 10 nats, so that the bound is too high."""

    def forward(self, x):
        class Low(dist.Normal):
            def log_prob(self, value):
                return super().log_prob(value) - 5.0

        return Low(x[:, :2], 1.0).to_event(1)


def test_an_impossible_bound_is_told_once_in_training():
    vae = VAE((6,), 2, likelihood=Gaussian(), hidden=(5,))
    guide, x = BottomUp(vae, conditionals={"z1": Overstated()}), 0.1 * torch.randn(50, 6)
    with pytest.warns(UserWarning, match=r"is above E\[log p\(x\|z\)\]") as told:
        Trainer(vae, guide).fit(x, epochs=3, progress=False)
    assert len(told) == 1


def test_files_from_before_the_relative_factor_keep_theirs():
    vae = VAE((6,), 3, likelihood=Gaussian(), hidden=(5,))
    for given in ({}, {"relative": True}, {"relative": False}):
        guide = FullCovariance(vae, **given)
        described = recorded.encode(guide, "guide")
        assert described["arguments"]["relative"] is given.get("relative", True)
        assert recorded.decode(described).arguments["relative"] is given.get("relative", True)
    del described["arguments"]["relative"]
    old = recorded.decode(described)
    assert old.arguments["relative"] is False
    old.load_state_dict(guide.state_dict())
    x = torch.randn(5, 6)
    q, p = (g.conditionals["z1"](x) for g in (old, guide))
    assert torch.equal(q.scale_tril, p.scale_tril)
    assert type(q) is dist.MultivariateNormal
    with pytest.raises(RuntimeError, match="lower"):
        FullCovariance(vae).load_state_dict(guide.state_dict())
