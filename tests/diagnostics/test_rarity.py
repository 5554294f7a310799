import math
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import LEVEL, chance_of, excess, sigmas

from pyro_vae import Trainer, data, diagnostics, guides, likelihoods
from pyro_vae.diagnostics import two_samples
from pyro_vae.models import VAE


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x):
    """q(z|x) = N(x, 0.5^2)."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 0.5).to_event(1))


def test_density_of_gaussian_data_against_the_closed_form():
    """x ~ N(0, 1): q(z) = N(0, 1.25), so that E[log q(z)] follows from |x|^2."""
    reference, x = torch.randn(1000, 2), torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, -1.0]])
    found = diagnostics.rarity(model, guide, x, reference=reference, samples=64)
    exact = -math.log(2 * math.pi * 1.25) - (x.square().sum(1) + 2 * 0.25) / (2 * 1.25)
    # The density of 1000 data has an error of its own, of a few per cent
    assert excess((found.log_density - exact) / (found.standard_error + 0.0125), draws=64) < 1
    assert (found.standard_error < 0.25).all()
    assert found.rarest(3).tolist() == [2, 1, 0] and found.typical(1).tolist() == [0]


def test_own_density_leaves_the_datum_out():
    """Two data far apart: each is where only the other's tail reaches."""
    x = torch.tensor([[0.0, 0.0], [100.0, 0.0]])
    found = diagnostics.rarity(model, guide, x, samples=200)
    # E[log N(z; other, 0.5^2)] = -log(2 pi 0.25) - (d^2 + 2 * 0.25) / (2 * 0.25)
    exact = -math.log(2 * math.pi * 0.25) - (100**2 + 0.5) / 0.5
    assert excess((found.log_density - exact) / found.standard_error, draws=200) < 1
    assert torch.equal(found.log_density, found.reference)


def test_tail_is_the_share_of_the_reference_in_thinner_places():
    reference, x = torch.randn(300, 2), torch.tensor([[0.0, 0.0], [9.0, 9.0]])
    found = diagnostics.rarity(model, guide, x, reference=reference)
    expected = [float((found.reference <= d).sum() + 1) / 301 for d in found.log_density]
    assert found.tail.tolist() == pytest.approx(expected)
    assert found.tail[1] == pytest.approx(1 / 301)
    own = diagnostics.rarity(model, guide, reference)
    assert sorted(own.tail.tolist()) == pytest.approx([i / 300 for i in range(1, 301)])


def test_thin_places():
    reference = torch.randn(600, 2)
    same = diagnostics.rarity(model, guide, torch.randn(400, 2), reference=reference)
    share, error = same.thin
    assert excess((share - 0.05) / error) < 1
    wide = diagnostics.rarity(model, guide, 2 * torch.randn(400, 2), reference=reference)
    # |x|^2 is exponential: beyond the reference's 5 % are exp(-log(20) / 4) = 0.47 of the wide
    assert wide.thin[0] == pytest.approx(0.05**0.25, abs=0.1)


def test_log_ratio_of_gaussian_data_against_the_closed_form():
    """x ~ N(a, 1): q(z) = N(a, 1.25), so that the difference of two is linear in x."""
    shift = torch.tensor([1.0, 0.0])
    x = torch.randn(600, 2) + shift
    found = diagnostics.rarity(model, guide, x, reference=torch.randn(600, 2))
    exact = (2 * x[:, 0] - 1) / (2 * 1.25)
    inside = (x - shift / 2).norm(dim=1) < 1.5
    error = (found.log_ratio - exact)[inside]
    # Densities of 600 data have an error of about a fifth
    assert error.abs().mean() < 0.3 and error.mean().abs() < 0.1
    assert torch.corrcoef(torch.stack([found.log_ratio, exact])[:, inside])[0, 1] > 0.9
    rows = found.under_represented(3)
    assert (found.log_ratio[rows] >= found.log_ratio.sort().values[-3]).all()
    assert found.p_value == pytest.approx(0.001) and not found.representative


def clusters(shares, n):
    """Classes on a circle of radius 4, with these shares."""
    y = torch.multinomial(torch.tensor(shares), n, replacement=True)
    angle = 2 * math.pi * y / len(shares)
    return 4 * torch.stack([angle.cos(), angle.sin()], 1) + 0.5 * torch.randn(n, 2), y


def test_a_class_that_the_reference_lacks_is_named():
    x, y = clusters([1.0, 1.0, 1.0, 0.2], 400)
    reference, _ = clusters([1.0, 1.0, 1.0, 0.0], 500)
    d = data.Dataset(x, y, names=["a", "b", "c", "d<"])
    found = diagnostics.rarity(model, guide, d, reference=reference)
    assert not found.representative and next(iter(found.classes)) == "d<"
    assert found.classes["d<"][0] > 1 > found.classes["a"][0]
    assert (y[found.under_represented(10)] == 3).all()
    assert "not representative of the reference (p = 0.001), which has too few like d< (" in str(
        found
    )
    assert "d&lt;" in found.to_html()
    rows = diagnostics.rarity(model, guide, x, reference=reference).verdict
    assert "too few like rows " in rows


