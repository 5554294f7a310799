"""The amortised guide whose layers are normals with full covariance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import nn

from .. import networks
from ..conditionals.normal import FullNormal
from ..programs.program import Guide
from .bottom_up import BottomUp, Order


class FullCovariance(BottomUp):
    """q(z|x) = q(z1|x) q(z2|z1) ... with q(z_i|c) = N(mu(c), L(c) L(c)^T) in each layer.

    L is lower-triangular with a positive diagonal, its rows relative to it, so that the latents of
    a layer may be correlated given the data: exact where the posterior is a normal, as for a
    linear decoder with a Gaussian likelihood. A layer of d latents has d (d - 1) / 2 more outputs
    than ``BottomUp``. Maps, whose covariances would be of millions of entries, get diagonal
    normals.

    There is no closed-form KL to a diagonal normal prior in Pyro: train with elbo="trace".

    Source: "Stochastic Backpropagation and Approximate Inference in Deep Generative Models",
    Rezende, Mohamed, Wierstra (2014), section 4.3 on structured covariances.

    Args:
        model, like, order, hidden, encoder, conditionals, sites, start: as in ``BottomUp``.
        relative: False for the parametrisation of files of version 0.1, see
            ``conditionals.FullNormal``.

    Raises:
        TypeError, ValueError: as ``BottomUp``; no latents but maps.

    Example:
        >>> import torch
        >>> from pyro_vae import likelihoods, models
        >>> vae = models.VAE((6,), latents=3, likelihood=likelihoods.Gaussian())
        >>> FullCovariance(vae).conditionals["z1"](torch.zeros(5, 6)).covariance_matrix.shape
        torch.Size([5, 3, 3])
    """

    absent = MappingProxyType({**BottomUp.absent, "relative": False})

    def __init__(
        self,
        model: Callable,
        *,
        like: Any = None,
        order: Order = "bottom-up",
        hidden: networks.Hidden | None = None,
        encoder: nn.Module | None = None,
        conditionals: Mapping[str, nn.Module] | None = None,
        sites: Sequence[str] | None = None,
        start: Guide | None = None,
        relative: bool = True,
    ) -> None:
        """Build all conditionals; every parameter exists from here on."""
        # Before the base class, which builds the heads
        self._relative = bool(relative)
        super().__init__(
            model,
            like=like,
            order=order,
            hidden=hidden,
            encoder=encoder,
            conditionals=conditionals,
            sites=sites,
            start=start,
        )
        if all(self.places[site].is_map for site in self.latents):
            raise ValueError(
                f"model: expected a vector among the latents {self.latents}, got maps, which get "
                "diagonal normals: use guides.BottomUp"
            )

    def _heads(self, network: nn.Module, features: int, site: str) -> nn.Module:
        if self.places[site].is_map:
            return super()._heads(network, features, site)
        size = self.places[site].size
        return FullNormal(network, features, size, norm=self.norm, relative=self._relative)
