"""Linear layers from features to the parameters of a latent's distribution."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .convolutional import CONVOLUTIONS
from .normalization import Norm, normalized
from .weights import weigh


def head(features: int, shape: int | Sequence[int], norm: Norm | None = None) -> nn.Module:
    """A linear layer, followed by its normalisation where there is one.

    ``shape`` is that of a latent, or its size: vectors are made of vectors (..., features), maps
    of maps (..., features, *size), position by position.

    Example:
        >>> import torch
        >>> head(32, (4, 7, 7))(torch.zeros(5, 32, 7, 7)).shape
        torch.Size([5, 4, 7, 7])
    """
    size, *positions = shape if isinstance(shape, Sequence) else (shape,)
    if positions:
        return _MapHead(features, size, len(positions), norm)
    linear = nn.Linear(features, size)
    if norm is None:
        return linear
    return weigh(nn.Sequential(linear, normalized(norm, size)), norm)


class _MapHead(nn.Module):
    """A convolution of width 1 and its normalisation."""

    def __init__(self, features: int, channels: int, dims: int, norm: Norm | None) -> None:
        super().__init__()
        self.convolution = CONVOLUTIONS[dims](features, channels, 1)
        # Counted from the end, as of vectors: no head is normalised within a datum
        self.norm, self.dims = normalized(norm, channels, dim=-dims - 1), dims
        weigh(self, norm)

    def forward(self, h: Tensor) -> Tensor:
        at = h.dim() - self.dims - 1
        lead, maps = h.shape[:at], h.shape[at:]
        h = self.norm(self.convolution(h.reshape(-1, *maps)))
        return h.reshape(*lead, *h.shape[1:])
