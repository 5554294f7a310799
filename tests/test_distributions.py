import itertools

import mpmath
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_vae.distributions import ContinuousBernoulli, GridCategorical, GridLogistic, OneHotPoint


def one_hot(*shape, k=4):
    return torch.nn.functional.one_hot(torch.randint(k, shape), k).float()


def test_one_hot_point_is_a_mass_of_one():
    value = one_hot(3, 2)
    q = OneHotPoint(value)
    every = torch.eye(4).reshape(4, 1, 1, 4).expand(4, 3, 2, 4)
    assert torch.equal(q.log_prob(every).exp().sum(0), torch.ones(3, 2))
    assert torch.equal(q.rsample((5,)), value.expand(5, 3, 2, 4))
    assert torch.equal(q.log_prob(value), torch.zeros(3, 2))
    assert torch.equal(q.mean, value) and not q.variance.any() and not q.entropy().any()
    assert q.expand(torch.Size((6, 3, 2))).sample().shape == (6, 3, 2, 4)


def test_kl_of_a_one_hot_point_is_that_of_a_categorical_with_all_mass_there():
    value, logits = one_hot(3), torch.randn(3, 4)
    p = dist.OneHotCategorical(logits=logits)
    kl = kl_divergence(OneHotPoint(value), p)
    expected = kl_divergence(dist.Categorical(probs=value), dist.Categorical(logits=logits))
    torch.testing.assert_close(kl, expected)
    both = kl_divergence(OneHotPoint(value).to_event(1), p.to_event(1))
    torch.testing.assert_close(both, expected.sum())


def test_one_hot_point_refuses_what_is_not_one_hot():
    with pytest.raises(ValueError, match="value"):
        OneHotPoint(torch.full((2, 4), 0.25))
    with pytest.raises(ValueError):
        OneHotPoint(one_hot(2)).log_prob(torch.ones(2, 4))


