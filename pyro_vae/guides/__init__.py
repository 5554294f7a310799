"""Inference programs."""

from ..programs.encoding import Encoding
from ..programs.program import Guide
from .bottom_up import BottomUp
from .composed import Composed
from .delta import Delta
from .experts import MixtureOfExperts, MixtureOfProducts, ProductOfExperts
from .flow import Flow
from .full_covariance import FullCovariance
from .labelled import Labelled
from .ladder import Ladder
from .linear import linear_start
from .nearest_code import NearestCode
from .per_datum import PerDatum
from .semi_amortized import SemiAmortized

__all__ = [
    "BottomUp",
    "Composed",
    "Delta",
    "Encoding",
    "Flow",
    "FullCovariance",
    "Guide",
    "Labelled",
    "Ladder",
    "MixtureOfExperts",
    "MixtureOfProducts",
    "NearestCode",
    "PerDatum",
    "ProductOfExperts",
    "SemiAmortized",
    "linear_start",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
