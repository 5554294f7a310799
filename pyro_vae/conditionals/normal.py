"""Conditional distributions: modules whose ``forward(*context)`` returns a Pyro distribution.

Encoder heads, top-down priors and the prior of the top layer all have this type, so that any of
them can be replaced by any module of the same type.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..distributions import CholeskyNormal
from ..ground.recorded import Recorded
from ..networks import Norm, head


def zero(linear: nn.Linear) -> None:
    """Make a linear layer return 0 for now; its gradient is not 0."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)


class StandardNormal(Recorded, nn.Module):
    """The N(0, I) prior of a top layer: no context, no parameters.

    Args:
        size: event shape is (size,), or that of a map such as (8, 14, 14).

    Example:
        >>> StandardNormal(3)().event_shape
        torch.Size([3])
    """

    def __init__(self, size: int | Sequence[int]) -> None:
        """Keep mean and scale as buffers, so that they follow the module's device and dtype."""
        super().__init__()
        self.register_buffer("loc", torch.zeros(size), persistent=False)
        self.register_buffer("scale", torch.ones(size), persistent=False)
        self.event_dim = self.loc.dim()

    def forward(self, *context: Tensor) -> dist.Distribution:
        """N(0, I), whatever the context."""
        return dist.Normal(self.loc, self.scale).to_event(self.event_dim)


class DiagonalNormal(Recorded, nn.Module):
    """N(mu(c), diag sigma(c)^2) with mu and sigma linear heads on a network's features.

    sigma = softplus(W h + b) + ``min_scale``, so that it cannot vanish or overflow.

    Args:
        network: context tensors -> features (..., in_features).
        in_features: width of the features.
        size: event shape is (size,), or that of a map (c, *positions), of features
            (..., in_features, *positions).
        min_scale: lower bound of sigma.
        norm: makes the normalisation of each head's result from ``size``, such as
            ``torch.nn.BatchNorm1d``.

    Shapes:
        context as the network takes it; batch shape (...), event shape (size,) or the map's.

    Example:
        >>> conditional = DiagonalNormal(nn.Identity(), 4, 2)
        >>> conditional(torch.zeros(5, 4)).batch_shape
        torch.Size([5])
    """

    def __init__(
        self,
        network: nn.Module,
        in_features: int,
        size: int | Sequence[int],
        *,
        min_scale: float = 1e-4,
        norm: Norm | None = None,
    ) -> None:
        """Build both heads."""
        super().__init__()
        self.network = network
        self.loc = head(in_features, size, norm)
        self.raw_scale = head(in_features, size, norm)
        self.min_scale = min_scale
        self.event_dim = len(size) if isinstance(size, Sequence) else 1

    def forward(self, *context: Tensor) -> dist.Distribution:
        """The normal distribution given the context."""
        h = self.network(*context)
        scale = softplus(self.raw_scale(h)) + self.min_scale
        return dist.Normal(self.loc(h), scale).to_event(self.event_dim)


