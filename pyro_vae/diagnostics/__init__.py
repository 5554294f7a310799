"""What a trained pair has learnt."""

from .calibration import Calibration, calibration
from .evaluation import Evaluation, evaluate

__all__ = ["Calibration", "Evaluation", "calibration", "evaluate"]
