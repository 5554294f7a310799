"""Normalisation of features: BatchNorm, LayerNorm, or any module made for a number of features."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .. import ranks
from ..ground.arguments import whole
from ..ground.internals import BatchNorm
from ..ground.recorded import Recorded
from .weights import WeightNorm

Norm = Callable[[int], nn.Module]


class GroupNorm(Recorded):
    """Makes ``torch.nn.GroupNorm`` of so many groups of channels, or as many as divide them.

    It normalises maps, each datum by itself, over a group's channels and all positions. Vectors,
    those of the heads too, it leaves as they are: within a small one it would hide what it says.

    Source: "Group Normalization", Wu, He (2018).

    Example:
        >>> GroupNorm(8)(12).num_groups
        4
    """

    def __init__(self, groups: int = 8) -> None:
        """Keep the number of groups."""
        self.groups = whole("groups", groups)

    def __call__(self, features: int) -> nn.Module:
        """A new module."""
        return nn.GroupNorm(math.gcd(self.groups, features), features)


def check_norm(norm: Any) -> None:
    """Raise ``TypeError`` unless ``norm`` is None or makes a module from a number of features."""
    made, cause = None, None
    if callable(norm) and not isinstance(norm, nn.Module):
        try:
            made = norm(2)
        except (TypeError, ValueError) as error:
            cause = error
    of_maps = nn.BatchNorm2d | nn.BatchNorm3d
    if norm is not None and (not isinstance(made, nn.Module) or isinstance(made, of_maps)):
        raise TypeError(
            "norm: expected a class or function that makes a module from a number of features, "
            f"got {norm!r}: pass torch.nn.BatchNorm1d, for maps too, torch.nn.LayerNorm, "
            "networks.GroupNorm(8), or None"
        ) from cause


class Normalized(nn.Module):
    """A normalisation of one dimension's features; every other dimension counts as data.

    Args:
        norm: makes a module for rows (n, features), such as ``torch.nn.BatchNorm1d``, or is a
            ``GroupNorm``, for maps alone.
        features: size of the dimension.
        dim: which dimension: -1 of vectors, 1 of maps (n, features, *size).

    Raises:
        ValueError: BatchNorm in training mode with a single row, whose variance is zero.

    Example:
        >>> import torch
        >>> h = Normalized(nn.BatchNorm1d, 3)(torch.randn(5, 4, 3))
        >>> h.mean((0, 1)).abs().max() < 1e-6
        tensor(True)
    """

    def __init__(self, norm: Norm, features: int, dim: int = -1) -> None:
        """Make the module."""
        super().__init__()
        self.norm, self.dim = norm(features), dim
        self.of_maps = isinstance(norm, GroupNorm)

    def forward(self, h: Tensor) -> Tensor:
        """The normalised features, of the same shape."""
        if self.of_maps:
            return self.norm(h)
        last = h.movedim(self.dim, -1)
        rows = last.reshape(-1, last.shape[-1])
        # In a run of several processes the others have rows as well
        alone = rows.shape[0] == 1 and ranks.size() == 1
        if alone and self.training and isinstance(self.norm, BatchNorm):
            raise ValueError(
                "norm: BatchNorm in training mode expects at least 2 data per batch, got 1, whose "
                "variance is zero: choose a batch_size that leaves no single datum over"
            )
        return self.norm(rows).reshape(last.shape).movedim(-1, self.dim)


def normalized(norm: Norm | None, features: int, dim: int = -1) -> nn.Module:
    """The normalisation of so many features; the identity without ``norm``, or one of others."""
    elsewhere = isinstance(norm, WeightNorm) or (isinstance(norm, GroupNorm) and dim != 1)
    return nn.Identity() if norm is None or elsewhere else Normalized(norm, features, dim)
