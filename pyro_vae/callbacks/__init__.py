"""What can be hung into ``Trainer.fit``: objects with hooks that take ``**kwargs``."""

from .base import Callback, check_callbacks
from .collapse import CollapseWarning
from .rates import LRScheduler
from .sigma import PredictSigma, UpdateSigma
from .stopping import EarlyStopping, KeepBest
from .tracking import TensorBoard
from .units import UnitKL

__all__ = [
    "Callback",
    "CollapseWarning",
    "EarlyStopping",
    "KeepBest",
    "LRScheduler",
    "PredictSigma",
    "TensorBoard",
    "UnitKL",
    "UpdateSigma",
    "check_callbacks",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
