"""What a trained pair has learnt."""

from .codebook_use import CodebookUse, codebook
from .collapse import Collapse, collapse
from .continuity import Continuity, continuity
from .disentanglement import Disentanglement, disentanglement, score_codes
from .evaluation import Evaluation, evaluate
from .features import ClassifierFeatures, InceptionFeatures
from .frechet import FrechetDistance, frechet_distance
from .layers import Layer, Layers, layers
from .outliers import Outliers, outliers
from .rarity import Rarity, rarity

__all__ = [
    "ClassifierFeatures",
    "CodebookUse",
    "Collapse",
    "Continuity",
    "Disentanglement",
    "Evaluation",
    "FrechetDistance",
    "InceptionFeatures",
    "Layer",
    "Layers",
    "Outliers",
    "Rarity",
    "codebook",
    "collapse",
    "continuity",
    "disentanglement",
    "evaluate",
    "frechet_distance",
    "layers",
    "outliers",
    "rarity",
    "score_codes",
]
