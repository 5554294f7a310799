"""The Frechet distance between real and generated data, with the protocol it was measured by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import Dataset, DataSplits
from ..ground.tables import Cell, Table, Tabular
from .features import ClassifierFeatures

_BATCH = 500


@dataclass(frozen=True, repr=False)
class FrechetDistance(Tabular):
    """A Frechet distance and how it was measured; ``float(...)`` is the number.

    Attributes:
        value: the distance, at least 0.
        real: number of real data.
        generated: number of generated data.
        split: what the real data are.
        values: "binary" or "grey".
        features: the map to features, in words.
        dimensions: number of features.
        resize: size to which the features' network brings images, None for as they are.
    """

    value: float
    real: int
    generated: int
    split: str
    values: str
    features: str
    dimensions: int
    resize: tuple[int, ...] | None

    def __float__(self) -> float:
        """The distance."""
        return self.value

    @property
    def _protocol(self) -> str:
        size = "not resized" if self.resize is None else f"resized to {self.resize}"
        return f"{self.values}, {size}, {self.dimensions} features of {self.features}"

    def table(self) -> Table:
        """The number and how many data it was measured with, under its protocol."""
        cells = {
            "Frechet distance": Cell(f"{self.value:.4g}", {"": self.value}),
            "generated": Cell(str(self.generated), {"": self.generated}),
            "real": Cell(str(self.real), {"": self.real}),
        }
        return Table(
            f"real data {self.split}, {self._protocol}", list(cells), [list(cells.values())]
        )

    def __repr__(self) -> str:
        """The number with its protocol."""
        return (
            f"Frechet distance {self.value:.4g}: {self.generated} generated against {self.real} "
            f"{self.split}, {self._protocol}"
        )


def frechet_distance(
    real: DataSplits | Dataset | Tensor,
    generated: Tensor,
    *,
    features: Callable[[Tensor], Tensor] | None = None,
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
            classifier trained on the training labels, ``ClassifierFeatures.fit``.

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
    split = "given"
    if isinstance(real, DataSplits):
        features = features or ClassifierFeatures.fit(real)
        split, real = f"of the test set of {real.name}", real.test
    if features is None:
        raise ValueError(
            "features: expected a map from data to features, got none: pass "
            "diagnostics.ClassifierFeatures.fit(d), or the whole d = data.load(...) as real"
        )
    x = _values(real) if isinstance(real, Dataset) else real
    if x.shape[1:] != generated.shape[1:]:
        raise ValueError(
            f"generated: expected data of shape {tuple(x.shape[1:])} like the real ones, got "
            f"{tuple(generated.shape[1:])}"
        )
    if _binary(x) and not _binary(generated):
        raise ValueError(
            "generated: expected 0 and 1 like the real data, got other values: pass draws, "
            "model.sample(n), not means, or load the data with binarize=None"
        )
    sides = {"real": x, "generated": generated}
    moments = [_moments(name, values, features) for name, values in sides.items()]
    return FrechetDistance(
        value=distance_of_normals(*moments[0], *moments[1]),
        real=len(x),
        generated=len(generated),
        split=split,
        values="binary" if _binary(x) else "grey",
        features=repr(features) if isinstance(features, torch.nn.Module) else str(features),
        dimensions=len(moments[0][0]),
        resize=getattr(features, "resize", None),
    )


def _values(data: Dataset) -> Tensor:
    # A seed that nobody takes for the data themselves, as equal streams would be correlated
    generator = torch.Generator().manual_seed(771_561)
    return data.binarized(generator).x if data.binarize else data.x


def _binary(x: Tensor) -> bool:
    return bool(((x == 0) | (x == 1)).all())


def _moments(name: str, x: Tensor, features: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        parts = [features(rows).double().cpu() for rows in x.split(_BATCH)]
    values = torch.cat(parts)
    if values.dim() != 2 or len(values) != len(x):
        raise ValueError(
            f"features: expected a row per datum, ({len(x)}, d), got {tuple(values.shape)}: end "
            "with torch.nn.Flatten()"
        )
    if len(values) <= values.shape[1]:
        raise ValueError(
            f"{name}: expected more data than the {values.shape[1]} features, got {len(values)}: "
            "their covariance would be singular; use more data or fewer features"
        )
    if not values.isfinite().all():
        raise ValueError(f"{name}: its features are NaN or infinite")
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
