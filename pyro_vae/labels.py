"""Which programs are given labels: the one rule for all that runs a pair."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .unwrapping import innermost


def accepts_labels(program: Callable) -> bool:
    """Whether a program takes ``y=``: by its signature, unless it says ``condition = 0``."""
    program = innermost(program)
    if getattr(program, "condition", None) == 0:
        return False
    function = program.forward if isinstance(program, nn.Module) else program
    parameters = inspect.signature(function).parameters.values()
    return any(p.name == "y" or p.kind is p.VAR_KEYWORD for p in parameters)


def label_arguments(program: Callable, y: Tensor | None) -> dict[str, Tensor]:
    """``{"y": y}`` where there are labels and the program takes them."""
    return {} if y is None or not accepts_labels(program) else {"y": y}


def placeholders(
    program: Callable, n: int, device: torch.device | str | None
) -> dict[str, Tensor]:
    """The first class as labels (n,), for a program that is run only to see what it does."""
    return label_arguments(program, torch.zeros(n, dtype=torch.long, device=device))
