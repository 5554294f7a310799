"""What a trained pair has learnt."""

from .codebook_use import CodebookUse, codebook
from .evaluation import Evaluation, evaluate

__all__ = ["CodebookUse", "Evaluation", "codebook", "evaluate"]
