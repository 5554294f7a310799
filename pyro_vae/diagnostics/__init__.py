"""What a trained pair has learnt."""

from .codebook_use import CodebookUse, codebook
from .evaluation import Evaluation, evaluate
from .features import ClassifierFeatures, InceptionFeatures
from .frechet import FrechetDistance, frechet_distance
from .layers import Layer, Layers, layers

__all__ = [
    "ClassifierFeatures",
    "CodebookUse",
    "Evaluation",
    "FrechetDistance",
    "InceptionFeatures",
    "Layer",
    "Layers",
    "codebook",
    "evaluate",
    "frechet_distance",
    "layers",
]
