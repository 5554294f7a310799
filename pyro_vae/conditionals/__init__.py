"""Conditional distributions: modules whose ``forward(context)`` returns one of Pyro's."""

from .flow import AutoregressiveFlow, FlowDistribution
from .hand_over import HandOver
from .normal import DiagonalNormal, FullNormal, PointMass, StandardNormal, precision_weighted

__all__ = [
    "AutoregressiveFlow",
    "DiagonalNormal",
    "FlowDistribution",
    "FullNormal",
    "HandOver",
    "PointMass",
    "StandardNormal",
    "precision_weighted",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