class FullNormal(Recorded, nn.Module):
    """N(mu(c), L(c) L(c)^T) with linear heads for mu and L = S (I + B / sqrt(size)).

    S is diagonal, softplus(W h + b) + ``min_scale``, and B strictly lower-triangular and free, so
    that L is the Cholesky factor of a positive definite matrix, whatever the parameters, and the
    scale of a latent that of its whole row: a correlation does not grow as the scale shrinks. B is
    0 at first, so that training starts at a diagonal normal. An optimizer such as Adam moves all
    entries of a row at the same pace: the root keeps the pace of the row that of the other heads,
    whatever the size. The density at its own draw comes from the noise, see
    ``distributions.CholeskyNormal``.

    Args:
        network, in_features, size: as in ``DiagonalNormal``; there are size (size - 1) / 2 entries
            below the diagonal.
        min_scale, norm: the same, for mu and the diagonal of L.
        relative: False for L = S + B, as in files of version 0.1, whose density at its own draw is
            solved for, with a rounding error that grows as S shrinks.

    Example:
        >>> conditional = FullNormal(nn.Identity(), 4, 2)
        >>> conditional(torch.zeros(5, 4)).scale_tril.shape
        torch.Size([5, 2, 2])
    """

    absent = MappingProxyType({"relative": False})

    def __init__(
        self,
        network: nn.Module,
        in_features: int,
        size: int,
        *,
        min_scale: float = 1e-4,
        norm: Norm | None = None,
        relative: bool = True,
    ) -> None:
        """Build the heads; one latent has nothing below the diagonal."""
        super().__init__()
        self.network = network
        self.loc = head(in_features, size, norm)
        self.raw_scale = head(in_features, size, norm)
        # The names differ, so that the weights of one are not taken for those of the other
        name = "relative" if relative else "lower"
        entries = nn.Linear(in_features, size * (size - 1) // 2) if size > 1 else None
        if relative and entries is not None:
            zero(entries)
        self.register_module(name, entries)
        self.min_scale = min_scale
        self.register_buffer("below", torch.tril_indices(size, size, -1), persistent=False)

    def forward(self, *context: Tensor) -> dist.Distribution:
        """The normal distribution given the context."""
        h = self.network(*context)
        scale = softplus(self.raw_scale(h)) + self.min_scale
        factor = torch.diag_embed(scale)
        if not hasattr(self, "relative"):
            if self.lower is not None:
                factor[..., self.below[0], self.below[1]] = self.lower(h)
            return dist.MultivariateNormal(self.loc(h), scale_tril=factor)
        if self.relative is not None:
            row, size = self.below[0], scale.shape[-1]
            factor[..., row, self.below[1]] = scale[..., row] * self.relative(h) / size**0.5
        return CholeskyNormal(self.loc(h), scale_tril=factor)


class PointMass(Recorded, nn.Module):
    """All mass on mu(c), a linear head on a network's features.

    Args:
        network, in_features, size: as in ``DiagonalNormal``.

    Example:
        >>> PointMass(nn.Identity(), 4, 2)(torch.zeros(5, 4)).event_shape
        torch.Size([2])
    """

    def __init__(self, network: nn.Module, in_features: int, size: int | Sequence[int]) -> None:
        """Build the head."""
        super().__init__()
        self.network = network
        self.loc = head(in_features, size)
        self.event_dim = len(size) if isinstance(size, Sequence) else 1

    def forward(self, *context: Tensor) -> dist.Distribution:
        """The point mass given the context."""
        return dist.Delta(self.loc(self.network(*context)), event_dim=self.event_dim)


def precision_weighted(first: dist.Distribution, second: dist.Distribution) -> dist.Distribution:
    """The normalised product of two diagonal normals, the posterior that two opinions make.

    sigma^-2 = sigma_1^-2 + sigma_2^-2, mu = sigma^2 (mu_1 / sigma_1^2 + mu_2 / sigma_2^2), written
    with the ratio of the sigmas, so that variances from 1e-12 to 1e12 neither vanish nor
    overflow in single precision.

    Source: "Ladder Variational Autoencoders", Sonderby, Raiko, Maaloe, Sonderby, Winther (2016).

    Args:
        first: normal with event shape (size,), or that of a map.
        second: normal with the same event shape; batch shapes broadcast.

    Raises:
        TypeError: a distribution that is no diagonal normal.

    Example:
        >>> one = dist.Normal(torch.zeros(1), torch.ones(1)).to_event(1)
        >>> other = dist.Normal(torch.full((1,), 2.0), torch.ones(1)).to_event(1)
        >>> precision_weighted(one, other).mean
        tensor([1.])
    """
    for factor in (first, second):
        if not isinstance(getattr(factor, "base_dist", None), torch.distributions.Normal):
            raise TypeError(
                f"expected diagonal normals to weigh by their precision, got {factor}: use "
                "conditionals such as DiagonalNormal in the model and in the guide"
            )
    p, q = first.base_dist, second.base_dist
    ratio = (p.scale / q.scale).square()
    weight = 1 / (1 + ratio)
    loc = weight * (p.loc + ratio * q.loc)
    result = dist.Normal(loc, p.scale * weight.sqrt())
    return result.to_event(first.reinterpreted_batch_ndims)
