import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from pyro_vae.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
)
from pyro_vae.models import VAE

LOGITS = [0.0, 1e-8, -1e-4, 2e-3, -0.02, 0.499, -0.501, 1.0, -3.0, 15.0, 17.0, -40.0, 90.0, 1e4]
DISCRETE = [
    (Bernoulli(), 2),
    (Categorical(levels=2), 2),
    (Categorical(levels=5), 5),
    (Categorical(levels=256), 256),
    (DiscretizedLogistic(levels=2), 2),
    (DiscretizedLogistic(levels=5), 5),
    (DiscretizedLogistic(levels=256), 256),
]
ALL = [Bernoulli(), ContinuousBernoulli(), Gaussian(0.3), Categorical(8), DiscretizedLogistic(8)]


def name(value):
    return repr(value) if isinstance(value, torch.nn.Module) else None


def grid(levels, dims):
    """All values of a discrete element, (levels, 1, ..., 1)."""
    return torch.linspace(0, 1, levels).reshape(-1, *(1,) * dims)


def features_of(likelihood, spread, n=30):
    """Features (n, ...) of n scalar data."""
    return torch.randn(n, *likelihood.feature_shape(())) * spread


def exact_continuous_bernoulli(logit):
    """Log normaliser log((e^l - 1) / l), mean and variance in 50 digits."""
    with mpmath.workdps(50):
        if logit == 0:
            return 0.0, 0.5, 1 / 12
        l = mpmath.mpf(float(torch.tensor(logit)))  # noqa: E741
        mean = 1 / -mpmath.expm1(-l) - 1 / l
        variance = 1 / l**2 - 1 / (4 * mpmath.sinh(l / 2) ** 2)
        return float(mpmath.log(mpmath.expm1(l) / l)), float(mean), float(variance)


@pytest.mark.parametrize("spread", [0.0, 1.0, 5.0, 100.0, 1e4])
@pytest.mark.parametrize(("likelihood", "levels"), DISCRETE, ids=name)
def test_discrete_probabilities_sum_to_one(likelihood, levels, spread):
    p = likelihood(features_of(likelihood, spread))
    total = p.log_prob(grid(levels, 1)).double().exp().sum(0)
    torch.testing.assert_close(total, torch.ones(30).double(), atol=2e-5, rtol=0)


@pytest.mark.parametrize("logit", LOGITS)
def test_continuous_bernoulli_integrates_to_one(logit):
    nodes, weights = np.polynomial.legendre.leggauss(60)
    # Panels that shrink towards both ends, where extreme densities live
    edges = np.concatenate([[0], np.geomspace(1e-6, 0.5, 20)])
    edges = np.concatenate([edges, 1 - edges[-2::-1]])
    half = np.diff(edges)[:, None] / 2
    x = torch.tensor(half * nodes + (edges[:-1, None] + half))
    p = ContinuousBernoulli()(torch.tensor(logit, dtype=torch.float64))
    total = (p.log_prob(x).exp().numpy() * half * weights).sum()
    assert total == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("sigma", [1e-3, 0.7, 1e3])
@pytest.mark.parametrize("mean", [-1e4, 0.0, 3.0])
def test_gaussian_integrates_to_one(sigma, mean):
    x = mean + sigma * torch.linspace(-12, 12, 4001, dtype=torch.float64)
    p = Gaussian(sigma).double()(torch.tensor(mean, dtype=torch.float64))
    total = torch.trapezoid(p.log_prob(x).exp(), x)
    assert float(total) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("logit", [*LOGITS, -1e4])
def test_continuous_bernoulli_is_exact_in_single_precision(logit):
    normaliser, mean, variance = exact_continuous_bernoulli(logit)
    features = torch.tensor(logit, requires_grad=True)
    p = ContinuousBernoulli()(features)
    for x in (0.0, 1e-3, 0.25, 0.5, 0.9375, 1.0):
        log_prob = p.log_prob(torch.tensor(x))
        expected = float(torch.tensor(logit)) * float(torch.tensor(x)) - normaliser
        assert log_prob.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
        # An exponential family: the gradient is x minus the mean
        (gradient,) = torch.autograd.grad(log_prob, features)
        assert gradient.item() == pytest.approx(x - mean, abs=1e-6)
    assert ContinuousBernoulli().mean(features).item() == pytest.approx(mean, abs=1e-6)
    assert p.variance.item() == pytest.approx(variance, rel=1e-4)


