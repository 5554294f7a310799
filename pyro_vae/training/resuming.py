"""Whether a run can go on from the state that a file gives its trainer."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Number
from typing import Any

import torch
from torch import Tensor, nn

from ..networks import is_whole

_WRONG = "wrong"


def check_progress(plain: Mapping[str, Any], model: nn.Module) -> None:
    """Raise ``ValueError`` for plain data of ``Trainer.state_dict`` that cannot be a run's."""
    names = {name for name, _ in model.named_parameters()}
    right = {
        "history": all(isinstance(row, dict) and "elbo" in row for row in plain["history"]),
        "step": is_whole(plain["step"]) and plain["step"] >= 0,
        "swapped": isinstance(plain["swapped"], bool),
        "frozen": set(plain.get("frozen") or ()) <= names,
    }
    for name, is_right in right.items():
        if not is_right:
            raise ValueError(f"its {name} cannot be that of a run")


def check_moments(moments: list[Any], parameters: list[nn.Parameter]) -> None:
    """Raise ``ValueError`` for moments that no optimizer of torch keeps for these parameters.

    Args:
        moments: per parameter its state in the optimizer, or None.
        parameters: of model and guide.
    """
    kept: dict[int, set[Any]] = {}
    for state, parameter in zip(moments, parameters, strict=True):
        if not state:
            continue
        found = {(name, _kind(moment, parameter)) for name, moment in state.items()}
        # Some optimizers keep other moments of matrices than of vectors
        same = kept.setdefault(min(parameter.dim(), 2), found)
        if found != same or _WRONG in dict(found).values():
            raise ValueError("its moments cannot be those of its parameters")


def _kind(moment: Any, parameter: nn.Parameter) -> str:
    """Of one value for all, or of the shape of the parameter or of means over its dimensions."""
    if not isinstance(moment, Tensor):
        return "plain" if moment is None or isinstance(moment, Number) else _WRONG
    if moment.layout != torch.strided or not moment.is_floating_point() or moment.is_meta:
        return _WRONG
    if moment.dim() == 0:
        return "one"
    fits = len(moment.shape) == parameter.dim() and all(
        size in (1, full) for size, full in zip(moment.shape, parameter.shape, strict=True)
    )
    return "shaped" if fits else _WRONG


def check_random(states: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for what is no state of a random number generator."""
    try:
        for device, state in states.items():
            if device == "cpu":
                torch.Generator().set_state(state.cpu())
            elif state.dtype != torch.uint8 or state.dim() != 1:
                raise TypeError(f"{state.dtype} of shape {tuple(state.shape)}")
    except (AttributeError, RuntimeError, TypeError) as error:
        raise ValueError(f"its random state cannot be restored ({error})") from error
