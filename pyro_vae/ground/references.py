"""References to a model from what is trained with it."""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn


class WeakReference:
    """A model, which is freed at once when nobody else holds it.

    A copy that is made along with the model refers to the model's copy, another one to none.
    """

    def __init__(self, model: nn.Module | None) -> None:
        self._get = (lambda: None) if model is None else weakref.ref(model)

    def __call__(self) -> Any:
        """The model, or None."""
        return self._get()

    def __deepcopy__(self, memo: dict[int, Any]) -> WeakReference:
        return WeakReference(memo.get(id(self())))

    def __reduce__(self) -> tuple[type, tuple[Any]]:
        return WeakReference, (self(),)
