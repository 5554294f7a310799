"""The amortised guide whose layers are normals with full covariance."""

from __future__ import annotations

from torch import nn

from ..conditionals import FullNormal
from .bottom_up import BottomUp


class FullCovariance(BottomUp):
    """q(z|x) = q(z1|x) q(z2|z1) ... with q(z_i|c) = N(mu(c), L(c) L(c)^T) in each layer.

    L is lower-triangular with a positive diagonal, so that the latents of a layer may be
    correlated given the data: exact where the posterior is a normal, as for a linear decoder with
    a Gaussian likelihood. A layer of d latents has d (d - 1) / 2 more outputs than ``BottomUp``.

    There is no closed-form KL to a diagonal normal prior in Pyro: train with elbo="trace".

    Source: "Stochastic Backpropagation and Approximate Inference in Deep Generative Models",
    Rezende, Mohamed, Wierstra (2014), section 4.3 on structured covariances.

    Args:
        vae: the model that it is built for.
        hidden, encoder, conditionals, sites: as in ``BottomUp``.

    Raises:
        TypeError, ValueError: as ``BottomUp``.

    Example:
        >>> import torch
        >>> from pyro_vae import likelihoods, models
        >>> vae = models.VAE((6,), latents=3, likelihood=likelihoods.Gaussian())
        >>> FullCovariance(vae).conditionals["z1"](torch.zeros(5, 6)).covariance_matrix.shape
        torch.Size([5, 3, 3])
    """

    def _heads(self, network: nn.Module, features: int, site: str) -> nn.Module:
        size = self.model.latent_sizes[site]
        return FullNormal(network, features, size, norm=self.model.norm)
