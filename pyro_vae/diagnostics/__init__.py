"""What a trained pair has learnt."""

from .evaluation import Evaluation, evaluate
from .layers import Layer, Layers, layers

__all__ = ["Evaluation", "Layer", "Layers", "evaluate", "layers"]
