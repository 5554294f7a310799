"""From a model/guide pair and data to numbers."""

from ..programs.checks import PairSummary
from ..programs.encoding import Encoding, decode, encode
from ..programs.inspecting import structure
from ..programs.inversion import Factorisation, faithful_inverse
from ..programs.modes import evaluating
from ..programs.structure import Structure
from .annealed import AnnealedEstimate, annealed
from .batchnorm import recalibrate_batchnorm
from .budget import Budget
from .comparison import GuideComparison, GuideResult, compare_guides
from .discrete import discrete_posterior
from .engine.graph import Graph
from .engine.svi import SVI
from .engine.trainable import UntrainedWarning
from .importance import ImportanceEstimate, importance, log_likelihood
from .impute import Imputation, impute
from .inference_data import to_inference_data
from .latent import grid_2d, interpolate, reconstruct, traverse
from .objectives.elbo import AnalyticELBO, ELBOTerms, TraceELBO
from .objectives.enumerated import TraceEnumELBO
from .objectives.importance_weighted import ImportanceWeightedELBO
from .objectives.subsets import SubsetELBO
from .predictive import mean_squared_error
from .sampling import sample
from .sandwich import Sandwich, sandwich
from .terms import elbo_terms
from .tools import check_pair
from .translate import Coherence, Translation, coherence, translate

__all__ = [
    "SVI",
    "AnalyticELBO",
    "AnnealedEstimate",
    "Budget",
    "Coherence",
    "ELBOTerms",
    "Encoding",
    "Factorisation",
    "Graph",
    "GuideComparison",
    "GuideResult",
    "ImportanceEstimate",
    "ImportanceWeightedELBO",
    "Imputation",
    "PairSummary",
    "Sandwich",
    "Structure",
    "SubsetELBO",
    "TraceELBO",
    "TraceEnumELBO",
    "Translation",
    "UntrainedWarning",
    "annealed",
    "check_pair",
    "coherence",
    "compare_guides",
    "decode",
    "discrete_posterior",
    "elbo_terms",
    "encode",
    "evaluating",
    "faithful_inverse",
    "grid_2d",
    "importance",
    "impute",
    "interpolate",
    "log_likelihood",
    "mean_squared_error",
    "recalibrate_batchnorm",
    "reconstruct",
    "sample",
    "sandwich",
    "structure",
    "to_inference_data",
    "translate",
    "traverse",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
