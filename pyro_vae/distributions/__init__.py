"""Distributions that pyro.distributions lacks, or has in a form that is not exact."""

from .counts import LogPoisson, MeanNegativeBinomial, SharedTotal
from .exact import CholeskyNormal, ContinuousBernoulli, GridCategorical, GridLogistic, OneHotPoint
from .real import ExactStudentT, ExpNormal, rescaled
from .sequences import UntilEnd, up_to_end
from .shapes import AROUND, as_pyro, base_of, declared, plain
from .tables import Joint, Nominal

__all__ = [
    "AROUND",
    "CholeskyNormal",
    "ContinuousBernoulli",
    "ExactStudentT",
    "ExpNormal",
    "GridCategorical",
    "GridLogistic",
    "Joint",
    "LogPoisson",
    "MeanNegativeBinomial",
    "Nominal",
    "OneHotPoint",
    "SharedTotal",
    "UntilEnd",
    "as_pyro",
    "base_of",
    "declared",
    "plain",
    "rescaled",
    "up_to_end",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
