"""What an optimizer keeps of parameters, from run to run."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.utils.weak import WeakIdKeyDictionary


class Moments(WeakIdKeyDictionary):
    """Parameter -> its state in the optimizer, for as long as the parameter lives.

    A copy or a pickle of it goes with the copies of the parameters.
    """

    @classmethod
    def of(cls, items: Iterable[tuple[nn.Parameter, dict[str, Any]]]) -> Moments:
        """Those of some parameters."""
        moments = cls()
        for parameter, state in items:
            moments[parameter] = state
        return moments

    def __deepcopy__(self, memo: dict[int, Any]) -> Moments:
        """The states, and their parameters, as the rest of the copy has them."""
        return self.of(copy.deepcopy(list(self.items()), memo))

    def __reduce__(self) -> tuple:
        return self.of, (list(self.items()),)
