"""Pairs of every kind that can be recorded."""

import torch
from torch import nn

from pyro_vae import codebooks, guides, likelihoods, models
from pyro_vae.handlers import corrupt, regularize, scale_latents
from pyro_vae.regularizers import DIP


def one_layer():
    vae = models.VAE((6,), 3, likelihood=likelihoods.Gaussian(0.5), hidden=(8,))
    return vae, guides.BottomUp(vae)


def skip_two_layers():
    vae = models.VAE((6,), (3, 2), likelihood=likelihoods.Bernoulli(), hidden=(8,), skip=True)
    return vae, guides.BottomUp(vae)


def convolutional():
    vae = models.VAE((1, 5, 7), (3, 2), likelihood=likelihoods.ContinuousBernoulli())
    return vae, guides.BottomUp(vae)


def conditional():
    vae = models.VAE((6,), 3, likelihood=likelihoods.Categorical(4), hidden=(8,), condition=3)
    return vae, guides.BottomUp(vae)


def logistic():
    vae = models.VAE((6,), 3, likelihood=likelihoods.DiscretizedLogistic(8), hidden=(8,))
    return vae, guides.BottomUp(vae)


def autoencoder():
    vae = models.VAE((6,), 3, likelihood=likelihoods.Gaussian(), hidden=(8,))
    guide = guides.Delta(vae)
    return scale_latents(vae, 0.0), scale_latents(guide, 0.0)


def denoising():
    vae = models.VAE((6,), 3, likelihood=likelihoods.Gaussian(), hidden=(8,))
    return vae, corrupt(guides.BottomUp(vae), 0.3)


def batch_norm():
    vae = models.VAE((6,), 3, likelihood=likelihoods.Gaussian(), hidden=(8,))
    encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
    return vae, guides.BottomUp(vae, encoder=encoder)


def ladder():
    vae = models.VAE(
        (6,), (4, 3, 2), likelihood=likelihoods.Gaussian(), hidden=(8,), norm=nn.BatchNorm1d
    )
    return vae, guides.Ladder(vae)


def conditional_convolutional_ladder():
    vae = models.VAE(
        (1, 5, 7), (3, 2), likelihood=likelihoods.Bernoulli(), condition=3, norm=nn.LayerNorm
    )
    return vae, guides.Ladder(vae)


class Stopped(nn.Module):
    """A straight-through estimator and a stop of the gradient, as quantisation uses them."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 8)

    def forward(self, x):
        h = self.linear(x)
        return h + (h.round() - h).detach() + h.square().detach() * torch.detach(h).sum(-1, True)


def stopped_gradients():
    vae = models.VAE((6,), 3, likelihood=likelihoods.Gaussian(), hidden=(8,))
    return vae, guides.BottomUp(vae, encoder=Stopped())


class Stopping(nn.Module):
    """Stops gradients in each of the ways that torch has."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 8) for _ in range(4))

    def forward(self, x):
        a, b, c, d = (layer(x) for layer in self.layers)
        with torch.no_grad():
            e = (2 * b).exp()
            f = torch.stack([a, b])
            g, _ = c.max(-1, keepdim=True)
        stopped = a * a.detach() + b * e + c * torch.detach(c).sin() + d * d.data
        return stopped + a * f[0] + c * g


def stopping():
    vae = models.VAE((6,), 3, likelihood=likelihoods.Gaussian(), hidden=(8,))
    return vae, guides.BottomUp(vae, encoder=Stopping())


class Viewed(nn.Module):
    """A view that changes nothing, of a tensor with several readers."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 8)

    def forward(self, x):
        h = self.linear(x)
        same = h.view(h.shape)
        return same.sin() + h.exp() * same + h.tanh() / (1 + same.square()) + h


def viewed():
    vae = models.VAE((6,), 3, likelihood=likelihoods.Gaussian(), hidden=(8,))
    return vae, guides.BottomUp(vae, encoder=Viewed())


def penalised():
    vae = models.VAE((6,), 3, likelihood=likelihoods.Gaussian(), hidden=(8,))
    return vae, regularize(guides.Delta(vae), DIP(0.3))


def vector_quantised():
    # Without a start at the first outputs, which values decide on and which is made eagerly
    codebook = codebooks.MovingAverage(6, 3, initializer=None)
    likelihood = likelihoods.ContinuousBernoulli()
    vae = models.VQVAE((1, 5, 7), codebook=codebook, likelihood=likelihood)
    return vae, guides.NearestCode(vae)


PAIRS = [
    stopped_gradients,
    one_layer,
    skip_two_layers,
    convolutional,
    conditional,
    logistic,
    autoencoder,
    denoising,
    batch_norm,
    ladder,
    conditional_convolutional_ladder,
    viewed,
    penalised,
    stopping,
    vector_quantised,
]


def data(model, n=4):
    x = torch.randint(2, (n, *model.event_shape)).float()
    return x, (torch.randint(3, (n,)) if model.condition else None)


def state(*programs):
    return [t for p in programs for t in (*p.parameters(), *p.buffers())]
