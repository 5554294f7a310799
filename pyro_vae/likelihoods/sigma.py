"""The sigma of a Gaussian likelihood: one kind, one module."""

from __future__ import annotations

import warnings
import weakref

import pyro.distributions as dist
from torch import Tensor, nn

from .positive import FLOOR, Fixed, Learned, PerElement, Positive, Predicted, Trained

_warned: weakref.WeakSet[nn.Module] = weakref.WeakSet()


class Sigma(Positive):
    """Base class: ``sigma(features)`` is the normal distribution of every element.

    Attributes:
        floor: the least value that sigma can take.
    """

    called = "sigma"

    def forward(self, features: Tensor) -> dist.Distribution:
        """N(mean, sigma^2) for each element."""
        return dist.Normal(*self.read(features))

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
        return super()._logged(mean, least, most, many=many)


class FixedSigma(Fixed, Sigma):
    """A given sigma.

    Args:
        sigma: a positive number.

    Example:
        >>> import torch
        >>> FixedSigma(2.0)(torch.zeros(1)).stddev
        tensor([2.])
    """

    def __init__(self, sigma: float = 1.0) -> None:
        super().__init__()
        self._fix(sigma)


class _TrainedSigma(Trained, Sigma):
    def maximise(self, mean_square: Tensor) -> None:
        """Set sigma^2 to the mean of squares that it stands for."""
        self.set_to(mean_square.clamp(min=self.floor**2).sqrt())


class LearnedSigma(Learned, _TrainedSigma):
    """One sigma for all elements, a parameter trained with the others.

    The parameter is log(sigma) / 10: Adam moves log sigma by about ten learning rates per step,
    so that sigma keeps up with the decoder.

    As long as nothing is reconstructed the sigma of highest likelihood is the deviation of the
    data, at which a latent pays for its KL only slowly: where there are many, as of a map, all may
    stay unused. Begin well below the deviation then, ``LearnedSigma(initial=0.1)`` for data that
    ``Gaussian(scale=)`` standardises.

    Source: "Simple and Effective VAE Training with Calibrated Decoders", Rybkin, Daniilidis,
    Levine (2021).

    Args:
        initial: sigma at the start.
        floor: sigma stays above it; from there on its value is not altered in any way.

    Raises:
        ValueError: numbers that are not positive and finite, a start below the floor.

    Example:
        >>> import torch
        >>> sigma = LearnedSigma(initial=0.5)
        >>> sigma(torch.zeros(2)).stddev
        tensor([0.5000, 0.5000], grad_fn=<ExpandBackward0>)
    """

    def maximise(self, mean_square: Tensor) -> None:
        """Set sigma^2 to the mean over the elements."""
        super().maximise(mean_square.mean())


class PerPixelSigma(PerElement, _TrainedSigma):
    """One sigma per element, each a parameter trained with the others as in ``LearnedSigma``.

    A model makes the parameters when it is built with this likelihood.

    Args:
        initial: sigma at the start.
        floor: sigma stays above it, which elements that never vary reach.

    Raises:
        ValueError: numbers that are not positive and finite, a start below the floor; use
            without a model, or for data of two shapes.

    Example:
        >>> import torch
        >>> sigma = PerPixelSigma(initial=0.5)
        >>> sigma.feature_shape((3,))
        (3,)
        >>> sigma(torch.zeros(2, 3)).stddev.shape
        torch.Size([2, 3])
    """


class PredictedSigma(Predicted, Sigma):
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
        >>> import torch
        >>> sigma = PredictedSigma(initial=0.5)
        >>> sigma.feature_shape((3,))
        (3, 2)
        >>> sigma(torch.zeros(4, 3, 2)).stddev.shape
        torch.Size([4, 3])
    """
