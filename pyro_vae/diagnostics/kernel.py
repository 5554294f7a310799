"""The kernel distance between real and generated data, which has a standard error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..data import Dataset, DataSplits
from ..ground.arguments import whole
from ..ground.tables import Cell, mean_and_error
from .compared import FeatureDistance, in_features


@dataclass(frozen=True, repr=False)
class KernelDistance(FeatureDistance):
    """A kernel distance and how it was measured; ``float(...)`` is the number.

    Attributes:
        value: the distance, which may be negative by chance.
        real: number of real data.
        generated: number of generated data.
        split: what the real data are.
        values: "binary" or "grey".
        features: the map to features, in words.
        dimensions: number of features.
        resize: size to which the features' network brings images, None for as they are.
        standard_error: of the value, from the blocks.
        blocks: number of blocks.
    """

    title: ClassVar[str] = "kernel distance"

    standard_error: float
    blocks: int

    @property
    def _cell(self) -> Cell:
        return Cell.estimate(self.value, self.standard_error, "{:.3g}".format)


def kernel_distance(
    real: DataSplits | Dataset | Tensor,
    generated: Tensor,
    *,
    features: Callable[[Tensor], Tensor] | None = None,
    blocks: int = 10,
    progress: bool = True,
) -> KernelDistance:
    """Squared maximum mean discrepancy of features under a cubic kernel, "KID", in float64.

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y) with k(x, y) = (x.y / d + 1)^3 for features x of
    real and y of generated data. It is 3/d |D_1|^2 + 3/d^2 |D_2|^2 + 1/d^3 |D_3|^2, where D_r is
    the difference of the r-th moments E[x_i ... x_k], so that it is zero just where the first
    three are equal.

    Real and generated data are divided at random, always in the same way, into as many blocks
    each. In a block the mean is over pairs of two different data,

        sum_{i != j} k(x_i, x_j) / n(n-1) + sum_{i != j} k(y_i, y_j) / m(m-1)
            - 2 sum_{i, j} k(x_i, y_j) / nm,

    which is unbiased: unlike the Frechet distance it has the same mean for any number of data and
    of blocks, and mean zero for equal distributions. The result is the mean over the blocks,
    which share no data, with their standard error. Compare only numbers with the same features.

    Source: "Demystifying MMD GANs", Binkowski, Sutherland, Arbel, Gretton (2018), whose blocks
    are random subsets, which overlap.

    Args:
        real: as for ``frechet_distance``.
        generated: as for ``frechet_distance``.
        features: as for ``frechet_distance``.
        blocks: number of blocks, at least 2.
        progress: as for ``frechet_distance``.

    Returns:
        ``KernelDistance``.

    Raises:
        ValueError: fewer than two data per block on either side; grey data against binary ones;
            no features for data without a training set; values that are not finite.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> real, generated = torch.randn(500, 3), torch.randn(500, 3) + 1
        >>> distance = kernel_distance(real, generated, features=torch.nn.Identity())
        >>> exact = 3 / 3 * 3 + 3 / 9 * 9 + 1 / 27 * (3 * 4**2 + 18 * 2**2 + 6)
        >>> abs(float(distance) - exact) < 3 * distance.standard_error
        True
    """
    whole("blocks", blocks, 2)
    x, y, protocol = in_features(real, generated, features, progress)
    for name, values in (("real", x), ("generated", y)):
        if len(values) < 2 * blocks:
            raise ValueError(
                f"{name}: expected at least two data in each of {blocks} blocks, got "
                f"{len(values)}: use more data or fewer blocks"
            )
    generator = torch.Generator().manual_seed(0)
    order = [torch.randperm(len(values), generator=generator) for values in (x, y)]
    parts = zip(x[order[0]].tensor_split(blocks), y[order[1]].tensor_split(blocks), strict=True)
    value, error = mean_and_error(torch.stack([squared_discrepancy(*part) for part in parts]))
    return KernelDistance(value, **protocol, standard_error=error, blocks=blocks)


def squared_discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased MMD^2, 0-d, of features (n, d) and (m, d) under (x.y / d + 1)^3."""

    def among(values: Tensor) -> Tensor:
        kernel, n = _kernel(values, values), len(values)
        return (kernel.sum() - kernel.trace()) / (n * (n - 1))

    return among(x) + among(y) - 2 * _kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
