"""The sigma of a Gaussian likelihood: one kind, one module."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..ground.arguments import positive
from ..ground.recorded import Recorded

FLOOR = 1e-4
# From sigma = e^10 on, sigma grows in proportion to its parameter: no exponential overflows
_LINEAR = 10.0
# Adam moves each parameter by about its learning rate per step: this often as fast, log sigma
# follows the errors of a decoder from 1 to 0.1 within an epoch or two
_SPEED = 10.0
_warned: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def floored(log_sigma: Tensor, log_floor: float | Tensor) -> Tensor:
    """Log sigma, reflected at its floor; exactly the argument from there to sigma = e^10.

    Below the floor the argument counts upwards again, so that sigma never falls below it, the
    gradient never vanishes, and a parameter that is pushed against the floor stays near it.
    """
    v = torch.where(log_sigma < log_floor, 2 * log_floor - log_sigma, log_sigma)
    return torch.where(v > _LINEAR, _LINEAR + torch.log1p((v - _LINEAR).clamp(min=0)), v)


class Sigma(Recorded, nn.Module):
    """Base class: ``sigma(features)`` is the normal distribution of every element.

    Attributes:
        floor: the least value that sigma can take.
    """

    floor: float = 0.0

    def feature_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the decoder's output for one datum: its mean only."""
        return tuple(event_shape)

    def forward(self, features: Tensor) -> dist.Distribution:
        """N(mean, sigma^2) for each element."""
        raise NotImplementedError

    @property
    def value(self) -> Tensor:
        """Sigma as it is now, without gradient."""
        raise NotImplementedError

    def maximise(self, mean_square: Tensor) -> None:
        """Set sigma to its maximum-likelihood value for given residuals.

        Args:
            mean_square: E[(x_k - g_k(z))^2] for each element, (*event_shape).

        Raises:
            TypeError: a kind of sigma that has no value to set.
        """
        raise TypeError(
            f"sigma: expected one with a value of its own, got {type(self).__name__}: use "
            'Gaussian(sigma="learned"), "optimal" or "per_pixel"'
        )

    def logged(self) -> dict[str, float]:
        """What a row of the training history tells: the geometric mean, and the range of many."""
        log_sigma = self.value.log()
        values = torch.stack([log_sigma.mean(), log_sigma.min(), log_sigma.max()])
        return self._logged(*values.exp().tolist(), many=log_sigma.dim() > 0)

    def _logged(self, mean: float, least: float, most: float, *, many: bool) -> dict[str, float]:
        # A floor that was raised is meant to be reached
        if least < 1.1 * self.floor <= 1.1 * FLOOR and self not in _warned:
            _warned.add(self)
            warnings.warn(
                f"sigma has reached its floor {self.floor:g}: the decoder reproduces "
                f"{'some elements' if many else 'the data'} exactly, and a density grows without "
                "limit as sigma -> 0. Are there constant or discrete elements? Add noise to the "
                "data (dequantise), use likelihoods.DiscretizedLogistic, leave constant elements "
                f"out, or raise the floor: sigma=likelihoods.{type(self).__name__}(floor=...)",
                stacklevel=2,
            )
        return {"sigma": mean, **({"sigma_min": least, "sigma_max": most} if many else {})}

    def extra_repr(self) -> str:
        """Show the arguments."""
        return ", ".join(f"{k}={v}" for k, v in self.arguments.items())


