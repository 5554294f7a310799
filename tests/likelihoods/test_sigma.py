"""Every kind of sigma: closed forms, floors, gradients, arguments."""

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import Trainer, guides, infer
from pyro_vae.likelihoods import (
    FixedSigma,
    Gaussian,
    LearnedSigma,
    OptimalSigma,
    PerPixelSigma,
    PredictedSigma,
)
from pyro_vae.likelihoods.positive import floored
from pyro_vae.models import VAE

NAMES = ["learned", "optimal", "per_pixel", "predicted"]
KINDS = [0.5, *NAMES]
MODELS = {
    "vector": ((6,), 3, {"hidden": (8,)}),
    "skip": ((6,), (3, 2), {"hidden": (8,), "skip": True}),
    "image": ((1, 8, 8), 3, {}),
    "skip image": ((7, 5), (3, 2, 2), {"skip": True}),
}


def pair(sigma, model="vector"):
    event_shape, latents, options = MODELS[model]
    vae = VAE(event_shape, latents, likelihood=Gaussian(sigma), **options)
    return vae, guides.BottomUp(vae)


def built(sigma, event_shape=(4,)):
    """A likelihood as a model of this event shape has it, and features of three data."""
    likelihood = Gaussian(sigma)
    shape = likelihood.feature_shape(event_shape)
    return likelihood, torch.randn(3, *shape)


def mean_of(likelihood, features):
    return features[..., 0] if isinstance(likelihood.noise, PredictedSigma) else features


# Closed forms


def test_optimal_sigma_is_the_root_mean_squared_error():
    likelihood, features = built("optimal")
    x = features + 0.3 * torch.randn(3, 4)
    log_prob = likelihood(features).log_prob(x)
    rmse = (features.double() - x.double()).square().mean().sqrt().item()
    assert likelihood.sigma.item() == pytest.approx(rmse, rel=2e-7)
    expected = torch.distributions.Normal(features.double(), rmse).log_prob(x.double())
    torch.testing.assert_close(log_prob.double(), expected, rtol=1e-5, atol=1e-6)


def test_optimal_sigma_maximises_the_likelihood():
    likelihood, features = built("optimal")
    likelihood, features = likelihood.double(), features.double()
    x = features + 0.3 * torch.randn(3, 4).double()
    best = likelihood(features).log_prob(x).sum()
    log_sigma = likelihood.sigma.log().requires_grad_()
    value = torch.distributions.Normal(features, log_sigma.exp()).log_prob(x).sum()
    (gradient,) = torch.autograd.grad(value, log_sigma)
    assert value.item() == pytest.approx(best.item(), rel=1e-12)
    assert abs(gradient.item()) < 1e-12
    for factor in (0.99, 1.01):
        sigma = log_sigma.detach().exp() * factor
        assert torch.distributions.Normal(features, sigma).log_prob(x).sum() < best


def test_gradient_with_sigma_detached_is_that_of_the_closed_form():
    """The envelope theorem: sum log N(x; g, sigma*(g)) = -n/2 (log 2 pi sigma*^2 + 1)."""
    likelihood, features = built("optimal")
    likelihood, features = likelihood.double(), features.double().requires_grad_()
    x = torch.randn(3, 4).double()
    (got,) = torch.autograd.grad(likelihood(features).log_prob(x).sum(), features)
    square = (x - features).square().mean()
    closed = -0.5 * x.numel() * ((2 * math.pi * square).log() + 1)
    (expected,) = torch.autograd.grad(closed, features)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_learned_sigma_converges_to_the_optimal_one():
    x, features = torch.randn(50, 4) * 0.2, torch.zeros(50, 4)
    likelihood = Gaussian("learned")
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=5e-3)
    for step in range(900):
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * 0.99**step
        optimizer.zero_grad()
        (-likelihood(features).log_prob(x).mean()).backward()
        optimizer.step()
    assert likelihood.sigma.item() == pytest.approx(x.square().mean().sqrt().item(), rel=1e-4)


