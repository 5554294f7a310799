import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import data, diagnostics, guides, infer, likelihoods
from pyro_vae.models import VAE


class Signs:
    """Class 0 left of -1, class 1 right of 1, class 2 between."""

    def predict(self, rows):
        return (rows[:, 0] > 1) * 1 + (abs(rows[:, 0]) <= 1) * 2


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 0.5).to_event(1))


X = torch.tensor([[-3.0], [3.0]]).repeat(20, 1)
Y = torch.arange(40) % 2


def test_the_share_between_is_that_of_the_line():
    """From -3 to 3 in 13 points: those from -1 to 1, five of the eleven between, are class 2."""
    found = diagnostics.continuity(model, guide, (X, Y), Signs(), pairs=30, steps=13)
    assert found.share[0] == pytest.approx(6 / 11) and found.share[1] == pytest.approx(0)
    assert found.ends[0] == 1.0
    expected = [True] * 4 + [False] * 5 + [True] * 4
    assert found.recognised.tolist() == [expected] * 30
    assert (Y[found.pairs[:, 0]] != Y[found.pairs[:, 1]]).all()


@pytest.mark.parametrize("between", [0, 2, 4])
@pytest.mark.parametrize("steps", [3, 4])
def test_a_class_between_the_ends_counts_for_neither_whatever_its_number(between, steps):
    class Three:
        def predict(self, rows):
            left, right = rows[:, 0] < -1, rows[:, 0] > 1
            return left * 1 + right * 3 + ~(left | right) * between

    found = diagnostics.continuity(model, guide, (X, 2 * Y + 1), Three(), pairs=10, steps=steps)
    # At -3, 0, 3 or -3, -1 - 1e-9, 1, 3, whichever side of -1 and 1 rounding puts the inner ones
    assert found.recognised[:, [0, -1]].all()
    assert steps == 4 or not found.recognised[:, 1].any()


def test_a_decoder_without_a_hole_is_recognised_all_the_way():
    def steep(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(3 * (z - 0.1).sign(), 1.0).to_event(1), obs=x)

    found = diagnostics.continuity(steep, guide, (X, Y), Signs(), pairs=30)
    assert found.share == (1.0, 0.0) and "1.00" in str(found) and "1.00" in found.to_html()


def test_points_are_those_of_interpolate():
    vae = VAE((6,), (3, 2), likelihood=likelihoods.Gaussian(), hidden=(8,), condition=4)
    pair, x, y = (vae, guides.BottomUp(vae)), torch.randn(30, 6), torch.arange(30) % 4
    seen = []

    class Record:
        def predict(self, rows):
            seen.append(rows)
            return rows[:, 0] * 0

    found = diagnostics.continuity(*pair, (x, y), Record(), pairs=3, steps=5)
    for i, (a, b) in enumerate(found.pairs.tolist()):
        expected = infer.interpolate(*pair, x[a], x[b], steps=5, y=y[[a, b]])
        torch.testing.assert_close(torch.as_tensor(seen[0][5 * i : 5 * i + 5]), expected)


def test_the_default_classifier_knows_the_data():
    d = data.load("digits").test
    identity = diagnostics.continuity.__globals__["_forest"](d.x, d.y, 0)
    assert (identity.predict(d.x.flatten(1).numpy()) == d.y.numpy()).mean() > 0.99


def test_standard_error_is_over_pairs():
    x = torch.linspace(-4, 4, 40)[:, None]
    found = diagnostics.continuity(model, guide, (x, (x[:, 0] > 0).long()), Signs(), pairs=50)
    per_pair = found.recognised[:, 1:-1].double().mean(1)
    assert found.share[1] == pytest.approx(float(per_pair.std()) / math.sqrt(50))
    assert 0 < found.share[0] < 1
    assert found.relative[0] == pytest.approx(found.share[0] / found.ends[0])
    ends = found.recognised[:, [0, -1]].double().mean(1)
    again = [
        float(per_pair[i].mean() / ends[i].mean()) for i in torch.randint(50, (400, 50))
    ]  # the bootstrap
    assert found.relative[1] == pytest.approx(float(torch.tensor(again).std()), rel=0.2)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (X, {}, "data: expected labels"),
        ((X, 0 * Y), {}, "data: expected labels of at least two classes"),
        ((X, Y), {"steps": 2}, "steps: expected a whole number of at least 3, got 2"),
        ((X, Y), {"pairs": 0}, "pairs: expected a whole number of at least 1, got 0"),
    ],
)
def test_bad_input(given, options, message):
    with pytest.raises(ValueError, match=message):
        diagnostics.continuity(model, guide, given, Signs(), **options)
