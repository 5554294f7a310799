"""A richer family is not worse for a while: it begins at, or as, its mean-field member."""

import functools

import pytest
import torch

from pyro_vae import infer
from pyro_vae.conditionals.growing import grow
from pyro_vae.guides import BottomUp, Flow, FullCovariance
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE


def bound(vae, guide, x, steps=0):
    """Of each datum, after some steps of training."""
    adam = functools.partial(torch.optim.Adam, lr=0.01)
    svi = infer.SVI(vae, guide, adam, infer.TraceELBO("mean"))
    torch.manual_seed(1)
    for _ in range(steps):
        svi.step(x)
    torch.manual_seed(2)
    return infer.elbo_terms(vae, guide, x, samples=20).elbo


@pytest.mark.parametrize("richer", [FullCovariance, Flow])
def test_it_is_not_below_mean_field_after_equal_training(richer):
    for seed in range(3):
        torch.manual_seed(seed)
        vae = VAE((24,), 16, likelihood=Gaussian(0.5), hidden=()).requires_grad_(False)
        x = vae.sample(200)
        mean_field, fresh, grown = BottomUp(vae), richer(vae), richer(vae)
        before = bound(vae, mean_field, x, 25)
        gains = [bound(vae, fresh, x, 25) - before]
        grow(grown.conditionals["z1"], mean_field.conditionals["z1"])
        torch.testing.assert_close(bound(vae, grown, x), before, rtol=1e-5, atol=1e-5)
        gains.append(bound(vae, grown, x, 25) - bound(vae, mean_field, x, 25))
        for gain in gains:
            assert gain.mean() > -gain.std() / len(gain) ** 0.5
