"""Active units by their KL, beside those by the variance of their means."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import diagnostics, guides, handlers, infer, likelihoods, priors
from pyro_vae.diagnostics.collapse import Units
from pyro_vae.infer.posterior import active_by_kl, count_error
from pyro_vae.models import VAE

N, U = 400, 4
X = torch.randn(N, U, generator=torch.Generator().manual_seed(1))


class Normalised(nn.Module):
    """p(z1|z2) has means that BatchNorm gives a variance of 1; ``off`` moves some units of q."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, U), nn.BatchNorm1d(U))
        self.off = torch.zeros(U)
        self.net(torch.randn(500, 2))
        for _ in range(200):
            self.net(torch.randn(500, 2))

    def model(self, x):
        pyro.module("net", self.net)
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(self.net(z2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z1, 1.0).to_event(1), obs=x)

    def guide(self, x):
        """z2 follows the data, z1 is its prior but for the units that are off."""
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x[:, :2], 0.1).to_event(1))
            pyro.sample("z1", dist.Normal(self.net(z2) + self.off, 1.0).to_event(1))


@pytest.fixture
def normalised():
    programs = Normalised()
    programs.net.eval()
    return programs


def test_the_variance_saturates_where_the_kl_tells_units_apart(normalised):
    normalised.off[1] = 2.0
    pair = normalised.model, normalised.guide
    by_variance = diagnostics.layers(*pair, X)["z1"]
    by_kl = diagnostics.layers(*pair, X, criterion="kl")["z1"]
    assert by_variance.active.tolist() == [True] * U and by_variance.unit_kl is None
    assert by_kl.active.tolist() == [False, True, False, False]
    assert (by_kl.unit_kl[:, [0, 2, 3]] == 0).all()
    torch.testing.assert_close(by_kl.unit_kl.sum(1), by_kl.kl)
    error = float(by_kl.unit_kl[:, 1].std()) / N**0.5
    assert abs(float(by_kl.unit_kl[:, 1].mean()) - 2.0) < 6 * error


def test_both_counts_stand_in_the_table_of_a_collapse(normalised):
    normalised.off[1] = 2.0
    found = diagnostics.collapse(normalised.model, normalised.guide, X)
    units = found.units["z1"]
    assert (units.active, units.active_by_kl, len(units)) == (U, 1, U)
    torch.testing.assert_close(units.kl.sum(), found.sites["z1"].kl.mean(), rtol=1e-4, atol=1e-5)
    row = next(cells for cells in found.table().texts() if cells[0] == "z1")
    assert row[-2:] == ["4 of 4", "1 of 4"]
    whole = found.table().texts()[-1]
    assert whole[0] == "all" and whole[-2:] == ["6 of 6", "3 of 6"]
    assert "by KL if its KL is above 0.01 nats" in str(found)
    # What is off is so whatever the datum
    assert found.verdict.startswith("z1 collapsed: 4 of 4 units active, 1 by their KL, ")


def pair(latents=(4, 2), guide=guides.BottomUp):
    vae = VAE((U,), latents, likelihood=likelihoods.Gaussian(), hidden=(8,))
    return vae, guide(vae)


def test_a_unit_that_is_switched_off_is_not_active():
    vae, guide = pair(3)
    head = guide.conditionals["z1"]
    with torch.no_grad():
        for layer in (head.loc, head.raw_scale):
            layer.weight[1], layer.bias[1] = 0.0, 0.0
        head.raw_scale.bias[1] = math.log(math.expm1(1 - head.min_scale))
        # The others are far from the prior
        head.loc.bias[[0, 2]] = 3.0
    (layer,) = diagnostics.layers(vae, guide, X, criterion="kl")
    assert layer.active.tolist() == [True, False, True]
    assert float(layer.unit_kl[:, 1].abs().max()) < 1e-4


@pytest.mark.parametrize(("threshold", "active"), [(0.01, 3), (0.3, 2), (1.0, 1), (9.0, 0)])
def test_the_threshold_is_in_nats(threshold, active, normalised):
    """KL of 0.125, 0.5 and 2 nats, to a few hundredths over the data."""
    normalised.off = torch.tensor([0.5, 1.0, 2.0, 0.0])
    found = diagnostics.layers(
        normalised.model, normalised.guide, X, criterion="kl", threshold=threshold, samples=20
    )
    assert int(found["z1"].active.sum()) == active
    row = found.rows()[0]
    assert row[0] == "z1" and row[2].startswith(f"{active} of 4")
    assert f"where its mean KL is above {threshold:g} nats" in str(found)