@pytest.mark.parametrize("log_scale", [-9.0, -3.0, 0.0, 4.0])
@pytest.mark.parametrize("loc", [-3.0, -0.5, 0.01, 0.4, 3.0])
def test_discretized_logistic_is_a_difference_of_cdfs(loc, log_scale):
    levels = 16
    likelihood = DiscretizedLogistic(levels)
    p = likelihood(torch.tensor([loc, log_scale]))
    got = p.log_prob(grid(levels, 0))
    with mpmath.workdps(2_000):  # enough for the difference of two numbers next to 1
        m, h = mpmath.mpf(float(torch.tensor(loc) + 0.5)), mpmath.mpf(1) / 2 / (levels - 1)
        s = mpmath.exp(max(log_scale - 1.5, likelihood.min_log_scale))

        def cdf(x):
            return 1 / (1 + mpmath.exp(-(x - m) / s))

        edges = [cdf((2 * k + 1) * h) for k in range(levels - 1)]
        probs = np.diff([mpmath.mpf(0), *edges, mpmath.mpf(1)])
        expected = torch.tensor([float(mpmath.log(q)) for q in probs])
    torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("levels", [2, 7, 256])
def test_categorical_is_torch_categorical(levels):
    logits = torch.randn(10, levels) * 3
    got = Categorical(levels)(logits).log_prob(grid(levels, 1))
    expected = torch.distributions.Categorical(logits=logits).log_prob(
        torch.arange(levels)[:, None]
    )
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(("likelihood", "levels"), DISCRETE, ids=name)
def test_discrete_samples_match_the_probabilities(likelihood, levels):
    p = likelihood(features_of(likelihood, 0.3, n=4))
    draws = 20_000
    index = (p.sample((draws,)) * (levels - 1)).round().long()
    probs = p.log_prob(grid(levels, 1)).double().exp()
    for element in range(4):
        counts = torch.bincount(index[:, element], minlength=levels).numpy().astype(float)
        expected = draws * (probs[:, element] / probs[:, element].sum()).numpy()
        rare, mode = expected < 5, expected.argmax()
        for numbers in (counts, expected):
            numbers[mode] += numbers[rare].sum()
        assert stats.chisquare(counts[~rare], expected[~rare]).pvalue > 1e-3


@pytest.mark.parametrize("logit", [0.0, 1e-4, -0.3, 3.0, -20.0, 200.0])
def test_continuous_bernoulli_samples_match_the_density(logit):
    x = ContinuousBernoulli()(torch.tensor(logit)).sample((20_000,)).double().numpy()

    def cdf(x):
        return x if logit == 0 else np.expm1(-logit * (1 - x)) / -np.expm1(-logit) + 1

    assert ((x >= 0) & (x <= 1)).all()
    assert stats.kstest(x, cdf).pvalue > 1e-3


