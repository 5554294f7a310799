"""Keeping a model as it is while its guide is trained."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from torch import nn

from .programs import training


class Freezing:
    """Which parameters of a model were frozen, so that these and no others are thawed.

    Attributes:
        names: parameters that were frozen; None while the model is trained.
    """

    def __init__(self, names: list[str] | None = None) -> None:
        self.names = names

    def check(self, model: Callable) -> None:
        """Raise ``TypeError`` for a model that cannot be frozen."""
        if not isinstance(model, nn.Module):
            raise TypeError(
                "freeze_model: expected a model that is a module, got a plain function, whose "
                "parameters are in Pyro's store: make it the forward of an nn.Module"
            )

    def freeze(self, model: nn.Module) -> None:
        """Freeze what is trainable."""
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        for name in self.names:
            model.get_parameter(name).requires_grad_(False)

    def thaw(self, model: nn.Module) -> None:
        """Undo ``freeze``."""
        for name in self.names or ():
            model.get_parameter(name).requires_grad_(True)
        self.names = None

    def holding(self, model: nn.Module) -> AbstractContextManager:
        """Evaluation mode while it is frozen, so that buffers stay as they are, too."""
        return nullcontext() if self.names is None else training(model, False)