def test_the_number_tells_its_error(normalised):
    """A unit whose KL is the threshold is on either side with equal probability."""
    normalised.off[2] = 1.0
    pair = normalised.model, normalised.guide
    once = diagnostics.layers(*pair, X, criterion="kl")
    exactly = float(once["z1"].unit_kl[:, 2].double().mean())
    found = diagnostics.layers(*pair, X, criterion="kl", threshold=exactly)
    counted = found.table().rows[0][2]
    assert counted.numbers["error"] == pytest.approx(0.5) and "+- 0.50" in counted.text
    assert "+-" not in once.table().rows[0][2].text
    single = diagnostics.layers(*pair, X[:1], criterion="kl")
    assert "error" not in single.table().rows[0][2].numbers and "nan" not in str(single)


def test_the_error_of_a_count_is_that_of_independent_sides():
    values = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    errors = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    below = 0.5 * math.erfc(1 / math.sqrt(2))
    expected = math.sqrt(2 * below * (1 - below) + 0.25)
    # The first is at the threshold, without any error: a coin
    assert count_error(values, errors, 1.0) == pytest.approx(expected)
    units = Units(values, errors, 1.0, 1.0, values, errors)
    assert units.error == units.error_by_kl == pytest.approx(expected)


def test_more_draws_leave_less_error():
    model, guide = pair(2)
    one, many = (
        diagnostics.layers(model, guide, X, criterion="kl", samples=k)["z1"] for k in (1, 50)
    )
    exact = infer.elbo_terms(
        model, guide, X, per_unit=True, estimator=infer.AnalyticELBO()
    ).per_unit["z1"]
    errors = [float((layer.unit_kl - exact).square().mean()) for layer in (one, many)]
    assert errors[1] < errors[0] / 20


def test_units_of_a_mixture_are_not_counted():
    model, guide = pair()
    model = handlers.replace_prior(model, priors.MixturePrior(2, components=3))
    found = diagnostics.layers(model, guide, X, criterion="kl")
    assert found["z2"].active is None and found["z2"].unit_kl is None
    assert found["z1"].active is not None and found.without.keys() == {"z2"}
    why = "no KL per unit of z2: the model has one density for all of its units"
    assert why in str(found) and found.rows()[1][2] == "" and why in found.to_html()
    collapsed = diagnostics.collapse(model, guide, X[:50])
    assert collapsed.units["z2"].kl is None and collapsed.units["z2"].active_by_kl == 0
    assert why in str(collapsed)
    texts = {cells[0]: cells[-1] for cells in collapsed.table().texts()}
    assert texts["z2"] == "" and texts["all"].split(" +-")[0].endswith(" of 4")


def test_a_pair_without_units_is_refused():
    with pytest.raises(ValueError, match=r"'z1' because the guide has .*criterion='variance'"):
        diagnostics.layers(*pair((4,), guides.FullCovariance), X, criterion="kl")
    with pytest.raises(ValueError, match="criterion: expected one of variance, kl, got 'KL'"):
        diagnostics.layers(*pair(), X, criterion="KL")
    with pytest.raises(ValueError, match="samples"):
        diagnostics.layers(*pair(), X, samples=0)


def test_a_grid_has_its_units_in_the_order_of_its_means():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2, 2), 1.0).to_event(2))
            pyro.sample("x", dist.Normal(z.flatten(1), 1.0).to_event(1), obs=x)

    def guide(x):
        loc = torch.zeros(len(x), 2, 2)
        loc[:, 1, 0] = 5 * x[:, 0]
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(2))

    expected = [False, False, True, False]
    for criterion in ("variance", "kl"):
        found = diagnostics.layers(model, guide, X, criterion=criterion)["z"]
        assert found.active.tolist() == expected


def test_active_by_kl_is_the_mean_over_the_data():
    kl = torch.tensor([[0.0, 0.03, -1.0], [0.02, 0.0, 1.0]])
    assert active_by_kl(kl).tolist() == [False, True, False]
    assert active_by_kl(kl, 0.001).tolist() == [True, True, False]
    assert active_by_kl(torch.ones(5)).tolist() == [True]
