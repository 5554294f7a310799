"""Penalties against sums written out, and MMD against what unbiased means."""

import math

import pyro.distributions as dist
import pytest
import torch

from pyro_vae.conditionals.normal import StandardNormal
from pyro_vae.regularizers import DIP, DIP2, MMD


def posterior(n=5, d=3):
    return dist.Normal(torch.randn(n, d), 0.2 + torch.rand(n, d)).to_event(1)


def dip_by_hand(q, off_weight, diagonal_weight, second):
    n, d = q.mean.shape
    total = 0.0
    for i in range(d):
        for j in range(d):
            c = sum(q.mean[b, i] * q.mean[b, j] for b in range(n)) / n
            c -= sum(q.mean[b, i] for b in range(n)) / n * sum(q.mean[b, j] for b in range(n)) / n
            if i == j:
                c += sum(q.variance[b, i] for b in range(n)) / n if second else 0
                total += diagonal_weight * (c - 1) ** 2
            else:
                total += off_weight * c**2
    return total


@pytest.mark.parametrize(("make", "second", "factor"), [(DIP, False, 10), (DIP2, True, 1)])
def test_dip_is_the_sum_by_hand(make, second, factor):
    q = posterior()
    for arguments, weights in (
        ({}, (10.0, 10.0 * factor)),
        ({"off_diagonal": 3.0}, (3.0, 3.0 * factor)),
        ({"off_diagonal": 3.0, "diagonal": 0.5}, (3.0, 0.5)),
        ({"off_diagonal": 0.0, "diagonal": 2.0}, (0.0, 2.0)),
    ):
        got = make(**arguments)(q, q.rsample())
        torch.testing.assert_close(got, dip_by_hand(q, *weights, second))


@pytest.mark.parametrize("make", [DIP, DIP2])
def test_dip_of_leading_dimensions_is_that_of_each(make):
    means, scales = torch.randn(4, 5, 3), torch.rand(4, 5, 3) + 0.1
    q = dist.Normal(means, scales).to_event(1)
    each = [
        make()(dist.Normal(m, s).to_event(1), None) for m, s in zip(means, scales, strict=True)
    ]
    torch.testing.assert_close(make()(q, None), torch.stack(each))


def test_dip_is_zero_where_it_wants_to_be():
    """Means with covariance I exactly; and N(0, I) for every datum."""
    white = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    q = dist.Normal(white, 1e-4).to_event(1)
    assert float(DIP()(q, None)) == pytest.approx(0, abs=1e-10)
    q = dist.Normal(torch.zeros(4, 2), 1.0).to_event(1)
    assert float(DIP2()(q, None)) == 0
    assert float(DIP()(q, None)) == 2 * 100


def test_dip_of_a_point_mass_is_that_of_its_means():
    means = torch.randn(6, 2)
    exact, narrow = dist.Delta(means, event_dim=1), dist.Normal(means, 1e-6).to_event(1)
    for make in (DIP, DIP2):
        torch.testing.assert_close(make()(exact, means), make()(narrow, means))


def test_dip_needs_moments():
    flow = dist.TransformedDistribution(
        dist.Normal(torch.zeros(5, 2), 1.0).to_event(1),
        [dist.transforms.AffineAutoregressive(torch.nn.Identity())],
    )
    with pytest.raises(ValueError, match=r"DIP: TransformedDistribution has no moments in closed"):
        DIP()(flow, None)


def mmd_by_hand(z, p, scales, variance=1.0):
    n, d = z.shape

    def k(a, b):
        square = float((a - b).square().sum())
        return sum(2 * s * d * variance / (2 * s * d * variance + square) for s in scales)

    within = sum(
        k(rows[i], rows[j]) for rows in (z, p) for i in range(n) for j in range(n) if i != j
    )
    across = sum(k(z[i], p[j]) for i in range(n) for j in range(n))
    return within / (n * n - n) - 2 / (n * n) * across


SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def test_mmd_is_the_double_loop():
    z, p = torch.randn(7, 3) + 0.5, torch.randn(7, 3)
    assert float(MMD().distance(z, p)) == pytest.approx(mmd_by_hand(z, p, SCALES), abs=1e-5)
    got = MMD(scales=(0.3,)).distance(z, p, 4.0)
    assert float(got) == pytest.approx(mmd_by_hand(z, p, (0.3,), 4.0), abs=1e-5)


@pytest.mark.parametrize("far", [0.0, 100.0, 3000.0])
def test_mmd_of_codes_far_from_zero(far):
    """All of them; and half, where no centre is near to both halves."""
    z, p = torch.randn(20, 3), torch.randn(20, 3)
    for shift in (far, far * (torch.arange(20) % 2)[:, None]):
        codes = (z + shift).requires_grad_()
        value = MMD().distance(codes, p)
        assert float(value.detach()) == pytest.approx(
            mmd_by_hand(codes.detach(), p, SCALES), abs=1e-5
        )
        double = codes.detach().double().requires_grad_()
        MMD().distance(double, p.double()).backward()
        value.backward()
        torch.testing.assert_close(codes.grad.double(), double.grad, rtol=1e-4, atol=1e-6)


def test_mmd_needs_draws_with_a_gradient():
    q = dist.Bernoulli(logits=torch.zeros(5, 3, requires_grad=True)).to_event(1)
    with pytest.raises(ValueError, match=r"MMD: the draws of a \w+ are not reparametrised"):
        MMD()(q, q.sample())
    with torch.no_grad():
        MMD()(q, q.sample())
    assert DIP()(q, q.sample()).requires_grad


def test_mmd_draws_from_the_prior_and_weighs():
    q, wide = posterior(), StandardNormal(3)
    wide.scale.fill_(2.0)
    z = q.rsample()
    for penalty, scale in ((MMD(weight=3.0), 1.0), (MMD(weight=3.0, prior=wide), 2.0)):
        with torch.random.fork_rng():
            p = scale * torch.randn(5, 3)
        with torch.random.fork_rng():
            got = penalty(q, z)
        assert float(got) == pytest.approx(3 * mmd_by_hand(z, p, SCALES, scale**2), abs=1e-4)


def test_mmd_of_equal_distributions_is_zero_on_average():
    """Also for five points: the estimate is unbiased, and so is often negative."""
    draws = MMD().distance(torch.randn(20_000, 5, 2), torch.randn(20_000, 5, 2))
    error = float(draws.std() / len(draws) ** 0.5)
    assert abs(float(draws.mean())) < 4 * error
    assert error < 0.01 and (draws < 0).float().mean() > 0.3


def test_mmd_of_shifted_normals_has_the_same_mean_for_every_batch_size():
    means = []
    for n, repeats in ((2, 40_000), (20, 2000)):
        draws = MMD().distance(torch.randn(repeats, n, 2) + 1, torch.randn(repeats, n, 2))
        means.append((float(draws.mean()), float(draws.std() / len(draws) ** 0.5)))
    (a, ea), (b, eb) = means
    assert abs(a - b) < 4 * math.hypot(ea, eb)
    assert b > 20 * eb


def test_mmd_of_one_datum_is_zero():
    q = posterior(1)
    assert float(MMD()(q, q.rsample())) == 0


def test_scalar_and_matrix_latents_are_vectors():
    q = dist.Normal(torch.randn(5, 2, 2), 1.0).to_event(2)
    flat = dist.Normal(q.mean.reshape(5, 4), 1.0).to_event(1)
    torch.testing.assert_close(DIP()(q, None), DIP()(flat, None))
    scalar = dist.Normal(torch.randn(5), 1.0)
    expected = 100 * (scalar.mean.var(correction=0) - 1) ** 2
    torch.testing.assert_close(DIP()(scalar, None), expected)


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_bad_weights(value):
    for make, name in (
        (lambda: DIP(off_diagonal=value), "off_diagonal"),
        (lambda: DIP2(diagonal=value), "diagonal"),
        (lambda: MMD(weight=value), "weight"),
    ):
        with pytest.raises(ValueError, match=f"{name}: expected a finite number >= 0"):
            make()
    with pytest.raises(ValueError, match="scales: expected positive numbers"):
        MMD(scales=())
