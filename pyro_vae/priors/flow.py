"""A masked autoregressive flow as prior."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions.transforms import AffineAutoregressive
from pyro.nn import AutoRegressiveNN
from torch import Tensor, nn

from ..conditionals.flow import FlowDistribution
from ..ground.arguments import whole
from .base import FittedPrior


class FlowPrior(FittedPrior):
    """A masked autoregressive flow from N(0, I): density in one pass, sampling in ``size`` passes.

    Trained with the rest under ``handlers.replace_prior``, or fitted to the aggregate posterior
    afterwards by ``fit``. E[z] has no closed form: its ``mean`` is the image of 0.

    Sources: "Masked Autoregressive Flow for Density Estimation", Papamakarios, Pavlakou, Murray
    (2017); "Variational Lossy Autoencoder", Chen et al. (2017) for it as a prior.

    Args:
        size: event shape is (size,), at least 2.
        transforms: autoregressive steps; every second one sees the dimensions reversed.
        hidden: widths of each step's network, at least ``size``.
        seed: of the samples, the order of the data and the binarisation in ``fit``.

    Raises:
        ValueError: a size below 2, fewer than one transform, widths below the size.

    Example:
        >>> from pyro_vae import handlers, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> model = handlers.replace_prior(vae, FlowPrior(2))
        >>> model.sample(5).shape
        torch.Size([5, 6])
    """

    def __init__(
        self,
        size: int,
        transforms: int = 4,
        *,
        hidden: Sequence[int] = (64, 64),
        seed: int = 0,
    ) -> None:
        super().__init__(size, seed)
        whole("size", size, 2, advice="use priors.MixturePrior")
        whole("transforms", transforms)
        if not hidden or min(hidden) < size:
            raise ValueError(f"hidden: expected widths of at least size={size}, got {hidden}")
        order = torch.arange(size)
        self.networks = nn.ModuleList(
            AutoRegressiveNN(size, list(hidden), permutation=order if i % 2 else order.flip(0))
            for i in range(transforms)
        )
        self.register_buffer("loc", torch.zeros(size), persistent=False)
        self.register_buffer("scale", torch.ones(size), persistent=False)

    def forward(self, *context: Tensor) -> dist.Distribution:
        """The flow's distribution, whatever the context: batch shape (), event shape (size,)."""
        # Made anew, because a transform keeps its last values
        steps = [AffineAutoregressive(network).inv for network in self.networks]
        return FlowDistribution(dist.Normal(self.loc, self.scale).to_event(1), steps)

    def bound(self, z: Tensor) -> Tensor:
        """Log p(z), (n,), of latents (n, size)."""
        return self().log_prob(z)

    def __repr__(self) -> str:
        """Size, steps, and what it was fitted on."""
        n = int(self.fitted_on)
        fitted = f", fitted on {n} samples" if n else ""
        return f"FlowPrior(size={self.size}, transforms={len(self.networks)}{fitted})"
