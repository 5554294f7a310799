import math
import sys
import weakref

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess, widened
from pyro import poutine
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae.conditionals.normal import DiagonalNormal
from pyro_vae.data import Dataset
from pyro_vae.guides import BottomUp
from pyro_vae.handlers import corrupt, scale_latents
from pyro_vae.infer import densities, elbo_terms, importance, log_likelihood
from pyro_vae.infer.densities import can_broadcast
from pyro_vae.infer.weights import Weights, weight_statistics
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import VAE

# The package's function of the same name hides the module
module = sys.modules["pyro_vae.infer.importance"]


@pytest.fixture
def decent(linear):
    """Data and a guide that covers the exact posterior with some slack."""
    return linear.data(200), linear.guide(shift=0.2, widen=1.25)


def test_estimates_are_the_exact_evidence_within_their_standard_errors(linear, decent):
    x, guide = decent
    estimate, exact = importance(linear.vae, guide, x, samples=2000), linear.evidence().log_prob(x)
    z = (estimate.log_likelihood - exact) / estimate.standard_error
    assert excess(z) < 1
    assert excess(z.mean() * 200**0.5) < 1
    assert excess((z.std() - 1) * 400**0.5) < 1
    total_error = estimate.standard_error.square().sum().sqrt()
    assert excess((estimate.log_likelihood - exact).sum() / total_error) < 1
    assert estimate.samples == 2000


def test_with_the_exact_posterior_all_weights_are_equal(linear):
    x = linear.data(50)
    estimate = importance(linear.vae, linear.guide(), x, samples=100)
    expected = linear.evidence().log_prob(x)
    torch.testing.assert_close(estimate.log_likelihood, expected, atol=2e-5, rtol=1e-5)
    assert (estimate.standard_error < 1e-5).all()
    assert (estimate.effective_sample_size > 100 - 1e-6).all()


def test_one_sample_is_the_bound_in_expectation(linear):
    x, guide = linear.data(4), linear.guide(shift=0.3, widen=1.4)
    bound = linear.bound(guide, x)
    estimate = importance(linear.vae, guide, x.repeat(2000, 1), samples=1)
    draws = estimate.log_likelihood.unflatten(0, (2000, 4))
    assert excess((draws.mean(0) - bound) / (draws.std(0) / 2000**0.5)) < 1
    assert estimate.standard_error.isnan().all()
    torch.testing.assert_close(estimate.effective_sample_size, torch.ones(8000).double())


def test_the_bound_rises_with_the_number_of_samples_to_the_evidence(linear):
    x, guide = linear.data(1).expand(500, 6), linear.guide(shift=0.5, widen=1.5)
    evidence = linear.evidence().log_prob(x[0])
    previous, previous_error = elbo_terms(linear.vae, guide, x).elbo.mean(), 0.1
    for samples in (2, 5, 20, 100):
        values = importance(linear.vae, guide, x, samples=samples).log_likelihood
        error = values.std() / 500**0.5
        assert values.mean() > previous - 3 * (error + previous_error)
        assert values.mean() < evidence + 3 * error
        previous, previous_error = values.mean(), error
    assert abs(previous - evidence) < 0.1


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 10_000])
def test_the_chunk_size_changes_nothing(chunk_size):
    vae = VAE((6,), (4, 3), likelihood=Gaussian(0.7), hidden=(5,), condition=2)
    guide, x, y = BottomUp(vae), torch.randn(9, 6), torch.randint(2, (9,))
    expected = importance(vae, guide, x, y=y, samples=30)
    got = importance(vae, guide, x, y=y, samples=30, chunk_size=chunk_size)
    for name in ("log_likelihood", "standard_error", "effective_sample_size", "pareto_k"):
        a, b = getattr(got, name), getattr(expected, name)
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("chunk_size", [1, 10, 64])
@pytest.mark.parametrize("flat", [False, True])
def test_memory_is_bounded_by_the_chunk_size(chunk_size, flat, monkeypatch):
    # A recorded graph calls no hooks
    monkeypatch.setattr(densities, "_CHUNKS_BEFORE_A_GRAPH", 10**6)
    vae = VAE((6,), 3, likelihood=Gaussian(0.7), hidden=(5,))
    rows = []
    vae.decoder.register_forward_pre_hook(lambda m, args: rows.append(args[0][..., 0].numel()))
    guide = BottomUp(vae, encoder=Flat() if flat else None)
    importance(vae, guide, torch.randn(7, 6), samples=20, chunk_size=chunk_size)
    whole_copies = chunk_size // 7 * 7
    assert max(rows[2:]) == (whole_copies or chunk_size)
    assert sum(rows) >= 7 * 20


