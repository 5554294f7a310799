"""Which programs are given labels, and what labels may be: the one rule for all."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.arguments import Arguments, LabelData
from ..data.conditions import classes_in, mapping_of
from ..data.labels import as_integers
from .unwrapping import below_handlers

# What a person may pass for y: labels of all data, or one for all; of several kinds by names
Labels = Tensor | np.ndarray | Sequence[int] | int | Mapping[str, Any] | Arguments | None
# Of a datum whose class nobody gave
MISSING = -1


def parameters_of(program: Callable) -> list[inspect.Parameter]:
    """The parameters of a program, below all handlers; of most guides those of their model."""
    program = _asked(program)
    function = program.forward if isinstance(program, nn.Module) else program
    return list(inspect.signature(function).parameters.values())


def _asked(program: Callable) -> Callable:
    """The program whose signature counts: of a guide that is called like its model, this."""
    while (other := getattr(program := below_handlers(program), "called_like", None)) is not None:
        program = other
    return program


def accepts_labels(program: Callable) -> bool:
    """Whether a program takes ``y=``: by its signature, unless it says ``condition = 0``."""
    program = _asked(program)
    if getattr(program, "condition", None) == 0:
        return False
    return any(p.name == "y" or p.kind is p.VAR_KEYWORD for p in parameters_of(program))


def covariates_of(*programs: Any) -> Any:
    """The ``models.Covariates`` on which one of programs is conditional; None for classes."""
    for program in programs:
        found = getattr(_asked(program), "condition", None) if callable(program) else None
        if hasattr(found, "columns"):
            return found
    return None


def label_arguments(program: Callable, y: LabelData) -> dict[str, Any]:
    """``{"y": y}`` where there are labels and the program takes them."""
    return {} if y is None or not accepts_labels(program) else {"y": y}


def placeholders(program: Callable, n: int, device: torch.device | str | None) -> dict[str, Any]:
    """The first class as labels (n,), for a program that is run only to see what it does."""
    if (covariates := covariates_of(program)) is not None:
        return {"y": covariates.placeholder(n)}
    return label_arguments(program, torch.zeros(n, dtype=torch.long, device=device))


def lacks_labels(program: Any) -> bool:
    """Whether a model, below all handlers, has classes as latents where labels are missing."""
    return getattr(below_handlers(program), "partly_labelled", False) is True


def as_whole(y: Any) -> Any:
    """Labels of which some are NaN as whole numbers, -1 in their place; others as they are."""
    if mapping_of(y) is not None:
        return y
    found = y if isinstance(y, Tensor) else np.asarray(y)
    if isinstance(found, np.ndarray):
        if found.dtype.kind != "f":
            return y
        found = torch.from_numpy(found)
    if not found.is_floating_point() or (found != found.round()).logical_and(found == found).any():
        return y
    return torch.where(found.isnan(), MISSING, found).long()


def check_none_missing(model: Any, y: LabelData, n: int) -> None:
    """Raise ``ValueError`` where one of n classes is missing by which latents are decoded."""
    if (covariates := covariates_of(model)) is not None:
        y = covariates.columns(y, n)[covariates.latent]
    missing = n if y is None else int((y < 0).sum())
    if missing:
        raise ValueError(
            f"y: expected the class of each z, by which it is decoded, got {missing} of {n} "
            "missing: pass y=, one for all or one for each"
        )


def as_labels(y: Labels, n: int, device: torch.device | None) -> Tensor | None:
    """Labels as ``int64`` (n,) on ``device``, from n of them, also (n, 1), or from one for all.

    None stays None. Raises ``TypeError`` for text and what holds no labels, ``ValueError`` for
    labels that are not integers, or neither one nor n of them.
    """
    if y is None:
        return None
    if (several := mapping_of(y)) is not None:
        raise TypeError(
            f"y: expected labels ({n},), or one for all, got a mapping of "
            f"{', '.join(map(repr, several))}: pass one of them, or build the model with "
            "condition=models.Covariates(...)"
        )
    one = np.ndim(y) == 0
    labels, names = as_integers([y] if one else y, 1 if one else n)
    if names:
        raise TypeError(
            f"y: expected integer labels, got text such as {names[0]!r}: number the classes 0, 1, "
            "...; a Dataset numbers text, and names[k] is class k"
        )
    return labels.to(device).expand(n)


def labels_for(program: Any, y: Labels, n: int, device: torch.device | None) -> LabelData:
    """``as_labels``, of which some may be NaN where the program takes missing ones.

    For a program with ``models.Covariates`` those, as it reads them.
    """
    if (covariates := covariates_of(program)) is not None:
        return None if y is None else covariates.columns(y, n)
    return as_labels(as_whole(y) if lacks_labels(program) else y, n, device)


def labels_of_data(y: LabelData, n: int, *programs: Any) -> LabelData:
    """Labels that a ``Dataset`` of n data holds, for programs: of one kind as they are.

    Where programs know of one kind alone they are the first classes, and none where these are
    labels of another meaning.
    """
    if (covariates := covariates_of(*programs)) is not None:
        return None if y is None else covariates.columns(y, n)
    if not isinstance(y, Arguments):
        return y
    for program in programs:
        if program is not None and accepts_labels(program):
            as_labels(y, n, None)
    return classes_in(y)


def checked_labels(program: Any, y: Any, n: int, device: torch.device | None) -> Any:
    """``y`` for a program, checked before it is traced: a trace adds its table to any error."""
    if getattr(program, "condition", None) == 0:
        return y
    labels = labels_for(program, y, n, device)
    if hasattr(program, "label_features"):
        program.label_features(labels, n)
    return labels
