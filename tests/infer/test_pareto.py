"""Statistics of importance weights, and the shape of their tail."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_vae.infer import importance
from pyro_vae.infer.weights import Weights, pareto_shape, weight_statistics


class TestStatistics:
    @pytest.fixture
    def log_weights(self):
        return torch.randn(400, 3, dtype=torch.float64) * torch.tensor([0.1, 0.5, 1.0])

    def test_by_hand(self, log_weights):
        estimate, error, ess, _ = weight_statistics(log_weights)
        w = log_weights.exp()
        torch.testing.assert_close(estimate.double(), w.mean(0).log())
        torch.testing.assert_close(ess, w.sum(0) ** 2 / (w**2).sum(0))
        torch.testing.assert_close(error, w.std(0) / w.mean(0) / 20)

    def test_do_not_overflow(self, log_weights):
        shifted = weight_statistics(log_weights - 5000)
        for got, expected in zip(shifted[1:], weight_statistics(log_weights)[1:], strict=True):
            torch.testing.assert_close(got, expected)

    def test_ess_is_between_one_and_the_number_of_samples(self):
        extremes = torch.zeros(100, 2).double()
        extremes[0, 1] = 1000.0
        torch.testing.assert_close(
            weight_statistics(extremes)[2], torch.tensor([100.0, 1.0]).double()
        )


def zhang_stephens(x):
    """Zhang, Stephens (2009), section 3, in loops; k is minus theirs: heavy tails positive."""
    x = np.sort(x)
    n = len(x)
    m = 30 + int(math.sqrt(n))
    quartile = x[int(n / 4 + 0.5) - 1]
    theta = [1 / x[-1] + (1 - math.sqrt(m / (j - 0.5))) / (3 * quartile) for j in range(1, m + 1)]
    profile = []
    for t in theta:
        k = -np.mean(np.log(1 - t * x))
        profile.append(n * (math.log(t / k) + k - 1))
    weight = [1 / sum(math.exp(other - one) for other in profile) for one in profile]
    best = sum(t * w for t, w in zip(theta, weight, strict=True))
    return np.mean(np.log(1 - best * x))


class TestPareto:
    @staticmethod
    def tail(log_weights):
        """Number of tail weights and their excesses over the next one, per column."""
        samples = len(log_weights)
        m = min(samples // 5, math.ceil(3 * math.sqrt(samples)))
        w = np.sort(np.exp(log_weights - log_weights.max(0)), 0)
        return m, w[-m:] - w[-m - 1]

    @pytest.mark.parametrize("samples", [25, 60, 1000, 5000])
    @pytest.mark.parametrize("spread", [0.1, 1.0, 3.0])
    def test_equals_an_independent_implementation(self, samples, spread):
        log_weights = torch.randn(samples, 4, dtype=torch.float64) * spread
        m, excess = self.tail(log_weights.numpy())
        fits = [zhang_stephens(column) for column in excess.T]
        expected = [(m * k + 5) / (m + 10) for k in fits]
        torch.testing.assert_close(pareto_shape(log_weights), torch.tensor(expected))

    @pytest.mark.parametrize("k", [-0.3, 0.1, 0.5, 0.7, 1.2])
    def test_recovers_the_shape_of_pareto_weights(self, k):
        samples, n = 4000, 200
        w = stats.genpareto(k).rvs((samples, n), random_state=0) + 1e-9
        m = self.tail(np.log(w))[0]
        got = pareto_shape(torch.tensor(np.log(w)))
        expected = (m * k + 5) / (m + 10)  # the prior's pull
        assert abs(got.mean() - expected) < 4 * got.std() / n**0.5 + 1 / m
        # The asymptotic standard deviation of the maximum-likelihood shape
        if k > -0.5:
            assert got.std() == pytest.approx((1 + k) / m**0.5, rel=0.25)

    def test_unknown_below_25_samples(self):
        assert pareto_shape(torch.randn(24, 3)).isnan().all()
        assert pareto_shape(torch.randn(25, 3)).isfinite().all()

    def test_equal_weights_have_no_tail(self):
        assert (pareto_shape(torch.full((100, 2), -3.0)) == -math.inf).all()

    def test_weights_that_are_no_numbers_are_not_exact(self):
        log_weights = torch.randn(100, 5, dtype=torch.float64)
        log_weights[3, 1], log_weights[:, 2], log_weights[7, 3] = math.nan, -math.inf, math.inf
        log_weights[:, 4] = 1.0
        found = pareto_shape(log_weights)
        assert found.isnan().tolist() == [False, True, True, True, False]
        assert found[4] == -math.inf

    def test_ties_do_not_hide_a_heavy_tail(self):
        log_weights = torch.zeros(1000, 1, dtype=torch.float64)
        log_weights[:3] = torch.tensor([[30.0], [20.0], [10.0]])
        assert pareto_shape(log_weights) > 0.7

    @pytest.mark.parametrize("pieces", [1, 7, 100])
    @pytest.mark.parametrize("most", [501, 20_000])
    def test_of_weights_that_come_in_pieces(self, pieces, most):
        log_weights = 2 * torch.randn(501, 3, dtype=torch.float64)
        log_weights[7, 2] = math.nan
        weights = Weights(most)
        for piece in log_weights.split(pieces):
            weights.add(piece)
        expected = pareto_shape(log_weights)
        assert torch.equal(weights.pareto_shape()[:2], expected[:2])
        assert weights.pareto_shape()[2].isnan() and weights.samples == 501

    def test_does_not_depend_on_the_scale_of_the_weights(self):
        log_weights = torch.randn(500, 3, dtype=torch.float64)
        torch.testing.assert_close(pareto_shape(log_weights - 4000), pareto_shape(log_weights))

    def test_flags_a_guide_that_is_too_narrow(self, linear):
        x = linear.data(100)
        good = importance(linear.vae, linear.guide(widen=1.2), x, samples=2000)
        narrow = importance(linear.vae, linear.guide(widen=0.2), x, samples=2000)
        assert good.pareto_k.mean() < 0.5
        assert narrow.pareto_k.mean() > 0.7
