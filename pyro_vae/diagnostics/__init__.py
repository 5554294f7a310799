"""What a trained pair has learnt."""

from .calibration import Calibration, calibration
from .codebook_use import CodebooksUse, CodebookUse, codebook
from .collapse import Collapse, collapse
from .continuity import Continuity, continuity
from .disentanglement import Disentanglement, disentanglement, score_codes
from .evaluation import Evaluation, evaluate
from .features import ClassifierFeatures, InceptionFeatures
from .frechet import FrechetDistance, frechet_distance
from .kernel import KernelDistance, kernel_distance
from .layers import Layer, Layers, layers
from .noise import SignalToNoise, signal_to_noise
from .outliers import Outliers, outliers
from .rarity import Rarity, rarity
from .translations import Accuracy, translations

__all__ = [
    "Accuracy",
    "Calibration",
    "ClassifierFeatures",
    "CodebookUse",
    "CodebooksUse",
    "Collapse",
    "Continuity",
    "Disentanglement",
    "Evaluation",
    "FrechetDistance",
    "InceptionFeatures",
    "KernelDistance",
    "Layer",
    "Layers",
    "Outliers",
    "Rarity",
    "SignalToNoise",
    "calibration",
    "codebook",
    "collapse",
    "continuity",
    "disentanglement",
    "evaluate",
    "frechet_distance",
    "kernel_distance",
    "layers",
    "outliers",
    "rarity",
    "score_codes",
    "signal_to_noise",
    "translations",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
