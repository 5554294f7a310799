"""Who holds a parameter: it trains where nobody does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

_holders: WeakIdKeyDictionary = WeakIdKeyDictionary()


def is_free(parameter: nn.Parameter) -> bool:
    """Whether a parameter trains, or rests only because it is held: no person froze it."""
    return parameter.requires_grad or parameter in _holders


class Hold:
    """Keeps parameters from being trained until it is released, and until all others are.

    Args:
        parameters: to rest.
    """

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
