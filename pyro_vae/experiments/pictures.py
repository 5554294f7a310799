"""What experiments on pictures share: smaller ones, and how far drawn ones are from real ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from .. import diagnostics, plots
from ..data import Dataset, DataSplits

SEED = 0
_ROWS = 500


def pooled(splits: DataSplits, size: int | None) -> DataSplits:
    """Pictures of ``size`` x ``size`` pixels of 8 bits, each the mean of equal rectangles.

    As they are for None.

    Raises:
        ValueError: data that are no pictures, or a size that does not divide their sides.
    """
    if size is None:
        return splits
    shape = splits.event_shape
    if len(shape) not in (2, 3) or any(side % size for side in shape[-2:]):
        raise ValueError(f"--size: expected a divisor of the sides of {shape}, got {size}")
    cell = [side // size for side in shape[-2:]]

    def small(part: Dataset) -> Dataset:
        return part.replace(x=(255 * avg_pool2d(part.x, cell)).round().to(torch.uint8))

    return DataSplits(f"{splits.name}, {size} x {size}", small(splits.train), small(splits.test))


def binarised(splits: DataSplits) -> DataSplits:
    """Each pixel drawn once, as by ``data.load(binarize="static")``."""
    generator = torch.Generator().manual_seed(SEED)
    test, train = (part.binarized(generator) for part in (splits.test, splits.train))
    return DataSplits(splits.name, train.replace(binarize=None), test.replace(binarize=None))


def classifier(
    splits: DataSplits, steps: int, *, quiet: bool = True
) -> tuple[diagnostics.ClassifierFeatures | None, dict[str, Any]]:
    """Features to measure distances in, and the settings that make them again.

    None for data without labels. Unless ``quiet`` the training of the classifier is told.
    """
    if splits.train.y is None or splits.test.y is None:
        return None, {}
    features = diagnostics.ClassifierFeatures.fit(
        splits, steps=steps, seed=SEED, progress=not quiet
    )
    told = f"{steps} steps from seed {SEED}, accuracy {features.accuracy:.4f}"
    return features, {"classifier": told}


def distances(
    features: nn.Module | None, test: Dataset, images: Mapping[str, Tensor]
) -> dict[str, float | None]:
    """Of each kind of images its Frechet and its kernel distance ("KID") to the test data.

    None without features.
    """
    names = [*images, *(f"KID, {name}" for name in images)]
    if features is None:
        return dict.fromkeys(names)

    def of(x: Tensor) -> Tensor:
        return torch.cat([features(rows).cpu() for rows in x.split(_ROWS)])

    real, drawn, same = of(test.x), [of(x.to(test.device)) for x in images.values()], nn.Identity()
    found = [diagnostics.frechet_distance(real, x, features=same) for x in drawn]
    found += [diagnostics.kernel_distance(real, x, features=same) for x in drawn]
    return dict(zip(names, map(float, found), strict=True))


def sheet(path: Path, rows: Mapping[str, Tensor]) -> None:
    """Draw images (32, *event_shape) under each title into a file, such as a PNG."""
    figure, axes = plt.subplots(len(rows), 1, figsize=(8, 2.7), layout="constrained")
    for ax, (title, x) in zip(axes, rows.items(), strict=True):
        plots.images(x.cpu(), columns=16, ax=ax)
        ax.set_title(f"E[x|z], {title}")
    figure.savefig(path, dpi=120)
    plt.close(figure)
