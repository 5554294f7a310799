"""Codebooks: finitely many vectors that stand for codes, and how they are learnt, if they are.

How a decoder's gradient reaches the encoder past the choice of a code is an object, too:
``StraightThrough()`` or ``Rotation()``, for ``guides.NearestCode(gradient=...)``.
"""

from .base import Codebook, UniformCodes
from .fixed import FiniteScalar, LookupFree
from .gradients import Rotation, StraightThrough
from .learned import Gradient, MovingAverage
from .residual import Residual
from .starting import KMeans, Unused

__all__ = [
    "Codebook",
    "FiniteScalar",
    "Gradient",
    "KMeans",
    "LookupFree",
    "MovingAverage",
    "Residual",
    "Rotation",
    "StraightThrough",
    "UniformCodes",
    "Unused",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