def test_gaussian_samples_match_the_density():
    x = Gaussian(0.3)(torch.tensor(2.0)).sample((20_000,)).numpy()
    assert stats.kstest(x, stats.norm(2.0, 0.3).cdf).pvalue > 1e-3


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
@pytest.mark.parametrize(("likelihood", "levels"), DISCRETE, ids=name)
def test_discrete_moments_are_sums_over_the_grid(likelihood, levels, spread):
    features = features_of(likelihood, spread)
    p = likelihood(features)
    values = grid(levels, 1).double()
    probs = p.log_prob(values.float()).double().exp()
    mean = (probs * values).sum(0)
    variance = (probs * (values - mean) ** 2).sum(0)
    torch.testing.assert_close(likelihood.mean(features).double(), mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(p.variance.double(), variance, atol=1e-5, rtol=0)
    assert (p.variance >= 0).all()


def test_gaussian_moments():
    features = torch.randn(10)
    assert torch.equal(Gaussian(0.3).mean(features), features)
    assert torch.equal(Gaussian(0.3)(features).stddev, torch.full((10,), 0.3))


@pytest.mark.parametrize("scale", [0.0, 1.0, 50.0, 1e4])
@pytest.mark.parametrize("likelihood", ALL, ids=name)
def test_gradients_are_finite_for_extreme_features_and_data(likelihood, scale):
    shape = likelihood.feature_shape((3,))
    extremes = [torch.full(shape, scale), torch.full(shape, -scale), scale * torch.randn(shape)]
    for features in extremes:
        features.requires_grad_()
        for x in (torch.zeros(3), torch.ones(3)):
            if isinstance(likelihood, Gaussian):
                x = (x - 0.5) * 1e6
            log_prob = likelihood(features).log_prob(x).sum()
            (gradient,) = torch.autograd.grad(log_prob, features)
            assert log_prob.isfinite()
            assert gradient.isfinite().all()


@pytest.mark.parametrize("likelihood", ALL, ids=name)
def test_expanding_repeats_the_distribution(likelihood):
    p = likelihood(features_of(likelihood, 1.0, n=3))
    x = p.sample((4,))
    expanded = p.expand(torch.Size((4, 3)))
    assert expanded.batch_shape == (4, 3)
    torch.testing.assert_close(expanded.log_prob(x), p.log_prob(x))
    assert expanded.sample().shape == (4, 3)


@pytest.mark.parametrize("likelihood", ALL, ids=name)
def test_double_features_give_double_densities(likelihood):
    features = features_of(likelihood, 1.0).double()
    p = likelihood(features)
    single = likelihood(features.float())
    x = single.sample()
    assert p.mean.dtype == p.sample().dtype == torch.float64
    torch.testing.assert_close(
        p.log_prob(x.double()), single.log_prob(x).double(), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("event_shape", [(5,), (3, 4), (2, 8, 8), (2, 2, 2, 2)])
@pytest.mark.parametrize("likelihood", ALL, ids=name)
def test_models_honour_the_feature_shape(likelihood, event_shape):
    vae = VAE(event_shape, latents=2, likelihood=likelihood, hidden=(4,))
    p = vae.decode(torch.randn(3, 2))
    assert (p.batch_shape, p.event_shape) == ((3,), event_shape)
    x = vae.sample(3)
    vae.check_data(x)
    features = vae.decoder(torch.randn(3, 2))
    assert features.shape == (3, *likelihood.feature_shape(event_shape))


@pytest.mark.parametrize("event_shape", [(5, 4), (1, 9, 7), (3, 6, 6)])
@pytest.mark.parametrize("likelihood", ALL, ids=name)
def test_convolutional_models_honour_the_feature_shape(likelihood, event_shape):
    vae = VAE(event_shape, latents=2, likelihood=likelihood)
    assert vae.sample(3, mean=True).shape == (3, *event_shape)


OUTSIDE = [
    (Bernoulli(), [0.0, 0.4, 1.0], r'0\.\d+|ContinuousBernoulli\(\), or binarize="dynamic"'),
    (Bernoulli(), [0.0, 255.0], r"expects only 0 and 1, got values from 0 to 255"),
    (Bernoulli(), [float("nan"), 1.0], r"expected finite values, got 1 NaN or infinite"),
    (ContinuousBernoulli(), [0.0, 1.1], r"values in \[0, 1\], got values from 0 to 1.1"),
    (ContinuousBernoulli(), [-0.1, 1.0], r"Rescale the data \(8-bit pixels: x / 255\)"),
    (ContinuousBernoulli(), [0.1, float("inf")], r"got 1 NaN or infinite"),
    (Gaussian(), [float("-inf"), 0.0], r"got 1 NaN or infinite: remove or fill"),
    (Categorical(4), [0.0, 0.5], r"Categorical\(levels=4\) expects values k / 3 in \[0, 1\]"),
    (Categorical(4), [0.0, 4 / 3], r"got values from 0 to 1.333"),
    (DiscretizedLogistic(256), [0.0, 0.3], r"DiscretizedLogistic\(levels=256\).* k / 255"),
    (DiscretizedLogistic(256), [-1 / 255, 1.0], r"binarize=None, or pass the data's own levels="),
]


@pytest.mark.parametrize(("likelihood", "x", "message"), OUTSIDE, ids=name)
def test_data_outside_the_range_are_refused_with_the_way_out(likelihood, x, message):
    with pytest.raises(ValueError, match=message):
        likelihood.check(torch.tensor(x))


def test_grey_pixels_into_bernoulli_name_both_ways_out():
    with pytest.raises(ValueError) as error:
        Bernoulli().check(torch.rand(10))
    assert "likelihoods.ContinuousBernoulli()" in str(error.value)
    assert 'binarize="dynamic"' in str(error.value)


@pytest.mark.parametrize("likelihood", [*ALL, Categorical(256)], ids=name)
def test_own_samples_are_in_the_range(likelihood):
    likelihood.check(likelihood(features_of(likelihood, 5.0, n=1000)).sample((5,)))


def test_8_bit_pixels_are_on_the_grid():
    for likelihood in (Categorical(), DiscretizedLogistic()):
        likelihood.check(torch.arange(256, dtype=torch.uint8).float() / 255)


@pytest.mark.parametrize("likelihood", [Categorical(4), DiscretizedLogistic(4)], ids=name)
def test_values_off_the_grid_are_refused_and_rounding_is_not(likelihood):
    grid = torch.tensor([0.0, 1.0, 2.0, 3.0])
    for rounding in (1e-6, -1e-6, 5e-3):
        likelihood.check((grid + rounding).clamp(0, 3) / 3)
    for step in (0.02, 0.1, -0.3, 0.39, 0.5):
        with pytest.raises(ValueError, match="that are not all on this grid"):
            likelihood.check((grid + torch.tensor([0.0, step, 0.0, 0.0])) / 3)


@pytest.mark.parametrize("sigma", [0, -1.0, float("inf"), float("nan"), True, "learnt", None])
def test_gaussian_refuses_a_bad_sigma(sigma):
    with pytest.raises(ValueError, match="sigma: expected a positive finite number"):
        Gaussian(sigma)


@pytest.mark.parametrize("likelihood", [Categorical, DiscretizedLogistic])
@pytest.mark.parametrize("levels", [1, -3, 2.5, True, "256", None])
def test_discrete_likelihoods_need_two_levels(likelihood, levels):
    with pytest.raises(ValueError, match="levels: expected a whole number of at least 2, got"):
        likelihood(levels=levels)


def test_levels_may_be_an_integer_of_numpy():
    assert type(Categorical(levels=np.int64(4)).levels) is int