class FixedSigma(Sigma):
    """A given sigma.

    Args:
        sigma: a positive number.

    Example:
        >>> FixedSigma(2.0)(torch.zeros(1)).stddev
        tensor([2.])
    """

    def __init__(self, sigma: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("sigma", torch.tensor(positive("sigma", sigma)), persistent=False)

    def forward(self, features: Tensor) -> dist.Distribution:
        """N(features, sigma^2)."""
        return dist.Normal(features, self.sigma)

    @property
    def value(self) -> Tensor:
        """The given number, ()."""
        return self.sigma

    def logged(self) -> dict[str, float]:
        """Nothing: it never changes."""
        return {}


class _Bounded(Sigma):
    """A sigma with a starting value and a floor."""

    def __init__(self, initial: float = 1.0, floor: float = FLOOR) -> None:
        super().__init__()
        self.floor = positive("floor", floor)
        self.initial = positive("initial", initial, self.floor)


class _TrainedSigma(_Bounded):
    """A sigma whose parameter ``raw`` is log(sigma) / 10."""

    raw: nn.Parameter | None

    def _start(self, shape: Sequence[int]) -> nn.Parameter:
        return nn.Parameter(torch.full(tuple(shape), math.log(self.initial) / _SPEED))

    def _sigma(self) -> Tensor:
        if self.raw is None:
            raise ValueError(_UNBUILT.format(type(self).__name__))
        return floored(_SPEED * self.raw, math.log(self.floor)).exp()

    def forward(self, features: Tensor) -> dist.Distribution:
        """N(features, sigma^2)."""
        return dist.Normal(features, self._sigma())

    @property
    def value(self) -> Tensor:
        """Sigma: (), or for each element (*event_shape)."""
        return self._sigma().detach()

    @torch.no_grad()
    def maximise(self, mean_square: Tensor) -> None:
        """Set sigma^2 to the mean of squares that it stands for."""
        self.raw.copy_(0.5 * mean_square.clamp(min=self.floor**2).log() / _SPEED)


class LearnedSigma(_TrainedSigma):
    """One sigma for all elements, a parameter trained with the others.

    The parameter is log(sigma) / 10: Adam moves log sigma by about ten learning rates per step,
    so that sigma keeps up with the decoder.

    Source: "Simple and Effective VAE Training with Calibrated Decoders", Rybkin, Daniilidis,
    Levine (2021).

    Args:
        initial: sigma at the start.
        floor: sigma stays above it; from there on its value is not altered in any way.

    Raises:
        ValueError: numbers that are not positive and finite, a start below the floor.

    Example:
        >>> sigma = LearnedSigma(initial=0.5)
        >>> sigma(torch.zeros(2)).stddev
        tensor([0.5000, 0.5000], grad_fn=<ExpandBackward0>)
    """

    def __init__(self, initial: float = 1.0, floor: float = FLOOR) -> None:
        super().__init__(initial, floor)
        self.raw = self._start(())

    def maximise(self, mean_square: Tensor) -> None:
        """Set sigma^2 to the mean over the elements."""
        super().maximise(mean_square.mean())


class PerPixelSigma(_TrainedSigma):
    """One sigma per element, each a parameter trained with the others as in ``LearnedSigma``.

    A model makes the parameters when it is built with this likelihood.

    Args:
        initial: sigma at the start.
        floor: sigma stays above it, which elements that never vary reach.

    Raises:
        ValueError: numbers that are not positive and finite, a start below the floor; use
            without a model, or for data of two shapes.

    Example:
        >>> sigma = PerPixelSigma(initial=0.5)
        >>> sigma.feature_shape((3,))
        (3,)
        >>> sigma(torch.zeros(2, 3)).stddev.shape
        torch.Size([2, 3])
    """

    def __init__(self, initial: float = 1.0, floor: float = FLOOR) -> None:
        super().__init__(initial, floor)
        self.register_parameter("raw", None)

    def feature_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the decoder's output: the mean; makes the parameters."""
        shape = tuple(event_shape)
        if self.raw is None:
            self.raw = self._start(shape)
        _check_shape(self, tuple(self.raw.shape), shape)
        return shape


class PredictedSigma(_Bounded):
    """sigma_k(z) = start_k exp(h_k(z)): the decoder gives a second number h_k per element.

    ``vae.predict_sigma()`` switches to it from a sigma that has been learnt.

    Source: "Balancing Reconstruction Quality and Regularisation in ELBO for VAEs", Lin, Roberts,
    Trigoni, Clark (2019), for learning one sigma first.

    Args:
        initial: sigma where h is 0.
        floor: sigma stays above it.

    Raises:
        ValueError: numbers that are not positive and finite, a start below the floor; use
            without a model, for data of two shapes, or on features of another shape.

    Shapes:
        features (..., *event_shape, 2): mean and h; result of batch shape (..., *event_shape).

    Example:
        >>> sigma = PredictedSigma(initial=0.5)
        >>> sigma.feature_shape((3,))
        (3, 2)
        >>> sigma(torch.zeros(4, 3, 2)).stddev.shape
        torch.Size([4, 3])
    """

    def __init__(self, initial: float = 1.0, floor: float = FLOOR) -> None:
        super().__init__(initial, floor)
        self.register_buffer("start", None)
        # log sigma in the last training batch: mean, least, most
        self.register_buffer("last", torch.full((3,), math.log(self.initial)), persistent=False)

    def feature_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the decoder's output: mean and h."""
        shape = tuple(event_shape)
        if self.start is None:
            self.register_buffer("start", torch.full(shape, self.initial))
        _check_shape(self, tuple(self.start.shape), shape)
        return (*shape, 2)

    def begin_at(self, sigma: Tensor) -> None:
        """Let sigma(z) be ``sigma``, (*event_shape) or (), where h is 0."""
        self.start = sigma.detach().clamp(min=self.floor).expand(self.start.shape).clone()
        log = self.start.log()
        self.last = torch.stack([log.mean(), log.min(), log.max()])

    def forward(self, features: Tensor) -> dist.Distribution:
        """N(mean, sigma(z)^2)."""
        if self.start is None:
            raise ValueError(_UNBUILT.format(type(self).__name__))
        expected = (*self.start.shape, 2)
        if tuple(features.shape[-len(expected) :]) != expected:
            raise ValueError(
                f"features: expected (..., {', '.join(map(str, expected))}), mean and log sigma "
                f"of each element, got {tuple(features.shape)}: was the decoder built for another "
                "likelihood?"
            )
        mean, h = features.unbind(-1)
        h = floored(h, (self.floor / self.start).log())
        if self.training and torch.is_grad_enabled():
            log = (self.start.log() + h).detach()
            self.last.copy_(torch.stack([log.mean(), log.min(), log.max()]))
        return dist.Normal(mean, self.start * h.exp())

    @property
    def value(self) -> Tensor:
        """Geometric mean of sigma(z) over the last training batch, ()."""
        return self.last[0].exp()

    def logged(self) -> dict[str, float]:
        """Geometric mean and range in the last training batch."""
        return self._logged(*self.last.exp().tolist(), many=True)


_UNBUILT = (
    "sigma: {0} has one number per element, whose shape a model tells it: build the model first, "
    "models.VAE(event_shape, likelihood=likelihoods.Gaussian(...))"
)


def _check_shape(sigma: Sigma, has: tuple[int, ...], asked: tuple[int, ...]) -> None:
    if has != asked:
        raise ValueError(
            f"sigma: this {type(sigma).__name__} belongs to a model of data {has}, got data "
            f"{asked}: give each model a likelihood of its own"
        )
