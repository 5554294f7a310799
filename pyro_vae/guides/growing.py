"""A guide that begins as the distribution of another one of its model."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ..programs.belonging import is_same
from ..programs.program import Guide
from ..programs.unwrapping import name_of


class Growth:
    """What a guide takes over from the one that it starts from.

    Args:
        new: the guide that is being built.
        start: the guide that it starts from.
        model: the model of the new one.
        options: arguments of the new guide that decide its architecture, name -> value and
            default; those of ``start`` take their place.

    Attributes:
        subject: what is known of the model, with inputs of its own.
        options: the arguments of ``start``, with copies of modules among them.
        memo: as of ``copy.deepcopy``.

    Raises:
        TypeError: a start of a family that the new guide does not contain.
        ValueError: a start for another model, options besides it.
    """

    def __init__(
        self,
        new: Guide,
        start: Any,
        model: Callable,
        options: Mapping[str, tuple[Any, Any]],
    ) -> None:
        name = type(new).__name__
        if not new.starts():
            raise TypeError(
                f"start: expected none for a {name}, a point mass, which is no other guide's "
                f"distribution, got a {name_of(start)}: leave start out"
            )
        if type(start) not in new.starts():
            families = " or ".join(cls.__name__ for cls in new.starts())
            raise TypeError(
                f"start: expected a {families}, which {name} can begin as, got a "
                f"{name_of(start)}: leave start out, or start from one of these"
            )
        if not is_same(start.model, model):
            raise ValueError(
                f"start: expected a guide of this {name_of(model)}, got one that was built for "
                f"another {name_of(start.model)}: pass start.model as the model"
            )
        if given := [key for key, (value, default) in options.items() if value != default]:
            raise ValueError(
                f"{given[0]}: expected none besides start, which decides it, got "
                f"{options[given[0]][0]!r}: leave it out"
            )
        self.start, self.memo = start, {id(start.model): start.model}
        chosen = {key: start.arguments.get(key, default) for key, (_, default) in options.items()}
        self.options = copy.deepcopy(chosen, self.memo)
        taken = start.subject.inputs, start.subject.places
        inputs, places = copy.deepcopy(taken, self.memo)
        self.subject = dataclasses.replace(start.subject, inputs=inputs, places=places)
        # A file holds what the guide has become
        new.arguments.update({key: v for key, v in self.options.items() if v is not None})
        new.arguments.pop("start")
        if "like" in start.arguments:
            new.arguments["like"] = start.arguments["like"]

    def copied(self, module: nn.Module) -> nn.Module:
        """A copy of a module of the start, which trains."""
        return copy.deepcopy(module, self.memo).requires_grad_()
