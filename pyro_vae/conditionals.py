"""Conditional distributions: modules whose ``forward(*context)`` returns a Pyro distribution.

Encoder heads, top-down priors and the prior of the top layer all have this type, so that any of
them can be replaced by any module of the same type.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from .recorded import Recorded


class StandardNormal(Recorded, nn.Module):
    """The N(0, I) prior of a top layer: no context, no parameters.

    Args:
        size: event shape is (size,).

    Example:
        >>> StandardNormal(3)().event_shape
        torch.Size([3])
    """

    def __init__(self, size: int) -> None:
        """Keep mean and scale as buffers, so that they follow the module's device and dtype."""
        super().__init__()
        self.register_buffer("loc", torch.zeros(size), persistent=False)
        self.register_buffer("scale", torch.ones(size), persistent=False)

    def forward(self, *context: Tensor) -> dist.Distribution:
        """N(0, I), whatever the context."""
        return dist.Normal(self.loc, self.scale).to_event(1)


class DiagonalNormal(Recorded, nn.Module):
    """N(mu(c), diag sigma(c)^2) with mu and sigma linear heads on a network's features.

    sigma = softplus(W h + b) + ``min_scale``, so that it cannot vanish or overflow.

    Args:
        network: context tensors -> features (..., in_features).
        in_features: width of the features.
        size: event shape is (size,).
        min_scale: lower bound of sigma.

    Shapes:
        context as the network takes it; batch shape (...), event shape (size,).

    Example:
        >>> conditional = DiagonalNormal(nn.Identity(), 4, 2)
        >>> conditional(torch.zeros(5, 4)).batch_shape
        torch.Size([5])
    """

    def __init__(
        self, network: nn.Module, in_features: int, size: int, *, min_scale: float = 1e-4
    ) -> None:
        """Build both heads."""
        super().__init__()
        self.network = network
        self.loc = nn.Linear(in_features, size)
        self.raw_scale = nn.Linear(in_features, size)
        self.min_scale = min_scale

    def forward(self, *context: Tensor) -> dist.Distribution:
        """The normal distribution given the context."""
        h = self.network(*context)
        scale = softplus(self.raw_scale(h)) + self.min_scale
        return dist.Normal(self.loc(h), scale).to_event(1)


class PointMass(Recorded, nn.Module):
    """All mass on mu(c), a linear head on a network's features.

    Args:
        network: context tensors -> features (..., in_features).
        in_features: width of the features.
        size: event shape is (size,).

    Example:
        >>> PointMass(nn.Identity(), 4, 2)(torch.zeros(5, 4)).event_shape
        torch.Size([2])
    """

    def __init__(self, network: nn.Module, in_features: int, size: int) -> None:
        """Build the head."""
        super().__init__()
        self.network = network
        self.loc = nn.Linear(in_features, size)

    def forward(self, *context: Tensor) -> dist.Distribution:
        """The point mass given the context."""
        return dist.Delta(self.loc(self.network(*context)), event_dim=1)
