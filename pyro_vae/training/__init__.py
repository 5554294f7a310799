"""Training a pair: the trainer, its runs, and what they leave behind."""

from .guard import Skip
from .history import History
from .trainer import Trainer

__all__ = ["History", "Skip", "Trainer"]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
