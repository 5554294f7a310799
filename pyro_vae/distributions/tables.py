"""Rows of a table: categories, and columns of several kinds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor


class Nominal(TorchDistribution):
    """Categories 0, ..., k - 1, as numbers of the type of the logits (..., k).

    Categories have no mean: the most probable one stands for it.

    Example:
        >>> p = Nominal(torch.tensor([0.0, 2.0, 1.0]))
        >>> p.mean, p.log_prob(torch.tensor([0.0, 1.0, 2.0])).exp()
        (tensor(1.), tensor([0.0900, 0.6652, 0.2447]))
    """

    arg_constraints = {"logits": constraints.real_vector}

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits.log_softmax(-1)
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        """Whole numbers from 0 to k - 1."""
        return constraints.integer_interval(0, self.logits.shape[-1] - 1)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Nominal:
        """The same distribution with another batch shape."""
        return Nominal(self.logits.expand(*batch_shape, self.logits.shape[-1]))

    @property
    def mean(self) -> Tensor:
        """The most probable category."""
        return self.logits.argmax(-1).to(self.logits.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of ``value``, broadcast against the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        logits = self.logits.expand(*shape, self.logits.shape[-1])
        return logits.gather(-1, value.long().expand(shape).unsqueeze(-1)).squeeze(-1)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of shape ``sample_shape`` + batch shape."""
        drawn = torch.distributions.Categorical(logits=self.logits).sample(sample_shape)
        return drawn.to(self.logits.dtype)


class Joint(TorchDistribution):
    """Vectors whose columns belong to independent distributions.

    Args:
        parts: distributions of one batch shape, each over vectors.
        columns: for each of them its columns in the vector, whole numbers (k,); each column of
            the vector belongs to one.

    Example:
        >>> import pyro.distributions as dist
        >>> flags = dist.Bernoulli(torch.ones(4, 1)).to_event(1)
        >>> sizes = dist.Normal(torch.zeros(4, 2), 1.0).to_event(1)
        >>> p = Joint([flags, sizes], [torch.tensor([1]), torch.tensor([2, 0])])
        >>> p.event_shape, p.sample()[:, 1]
        (torch.Size([3]), tensor([1., 1., 1., 1.]))
    """

    arg_constraints = {}
    support = constraints.real_vector

    def __init__(
        self,
        parts: Sequence[Any],
        columns: Sequence[Tensor],
        validate_args: bool | None = None,
    ) -> None:
        self.parts, self.columns = tuple(parts), tuple(columns)
        size = sum(map(len, self.columns))
        super().__init__(self.parts[0].batch_shape, torch.Size((size,)), validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Joint:
        """The same distribution with another batch shape."""
        return Joint([p.expand(batch_shape) for p in self.parts], self.columns)

    def log_prob(self, value: Tensor) -> Tensor:
        """The sum of what the parts give their columns of ``value``, (..., d)."""
        # Each part knows its own support
        pairs = zip(self.parts, self.columns, strict=True)
        return sum(p.log_prob(value.index_select(-1, columns)) for p, columns in pairs)

    def _joined(self, values: Sequence[Tensor]) -> Tensor:
        return torch.cat(values, -1).index_select(-1, torch.cat(self.columns).argsort())

    @property
    def mean(self) -> Tensor:
        """The means of all parts."""
        return self._joined([p.mean for p in self.parts])

    @property
    def variance(self) -> Tensor:
        """The variances of all parts."""
        return self._joined([p.variance for p in self.parts])

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of shape ``sample_shape`` + batch shape + (d,)."""
        return self._joined([p.sample(sample_shape) for p in self.parts])
