"""The dispersion of counts: one kind, one module, as of the sigma of a Gaussian likelihood."""

from __future__ import annotations

from .positive import Fixed, Learned, PerElement, Positive, Predicted

# Beside it, counts of fewer than a million are Poisson counts
_LEAST = 1e-6


class Dispersion(Positive):
    """Base class: a of a ``NegativeBinomial``, whose variance is m + a m^2 for a mean of m.

    ``dispersion.read(features)`` is the log-mean and a, for every element.

    Attributes:
        floor: the least value that a can take.
    """

    called = "dispersion"


class FixedDispersion(Fixed, Dispersion):
    """A given dispersion.

    Args:
        dispersion: a positive number.

    Example:
        >>> FixedDispersion(0.5).value
        tensor(0.5000)
    """

    def __init__(self, dispersion: float = 1.0) -> None:
        super().__init__()
        self._fix(dispersion)


class LearnedDispersion(Learned, Dispersion):
    """One dispersion for all elements, a parameter trained with the others.

    Args:
        initial: its value at the start.
        floor: it stays above.

    Raises:
        ValueError: numbers that are not positive and finite, a start below the floor.

    Example:
        >>> LearnedDispersion(initial=0.5).value
        tensor(0.5000)
    """

    def __init__(self, initial: float = 1.0, floor: float = _LEAST) -> None:
        super().__init__(initial, floor)


class PerColumnDispersion(PerElement, Dispersion):
    """One dispersion per element, each a parameter trained with the others.

    A model makes the parameters when it is built with this likelihood.

    Args:
        initial: their value at the start.
        floor: they stay above.

    Raises:
        ValueError: numbers that are not positive and finite, a start below the floor; use
            without a model, or for data of two shapes.

    Example:
        >>> dispersion = PerColumnDispersion()
        >>> dispersion.feature_shape((3,)), dispersion.value
        ((3,), tensor([1., 1., 1.]))
    """

    def __init__(self, initial: float = 1.0, floor: float = _LEAST) -> None:
        super().__init__(initial, floor)


class PredictedDispersion(Predicted, Dispersion):
    """a_k(z) = initial exp(h_k(z)): the decoder gives a second number h_k per element.

    Args:
        initial: the dispersion where h is 0.
        floor: it stays above.

    Raises:
        ValueError: numbers that are not positive and finite, a start below the floor; use
            without a model, for data of two shapes, or on features of another shape.

    Example:
        >>> PredictedDispersion().feature_shape((3,))
        (3, 2)
    """

    def __init__(self, initial: float = 1.0, floor: float = _LEAST) -> None:
        super().__init__(initial, floor)
