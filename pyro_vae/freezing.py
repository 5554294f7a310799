"""Keeping a model as it is while its guide is trained."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from torch import nn

from .holds import Hold, is_free
from .programs import training


class Freezing:
    """Which parameters of a model were frozen, so that these and no others are thawed.

    Attributes:
        names: parameters that were frozen; None while the model is trained.
    """

    def __init__(self) -> None:
        self.names: list[str] | None = None
        self._hold = Hold(())

    def check(self, model: Callable) -> None:
        """Raise ``TypeError`` for a model that cannot be frozen."""
        if not isinstance(model, nn.Module):
            raise TypeError(
                "freeze_model: expected a model that is a module, got a plain function, whose "
                "parameters are in Pyro's store: make it the forward of an nn.Module"
            )

    def freeze(self, model: nn.Module, names: list[str] | None = None) -> None:
        """Freeze what is trainable; for a model from a file, what its run had frozen."""
        if names is None:
            names = [name for name, p in model.named_parameters() if is_free(p)]
        self.names = names
        self._hold = Hold(model.get_parameter(name) for name in names)

    def thaw(self) -> None:
        """Undo ``freeze``."""
        self._hold.release()
        self.names = None

    def holding(self, model: nn.Module) -> AbstractContextManager:
        """Evaluation mode while it is frozen, so that buffers stay as they are, too."""
        return nullcontext() if self.names is None else training(model, False)
