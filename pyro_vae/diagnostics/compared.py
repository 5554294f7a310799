"""Real against generated data in a space of features, with the protocol of the comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..data import Dataset, DataSplits
from ..ground.tables import Cell, Table, Tabular
from .features import ClassifierFeatures

_BATCH = 500


@dataclass(frozen=True, repr=False)
class FeatureDistance(Tabular):
    """A distance between features of real and generated data; ``float(...)`` is the number.

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

    title: ClassVar[str]

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
    def _cell(self) -> Cell:
        return Cell(f"{self.value:.4g}", {"": self.value})

    @property
    def _protocol(self) -> str:
        size = "not resized" if self.resize is None else f"resized to {self.resize}"
        return f"{self.values}, {size}, {self.dimensions} features of {self.features}"

    def table(self) -> Table:
        """The number and how many data it was measured with, under its protocol."""
        cells = {
            self.title: self._cell,
            "generated": Cell(str(self.generated), {"": self.generated}),
            "real": Cell(str(self.real), {"": self.real}),
        }
        return Table(
            f"real data {self.split}, {self._protocol}", list(cells), [list(cells.values())]
        )

    def __repr__(self) -> str:
        """The number with its protocol."""
        return (
            f"{self.title} {self._cell.text}: {self.generated} generated against {self.real} "
            f"{self.split}, {self._protocol}"
        )


def in_features(
    real: DataSplits | Dataset | Tensor,
    generated: Tensor,
    features: Callable[[Tensor], Tensor] | None,
    progress: bool,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Features (n, d) and (m, d) of both sides in float64, and the fields of ``FeatureDistance``.

    The arguments and errors are those of ``frechet_distance``.
    """
    split = "given"
    if isinstance(real, DataSplits):
        features = features or ClassifierFeatures.fit(real, progress=progress)
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
    found = [_features(name, values, features) for name, values in sides.items()]
    return *found, {
        "real": len(x),
        "generated": len(generated),
        "split": split,
        "values": "binary" if _binary(x) else "grey",
        "features": repr(features) if isinstance(features, torch.nn.Module) else str(features),
        "dimensions": found[0].shape[1],
        "resize": getattr(features, "resize", None),
    }


def _values(data: Dataset) -> Tensor:
    # A seed that nobody takes for the data themselves, as equal streams would be correlated
    generator = torch.Generator().manual_seed(771_561)
    return data.binarized(generator).x if data.binarize else data.x


def _binary(x: Tensor) -> bool:
    return bool(((x == 0) | (x == 1)).all())


def _features(name: str, x: Tensor, features: Callable[[Tensor], Tensor]) -> Tensor:
    with torch.no_grad():
        parts = [features(rows).double().cpu() for rows in x.split(_BATCH)]
    values = torch.cat(parts)
    if values.dim() != 2 or len(values) != len(x):
        raise ValueError(
            f"features: expected a row per datum, ({len(x)}, d), got {tuple(values.shape)}: end "
            "with torch.nn.Flatten()"
        )
    if not values.isfinite().all():
        raise ValueError(f"{name}: its features are NaN or infinite")
    return values
