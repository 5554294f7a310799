"""What a trained pair has learnt."""

from .evaluation import Evaluation, evaluate
from .features import ClassifierFeatures, InceptionFeatures
from .frechet import FrechetDistance, frechet_distance

__all__ = [
    "ClassifierFeatures",
    "Evaluation",
    "FrechetDistance",
    "InceptionFeatures",
    "evaluate",
    "frechet_distance",
]
