"""Normalisation of weights."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from pyro_vae import guides, likelihoods, models, networks
from pyro_vae.networks.weights import WeightNormalized

LAYERS = {
    "dense": (lambda: nn.Linear(3, 4), (3,), 0),
    "signal": (lambda: nn.Conv1d(3, 4, 3), (3, 6), 0),
    "image": (lambda: nn.Conv2d(3, 4, 3, stride=2), (3, 6, 5), 0),
    "up": (lambda: nn.ConvTranspose2d(3, 4, 3), (3, 6, 5), 1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_it_is_that_of_torch(name):
    make, shape, outputs = LAYERS[name]
    torch.manual_seed(0)
    layer, x = make().double(), torch.randn(2, *shape).double()
    expected = layer(x)
    other = make().double()
    other.load_state_dict(layer.state_dict())
    ours, theirs = WeightNormalized(layer), weight_norm(other, dim=outputs)
    torch.testing.assert_close(ours(x), expected)
    with torch.no_grad():
        ours.gain.mul_(1.5).add_(0.1)
        theirs.parametrizations.weight.original0.mul_(1.5).add_(0.1)
    torch.testing.assert_close(ours(x), theirs(x))
    found = [ours.gain, ours.layer.weight, ours.bias]
    weights = theirs.parametrizations.weight
    expected = [weights.original0, weights.original1, theirs.bias]
    for a, b in zip(
        torch.autograd.grad(ours(x).square().sum(), found),
        torch.autograd.grad(theirs(x).square().sum(), expected),
        strict=True,
    ):
        torch.testing.assert_close(a, b.reshape(a.shape))


@pytest.mark.parametrize("event_shape", [(6,), (1, 8, 8)])
@pytest.mark.parametrize("latents", [(3, 2), ((2, 4, 4), 3)])
def test_every_layer_of_every_network_has_it(event_shape, latents):
    if latents[0] != 3 and len(event_shape) == 1:
        event_shape = (2, 8, 8)
    vae = models.VAE(
        event_shape, latents, likelihood=likelihoods.Gaussian(), norm=networks.WeightNorm()
    )
    for part in (vae, guides.Ladder(vae), guides.BottomUp(vae)):
        inside = {m.layer for m in part.modules() if isinstance(m, WeightNormalized)}
        linear = {m for m in part.modules() if getattr(m, "weight", None) is not None}
        assert inside and linear == inside


def test_of_codes_too():
    model = models.VQVAE(
        (1, 8, 8), likelihood=likelihoods.Gaussian(), norm=networks.WeightNorm(), codes=8
    )
    for part in (model.decoder, guides.NearestCode(model).encoder):
        inside = {m.layer for m in part.modules() if isinstance(m, WeightNormalized)}
        assert inside == {m for m in part.modules() if getattr(m, "weight", None) is not None}
