"""The importance-weighted bound of a guide that is certain."""

import pytest
import torch

from pyro_vae import guides, likelihoods, models
from pyro_vae.infer import ImportanceWeightedELBO, TraceELBO


@pytest.mark.parametrize("levels", [1, 2])
def test_particles_of_a_nearest_code_are_one_and_the_same(levels):
    vqvae = models.VQVAE((1, 8, 8), codes=4, likelihood=likelihoods.Gaussian(), levels=levels)
    guide, x = guides.NearestCode(vqvae), torch.rand(3, 1, 8, 8)
    guide.encode(x)
    vqvae.eval(), guide.eval()
    losses, gradients = [], []
    for estimator in (TraceELBO(), ImportanceWeightedELBO(3)):
        loss, _ = estimator(vqvae, guide, x)
        parameters = [*guide.encoder.parameters(), *vqvae.decoder.parameters()]
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, parameters))
    torch.testing.assert_close(*losses)
    assert all(g.abs().max() > 0 for g in gradients[0][:1])
    for one, several in zip(*gradients, strict=True):
        torch.testing.assert_close(one, several, rtol=1e-3, atol=1e-4)
