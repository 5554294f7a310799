"""Data of which some values are missing, and a model whose evidence is a closed form."""

import pyro.distributions as dist
import torch
from torch import nn

from pyro_vae import guides, handlers, likelihoods, models


def holes(x, share=0.4, seed=0):
    """The data with such a share missing, but in no row all."""
    generator = torch.Generator().manual_seed(seed)
    gone = torch.rand(x.shape, generator=generator) < share
    rows = gone.flatten(1)
    rows[torch.arange(len(x)), torch.randint(rows.shape[1], (len(x),), generator=generator)] = 0
    return x.where(~gone, torch.nan)


class LinearGaussian:
    """x = W z + b + noise of 4 elements and 2 latents, with the exact posterior for a guide."""

    def __init__(self, sigma=0.5):
        torch.manual_seed(3)
        self.vae = models.VAE((4,), 2, likelihood=likelihoods.Gaussian(sigma), hidden=())
        (layer,) = self.vae.decoder.layers
        with torch.no_grad():
            layer.weight.normal_()
            layer.bias.normal_()
        self.W, self.b = layer.weight.detach(), layer.bias.detach()
        self.noise = sigma**2 * torch.eye(4)
        self.model = handlers.missing(self.vae)
        self.guide = guides.BottomUp(self.model, conditionals={"z1": _Posterior(self)})

    def given(self, x):
        """Exact log p(x_seen), and x with E[x_missing | x_seen]."""
        covariance, evidence, completed = self.W @ self.W.T + self.noise, [], x.clone()
        for row in completed:
            seen = ~row.isnan()
            inside, residual = covariance[seen][:, seen], row[seen] - self.b[seen]
            evidence.append(dist.MultivariateNormal(self.b[seen], inside).log_prob(row[seen]))
            gain = torch.linalg.solve(inside, residual)
            row[~seen] = self.b[~seen] + covariance[~seen][:, seen] @ gain
        return torch.stack(evidence), completed


class _Posterior(nn.Module):
    """N(z | x_seen), of values with zeros for what is missing, and a mask."""

    def __init__(self, of):
        super().__init__()
        self.W, self.b, self.noise = of.W, of.b, of.noise

    def forward(self, both):
        value, mask = both.chunk(2, 1)
        seen = mask.unsqueeze(-1) * self.W / self.noise[0, 0].sqrt()
        precision = torch.eye(2) + seen.mT @ seen
        residual = mask * (value - self.b) / self.noise[0, 0].sqrt()
        mean = torch.linalg.solve(precision, seen.mT @ residual.unsqueeze(-1)).squeeze(-1)
        return dist.MultivariateNormal(mean, precision_matrix=precision)