@pytest.mark.parametrize("log_scale", [-20.0, -79.0, -90.0, -200.0, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_grid_logistic_of_almost_no_scale_is_its_limit(log_scale, dtype):
    """All mass in one bin; half of it in each of two where the location is on their edge."""
    levels = 5  # bins from -1/8 to 1/8, ..., 7/8 to 9/8, whose edges are floating-point numbers
    for loc, expected in [
        (0.5, [0, 0, 1, 0, 0]),
        (0.55, [0, 0, 1, 0, 0]),
        (0.375, [0, 0.5, 0.5, 0, 0]),
        (0.125, [0.5, 0.5, 0, 0, 0]),
        (-3.0, [1, 0, 0, 0, 0]),
    ]:
        parameters = [torch.full((5,), v, dtype=dtype) for v in (loc, log_scale)]
        for parameter in parameters:
            parameter.requires_grad_()
        p = GridLogistic(*parameters, levels)
        log_prob = p.log_prob(p.grid)
        expected = torch.tensor(expected, dtype=dtype)
        torch.testing.assert_close(log_prob.exp(), expected, atol=1e-4, rtol=0)
        # What is impossible is finitely so, so that training can go on
        assert (log_prob[expected == 0] < -1e3).all()
        assert log_prob.isfinite().all()
        for gradient in torch.autograd.grad(log_prob.sum(), parameters):
            assert gradient.isfinite().all()


def test_a_grid_logistic_adds_up_to_one_at_every_scale():
    scales = torch.linspace(-100, 3, 104)
    for loc in (0.375, 0.5, 0.61, -0.2):
        p = GridLogistic(torch.full((104, 1), loc), scales[:, None], 5)
        total = p.log_prob(torch.linspace(0, 1, 5)).exp().sum(-1)
        torch.testing.assert_close(total, torch.ones(104))


@pytest.mark.parametrize("log_scale", [2.0, 5.0, 9.0])
def test_a_grid_logistic_that_is_wide_beside_its_bins_is_exact_in_single_precision(log_scale):
    """The mass of a bin is a difference of two numbers that agree in all digits of a float."""
    p = GridLogistic(torch.tensor(0.4), torch.tensor(log_scale), 256)
    found = p.log_prob(torch.arange(1, 255) / 255)
    with mpmath.workdps(50):
        scale, loc = mpmath.exp(log_scale), mpmath.mpf(float(torch.tensor(0.4)))

        def cdf(x):
            return 1 / (1 + mpmath.exp(-(x - loc) / scale))

        edges = [cdf(mpmath.mpf(2 * k + 1) / 510) for k in range(255)]
        expected = [float(mpmath.log(b - a)) for a, b in itertools.pairwise(edges)]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-6, atol=1e-5)


def test_the_mean_of_a_grid_logistic_is_the_sum_over_the_grid():
    loc = torch.linspace(-0.5, 1.5, 9, dtype=torch.float64)
    log_scale = torch.tensor([[-12.0], [-5.0], [-1.0], [3.0]], dtype=torch.float64)
    for levels in (2, 5, 256):
        p = GridLogistic(*torch.broadcast_tensors(loc, log_scale), levels)
        each = torch.stack([p.log_prob(value).exp() for value in p.grid], -1)
        torch.testing.assert_close(p.mean, each @ p.grid)


def test_a_grid_logistic_draws_by_its_inverse_distribution_function(monkeypatch):
    u = torch.tensor([1e-6, 1e-4, 0.01, 0.3, 0.5, 0.99, 0.9999, 1 - 2**-20])
    monkeypatch.setattr(torch, "rand", lambda *args, **kwargs: u)
    p = GridLogistic(torch.full((8,), 0.5), torch.full((8,), 0.03).log(), 256)
    u = u.double()
    expected = (0.5 + 0.03 * (u / (1 - u)).log()).clamp(0, 1)
    assert ((p.sample() - expected).abs() <= 0.5 / 255 + 1e-5).all()
    # Also where the scale is 0 in single precision, and the uniform number is
    u = torch.tensor([0.0, 0.5, 1 - 2**-24])
    p = GridLogistic(torch.tensor([0.2, 0.4, 0.6]), torch.full((3,), -200.0), 6)
    torch.testing.assert_close(p.sample(), torch.tensor([0.2, 0.4, 0.6]))


@pytest.mark.parametrize(
    "p",
    [
        ContinuousBernoulli(torch.zeros(2)),
        GridCategorical(torch.zeros(2, 4)),
        GridLogistic(torch.zeros(2), torch.zeros(2), 4),
    ],
    ids=lambda p: type(p).__name__,
)
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_values_outside_the_support_are_refused_where_arguments_are_checked(p, value):
    checked = type(p)(*(getattr(p, name) for name in arguments_of(p)), validate_args=True)
    with pytest.raises(ValueError, match="value"):
        checked.log_prob(torch.tensor([0.0, value]))


def arguments_of(p):
    """Names of the arguments of a distribution."""
    return [*p.arg_constraints, *(["levels"] if isinstance(p, GridLogistic) else [])]


@pytest.mark.parametrize("logit", [-0.05, -1e-3, 1e-3, 0.02, 0.05, 0.1, 2.0])
def test_moments_of_a_continuous_bernoulli_near_zero(logit):
    """Of e^(l x) / Z on [0, 1], where the formulas cancel and series stand in for them."""
    p = ContinuousBernoulli(torch.tensor(logit, dtype=torch.float64))
    with mpmath.workdps(40):
        value = mpmath.mpf(float(p.logits))
        total, first, second = (
            mpmath.quad(lambda x, k=k: x**k * mpmath.exp(value * x), [0, 1]) for k in range(3)
        )
        mean = first / total
        expected = float(mean), float(second / total - mean**2)
    assert float(p.mean) == pytest.approx(expected[0], rel=1e-11)
    assert float(p.variance) == pytest.approx(expected[1], rel=1e-9)