class Memory(TorchDispatchMode):
    """The most bytes alive at once among the results of all operations."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.alive = set()

    def _gone(self, key, size):
        self.alive.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self.alive:
                    self.alive.add(key)
                    self.now += size
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._gone, key, size)
        return result


@pytest.mark.parametrize("recorded", [False, True])
def test_peak_memory_follows_the_chunk_size(recorded, monkeypatch):
    monkeypatch.setattr(densities, "_CHUNKS_BEFORE_A_GRAPH", 2 if recorded else 10**6)
    vae = VAE((500,), 2, likelihood=Bernoulli(), hidden=(8,))
    guide, x = BottomUp(vae), torch.rand(5, 500).round()
    peaks = {}
    for chunk_size in (50, 500, 5000):
        with Memory() as memory:
            importance(vae, guide, x, samples=6000, chunk_size=chunk_size)
        peaks[chunk_size] = memory.peak
    # A handful of tensors (rows, 500), and latents and weights of all samples
    for chunk_size, peak in peaks.items():
        assert 4 * 500 * chunk_size < peak < 6 * 4 * 500 * chunk_size + 2e6
    assert peaks[5000] > 10 * peaks[50]


def test_of_many_weights_the_largest_alone_are_kept():
    pieces = [torch.randn(1000, 3, dtype=torch.float64) for _ in range(100)]
    weights = Weights(100_000)
    with Memory() as memory:
        for piece in pieces:
            weights.add(piece + 0.0)
        found = [*weights.statistics(), weights.pareto_shape()]
    assert memory.peak < 0.25 * 8 * 300_000
    for got, expected in zip(found, weight_statistics(torch.cat(pieces)), strict=True):
        torch.testing.assert_close(got.double(), expected.double(), atol=1e-6, rtol=1e-6)


def test_recorded_chunks_give_the_same_estimate(monkeypatch):
    vae = VAE((6,), (3, 2), likelihood=Bernoulli(), hidden=(8,), condition=3)
    guide, x, y = BottomUp(vae), torch.rand(5, 6).round(), torch.tensor([0, 1, 2, 0, 1])
    estimates = []
    for chunks in (10**6, 3):
        monkeypatch.setattr(densities, "_CHUNKS_BEFORE_A_GRAPH", chunks)
        estimates.append(importance(vae, guide, x, y=y, samples=203, chunk_size=10))
    assert torch.equal(estimates[0].log_likelihood, estimates[1].log_likelihood)


def test_the_encoder_runs_once_for_all_samples():
    vae = VAE((6,), 3, likelihood=Gaussian(0.7), hidden=(5,))
    guide = BottomUp(vae)
    rows = []
    network = guide.conditionals["z1"].network
    network.register_forward_pre_hook(lambda m, args: rows.append(args[0][..., 0].numel()))
    importance(vae, guide, torch.randn(7, 6), samples=100)
    assert rows[-1] == 7
    assert sum(rows) < 7 * 100


class Flat(nn.Module):
    """Fixes the number of dimensions, as much code does."""

    def forward(self, x):
        n, width = x.shape
        return x.view(n, width)


class SoftmaxOverDimensionOne(nn.Module):
    """Right on (n, f), silently something else on (samples, n, f)."""

    def forward(self, z):
        return z.softmax(1)


class LearnedNorm(nn.BatchNorm1d):
    """Batch norm away from its initial statistics."""

    def __init__(self, size):
        super().__init__(size)
        self.running_mean.normal_()
        self.running_var.uniform_(0.5, 2)


def second_layer(network):
    return {"conditionals": {"z2": DiagonalNormal(network, 2, 1)}}


@pytest.mark.parametrize(
    ("kwargs", "broadcasts"),
    [
        ({}, True),
        ({"encoder": Flat()}, True),
        ({"encoder": LearnedNorm(6)}, True),
        (second_layer(Flat()), False),
        (second_layer(LearnedNorm(2)), False),
        (second_layer(SoftmaxOverDimensionOne()), False),
    ],
)
def test_guides_that_cannot_broadcast_give_the_same_estimate(kwargs, broadcasts):
    vae = VAE((6,), (2, 1), likelihood=Gaussian(0.7), hidden=(5,))
    guide, x = widened(BottomUp(vae, **kwargs), 2.0), torch.randn(3, 6)
    assert can_broadcast(guide.eval(), x, None) is broadcasts
    got = importance(vae, guide, x, samples=20_000)
    # By hand: every row on its own
    rows = x.repeat_interleave(20_000, 0)
    with torch.no_grad():
        q = poutine.trace(guide).get_trace(rows)
        p = poutine.trace(poutine.replay(vae, q)).get_trace(rows)
    for trace in (p, q):
        trace.compute_log_prob()
    log_w = sum(p.nodes[s]["log_prob"] for s in ("x", "z1", "z2"))
    log_w = (log_w - sum(q.nodes[s]["log_prob"] for s in ("z1", "z2"))).reshape(3, 20_000)
    expected = log_w.logsumexp(1) - math.log(20_000)
    variance = log_w.softmax(1).square().sum(1) - 1 / 20_000
    error = (got.standard_error.square() + variance).sqrt()
    assert excess((got.log_likelihood - expected) / error) < 1


@pytest.mark.parametrize("n", [1, 3, 5, 6, 9])
def test_any_number_of_data_and_samples(linear, n):
    x = linear.data(n)
    for samples in (1, 2, 3, 5, 6, 9):
        estimate = importance(linear.vae, linear.guide(), x, samples=samples, chunk_size=5)
        torch.testing.assert_close(
            estimate.log_likelihood, linear.evidence().log_prob(x), atol=2e-5, rtol=1e-5
        )


def test_many_data_and_many_samples_go_in_blocks(linear, monkeypatch):
    monkeypatch.setattr(module, "_DATA", 3)
    monkeypatch.setattr(module, "_GUIDE_ROWS", 8)
    x, guide = linear.data(11), linear.guide(shift=0.1)
    estimate = importance(linear.vae, guide, x, samples=30)
    z = (estimate.log_likelihood - linear.evidence().log_prob(x)) / estimate.standard_error
    assert excess(z, draws=30) < 1


def test_labels_reach_both_programs():
    vae = VAE((6,), 3, likelihood=Gaussian(0.7), hidden=(), condition=2)
    guide, x, y = widened(BottomUp(vae)), torch.randn(4, 6), torch.tensor([0, 1, 1, 0])
    weight, bias = vae.decoder.layers[0].weight.detach(), vae.decoder.layers[0].bias.detach()
    covariance = weight[:, :3] @ weight[:, :3].T + 0.49 * torch.eye(6)
    mean = weight[:, 3:][:, y].T + bias
    exact = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)
    estimate = importance(vae, guide, x, y=y, samples=20_000)
    assert excess((estimate.log_likelihood - exact) / estimate.standard_error) < 1
    with pytest.raises(ValueError, match="pass y="):
        importance(vae, guide, x)


def test_beta_is_left_out(linear, decent):
    x, guide = decent
    expected = importance(linear.vae, guide, x, samples=50).log_likelihood
    pair = scale_latents(linear.vae, 0.0), scale_latents(guide, 3.0)
    assert torch.equal(importance(*pair, x, samples=50).log_likelihood, expected)


def test_a_guide_with_noise_of_its_own_draws_it_for_every_sample(linear):
    x = linear.data(20)
    noisy = corrupt(linear.guide(widen=2.5), 0.5)
    assert not can_broadcast(noisy, x, None)
    estimate = importance(linear.vae, noisy, x, samples=4000)
    z = (estimate.log_likelihood - linear.evidence().log_prob(x)) / estimate.standard_error
    assert excess(z) < 1
    assert excess(z.mean() * 20**0.5) < 1


def test_plain_functions_with_pixels_in_a_plate_of_their_own():
    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("code", dist.Normal(0.0, 1.0))
            with pyro.plate("pixels", x.shape[1], dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("code", dist.Normal(x.mean(1, keepdim=True), 0.6))

    x = torch.randn(4, 3)
    covariance = torch.ones(3, 3) + torch.eye(3)
    exact = torch.distributions.MultivariateNormal(torch.zeros(3), covariance).log_prob(x)
    estimate = importance(model, guide, x, samples=5000)
    assert excess((estimate.log_likelihood - exact) / estimate.standard_error) < 1


def test_log_likelihood_is_the_estimate_alone(linear, decent):
    x, guide = decent
    expected = importance(linear.vae, guide, x, samples=30).log_likelihood
    assert torch.equal(log_likelihood(linear.vae, guide, x, importance_samples=30), expected)


def test_no_state_changes():
    vae = VAE((6,), 2, likelihood=Bernoulli(), hidden=(5,))
    guide = BottomUp(vae, encoder=nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)))
    x = torch.randn(5, 6).sign().relu()
    state = {k: v.clone() for k, v in guide.state_dict().items()}
    random = torch.get_rng_state()
    first = importance(vae, guide, x, samples=10).log_likelihood
    second = importance(vae, guide, x, samples=10).log_likelihood
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, state[k]) for k, v in guide.state_dict().items())
    assert all(m.training for m in guide.modules())
    assert pyro.infer.util.is_validation_enabled()
    assert not list(pyro.get_param_store().keys())


def test_bad_arguments_are_refused(linear):
    x, guide = linear.data(3), linear.guide()
    with pytest.raises(ValueError, match="samples: expected a whole number of at least 1, got 0"):
        importance(linear.vae, guide, x, samples=0)
    with pytest.raises(ValueError, match=r"chunk_size: expected a whole .* at least 1, got 0"):
        importance(linear.vae, guide, x, chunk_size=0)
    with pytest.raises(ValueError, match="got 6 NaN or infinite"):
        importance(linear.vae, guide, torch.full((1, 6), math.nan))
    deep = VAE((6,), (2, 1), likelihood=Gaussian())
    with pytest.raises(ValueError, match="latent site 'z2' of the model is missing in the guide"):
        importance(deep, guide, x)


@pytest.mark.parametrize("y", [[2, 0, 1, 1], np.array([2, 0, 1, 1])], ids=type)
def test_labels_in_other_forms(y):
    vae = VAE((6,), 2, likelihood=Gaussian(), hidden=(5,), condition=3)
    guide, x = BottomUp(vae), torch.randn(4, 6)
    expected = log_likelihood(vae, guide, x, y=torch.tensor([2, 0, 1, 1]), importance_samples=3)
    assert torch.equal(log_likelihood(vae, guide, x, y=y, importance_samples=3), expected)
    one, each = (
        log_likelihood(vae, guide, x, y=label, importance_samples=3)
        for label in (2, torch.full((4,), 2))
    )
    assert torch.equal(one, each)


def test_labels_of_a_pair_without_condition_are_ignored():
    vae = VAE((6,), 2, likelihood=Gaussian(), hidden=(5,))
    guide, x = BottomUp(vae), torch.randn(4, 6)
    found = log_likelihood(vae, guide, x, y=[2, 0, 1, 1], importance_samples=3)
    assert torch.equal(found, log_likelihood(vae, guide, x, importance_samples=3))


@pytest.mark.parametrize("x", [Dataset(torch.zeros(3, 6)), np.zeros((3, 6))], ids=type)
def test_data_are_tensors(linear, x):
    vae, guide = linear.vae, linear.guide()
    with pytest.raises(TypeError, match=r"x: expected a tensor \(n, ...\), got .*: pass "):
        log_likelihood(vae, guide, x, importance_samples=3)
