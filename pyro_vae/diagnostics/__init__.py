"""What a trained pair has learnt."""

from .collapse import Collapse, collapse
from .evaluation import Evaluation, evaluate
from .outliers import Outliers, outliers
from .rarity import Rarity, rarity

__all__ = [
    "Collapse",
    "Evaluation",
    "Outliers",
    "Rarity",
    "collapse",
    "evaluate",
    "outliers",
    "rarity",
]
