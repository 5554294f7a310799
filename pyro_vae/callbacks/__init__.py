"""What can be hung into ``Trainer.fit``: objects with hooks that take ``**kwargs``."""

from .base import Callback, check_callbacks
from .collapse import CollapseWarning
from .pruning import Optuna
from .rates import LRScheduler
from .sigma import PredictSigma, UpdateSigma
from .stopping import EarlyStopping, KeepBest
from .tracking import MLflow, TensorBoard, WeightsAndBiases
from .units import UnitKL

__all__ = [
    "Callback",
    "CollapseWarning",
    "EarlyStopping",
    "KeepBest",
    "LRScheduler",
    "MLflow",
    "Optuna",
    "PredictSigma",
    "TensorBoard",
    "UnitKL",
    "UpdateSigma",
    "WeightsAndBiases",
    "check_callbacks",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
