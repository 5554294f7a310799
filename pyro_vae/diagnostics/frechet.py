"""The Frechet distance between real and generated data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..data import Dataset, DataSplits
from .compared import FeatureDistance, in_features


@dataclass(frozen=True, repr=False)
class FrechetDistance(FeatureDistance):
    """A Frechet distance, at least 0, and how it was measured; ``float(...)`` is the number.

    Attributes:
        value: the distance.
        real: number of real data.
        generated: number of generated data.
        split: what the real data are.
        values: "binary" or "grey".
        features: the map to features, in words.
        dimensions: number of features.
        resize: size to which the features' network brings images, None for as they are.
    """

    title: ClassVar[str] = "Frechet distance"


def frechet_distance(
    real: DataSplits | Dataset | Tensor,
    generated: Tensor,
    *,
    features: Callable[[Tensor], Tensor] | None = None,
    progress: bool = True,
) -> FrechetDistance:
    """Distance between normals fitted to features of real and of generated data, in float64.

    |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)), m and S mean and covariance of the features. Zero
    for equal distributions, but biased upwards in n: compare only numbers with one protocol, and
    never with published ones of another network or another n.

    Source: "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
    Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter (2017).

    Args:
        real: ``data.load(...)``, whose test set is used; or a data set or a tensor
            (n, *event_shape). Those under dynamic binarisation are drawn once, always the same.
        generated: (m, *event_shape), of the same kind: ``vae.sample(10_000)`` for binary data,
            and ``vae.sample(10_000, mean=True)`` too for grey ones.
        features: data (b, *event_shape) -> features (b, d). Default with ``data.load(...)``: a
            classifier trained on the training labels, ``ClassifierFeatures.fit``, which is kept.
        progress: tell of the training of that classifier, with a progress bar.

    Returns:
        ``FrechetDistance``.

    Raises:
        ValueError: not more data than features on either side, so that a covariance would be
            singular; grey data against binary ones; no features for data without a training set;
            values that are not finite.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> real, generated = torch.randn(500, 3), torch.randn(500, 3) + 2
        >>> distance = frechet_distance(real, generated, features=torch.nn.Identity())
        >>> 11 < float(distance) < 13
        True
    """
    x, y, protocol = in_features(real, generated, features, progress)
    moments = [*_moments("real", x), *_moments("generated", y)]
    return FrechetDistance(distance_of_normals(*moments), **protocol)


def _moments(name: str, values: Tensor) -> tuple[Tensor, Tensor]:
    if len(values) <= values.shape[1]:
        raise ValueError(
            f"{name}: expected more data than the {values.shape[1]} features, got {len(values)}: "
            "their covariance would be singular; use more data or fewer features"
        )
    return values.mean(0), torch.cov(values.T)


def distance_of_normals(
    mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor
) -> float:
    """Squared Frechet (2-Wasserstein) distance between two normals.

    The means are (d,), the covariances S and S' are (d, d) and positive semidefinite.
    tr (S S')^(1/2) is the sum of the square roots of the eigenvalues of S^(1/2) S' S^(1/2), a
    symmetric matrix, so that nothing becomes complex.
    """
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = torch.linalg.eigvalsh(root @ other_covariance @ root)
    cross = product.clamp(min=0).sqrt().sum()
    shift = (mean - other_mean).square().sum()
    distance = shift + covariance.trace() + other_covariance.trace() - 2 * cross
    return max(0.0, float(distance))
