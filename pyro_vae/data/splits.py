"""A training and a test set of the same kind of data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arguments import Arguments
from .columns import Column
from .conditions import Names
from .dataset import Dataset
from .text import Vocabulary


@dataclass(frozen=True, repr=False)
class DataSplits:
    """A training and a test set of one kind of data, and a validation set where there is one.

    Args:
        name: what the data is called in tables and reports.
        train: training set.
        test: test set, with the event shape of ``train``.
        validation: likewise, where a source has its own; for ``Trainer.fit(validation=)``.
        rows: which rows of their source train and test are, where it was divided; else ().

    Raises:
        ValueError: the event shapes, the kinds or the sample rates differ.

    Example:
        >>> import torch
        >>> d = DataSplits("mine", Dataset(torch.zeros(8, 3)), Dataset(torch.zeros(2, 3)))
        >>> d.event_shape, d.labels
        ((3,), ())
    """

    name: str
    train: Dataset
    test: Dataset
    validation: Dataset | None = None
    rows: tuple[Tensor, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        """Check that all sets hold the same kind of data."""
        for name, part in self._parts()[1:]:
            if part.event_shape != self.train.event_shape:
                raise ValueError(
                    f"{name}: expected the event shape of train, {self.train.event_shape}, got "
                    f"{part.event_shape}: bring both to one shape"
                )
            if part.kind != self.train.kind:
                raise ValueError(
                    f"{name}: expected data of kind {self.train.kind!r} as those of train, got "
                    f"{part.kind!r}: pass {name}.replace(kind={self.train.kind!r})"
                )
            if part.rate != self.train.rate:
                raise ValueError(
                    f"{name}: expected signals of {self.train.rate} samples per second as those "
                    f"of train, got {part.rate}: resample them, such as by "
                    "scipy.signal.resample_poly"
                )

    def _parts(self) -> list[tuple[str, Dataset]]:
        names = ("train", "test", "validation")
        return [(name, part) for name in names if (part := getattr(self, name)) is not None]

    def whole(self) -> Dataset:
        """All data in the order of their source; else the sets one after the other.

        Example:
            >>> from pyro_vae.data import load
            >>> d = load(torch.arange(50.0)[:, None])
            >>> d.test.x.flatten()[:3], d.whole().x.flatten()[:3]
            (tensor([ 6.,  7., 17.]), tensor([0., 1., 2.]))
        """
        found = _joined([part for _, part in self._parts()])
        # Others may have come into their place by dataclasses.replace
        known = sum(map(len, self.rows)) == len(found)
        return found[torch.cat(self.rows).argsort()] if known else found

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        return self.train.event_shape

    @property
    def kind(self) -> str:
        """What the dimensions of a datum mean, for ``kind=`` of models."""
        return self.train.kind

    @property
    def rate(self) -> int | None:
        """Samples per second of signals, where they are known."""
        return self.train.rate

    @property
    def columns(self) -> tuple[Column, ...]:
        """Name and kind of each column of a table; () for other data."""
        return self.train.columns

    @property
    def vocabulary(self) -> Vocabulary | None:
        """What the numbers of a text stand for; None for other data."""
        return self.train.vocabulary

    @property
    def labels(self) -> Names:
        """Class names, indexed by ``y``; () when there are none, a mapping where ``y`` is."""
        return self.train.names

    def __repr__(self) -> str:
        """Name, event shape, kind, classes, and all sets."""
        guess = "" if self.train.kind_said else " (guessed)"
        parts = "".join(f"\n  {name}={part}" for name, part in self._parts())
        # Class folders "1" to "12" are 0 to 11
        if any(name.isdigit() and int(name) != k for k, name in enumerate(self.labels)):
            parts += f"\n  y=0, 1, ... for {', '.join(map(repr, self.labels[:4]))}, ..."
        return (
            f"DataSplits({self.name!r}, event_shape={self.event_shape}, "
            f"kind={self.kind!r}{guess}, labels={len(self.labels)}{parts})"
        )


def _joined(parts: Sequence[Dataset]) -> Dataset:
    """The data of several sets of one kind, binarised and named as the first."""
    first = parts[0]
    names = ("y", "factors", "index")
    y, factors, index = ([getattr(part, name) for part in parts] for name in names)
    if isinstance(first.y, Arguments):
        labels = Arguments(kwargs={k: torch.cat([each[k] for each in y]) for k in first.y.kwargs})
    else:
        labels = torch.cat(y) if _all(y) else None
    found = first.replace(
        x=torch.cat([part.x for part in parts]),
        y=labels,
        factors=torch.cat(factors) if _all(factors) else None,
        factor_names=first.factor_names if _all(factors) else (),
    )
    found.index = np.concatenate(index) if _all(index) else None
    return found


def _all(values: Sequence[Any]) -> bool:
    return all(value is not None for value in values)
