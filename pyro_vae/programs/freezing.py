"""Who keeps a parameter from being trained: it trains where nobody does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from .modes import training


class Freezing:
    """The ``names`` of a model's frozen parameters, to thaw no others; None while it trains."""

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


_holders: WeakIdKeyDictionary = WeakIdKeyDictionary()


def is_free(parameter: nn.Parameter) -> bool:
    """Whether a parameter trains, or rests only because it is held: no person froze it."""
    return parameter.requires_grad or parameter in _holders


class Hold:
    """Keeps parameters from being trained until it is released, and until all others are."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = tuple({id(p): p for p in parameters}.values())
        self._token = object()
        for parameter in self.parameters:
            _holders.setdefault(parameter, set()).add(self._token)
            parameter.requires_grad_(False)

    def release(self) -> None:
        """Let those train that nobody else holds; a second time it does nothing."""
        for parameter in self.parameters:
            others = _holders.pop(parameter, set()) - {self._token}
            if others:
                _holders[parameter] = others
            else:
                parameter.requires_grad_(True)
        self.parameters = ()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy holds the copies of the parameters."""
        self.__init__(state["parameters"])
