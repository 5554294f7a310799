"""Real values with normal noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NoReturn

import pyro.distributions as dist
import torch
from torch import Tensor

from ..ground.arguments import positive
from ..programs.values import check_finite, span_of
from .base import Likelihood
from .optimal import OptimalSigma
from .sigma import FixedSigma, LearnedSigma, PerPixelSigma, PredictedSigma, Sigma

_NAMES: dict[str, type[Sigma]] = {
    "learned": LearnedSigma,
    "optimal": OptimalSigma,
    "per_pixel": PerPixelSigma,
    "predicted": PredictedSigma,
}


def _as_sigma(sigma: float | str | Sigma) -> Sigma:
    if isinstance(sigma, Sigma):
        return sigma
    if isinstance(sigma, str) and sigma in _NAMES:
        return _NAMES[sigma]()
    try:
        return FixedSigma(positive("sigma", sigma))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"sigma: expected a positive finite number, {', '.join(map(repr, _NAMES))}, or an "
            f"object such as likelihoods.LearnedSigma(initial=0.5), got {sigma!r}"
        ) from error


class Gaussian(Likelihood):
    """Real values: log p(x_k) = -(x_k - m_k)^2 / (2 sigma^2) - log sigma - log(2 pi) / 2.

    With ``loc`` and ``scale`` it is the standardised (x_k - loc_k) / scale_k that has mean m_k and
    deviation sigma, and that the networks of guides see: what the model draws and predicts, and
    the bound, are in the units of x all the same (log p(x_k) has a further -log scale_k). Tables
    whose columns differ in scale need it.

    Sigma sets how much a squared error counts against the KL, and is learnt by the bound itself;
    beta, the weight of the KL, stays a number of its own.

    Source: "Simple and Effective VAE Training with Calibrated Decoders", Rybkin, Daniilidis,
    Levine (2021).

    Args:
        sigma: the standard deviation: a positive number; "learned", one parameter; "optimal", the
            closed form; "per_pixel", one parameter per element; "predicted", sigma(z) from the
            decoder; or an object of one of these kinds, such as ``LearnedSigma(initial=0.5)``.
        loc: what is subtracted from x, a number or (*event_shape), such as the mean of the
            training data. Default: nothing.
        scale: what it is divided by, positive, likewise. Default: nothing.

    Attributes:
        noise: the object that gives sigma.
        loc, scale: as given, in tensors, or None.

    Shapes:
        features (..., *event_shape), means; with "predicted" (..., *event_shape, 2), mean and log
        sigma; result of batch shape (..., *event_shape).

    Raises:
        ValueError: sigma is none of these; a loc that is not finite, a scale that is not positive
            and finite.

    Example:
        >>> import torch
        >>> Gaussian(sigma=2.0)(torch.zeros(1)).stddev
        tensor([2.])
        >>> Gaussian(sigma=2.0, loc=[5.0], scale=[100.0])(torch.zeros(1)).stddev
        tensor([200.])
        >>> [name for name, _ in Gaussian(sigma="learned").named_parameters()]
        ['noise.raw']
    """

    def __init__(
        self,
        sigma: float | Literal["learned", "optimal", "per_pixel", "predicted"] | Sigma = 1.0,
        *,
        loc: float | Sequence[float] | Tensor | None = None,
        scale: float | Sequence[float] | Tensor | None = None,
    ) -> None:
        """Put the kind of sigma into its slot."""
        super().__init__()
        self.noise = _as_sigma(sigma)
        standardized = loc is not None or scale is not None
        for name, value, default in (("loc", loc, 0.0), ("scale", scale, 1.0)):
            held = None
            if standardized:
                held = torch.as_tensor(default if value is None else value, dtype=torch.float32)
                if not held.isfinite().all() or (name == "scale" and not (held > 0).all()):
                    kind = "positive finite" if name == "scale" else "finite"
                    raise ValueError(
                        f"{name}: expected {kind} numbers, got {span_of(held)}: give constant "
                        "elements a scale of 1"
                    )
                # As a file can hold it; the buffer follows the model to its device and type
                self.arguments[name] = held.tolist()
            self.register_buffer(name, held, persistent=False)

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
            held = getattr(self, name)
            if held is not None and held.dim() and tuple(held.shape) != tuple(event_shape):
                raise ValueError(
                    f"{name}: expected a number or the shape of a datum, {tuple(event_shape)}, "
                    f"got {tuple(held.shape)}: pass x.mean(0) and x.std(0) of the training data"
                )
        return self.noise.feature_shape(event_shape)

    def forward(self, features: Tensor) -> dist.Distribution:
        """The normal distribution of each element."""
        p = self.noise(features)
        return p if self.scale is None else _Rescaled(p, self.loc, self.scale)

    def inputs(self, x: Tensor) -> Tensor:
        """The standardised data, where there is a scale."""
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


class _Rescaled(dist.Normal):
    """The normal distribution of loc + scale * u, u of a normal distribution.

    Densities are those of the standardised value, which is exact where loc is far from 0.
    """

    def __init__(self, standard: dist.Normal, loc: Tensor, scale: Tensor) -> None:
        self._standard, self._shift, self._factor = standard, loc, scale
        super().__init__(loc + scale * standard.loc, scale * standard.scale, validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> _Rescaled:
        return _Rescaled(self._standard.expand(batch_shape), self._shift, self._factor)

    def fit_to(self, value: Tensor, seen: Tensor) -> None:
        """Have sigma taken from the values that are ``seen``, where it is."""
        if hasattr(self._standard, "fit_to"):
            self._standard.fit_to((value - self._shift) / self._factor, seen)

    def log_prob(self, value: Tensor) -> Tensor:
        standard = (value - self._shift) / self._factor
        return self._standard.log_prob(standard) - self._factor.log()
