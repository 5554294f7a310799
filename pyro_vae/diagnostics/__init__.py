"""What a trained pair has learnt."""

from .evaluation import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
