"""What is checked of a loader's data: its labels, and the batches of its first pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ..data.arguments import Arguments, Data, LabelData, columns_of
from ..programs.checks import check_data
from ..programs.labels import as_whole
from ..programs.missing import check_known


def labels_at_hand(loader: DataLoader) -> Tensor | None:
    """Labels (n,) of all data, -1 where they are missing, of a data set that holds them.

    That is a ``TensorDataset`` of x and y, or one with ``targets``, as torchvision's have.
    """
    held = loader.dataset
    pair = isinstance(held, TensorDataset) and len(held.tensors) == 2
    found = held.tensors[1] if pair else getattr(held, "targets", None)
    if isinstance(found, list) and all(isinstance(label, int) for label in found):
        found = torch.tensor(found)
    if not isinstance(found, Tensor) or found.dim() != 1 or len(found) != len(held):
        return None
    labels = as_whole(found)
    return None if labels.is_floating_point() else labels


class FirstPass:
    """The checks of the batches of a loader's first pass, which one process trains on.

    Args:
        name: "data" or "validation", as ``Trainer.fit`` calls them.
        model: the program that is to have produced them.
    """

    def __init__(self, name: str, model: Callable) -> None:
        self.name, self.model = name, model
        condition, classes = getattr(model, "condition", 0), {}
        if name == "data" and getattr(model, "covariates", False) is True:
            classes = condition.classes
        elif name == "data" and getattr(model, "partly_labelled", False) is True:
            classes = {"y": condition}
        self._unseen = {key: set(range(k)) for key, k in classes.items()}
        self._told = getattr(model, "partly_labelled", False) is not True

    def __call__(self, number: int, batch: tuple[Data, LabelData]) -> None:
        """Raise ``ValueError`` for a batch, from 1 on, that the model cannot have produced."""
        check = check_data if hasattr(self.model, "check_data") else _check_finite
        try:
            check(self.model, *batch)
        except ValueError as error:
            told = f"{self.name}: batch {number} of the DataLoader: {error}"
            raise ValueError(told) from error
        y = batch[1]
        for key, unseen in self._unseen.items():
            labels = y.kwargs[key] if isinstance(y, Arguments) else y
            if unseen and labels is not None:
                found = {*as_whole(labels).unique().tolist()} - {-1}
                self._told |= bool(found)
                unseen -= found

    def end(self) -> None:
        """Warn of classes that no batch had, of which nothing was learnt."""
        lost = {key: sorted(unseen) for key, unseen in self._unseen.items() if unseen}
        if lost and self._told:
            key, classes = next(iter(lost.items()))
            warnings.warn(
                f"data: expected each class of {key!r} in some batch of the DataLoader, got none "
                f"of {', '.join(map(str, classes))} in its first epoch, of which nothing is "
                "learnt: have it load data of each, or build the model with fewer classes",
                stacklevel=2,
            )


def _check_finite(model: Any, x: Data, y: LabelData) -> None:
    for column in columns_of(x):
        check_known(column, model)
