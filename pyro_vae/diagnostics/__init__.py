"""What a trained pair has learnt."""

from .collapse import Collapse, collapse
from .continuity import Continuity, continuity
from .disentanglement import Disentanglement, disentanglement, score_codes
from .evaluation import Evaluation, evaluate
from .outliers import Outliers, outliers
from .rarity import Rarity, rarity

__all__ = [
    "Collapse",
    "Continuity",
    "Disentanglement",
    "Evaluation",
    "Outliers",
    "Rarity",
    "collapse",
    "continuity",
    "disentanglement",
    "evaluate",
    "outliers",
    "rarity",
    "score_codes",
]