def test_the_power_is_how_often_such_a_class_is_found():
    """Against as many tests where all of a twentieth of the data lie about one of them."""
    found, powers, n = 0, [], 260
    for _ in range(24):
        x, _ = clusters([1.0] * 5, 2 * n)
        x = x[torch.cdist(x[:1], x)[0].argsort()]
        x[13:] = x[13 + torch.randperm(2 * n - 13)]
        found_in = diagnostics.rarity(model, guide, x[:n], reference=x[n:], samples=1).comparison
        found += found_in.p_value <= 0.05
        powers.append(found_in.power)
    expected = sum(power[0.05] for power in powers) / 24
    assert chance_of([found], 24, [expected]) > LEVEL
    assert all(list(p.values()) == sorted(p.values()) or p[0.2] > 0.95 for p in powers)
    assert all(power[0.2] > 0.9 for power in powers)


def test_false_alarms_stay_at_the_stated_level(monkeypatch):
    """Of 400 tests of small sets, where one neighbour each makes many divisions equal."""

    def drawn(model, guide, d, batch_size):
        return SimpleNamespace(z={"z": d.x + 0.5 * torch.randn_like(d.x)})

    def densities(guide, d, z):
        every = slice(0, len(d))
        yield every, every, {"z": -torch.cdist(z["z"], d.x).square()}

    monkeypatch.setattr(two_samples, "draw", drawn)
    monkeypatch.setattr(two_samples, "pair_densities", densities)
    monkeypatch.setattr(two_samples, "_TRIALS", 1)
    sets = (torch.randn(2, 30, 2) for _ in range(400))
    found = [two_samples.compare(None, None, *map(data.Dataset, pair), 30) for pair in sets]
    p_values = torch.tensor([comparison.p_value for comparison in found])
    for level in (0.05, 0.2, 0.5):
        error = math.sqrt(level * (1 - level) / 400)
        assert float((p_values <= level).double().mean()) < level + sigmas(3) * error
    # Not so cautious that nothing would be found
    assert (p_values <= 0.2).double().mean() > 0.1


def test_data_that_are_in_the_reference_twice_are_no_difference():
    x = torch.randn(100, 2).repeat(2, 1)
    assert diagnostics.rarity(model, guide, x[:100], reference=x[100:]).representative


def test_the_statement_of_power_in_words():
    same = diagnostics.rarity(model, guide, torch.randn(300, 2), reference=torch.randn(300, 2))
    assert same.representative and "the data lie where the reference does" in str(same)
    assert "300 and 300 of them" in same.verdict
    comparison = diagnostics.rarity(
        model, guide, torch.randn(9, 2), reference=torch.randn(9, 2)
    ).comparison
    assert "even a class of 20% of the data that lies together" in comparison.statement
    assert "only" in comparison.statement
    made = type(comparison)(0.5, {0.01: 0.2, 0.05: 0.93, 0.1: 1.0}, (500, 500))
    assert made.statement == (
        "a class of 5% of the data that lies together and that the reference lacks would have "
        "been found with 93%"
    )
    one = diagnostics.rarity(model, guide, torch.zeros(1, 2), reference=torch.randn(30, 2))
    assert one.log_ratio.isnan().all() and one.representative
    own = diagnostics.rarity(model, guide, torch.randn(30, 2))
    assert own.p_value == 1.0 and own.comparison is None and own.log_ratio is None


@pytest.mark.slow
def test_a_class_of_digits_that_the_reference_lacks(capsys):
    """Each of eight classes is kept 1 in 80 in the reference, and is 9 to 13 % of the data."""
    d = data.load("mnist", binarize=None)
    x, y = torch.nn.functional.avg_pool2d(d.train.x[:24000], 2).flatten(1), d.train.y[:24000]
    torch.manual_seed(0)
    vae = VAE((196,), 8, likelihood=likelihoods.ContinuousBernoulli(), hidden=(128,))
    pair = vae, guides.BottomUp(vae)
    Trainer(*pair, seed=0).fit(x[:10000], epochs=8, progress=False)
    found, named, alarms = [], [], []
    for label in range(8):
        order = 10000 + torch.randperm(14000)
        rows, rest = order[:2000], order[2000:]
        kept = (y[rest] != label) | (torch.rand(len(rest)) < 1 / 80)
        lacking = diagnostics.rarity(
            *pair, (x[rows], y[rows]), reference=x[rest[kept][:2000]], samples=1
        )
        found.append(lacking.p_value)
        named.append(next(iter(lacking.classes)) == str(label))
        same = diagnostics.rarity(*pair, x[rows[:1000]], reference=x[rest[:1000]], samples=1)
        alarms.append(same.p_value)
        with capsys.disabled():
            print(f"\n{label}: {lacking.verdict}\n   {same.verdict}")
    assert sum(p <= 0.05 for p in found) >= 7 and sum(named) >= 7
    # At a level of 5 % three of eight have a probability of 0.006
    assert sum(p <= 0.05 for p in alarms) <= 2


def test_rng_and_labels():
    vae = VAE((6,), 2, likelihood=likelihoods.Bernoulli(), condition=3, hidden=(4,))
    pair = vae, guides.BottomUp(vae)
    d = data.Dataset(torch.rand(30, 6), torch.arange(30) % 3, binarize="dynamic")
    state = torch.get_rng_state()
    first = diagnostics.rarity(*pair, d)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.log_density, diagnostics.rarity(*pair, d).log_density)
    assert diagnostics.rarity(*pair, d, samples=1).standard_error.isnan().all()


def test_bad_input():
    with pytest.raises(ValueError, match="samples: expected a whole number of at least 1"):
        diagnostics.rarity(model, guide, torch.zeros(3, 2), samples=0)
    with pytest.raises(ValueError, match="reference: expected at least 2 data"):
        diagnostics.rarity(model, guide, torch.zeros(3, 2), reference=torch.zeros(1, 2))
