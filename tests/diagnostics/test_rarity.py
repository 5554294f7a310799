import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import data, diagnostics, guides, likelihoods
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
    found = diagnostics.rarity(model, guide, x, reference=reference, samples=16)
    exact = -math.log(2 * math.pi * 1.25) - (x.square().sum(1) + 2 * 0.25) / (2 * 1.25)
    # The density of 1000 data has an error of its own, of a few per cent
    assert ((found.log_density - exact).abs() < 4 * found.standard_error + 0.05).all()
    assert (found.standard_error < 0.25).all()
    assert found.rarest(3).tolist() == [2, 1, 0] and found.typical(1).tolist() == [0]


def test_own_density_leaves_the_datum_out():
    """Two data far apart: each is where only the other's tail reaches."""
    x = torch.tensor([[0.0, 0.0], [100.0, 0.0]])
    found = diagnostics.rarity(model, guide, x, samples=200)
    # E[log N(z; other, 0.5^2)] = -log(2 pi 0.25) - (d^2 + 2 * 0.25) / (2 * 0.25)
    exact = -math.log(2 * math.pi * 0.25) - (100**2 + 0.5) / 0.5
    assert ((found.log_density - exact).abs() < 4 * found.standard_error).all()
    assert torch.equal(found.log_density, found.reference)


def test_tail_is_the_share_of_the_reference_in_thinner_places():
    reference, x = torch.randn(300, 2), torch.tensor([[0.0, 0.0], [9.0, 9.0]])
    found = diagnostics.rarity(model, guide, x, reference=reference)
    expected = [float((found.reference <= d).sum() + 1) / 301 for d in found.log_density]
    assert found.tail.tolist() == pytest.approx(expected)
    assert found.tail[1] == pytest.approx(1 / 301)
    own = diagnostics.rarity(model, guide, reference)
    assert sorted(own.tail.tolist()) == pytest.approx([i / 300 for i in range(1, 301)])


def test_the_error_of_the_share_is_its_spread_under_no_difference():
    """Shares of 400 normal numbers among 300 others, 400 times."""
    shares = []
    for _ in range(400):
        density, reference = torch.randn(400), torch.randn(300)
        found = diagnostics.Rarity(density, torch.zeros(400), reference, own=False)
        shares.append(found.thin[0])
    spread = float(torch.tensor(shares).std())
    assert found.thin[1] == pytest.approx(spread, rel=0.2)
    few = diagnostics.Rarity(density[:4], torch.zeros(4), reference[:4], own=False)
    # sqrt(0.05 * 0.95 * (1/4 + 1/4))
    assert "thin as those of 5 +- 15.4% of it" in few.verdict


def test_representative_or_not():
    reference = torch.randn(600, 2)
    same = diagnostics.rarity(model, guide, torch.randn(400, 2), reference=reference)
    share, error = same.thin
    assert abs(share - 0.05) < 3 * error and same.representative
    assert "the data lie where the reference does" in str(same)
    wide = diagnostics.rarity(model, guide, 2 * torch.randn(400, 2), reference=reference)
    # |x|^2 is exponential: beyond the reference's 5 % are exp(-log(20) / 4) = 0.47 of the wide
    assert wide.thin[0] == pytest.approx(0.05**0.25, abs=0.1)
    assert not wide.representative and "not representative" in wide.verdict
    assert "not representative" in wide._repr_html_()


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
    with pytest.raises(ValueError, match="samples: expected at least 1"):
        diagnostics.rarity(model, guide, torch.zeros(3, 2), samples=0)
    with pytest.raises(ValueError, match="reference: expected at least 2 data"):
        diagnostics.rarity(model, guide, torch.zeros(3, 2), reference=torch.zeros(1, 2))
