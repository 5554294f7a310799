"""Likelihoods of a user's own: with events of their own, plain modules, torch's distributions."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import guides, infer, models
from pyro_vae.likelihoods import Bernoulli, Gaussian, Likelihood
from pyro_vae.models.pixel_decoder import PixelDecoder


class Declared(Likelihood):
    def forward(self, features):
        return dist.Normal(features, 0.7).to_event(1)


class Correlated(Likelihood):
    def __init__(self, covariance):
        super().__init__()
        self.factor = nn.Parameter(torch.linalg.cholesky(covariance))

    def forward(self, features):
        return dist.MultivariateNormal(features, scale_tril=self.factor)


class Topics(Likelihood):
    def forward(self, features):
        return dist.Multinomial(7, logits=features, validate_args=False)


class Shares(Likelihood):
    def forward(self, features):
        return dist.Dirichlet(features.exp())

    def check(self, x):
        if not ((x > 0).all() and torch.allclose(x.sum(-1), torch.ones(()))):
            raise ValueError("x: Shares expects positive rows that sum to 1")


class OneHot(Likelihood):
    def forward(self, features):
        return dist.OneHotCategorical(logits=features)


class Plain(nn.Module):
    def forward(self, features):
        return torch.distributions.Normal(features, 0.7)


class PlainDeclared(nn.Module):
    def forward(self, features):
        return torch.distributions.Independent(torch.distributions.Normal(features, 0.7), 1)


COVARIANCE = 0.3 * torch.eye(5) + 0.2
# The likelihood, and its density of data (n, 5) given features (n, 5), by torch alone
OWN = {
    "declared": (Declared(), lambda f, x: torch.distributions.Normal(f, 0.7).log_prob(x).sum(-1)),
    "correlated": (
        Correlated(COVARIANCE),
        lambda f, x: torch.distributions.MultivariateNormal(f, COVARIANCE).log_prob(x),
    ),
    "topics": (
        Topics(),
        lambda f, x: (
            torch.lgamma(x.sum(-1) + 1)
            - torch.lgamma(x + 1).sum(-1)
            + (x * f.log_softmax(-1)).sum(-1)
        ),
    ),
    "shares": (Shares(), lambda f, x: torch.distributions.Dirichlet(f.exp()).log_prob(x)),
    "one-hot": (OneHot(), lambda f, x: (x * f.log_softmax(-1)).sum(-1)),
    "plain": (Plain(), lambda f, x: torch.distributions.Normal(f, 0.7).log_prob(x).sum(-1)),
    "plain, declared": (
        PlainDeclared(),
        lambda f, x: torch.distributions.Normal(f, 0.7).log_prob(x).sum(-1),
    ),
}


def pair_of(likelihood, shape=(5,)):
    vae = models.VAE(shape, 2, likelihood=likelihood, hidden=(4,))
    return vae, guides.BottomUp(vae)


@pytest.mark.parametrize("name", OWN)
def test_the_bound_is_that_of_the_exact_density_whatever_the_batch(name):
    likelihood, density = OWN[name]
    vae, guide = pair_of(likelihood)
    x = vae.sample(40)
    assert x.shape == (40, 5)
    assert vae.sample(3, mean=True).shape == vae.sample(3).shape == (3, 5)
    terms = infer.elbo_terms(vae, guide, x)
    # The draws of the bound are those of the guide, which is run first
    with torch.no_grad(), torch.random.fork_rng():
        z = guide(x)["z1"]
        expected = density(vae.decoder(z), x)
    torch.testing.assert_close(terms.reconstruction, expected, rtol=1e-5, atol=1e-5)
    assert vae.decode(z).event_shape == (5,)
    assert infer.reconstruct(vae, guide, x).shape == x.shape


@pytest.mark.parametrize("name", OWN)
def test_training_does_not_depend_on_the_batch_size(name):
    """The gradient of a mean over data that are all equal is that of one datum."""
    vae, guide = pair_of(OWN[name][0])
    x = vae.sample(1)
    gradients = []
    for n in (1, 16):
        # A point mass draws nothing, so that all rows are equal
        guide = guides.Delta(vae)
        with torch.no_grad():
            for p in guide.parameters():
                p.fill_(0.1)
        vae.zero_grad()
        loss, _ = infer.TraceELBO("mean")(vae, guide, x.expand(n, 5))
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in vae.decoder.parameters()]))
    torch.testing.assert_close(*gradients)


def test_the_evidence_under_correlated_noise_is_exact():
    """z ~ N(0, I), x|z ~ N(W z + b, R): log p(x) = log N(x; b, W W^T + R)."""
    vae = models.VAE((5,), 2, likelihood=Correlated(COVARIANCE), hidden=())
    layer = vae.decoder.layers[0]
    W, b = layer.weight.detach(), layer.bias.detach()
    guide = guides.BottomUp(vae, conditionals={"z1": Exact(W, b, COVARIANCE)})
    evidence = torch.distributions.MultivariateNormal(b, W @ W.T + COVARIANCE)
    x = evidence.sample((30,))
    for n in (1, 30):
        found = infer.importance(vae, guide, x[:n], samples=5).log_likelihood
        torch.testing.assert_close(found, evidence.log_prob(x[:n]), rtol=1e-4, atol=1e-4)
        bound = infer.elbo_terms(vae, guide, x[:n]).elbo
        torch.testing.assert_close(bound, evidence.log_prob(x[:n]), rtol=1e-4, atol=1e-4)


class Exact(nn.Module):
    """The exact posterior of a linear-Gaussian model, as one of torch's distributions."""

    def __init__(self, W, b, R):
        super().__init__()
        self.covariance = torch.linalg.inv(torch.eye(W.shape[1]) + W.T @ torch.linalg.solve(R, W))
        self.gain = self.covariance @ torch.linalg.solve(R, W).T
        self.b = b

    def forward(self, x):
        mean = (x - self.b) @ self.gain.T
        return torch.distributions.MultivariateNormal(mean, self.covariance)


