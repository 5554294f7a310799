"""Importance sampling that ends by error or by time, at the numbers of as many samples."""

import functools
import itertools
import math
import sys

import pytest
import torch
from chance import excess
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyro_vae.conditionals.normal import DiagonalNormal
from pyro_vae.diagnostics import evaluate
from pyro_vae.guides import BottomUp, Flow
from pyro_vae.infer import Budget, compare_guides, densities, importance, log_likelihood
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import VAE

# The package's function of the same name hides the module
module = sys.modules["pyro_vae.infer.importance"]
# Draws of each datum after each round: 25 more, or a quarter of those that there are
TOTALS = [25, 50, 75, 100, 125, 156, 195, 243, 303, 378, 472, 590, 737, 921, 1151, 1438, 1797]
TOTALS += [2246, 2807, 3508, 4385, 5000]
QUANTITIES = ("log_likelihood", "standard_error", "effective_sample_size", "pareto_k")


class Clock:
    """A time that goes on by ten seconds whenever somebody looks."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        self.now += 10
        return self.now


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(module, "time", Clock())


class Flat(nn.Module):
    def forward(self, x):
        n, width = x.shape
        return x.view(n, width)


def wide(guide, scale=1.0):
    """The guide with scales that are too large, so that its weights vary."""
    with torch.no_grad():
        for conditional in guide.conditionals.values():
            if isinstance(conditional, DiagonalNormal):
                conditional.raw_scale.bias.fill_(scale)
    return guide


def plain():
    vae = VAE((6,), 3, likelihood=Gaussian(0.3), hidden=(5,))
    return vae, wide(BottomUp(vae)), torch.randn(11, 6), None


def labelled():
    vae = VAE((6,), (3, 2), likelihood=Bernoulli(), hidden=(5,), condition=2)
    return vae, wide(BottomUp(vae)), torch.rand(11, 6).round(), torch.randint(2, (11,))


def of_repeated_data():
    vae = VAE((6,), (3, 2), likelihood=Gaussian(0.3), hidden=(5,))
    second = {"z2": DiagonalNormal(Flat(), 3, 2)}
    return vae, wide(BottomUp(vae, conditionals=second)), torch.randn(11, 6), None


def flow():
    vae = VAE((6,), 3, likelihood=Gaussian(0.3), hidden=(5,))
    return vae, Flow(vae), torch.randn(11, 6), None


def autoguide():
    vae, _, x, _ = plain()
    guide = AutoNormal(vae)
    guide(x)
    return vae, guide, x, None


@pytest.mark.parametrize("make", [plain, labelled, of_repeated_data, flow, autoguide])
@pytest.mark.parametrize("stopped_by", ["error", "time", "samples"])
def test_as_many_samples_give_the_same_numbers(make, stopped_by, clock, monkeypatch):
    monkeypatch.setattr(module, "_DATA", 4)
    monkeypatch.setattr(module, "_GUIDE_ROWS", 60)
    monkeypatch.setattr(densities, "_CHUNKS_BEFORE_A_GRAPH", 3)
    model, guide, x, y = make()
    run = functools.partial(importance, model, guide, x, y=y, chunk_size=20, progress=False)
    after = run(samples=243)
    over_data = float(after.log_likelihood.double().std()) / len(x) ** 0.5
    budgets = {
        "error": Budget(error=1.001 * after.monte_carlo_error / over_data),
        "time": Budget(seconds=45, error=0.0),
        "samples": Budget(error=0.0, samples=137),
    }
    found = run(samples=budgets[stopped_by])
    assert found.stopped_by == stopped_by
    assert found.samples in {"error": [243], "time": [125], "samples": [137]}[stopped_by]
    expected = run(samples=found.samples)
    assert expected.samples == found.samples and expected.stopped_by == "samples"
    for name in QUANTITIES:
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert found.pareto_k.isfinite().all()


@pytest.mark.parametrize("error", [0.5, 0.016])
def test_it_ends_after_the_first_round_whose_error_is_small(error, linear):
    x, guide = linear.data(30), linear.guide(shift=0.3, widen=1.3)
    for samples in TOTALS[7:]:
        estimate = importance(linear.vae, guide, x, samples=samples)
        squares = [float(e) ** 2 for e in estimate.standard_error]
        noise, bias = math.sqrt(sum(squares)) / 30, sum(squares) / 2 / 30
        if math.sqrt(noise**2 + bias**2) < error * float(estimate.log_likelihood.std()) / 30**0.5:
            break
    found = importance(linear.vae, guide, x, samples=Budget(error=error), progress=False)
    assert (found.samples, found.stopped_by) == (samples, "error")
    assert found.monte_carlo_error == pytest.approx(math.hypot(noise, bias))


def test_it_took_several_rounds(linear):
    x, guide = linear.data(30), linear.guide(shift=0.3, widen=1.3)
    budgets = [Budget(error=error) for error in (0.5, 0.016, 0.011)]
    found = [importance(linear.vae, guide, x, samples=b, progress=False).samples for b in budgets]
    assert found[0] < found[1] < found[2] < 5000


@pytest.mark.parametrize(
    ("seconds", "rounds"), [(0, 1), (10, 1), (10.5, 2), (30, 3), (65, 7), (1000, len(TOTALS))]
)
def test_it_ends_with_the_round_in_which_time_is_up(seconds, rounds, linear, clock):
    budget = Budget(seconds=seconds, error=0.0)
    found = importance(linear.vae, linear.guide(), linear.data(3), samples=budget)
    expected = (TOTALS[rounds - 1], "time" if rounds < len(TOTALS) else "samples", 10 * rounds)
    assert (found.samples, found.stopped_by, found.seconds) == expected


def test_one_datum_has_no_error_to_be_below(linear, clock):
    budget = Budget(seconds=30)
    found = importance(linear.vae, linear.guide(), linear.data(1), samples=budget)
    assert (found.samples, found.stopped_by) == (75, "time")


def test_it_looks_at_all_data_and_at_none_alone(linear):
    """An error of 1 nat, the largest there is, in one datum of a thousand."""
    estimates, errors = torch.randn(1000).double(), torch.zeros(1000).double()
    errors[0] = 1.0
    assert Budget().stop(225, estimates, errors, 0.0) == "error"
    assert Budget().stop(224, estimates, errors, 0.0) is None
    assert Budget(seconds=1).stop(225, estimates, errors.fill_(1.0), 0.0) is None
    assert Budget(seconds=1).stop(225, estimates, errors, 2.0) == "time"


def test_the_error_is_that_of_the_mean_over_the_data(linear):
    """Over 20,000 data the bias of the logarithm is nearly all of it."""
    x = linear.data(1).expand(20_000, 6)
    found = importance(linear.vae, linear.guide(widen=3.0), x, samples=50)
    off = float(found.log_likelihood.double().mean() - linear.evidence().log_prob(x[0]))
    noise = float(found.log_likelihood.double().std()) / 20_000**0.5
    assert off < -10 * noise
    assert excess((-off - found.monte_carlo_error) / noise) < 1


def test_evaluate_takes_it_and_tells_the_number(linear, clock):
    x, guide = linear.data(20), linear.guide(shift=0.1)
    torch.manual_seed(3)
    found = evaluate(linear.vae, guide, x, importance_samples=Budget(seconds=20, error=0.0))
    torch.manual_seed(3)
    expected = evaluate(linear.vae, guide, x, importance_samples=50)
    assert found.to_dict() == expected.to_dict() and str(found) == str(expected)
    assert "50 importance samples" in str(found) and found.importance.stopped_by == "time"
    torch.manual_seed(3)
    budget = Budget(seconds=20, error=0.0)
    alone = log_likelihood(linear.vae, guide, x, importance_samples=budget)
    assert torch.equal(alone, found.importance.log_likelihood)


def test_a_bar_for_a_budget_alone(linear, capsys):
    run = functools.partial(importance, linear.vae, linear.guide(), linear.data(3))
    run(samples=60), run(samples=Budget(seconds=0), progress=False)
    assert capsys.readouterr().err == ""
    run(samples=Budget(samples=60, error=0.0))
    # Draws of all data
    assert "log p(x)" in (told := capsys.readouterr().err) and "180/180" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": -1}, "seconds: expected a finite number >= 0, got -1"),
        ({"seconds": math.nan}, "seconds: expected a finite number >= 0, got nan"),
        ({"error": -0.1}, "error: expected a finite number >= 0, got -0.1"),
        ({"samples": 0}, "samples: expected a whole number of at least 1, got 0"),
    ],
)
def test_bad_budgets_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Budget(**options)


def test_comparisons_are_at_equal_numbers(linear):
    pair = {"a": linear.guide()}
    with pytest.raises(ValueError, match="importance_samples: expected a whole number"):
        compare_guides(linear.vae, pair, linear.data(3), importance_samples=Budget())


def test_rounds_do_not_depend_on_the_most(linear):
    assert [*itertools.accumulate(Budget().rounds())] == TOTALS
    for samples in (1, 24, 26, 100, 2000):
        totals = [*itertools.accumulate(Budget(samples=samples).rounds())]
        assert totals == [*(t for t in TOTALS if t < samples), samples]
