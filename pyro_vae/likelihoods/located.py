"""Real values around a mean, with a sigma."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NoReturn

import pyro.distributions as dist
from torch import Tensor

from ..distributions import rescaled
from ..programs.values import check_finite
from .base import Likelihood, NumbersLike, check_numbers, hold_numbers
from .optimal import OptimalSigma
from .positive import in_slot
from .sigma import FixedSigma, LearnedSigma, PerPixelSigma, PredictedSigma, Sigma

SigmaLike = float | Literal["learned", "optimal", "per_pixel", "predicted"] | Sigma
_NAMES: dict[str, type[Sigma]] = {
    "learned": LearnedSigma,
    "optimal": OptimalSigma,
    "per_pixel": PerPixelSigma,
    "predicted": PredictedSigma,
}


class Located(Likelihood):
    """Base class: the decoder gives a mean per element, a slot sigma; data may be standardised.

    Attributes:
        noise: the object that gives sigma.
        loc, scale: as given, in tensors, or None.
    """

    def __init__(
        self, sigma: SigmaLike = 1.0, *, loc: NumbersLike = None, scale: NumbersLike = None
    ) -> None:
        """Put the kind of sigma into its slot."""
        super().__init__()
        self.noise = in_slot("sigma", sigma, Sigma, FixedSigma, _NAMES)
        given = loc is not None or scale is not None
        for name, value, default in (("loc", loc, 0.0), ("scale", scale, 1.0)):
            self.register_buffer(name, None)
            if given:
                above = 0 if name == "scale" else -math.inf
                hold_numbers(self, name, default if value is None else value, above=above)

    @classmethod
    def standardized(cls, x: Tensor, sigma: SigmaLike = "learned", **options: Any) -> Located:
        """One whose ``loc`` and ``scale`` are mean and deviation of each element of ``x``.

        Of ``LogNormal`` they are those of log x; NaN is left out.

        Args:
            x: training data (n, *event_shape).
            sigma: as of the class.
            **options: passed to the class.

        Example:
            >>> import torch
            >>> from pyro_vae import likelihoods
            >>> x = torch.tensor([[0.0, 5.0], [2.0, 5.0]])
            >>> likelihoods.Gaussian.standardized(x).scale  # a constant element has 1
            tensor([1., 1.])
        """
        x = cls._seen(x.double())
        loc = x.nanmean(0)
        scale = (x - loc).square().nanmean(0).sqrt()
        return cls(sigma, loc=loc, scale=scale.where(scale > 0, 1.0), **options)

    @staticmethod
    def _seen(x: Tensor) -> Tensor:
        """What is standardised of the data."""
        return x

    @property
    def sigma(self) -> Tensor:
        """Sigma as it is now, without gradient, in units of ``scale``.

        () or, with "per_pixel", (*event_shape).

        With "predicted" it is the geometric mean over the last training batch; sigma(z) itself
        is ``vae.decode(z).stddev``.
        """
        return self.noise.value

    def feature_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """(*event_shape), or (*event_shape, 2) with a predicted sigma.

        Raises:
            ValueError: a loc or scale of another shape.
        """
        for name in ("loc", "scale"):
            check_numbers(self, name, event_shape, "x.mean(0) and x.std(0)")
        return self.noise.feature_shape(event_shape)

    def _standard(self, normal: dist.Normal) -> dist.Distribution:
        """The distribution of a standardised element, from a normal of its mean and sigma."""
        return normal

    def forward(self, features: Tensor) -> dist.Distribution:
        """The distribution of each element."""
        p = self._standard(self.noise(features))
        return p if self.scale is None else rescaled(p, self.loc, self.scale)

    def inputs(self, x: Tensor) -> Tensor:
        """The standardised data, where there is a scale."""
        x = self._seen(x)
        return x if self.scale is None else (x - self.loc) / self.scale

    def check(self, x: Tensor) -> None:
        """Raise unless all values are finite."""
        check_finite(x)

    def predict_sigma(self, **_: Any) -> NoReturn:
        """Raise ``AttributeError``: this is the model's, whose decoder has to change, too."""
        raise AttributeError(
            "predict_sigma: expected a call of the model, whose decoder changes, got one of its "
            "likelihood: use vae.predict_sigma()"
        )
