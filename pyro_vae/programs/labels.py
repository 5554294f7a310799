"""Which programs are given labels, and what labels may be: the one rule for all."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
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


def as_labels(
    y: Tensor | np.ndarray | Sequence[int] | int, n: int, device: torch.device | None
) -> Tensor:
    """Labels as ``int64`` (n,) on ``device``, from n of them, also (n, 1), or from one for all.

    Raises:
        TypeError: ``y`` is no tensor, array, list, column of a table or number.
        ValueError: labels that are not integers, or neither one nor n of them.
    """
    found = y.to_numpy() if hasattr(y, "to_numpy") else y
    try:
        # A copy, since torch takes neither read-only arrays nor negative strides
        found = found.copy() if isinstance(found, np.ndarray) else found
        labels = torch.as_tensor(found, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"y: expected integer labels, a tensor, an array or a list, got {type(y).__name__}: "
            "number the classes 0, 1, ...; a Dataset numbers text, and names[k] is class k "
            f"({error})"
        ) from error
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"y: expected integer labels of shape ({n},), got {labels.dtype} "
            f"{tuple(labels.shape)}: {_integers(labels, y)}"
        )
    if labels.dim() == 0:
        labels = labels.expand(n)
    if labels.shape == (n, 1):
        labels = labels[:, 0]
    if labels.shape != (n,):
        one_hot = labels.shape[:1] == (n,) and labels.dim() == 2
        raise ValueError(
            f"y: expected integer labels of shape ({n},), one per datum, or one label for all, "
            f"got shape {tuple(labels.shape)}: "
            + ("turn one-hot rows into y.argmax(1)" if one_hot else "pass as many as data")
        )
    return labels.long()


def _integers(labels: Tensor, y: Any) -> str:
    """How to make integer labels of others."""
    if labels.is_complex() or not bool((labels == labels.round()).all()):
        return "number the classes 0, 1, ..."
    if labels.dim() == 2 and labels.shape[1] > 1:
        return "pass y.argmax(1) for one-hot rows"
    if isinstance(y, Tensor):
        return "pass y.long()"
    return "pass y.astype(int)" if hasattr(y, "astype") else "pass torch.as_tensor(y).long()"


def checked_labels(program: Any, y: Any, n: int, device: torch.device | None) -> Any:
    """``y`` for a program, checked before it is traced: a trace adds its table to any error."""
    if getattr(program, "condition", None) == 0:
        return y
    labels = None if y is None else as_labels(y, n, device)
    if hasattr(program, "label_features"):
        program.label_features(labels, n)
    return labels
