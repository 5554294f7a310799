"""Normals, values in [0, 1], and points, in a form that is exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import register_kl
from torch.nn.functional import logsigmoid


class CholeskyNormal(dist.MultivariateNormal):
    """N(mu, L L^T) whose density at its own draw mu + L e is taken from the noise e.

    log q(mu + L e) = -|e|^2 / 2 - sum_i log L_ii - d / 2 log(2 pi), exact however close to
    singular L is, where solving L e = z - mu for e loses all digits. Its gradient is the total
    one, through the draw: for a draw without gradient the equation is solved.

    Example:
        >>> p = CholeskyNormal(torch.zeros(2), scale_tril=torch.eye(2))
        >>> z = p.rsample()
        >>> bool(torch.isclose(p.log_prob(z), p.log_prob(z.clone())))
        True
    """

    _drawn: tuple[Tensor, Tensor] | None = None

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws mu + L e of shape ``sample_shape`` + batch shape + event shape."""
        noise = torch.randn(
            self._extended_shape(torch.Size(sample_shape)),
            dtype=self.loc.dtype,
            device=self.loc.device,
        )
        value = self.loc + (self.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
        self._drawn = value, noise
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of ``value``, broadcast against the batch shape."""
        parameters = self.loc.requires_grad or self.scale_tril.requires_grad
        held = torch.is_grad_enabled() and parameters and not value.requires_grad
        if held or self._drawn is None or self._drawn[0] is not value:
            return super().log_prob(value)
        squares = self._drawn[1].square() + math.log(2 * math.pi)
        diagonal = self.scale_tril.diagonal(dim1=-2, dim2=-1)
        return -0.5 * squares.sum(-1) - diagonal.log().sum(-1)


class ContinuousBernoulli(TorchDistribution):
    """Density proportional to e^(l x) on [0, 1], exact for every logit l in single precision.

    The formulas of ``torch.distributions.ContinuousBernoulli`` clamp |l| at 16 and cancel near 0.

    Source: "The continuous Bernoulli: fixing a pervasive error in variational autoencoders",
    Loaiza-Ganem, Cunningham (2019).

    Args:
        logits: l, any shape, which is the batch shape.

    Example:
        >>> ContinuousBernoulli(torch.zeros(2)).mean
        tensor([0.5000, 0.5000])
    """

    arg_constraints = {"logits": constraints.real}
    support = constraints.unit_interval

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> ContinuousBernoulli:
        """The same distribution with another batch shape."""
        return ContinuousBernoulli(self.logits.expand(batch_shape))

    def _small(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where series are better, the logits there (else 0), and |logits| elsewhere (else 1)."""
        small = self.logits.abs() < 0.5
        return small, self.logits.masked_fill(~small, 0), self.logits.abs().masked_fill(small, 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of ``value``, broadcast against the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        small, l, m = self._small()  # noqa: E741
        series = l * (value - 0.5) - l**2 / 24 + l**4 / 2880 - l**6 / 181440
        falling = torch.where(self.logits < 0, value, 1 - value)
        return torch.where(small, series, -m * falling - (-torch.expm1(-m) / m).log())

    @property
    def mean(self) -> Tensor:
        """E[x]."""
        small, l, m = self._small()  # noqa: E741
        falling = 1 / m - 1 / torch.expm1(m)
        mean = torch.where(self.logits < 0, falling, 1 - falling)
        return torch.where(small, 0.5 + l / 12 - l**3 / 720 + l**5 / 30240, mean)

    @property
    def variance(self) -> Tensor:
        """E[(x - E[x])^2]."""
        small, l, m = self._small()  # noqa: E741
        series = 1 / 12 - l**2 / 240 + l**4 / 6048 - l**6 / 172800
        return torch.where(small, series, m**-2 - (2 * torch.sinh(m / 2)) ** -2)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of shape ``sample_shape`` + batch shape."""
        shape = self._extended_shape(sample_shape)
        u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        m = self.logits.abs().clamp(min=torch.finfo(u.dtype).tiny)
        falling = (-torch.log1p(u * torch.expm1(-m)) / m).clamp(0, 1)
        return torch.where(self.logits < 0, falling, 1 - falling)


class _Grid(TorchDistribution):
    """Base of distributions on the grid 0, 1/(levels-1), ..., 1."""

    levels: int

    @property
    def support(self) -> Any:
        return constraints.unit_interval

    @property
    def grid(self) -> Tensor:
        like = getattr(self, next(iter(self.arg_constraints)))
        return torch.linspace(0, 1, self.levels, dtype=like.dtype, device=like.device)

    def _probs(self) -> Tensor:
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        """Sum of value times probability over the grid."""
        return self._probs() @ self.grid

    @property
    def variance(self) -> Tensor:
        """Mean squared distance from the mean."""
        return (self._probs() * (self.grid - self.mean.unsqueeze(-1)).square()).sum(-1)


class GridCategorical(_Grid):
    """A free probability for each of ``levels`` values on the grid, by logits (..., levels).

    Example:
        >>> GridCategorical(torch.zeros(5, 4)).log_prob(torch.full((5,), 1 / 3)).shape
        torch.Size([5])
    """

    arg_constraints = {"logits": constraints.real_vector}

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits.log_softmax(-1)
        self.levels = logits.shape[-1]
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> GridCategorical:
        """The same distribution with another batch shape."""
        return GridCategorical(self.logits.expand(*batch_shape, self.levels))

    def _probs(self) -> Tensor:
        return self.logits.exp()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of ``value``, broadcast against the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        index = (value * (self.levels - 1)).round().long().unsqueeze(-1)
        shape = torch.broadcast_shapes(index.shape[:-1], self.logits.shape[:-1])
        logits = self.logits.expand(*shape, self.levels)
        return logits.gather(-1, index.expand(*shape, 1)).squeeze(-1)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of shape ``sample_shape`` + batch shape."""
        index = dist.Categorical(logits=self.logits).sample(sample_shape)
        return index.to(self.logits.dtype) / (self.levels - 1)


class GridLogistic(_Grid):
    """A logistic density integrated over bins of width 1/(levels-1), the outer ones open.

    ``loc``, the mean of the density, and the log of its scale have the batch shape; ``levels`` is
    the number of values on the grid.

    Example:
        >>> GridLogistic(torch.zeros(5), torch.zeros(5), 256).log_prob(torch.ones(5)).shape
        torch.Size([5])
    """

    arg_constraints = {"loc": constraints.real, "log_scale": constraints.real}

    def __init__(
        self, loc: Tensor, log_scale: Tensor, levels: int, validate_args: bool | None = None
    ) -> None:
        self.loc, self.log_scale, self.levels = loc, log_scale, levels
        super().__init__(loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> GridLogistic:
        """The same distribution with another batch shape."""
        return GridLogistic(
            self.loc.expand(batch_shape), self.log_scale.expand(batch_shape), self.levels
        )

    @property
    def _inverse(self) -> Tensor:
        # So far from overflow that a bin's edge is 0 times a number: 0, and not NaN
        least = -0.9 * math.log(torch.finfo(self.log_scale.dtype).max)
        return torch.exp(-self.log_scale.clamp(min=least))

    @property
    def mean(self) -> Tensor:
        """Sum of the probabilities to be above each value of the grid, times its step."""
        edges = self.grid[:-1] + 0.5 / (self.levels - 1)
        above = (self.loc.unsqueeze(-1) - edges) * self._inverse.unsqueeze(-1)
        return torch.sigmoid(above).mean(-1)

    def _probs(self) -> Tensor:
        moved = GridLogistic(self.loc.unsqueeze(-1), self.log_scale.unsqueeze(-1), self.levels)
        return moved.log_prob(self.grid).exp()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of ``value``, broadcast against the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        half, inverse = 0.5 / (self.levels - 1), self._inverse
        upper, lower = (value + half - self.loc) * inverse, (value - half - self.loc) * inverse
        # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)), free of cancellation
        inside = torch.log(-torch.expm1(-2 * half * inverse))
        left, right = logsigmoid(upper), logsigmoid(-lower)
        middle = left + right + inside
        return torch.where(value < half, left, torch.where(value > 1 - half, right, middle))

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of shape ``sample_shape`` + batch shape."""
        shape = self._extended_shape(sample_shape)
        u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).clamp(1e-7, 1 - 1e-7)
        x = self.loc + self.log_scale.exp() * (u.log() - torch.log1p(-u))
        return (x.clamp(0, 1) * (self.levels - 1)).round() / (self.levels - 1)


class OneHotPoint(TorchDistribution):
    """All probability on one one-hot vector: log-probability 0 there, minus infinity elsewhere.

    Unlike ``Delta`` it is a probability mass, so that KL(q || p) = -log p(value) is a proper KL.
    Nothing is drawn, so that a draw can be recorded in a tensor graph.

    Args:
        value: one-hot vectors (..., k); the batch shape is (...), the event shape (k,).

    Example:
        >>> q = OneHotPoint(torch.eye(3))
        >>> q.log_prob(torch.eye(3)), q.log_prob(torch.tensor([1.0, 0.0, 0.0]))
        (tensor([0., 0., 0.]), tensor([0., -inf, -inf]))
    """

    arg_constraints = {"value": constraints.one_hot}
    support = constraints.one_hot
    has_rsample = True

    def __init__(self, value: Tensor, validate_args: bool | None = None) -> None:
        self.value = value
        super().__init__(value.shape[:-1], value.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> OneHotPoint:
        """The same distribution with another batch shape."""
        return OneHotPoint(self.value.expand(*batch_shape, *self.event_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """0 or minus infinity, broadcast against the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        equal = (value == self.value).all(-1)
        return torch.zeros_like(equal, dtype=self.value.dtype).masked_fill(~equal, -torch.inf)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """The value, of shape ``sample_shape`` + batch shape + event shape."""
        return self.value.expand(self._extended_shape(sample_shape))

    @property
    def mean(self) -> Tensor:
        """The value."""
        return self.value

    @property
    def variance(self) -> Tensor:
        """Zero."""
        return torch.zeros_like(self.value)

    def entropy(self) -> Tensor:
        """Zero."""
        return self.value.new_zeros(self.batch_shape)


@register_kl(OneHotPoint, dist.Distribution)
def _kl_of_one_hot_point(q: OneHotPoint, p: dist.Distribution) -> Tensor:
    return -p.log_prob(q.value)