def test_per_pixel_sigma_converges_to_that_of_each_element():
    x = torch.randn(200, 3) * torch.tensor([0.1, 1.0, 3.0])
    likelihood = Gaussian("per_pixel")
    likelihood.feature_shape((3,))
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=5e-3)
    for step in range(900):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * 0.99**step
        optimizer.zero_grad()
        (-likelihood(torch.zeros_like(x)).log_prob(x).mean()).backward()
        optimizer.step()
    torch.testing.assert_close(likelihood.sigma, x.square().mean(0).sqrt(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("sigma", [0.3, LearnedSigma(initial=0.3), OptimalSigma(momentum=1.0)])
def test_loss_is_the_formula_with_one_sigma(sigma):
    """d/2 log 2 pi + d log sigma + SSE / (2 sigma^2) + KL, for each datum."""
    vae, guide = pair(copy.deepcopy(sigma))
    vae, guide, x = vae.double(), guide.double(), torch.randn(5, 6).double()
    torch.manual_seed(3)
    loss, _ = infer.AnalyticELBO()(vae, guide, x)
    torch.manual_seed(3)
    with torch.no_grad():
        q = guide.conditionals["z1"](x)
        g = vae.decoder(q.rsample())
        kl = 0.5 * (q.mean**2 + q.variance - q.variance.log() - 1).sum()
    s, n = vae.likelihood.sigma, x.numel()
    square = (x - g).square().sum()
    expected = n / 2 * math.log(2 * math.pi) + n * s.log() + square / (2 * s**2) + kl
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_loss_is_the_formula_with_a_sigma_per_element():
    """d/2 log 2 pi + sum_k log sigma_k(z) + sum_k (x_k - g_k)^2 / (2 sigma_k(z)^2) + KL."""
    vae, guide = pair("predicted")
    vae, guide, x = vae.double(), guide.double(), torch.randn(5, 6).double()
    torch.manual_seed(3)
    loss, _ = infer.AnalyticELBO()(vae, guide, x)
    torch.manual_seed(3)
    with torch.no_grad():
        q = guide.conditionals["z1"](x)
        g, log_sigma = vae.decoder(q.rsample()).unbind(-1)
        kl = 0.5 * (q.mean**2 + q.variance - q.variance.log() - 1).sum()
    assert log_sigma.std() > 0.01
    square = ((x - g) ** 2 / (2 * (2 * log_sigma).exp())).sum()
    expected = x.numel() / 2 * math.log(2 * math.pi) + log_sigma.sum() + square + kl
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


# Floors


@pytest.mark.parametrize("log_sigma", [2.0, -3.0, -4.0, -5.0])
@pytest.mark.parametrize("kind", [LearnedSigma, PerPixelSigma, PredictedSigma])
def test_the_floor_changes_nothing_above_it(kind, log_sigma):
    sigma = kind()
    mean = torch.randn(7, 3)
    features, raw = mean, torch.tensor(log_sigma)
    if sigma.feature_shape((3,)) == (3, 2):
        features = torch.stack([mean, raw.expand(7, 3)], -1)
    else:
        with torch.no_grad():
            raw = sigma.raw.fill_(log_sigma / 10) * 10
    assert raw.flatten()[0].item() == pytest.approx(log_sigma, rel=1e-6)
    x = mean + torch.randn(7, 3) * math.exp(log_sigma)
    expected = dist.Normal(mean, raw.exp()).log_prob(x)
    assert torch.equal(sigma(features).log_prob(x), expected)


def test_optimal_sigma_has_no_bias_from_its_floor():
    likelihood, features = built("optimal")
    x = features + math.exp(-5.0)
    log_prob = likelihood(features).log_prob(x)
    sigma = (x - features).square().mean().sqrt()
    assert torch.equal(log_prob, dist.Normal(features, sigma).log_prob(x))


@pytest.mark.parametrize("depth", [0.0, 1e-6, 0.5, 3.0, 100.0, 1e4, -1e4])
def test_sigma_never_falls_below_the_floor_and_its_gradient_never_vanishes(depth):
    log_sigma = torch.tensor(math.log(1e-3) - depth, dtype=torch.float64, requires_grad=True)
    value = floored(log_sigma, math.log(1e-3))
    (slope,) = torch.autograd.grad(value, log_sigma)
    assert math.log(1e-3) <= value.item() <= 20
    assert 1e-5 < abs(slope.item()) <= 1
    # Reflected: the same height as far above the floor
    mirrored = floored(torch.tensor(math.log(1e-3) + depth, dtype=torch.float64), math.log(1e-3))
    assert mirrored.item() == pytest.approx(value.item(), rel=1e-12)


@pytest.mark.parametrize("depth", [-2.0, -0.5, 0.0, 0.5, 2.0])
@pytest.mark.parametrize("start", [0.02, 1.0, 30.0])
def test_the_floor_of_a_predicted_sigma_is_one_of_sigma_whatever_it_starts_at(start, depth):
    """Below it sigma is reflected: as far above the floor as it would be below."""
    sigma = PredictedSigma(initial=start, floor=0.01)
    sigma.feature_shape((3,))
    h = math.log(0.01 / start) + depth
    features = torch.stack([torch.zeros(3), torch.full((3,), h)], -1)
    assert sigma(features).stddev.tolist() == pytest.approx([0.01 * math.exp(abs(depth))] * 3)


@pytest.mark.parametrize("start", [torch.tensor(0.5), torch.tensor([0.1, 0.4, 2.0])])
def test_a_predicted_sigma_logs_sigma_itself_and_not_its_change(start):
    sigma = PredictedSigma()
    sigma.feature_shape((3,))
    sigma.begin_at(start)
    h = torch.tensor([[0.0, 0.0, 0.0], [1.0, -1.0, 0.5]])
    for change in (None, h):
        if change is not None:
            sigma(torch.stack([torch.zeros(2, 3), change], -1))
        values = start * (h[:1] if change is None else h).exp()
        expected = [values.log().mean().exp(), values.min(), values.max()]
        assert list(sigma.logged().values()) == pytest.approx([float(v) for v in expected])
        assert float(sigma.value) == pytest.approx(float(expected[0]))


def test_a_sigma_at_its_floor_comes_back_as_fast_as_it_went():
    sigma = LearnedSigma(initial=2e-3, floor=1e-3)
    optimizer = torch.optim.SGD(sigma.parameters(), lr=1e-3)

    def train(residual, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            loss = -sigma(torch.zeros(4)).log_prob(torch.full((4,), residual)).mean()
            loss.backward()
            nn.utils.clip_grad_norm_(sigma.parameters(), 1.0)
            optimizer.step()

    train(0.0, 500)
    assert 1e-3 <= sigma.value < 1.05e-3
    train(1.0, 900)
    assert sigma.value.item() == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("sigma", KINDS)
@pytest.mark.parametrize("x", [torch.zeros(3, 4), torch.ones(3, 4)], ids=["zeros", "ones"])
def test_exact_reconstruction_has_a_finite_loss_and_gradients(sigma, x):
    likelihood, features = built(sigma)
    with torch.no_grad():
        mean_of(likelihood, features).copy_(x)
    optimizer = torch.optim.Adam([features.requires_grad_(), *likelihood.parameters()], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        loss = -likelihood(features).log_prob(x).sum()
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in (features, *likelihood.parameters()))
        optimizer.step()
    assert likelihood.sigma.min() >= 1e-4 * (1 - 1e-6)


@pytest.mark.parametrize("sigma", NAMES)
@pytest.mark.filterwarnings("ignore:sigma has reached its floor")
def test_data_with_constant_pixels_train(sigma):
    vae, guide = pair(sigma)
    x = torch.randn(60, 6)
    x[:, :3] = torch.tensor([0.0, 1.0, -2.0])
    trainer = Trainer(vae, guide, seed=0)
    # The mean of a constant pixel trembles by lr, which is much beside its sigma
    for trainer.lr in (0.02, 0.001):
        trainer.fit(x, epochs=30, batch_size=20, progress=False)
    assert trainer.history[-1]["elbo"] > trainer.history[0]["elbo"]
    sigma = torch.as_tensor(vae.decode(torch.zeros(1, 3)).stddev)
    assert ((sigma >= 1e-4 * 0.999) & sigma.isfinite()).all()


# A density in evaluation


def test_in_evaluation_optimal_is_a_density_that_ignores_the_batch():
    likelihood = Gaussian("optimal").double()
    likelihood(torch.zeros(100).double()).log_prob(torch.randn(100).double() * 0.4)
    likelihood.eval()
    x = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    log_prob = likelihood(torch.tensor(0.3).double()).log_prob(x)
    assert torch.trapezoid(log_prob.exp(), x).item() == pytest.approx(1, abs=1e-10)
    alone = torch.stack([likelihood(torch.tensor(0.3).double()).log_prob(v) for v in x[::500]])
    assert torch.equal(alone, log_prob[::500])


def test_in_training_optimal_is_no_density():
    """The reason why evaluation freezes it: the batch's own sigma fits any batch."""
    likelihood = Gaussian("optimal").double()
    x = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    each = torch.stack([likelihood(torch.tensor(0.3).double()).log_prob(v) for v in x])
    assert torch.trapezoid(each.exp(), x).item() > 1.4


# Arguments


def test_names_are_names_for_the_objects():
    kinds = [LearnedSigma, OptimalSigma, PerPixelSigma, PredictedSigma]
    assert [type(Gaussian(name).noise) for name in NAMES] == kinds
    assert type(Gaussian(0.3).noise) is type(Gaussian().noise) is FixedSigma
    sigma = LearnedSigma(initial=0.25)
    assert Gaussian(sigma).noise is sigma
    assert Gaussian(sigma).sigma.item() == 0.25


def test_the_sigma_of_a_model_is_trained_only_where_it_has_parameters():
    trained = {name: [n for n, _ in Gaussian(name).named_parameters()] for name in NAMES}
    assert trained["learned"] == ["noise.raw"]
    assert trained["optimal"] == trained["predicted"] == []
    vae, _ = pair("per_pixel", "image")
    assert vae.likelihood.noise.raw.shape == (1, 8, 8)


BAD = [
    (lambda: LearnedSigma(initial=0.0), "initial: expected a positive finite number"),
    (
        lambda: LearnedSigma(initial=1e-5),
        "initial: expected a positive finite number above 0.0001",
    ),
    (lambda: FixedSigma(1e39), "sigma: expected a positive finite number"),
    (lambda: FixedSigma(1e-50), "sigma: expected a positive finite number"),
    (lambda: PerPixelSigma(floor=-1.0), "floor: expected a positive finite number"),
    (lambda: OptimalSigma(momentum=0.0), r"momentum: expected a number in \(0, 1\]"),
    (lambda: OptimalSigma(floor=math.nan), "floor: expected a positive finite number"),
    (lambda: Gaussian("per_pixel")(torch.zeros(3)), "build the model first"),
    (lambda: Gaussian("predicted")(torch.zeros(3, 2)), "build the model first"),
    (lambda: Gaussian("lerned"), "'learned', 'optimal', 'per_pixel', 'predicted', or an object"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("sigma", ["per_pixel", "predicted"])
def test_a_likelihood_with_a_sigma_per_element_serves_one_shape(sigma):
    likelihood = Gaussian(sigma)
    VAE((6,), 2, likelihood=likelihood, hidden=(4,))
    VAE((6,), 2, likelihood=likelihood, hidden=(4,))
    with pytest.raises(ValueError, match="give each model a likelihood of its own"):
        VAE((5,), 2, likelihood=likelihood, hidden=(4,))


def test_features_for_another_likelihood_are_refused():
    likelihood, _ = built("predicted")
    with pytest.raises(ValueError, match=r"features: expected \(\.\.\., 4, 2\)"):
        likelihood(torch.zeros(3, 4))
