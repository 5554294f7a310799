"""What a trained pair has learnt."""

from .codebook_use import CodebookUse, codebook
from .evaluation import Evaluation, evaluate
from .layers import Layer, Layers, layers

__all__ = ["CodebookUse", "Evaluation", "Layer", "Layers", "codebook", "evaluate", "layers"]
