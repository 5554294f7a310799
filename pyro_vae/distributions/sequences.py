"""Sequences of categories that end where they say so."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from .tables import Nominal


def up_to_end(value: Tensor) -> Tensor:
    """Which places of sequences (..., t) are at their first 0 or before it, (..., t).

    Example:
        >>> up_to_end(torch.tensor([[3.0, 0.0, 0.0], [1.0, 2.0, 3.0]]))
        tensor([[ True,  True, False],
                [ True,  True,  True]])
    """
    ends = (value == 0).long()
    return ends.cumsum(-1) == ends


class Ended(constraints.Constraint):
    """Whole numbers from 0 to k - 1, and nothing but 0 after the first 0."""

    is_discrete, event_dim = True, 1

    def __init__(self, size: int) -> None:
        self.size, self.lower_bound, self.upper_bound = size, 0, size - 1

    def __repr__(self) -> str:
        return f"whole numbers from 0 to {self.size - 1}, none but 0 after the first 0"

    def check(self, value: Tensor) -> Tensor:
        """Which of sequences (..., t) are such."""
        whole = (value >= 0) & (value < self.size) & (value == value.round())
        return (whole & (up_to_end(value) | (value == 0))).all(-1)


class UntilEnd(TorchDistribution):
    """Sequences of categories 0, ..., k - 1, the first 0 of which is their end.

    p(x) = prod of p(x_t) up to the first 0, all that follows being 0 for sure; without any 0 the
    product is over all t places. So the probabilities of all sequences up to this length sum to
    one. Categories have no mean: the most probable ones stand for it.

    Args:
        logits: those of each place, (..., t, k).

    Shapes:
        batch shape (...), event shape (t,); values are numbers of the type of the logits.

    Example:
        >>> p = UntilEnd(torch.zeros(2, 4))
        >>> p.log_prob(torch.tensor([[2.0, 3.0], [3.0, 0.0], [0.0, 0.0]])).exp()
        tensor([0.0625, 0.0625, 0.2500])
    """

    arg_constraints = {"logits": constraints.independent(constraints.real, 2)}

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape[:-2], logits.shape[-2:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> Any:
        """Whole numbers from 0 to k - 1, zeros after the first 0."""
        return Ended(self.logits.shape[-1])

    @property
    def places(self) -> Nominal:
        """The categories of each place, whether or not the sequence is over."""
        return Nominal(self.logits, validate_args=False)

    @staticmethod
    def closed(value: Tensor) -> Tensor:
        """Categories (..., t) with zeros after the first 0."""
        return value * up_to_end(value)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> UntilEnd:
        """The same distribution with another batch shape."""
        return UntilEnd(self.logits.expand(*batch_shape, *self.logits.shape[-2:]))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of ``value`` (..., t), broadcast against the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        ended = torch.zeros_like(value, dtype=self.logits.dtype)
        ended = ended.masked_fill(value != 0, -torch.inf)
        return self.places.log_prob(value).where(up_to_end(value), ended).sum(-1)

    @property
    def mean(self) -> Tensor:
        """The most probable category of each place, up to the first end."""
        return self.closed(self.places.mean)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of shape ``sample_shape`` + batch shape + (t,)."""
        return self.closed(self.places.sample(sample_shape))
