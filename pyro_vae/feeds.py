"""Where the minibatches of a run come from."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .data import Dataset


class Resident:
    """Minibatches of data that lie on the device, in a new random order each epoch.

    Args:
        data: n data.
        batch_size: data per step; the last batch may be shorter.
    """

    def __init__(self, data: Dataset, batch_size: int) -> None:
        self.data, self.batch_size = data, batch_size

    @property
    def count(self) -> int:
        """Data in an epoch."""
        return len(self.data)

    def __len__(self) -> int:
        """Steps in an epoch."""
        return math.ceil(self.count / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """One epoch of x (b, *event_shape) and y (b,) or None; order and draws by torch's RNG."""
        order = torch.randperm(self.count, device=self.data.device)
        return (self.data.batch(rows) for rows in order.split(self.batch_size))
