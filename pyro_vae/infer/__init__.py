"""From a model/guide pair and data to numbers."""

from ..programs import Encoding, decode, encode, evaluating
from .checks import PairSummary, check_pair
from .elbo import AnalyticELBO, ELBOTerms, TraceELBO, elbo_terms
from .graph import Graph
from .importance import ImportanceEstimate, importance, log_likelihood
from .latent import grid_2d, interpolate, reconstruct, traverse
from .predictive import mean_squared_error
from .svi import SVI

__all__ = [
    "SVI",
    "AnalyticELBO",
    "ELBOTerms",
    "Encoding",
    "Graph",
    "ImportanceEstimate",
    "PairSummary",
    "TraceELBO",
    "check_pair",
    "decode",
    "elbo_terms",
    "encode",
    "evaluating",
    "grid_2d",
    "importance",
    "interpolate",
    "log_likelihood",
    "mean_squared_error",
    "reconstruct",
    "traverse",
]
