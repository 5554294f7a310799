"""A weight of somebody's KL next to some squared error is this sigma with this beta."""

import pytest
import torch
from torch.nn.functional import mse_loss

from pyro_vae import guides, handlers, infer
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

N, D, K, W = 7, 6, 3, 0.3
BATCH_OF = 128 / 60_000

# loss(x, g, kl per datum and unit) -> a number; sigma; beta; that loss / ours per datum
ROWS = {
    "sum of squares, sigma stays": (
        lambda x, g, kl: (x - g).square().sum() / N + W * kl.sum() / N,
        (0.5**0.5, W, 1.0),
    ),
    "sum of squares, beta stays": (
        lambda x, g, kl: mse_loss(g, x, reduction="sum") + W * kl.sum(),
        ((W / 2) ** 0.5, 1.0, W * N),
    ),
    "half the sum of squares, sigma stays": (
        lambda x, g, kl: 0.5 * (x - g).square().sum() + W * kl.sum(),
        (1.0, W, N),
    ),
    "half the sum of squares, beta stays": (
        lambda x, g, kl: 0.5 * (x - g).square().sum() + W * kl.sum(),
        (W**0.5, 1.0, W * N),
    ),
    "mean of squares, sigma stays": (
        lambda x, g, kl: mse_loss(g, x) + W * kl.sum(-1).mean(),
        (0.5**0.5, W * D, 1 / D),
    ),
    "mean of squares, beta stays": (
        lambda x, g, kl: mse_loss(g, x) + W * kl.sum(-1).mean(),
        ((W * D / 2) ** 0.5, 1.0, W),
    ),
    "mean of squares, kld_weight = batch / data": (
        lambda x, g, kl: mse_loss(g, x) + BATCH_OF * kl.sum(-1).mean(),
        ((BATCH_OF * D / 2) ** 0.5, 1.0, BATCH_OF),
    ),
    "mean of squares, mean of the KL over units too": (
        lambda x, g, kl: mse_loss(g, x) + W * kl.mean(),
        ((W * D / K / 2) ** 0.5, 1.0, W / K),
    ),
}


def gradients(*modules):
    return torch.cat([p.grad.flatten() for m in modules for p in m.parameters()])


@pytest.mark.parametrize("row", ROWS)
def test_gradients_are_those_of_the_other_loss(row):
    theirs, (sigma, beta, factor) = ROWS[row]
    vae = VAE((D,), K, likelihood=Gaussian(sigma), hidden=(8,)).double()
    vae.likelihood.sigma.fill_(sigma)  # in double precision, too
    guide, x = guides.BottomUp(vae).double(), torch.randn(N, D).double()

    torch.manual_seed(3)
    q = guide.conditionals["z1"](x)
    g = vae.decoder(q.rsample())
    kl = 0.5 * (q.mean**2 + q.variance - q.variance.log() - 1)
    theirs(x, g, kl).backward()
    expected = gradients(vae, guide)

    vae.zero_grad()
    guide.zero_grad()
    torch.manual_seed(3)
    scaled = (handlers.scale_latents(p, beta) for p in (vae, guide))
    infer.AnalyticELBO(reduction="mean")(*scaled, x)[0].backward()
    torch.testing.assert_close(factor * gradients(vae, guide), expected, rtol=1e-10, atol=1e-12)