def test_images_declared_in_part():
    one, other = (
        models.VAE((2, 3, 4), 2, likelihood=part) for part in (Declared(), Gaussian(0.7))
    )
    other.load_state_dict(one.state_dict())
    guide, x = guides.BottomUp(one), torch.randn(7, 2, 3, 4)
    terms = [infer.elbo_terms(vae, guide, x).elbo for vae in (one, other)]
    torch.testing.assert_close(*terms)
    assert one.sample(3).shape == (3, 2, 3, 4)


def test_a_plain_module_is_any_likelihood():
    vae, guide = pair_of(Plain())
    with pytest.raises(ValueError, match="expected finite values"):
        infer.elbo_terms(vae, guide, torch.full((2, 5), math.nan))
    vqvae = models.VQVAE((5,), 4, 3, likelihood=Plain(), hidden=(6,))
    assert vqvae.sample(3, prior="uniform").shape == (3, 5)
    terms = infer.elbo_terms(vqvae, guides.NearestCode(vqvae), torch.randn(4, 5))
    assert terms.elbo.shape == (4,)


def test_conditionals_of_torchs_distributions():
    class Wide(nn.Module):
        """Its last dimension is not declared."""

        def __init__(self, size):
            super().__init__()
            self.size = size

        def forward(self, context):
            loc = context.mean(-1, keepdim=True).expand(*context.shape[:-1], self.size)
            return torch.distributions.Normal(loc, 0.7)

    vae = models.VAE((5,), (2, 1), likelihood=Gaussian(), hidden=(4,), top_down={"z1": Wide(2)})
    guide = guides.BottomUp(vae, conditionals={"z2": Wide(1), "z1": Wide(2)})
    assert infer.check_pair(vae, guide, torch.randn(4, 5)).latents == {"z2": (1,), "z1": (2,)}
    assert infer.elbo_terms(vae, guide, torch.randn(4, 5)).elbo.shape == (4,)
    assert vae.decode({"z2": torch.zeros(3, 1)}).batch_shape == (3,)
    prior = torch.distributions.MultivariateNormal(torch.zeros(1), torch.eye(1))
    assert vae.sample(3, prior=Returning(lambda: prior)).shape == (3, 5)


def test_pixels_in_turn_take_an_elementwise_likelihood():
    class Elementwise(Likelihood):
        def forward(self, features):
            return dist.Bernoulli(logits=features).to_event(2)

    decoder = PixelDecoder((1, 4, 4), 2, layers=2, width=4)
    x = torch.ones(3, 1, 4, 4)
    one = models.VAE((1, 4, 4), 2, likelihood=Elementwise(), decoder=decoder)
    other = models.VAE((1, 4, 4), 2, likelihood=Bernoulli(), decoder=decoder)
    guide = guides.BottomUp(one)
    terms = [infer.elbo_terms(vae, guide, x).reconstruction for vae in (one, other)]
    torch.testing.assert_close(*terms)
    assert one.sample(2).shape == (2, 1, 4, 4)
    joint = models.VAE((1, 4, 4), 2, likelihood=OneHot(), decoder=decoder)
    with pytest.raises(
        ValueError, match=r"likelihood: expected one distribution per pixel.*OneHot"
    ):
        joint.sample(2)


class Returning(nn.Module):
    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward(self, *features):
        return self.result(*features)


@pytest.mark.parametrize(
    ("likelihood", "message"),
    [
        (
            lambda f: dist.Normal(f.mean(), 1.0),
            r"site 'x': .* \(5,\) per datum, got a Normal of ba",
        ),
        (lambda f: dist.Normal(f[..., :1], 1.0).to_event(1), r"site 'x': .*event shape \(1,\)"),
        (lambda f: dist.Normal(f, 1.0).to_event(2), r"site 'x': .*event shape \(\d, 5\)"),
        (lambda f: f, "site 'x': expected a module that returns a distribution, got Tensor"),
    ],
)
def test_what_is_no_distribution_of_the_data(likelihood, message):
    vae, guide = pair_of(Returning(likelihood))
    for use in (lambda: vae.sample(3), lambda: infer.check_pair(vae, guide, torch.zeros(2, 5))):
        with pytest.raises((TypeError, ValueError), match=message):
            use()
