import functools
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from stepping import trained
from torch import nn

from pyro_vae import infer
from pyro_vae.guides import PerDatum
from pyro_vae.guides.per_datum import _keys
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import VAE


@pytest.mark.parametrize("batch_size", [40, 20])
def test_the_exact_posterior_of_each_datum(linear, batch_size):
    linear.vae.requires_grad_(False)
    x = linear.data(40)
    guide = PerDatum(linear.vae, x)
    # Each datum is met as often
    steps, loss = 24_000 // batch_size, infer.AnalyticELBO()
    trained(linear.vae, guide, x, steps=steps, lr=0.1, loss=loss, batch_size=batch_size)
    mean, sd = linear.posterior(x)
    q = guide.encode(x).mean["z1"]
    assert ((q - mean) / sd).square().mean().sqrt() < 0.1
    elbo = infer.elbo_terms(linear.vae, guide, x, samples=50).elbo
    assert abs((linear.evidence().log_prob(x) - elbo).mean()) < 0.02


def test_rows_are_found_in_any_order():
    vae = VAE((6,), (4, 3), likelihood=Gaussian(), hidden=(5,))
    x = torch.randn(30, 6)
    guide = PerDatum(vae, torch.cat([x, x[:3]]))
    for parameter in guide.parameters():
        nn.init.normal_(parameter)
    means = guide.encode(x).mean
    order = torch.randperm(30)[:7]
    for site, size in (("z1", 4), ("z2", 3)):
        assert means[site].shape == (30, size)
        assert torch.equal(guide.encode(x[order]).mean[site], means[site][order])
        locs = getattr(guide.autoguide.locs, f"{site}_unconstrained")
        assert torch.equal(means[site], locs[:30])


def test_keys():
    """Different for each row, whatever few values the data have; equal for equal ones."""
    rows = torch.cartesian_prod(*(torch.tensor([0.0, 1.0]),) * 12)
    assert len(_keys(rows).unique()) == 2**12
    assert torch.equal(_keys(rows), _keys(rows.double()))
    assert torch.equal(_keys(-torch.zeros(3, 2)), _keys(torch.zeros(3, 2)))
    swapped = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    assert len(_keys(swapped).unique()) == 2


def test_data_that_it_was_not_built_for():
    vae = VAE((6,), 2, likelihood=Bernoulli(), hidden=(5,))
    x = torch.randint(2, (20, 6)).float()
    x[:, 0] = 1
    guide = PerDatum(vae, x)
    other = torch.cat([x[:2], torch.zeros(1, 6)])
    with pytest.raises(ValueError, match="x: 1 of 3 rows are not among the 20 data"):
        guide(other)
    # Rows beyond all keys
    with pytest.raises(ValueError, match="x: 5 of 5 rows"):
        guide(torch.rand(5, 6))
    # A replay cannot raise, and does not go on with wrong numbers either
    graph = infer.Graph(infer.TraceELBO())
    for _ in range(2):  # which the guide itself takes part in
        assert graph(vae, guide, x[:3])[0].isfinite()
    assert graph(vae, guide, other)[0].isnan()


@pytest.mark.parametrize(
    "autoguide", [AutoMultivariateNormal, AutoDiagonalNormal, AutoLowRankMultivariateNormal]
)
def test_autoguides_with_one_vector_for_all_data_are_refused(autoguide):
    vae = VAE((6,), 2, likelihood=Gaussian(), hidden=(5,))
    with pytest.raises(TypeError, match=f"autoguide: {autoguide.__name__} draws .* as one"):
        PerDatum(vae, torch.randn(20, 6), autoguide=autoguide)


def test_other_autoguides():
    vae = VAE((6,), (3, 2), likelihood=Gaussian(), hidden=(5,))
    x = torch.randn(20, 6)
    points = PerDatum(vae, x, autoguide=AutoDelta)
    assert infer.check_pair(vae, points, x).point_masses == ("z2", "z1")
    wide = PerDatum(vae, x, autoguide=functools.partial(AutoNormal, init_scale=0.5))
    kl = infer.elbo_terms(vae, wide, x, estimator=infer.AnalyticELBO()).kl
    expected = 0.5 * 2 * (0.25 - 2 * math.log(0.5) - 1)
    torch.testing.assert_close(kl["z2"], torch.full((20,), expected))


def test_arguments():
    vae = VAE((6,), 2, likelihood=Gaussian(), hidden=(5,))
    with pytest.raises(TypeError, match=r"vae: expected a models\.VAE"):
        PerDatum(nn.Linear(2, 2), torch.randn(20, 6))
    with pytest.raises(TypeError, match=r"data: expected a tensor .*, got ndarray"):
        PerDatum(vae, np.zeros((20, 6)))
    with pytest.raises(ValueError, match=r"site 'x': expected shape \(n, 6\)"):
        PerDatum(vae, torch.randn(20, 5))
    assert PerDatum(vae, 20).data.shape == (20, 6)

    class Positive(nn.Module):
        def forward(self):
            return dist.Exponential(torch.ones(2)).to_event(1)

    vae = VAE((6,), 2, likelihood=Gaussian(), hidden=(5,), top_down={"z1": Positive()})
    with pytest.raises(ValueError, match="site 'z1': expected a real latent, its support is"):
        PerDatum(vae, torch.randn(20, 6))
