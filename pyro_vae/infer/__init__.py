"""From a model/guide pair and data to numbers."""

from ..programs import Encoding, decode, encode, evaluating
from .batchnorm import recalibrate_batchnorm
from .checks import PairSummary, check_pair
from .comparison import GuideComparison, GuideResult, compare_guides
from .elbo import AnalyticELBO, ELBOTerms, TraceELBO, elbo_terms
from .engine.graph import Graph
from .importance import ImportanceEstimate, importance, log_likelihood
from .importance_weighted import ImportanceWeightedELBO
from .latent import grid_2d, interpolate, reconstruct, traverse
from .predictive import mean_squared_error
from .svi import SVI
from .trainable import UntrainedWarning

__all__ = [
    "SVI",
    "AnalyticELBO",
    "ELBOTerms",
    "Encoding",
    "Graph",
    "GuideComparison",
    "GuideResult",
    "ImportanceEstimate",
    "ImportanceWeightedELBO",
    "PairSummary",
    "TraceELBO",
    "UntrainedWarning",
    "check_pair",
    "compare_guides",
    "decode",
    "elbo_terms",
    "encode",
    "evaluating",
    "grid_2d",
    "importance",
    "interpolate",
    "log_likelihood",
    "mean_squared_error",
    "recalibrate_batchnorm",
    "reconstruct",
    "traverse",
]
