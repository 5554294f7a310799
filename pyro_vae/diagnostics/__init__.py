"""What a trained pair has learnt."""

from .collapse import Collapse, collapse
from .evaluation import Evaluation, evaluate

__all__ = ["Collapse", "Evaluation", "collapse", "evaluate"]
