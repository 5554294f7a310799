"""What an optimizer keeps of parameters, from run to run."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from numbers import Number
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

_WRONG = "wrong"
# What an option of an optimizer is that a file holds
_PLAIN = bool | int | float | str | None | Tensor


class Moments(WeakIdKeyDictionary):
    """Parameter -> its state in the optimizer, for as long as the parameter lives.

    A copy or a pickle of it goes with the copies of the parameters.
    """

    @classmethod
    def of(cls, items: Iterable[tuple[nn.Parameter, dict[str, Any] | None]]) -> Moments:
        """Those of some parameters; None for one without."""
        moments = cls()
        for parameter, state in items:
            if state is not None:
                if not isinstance(state, dict):
                    raise ValueError("its moments cannot be those of its parameters")
                moments[parameter] = state
        return moments

    def keep(self, optimizer: torch.optim.Optimizer | None) -> None:
        """Have what an optimizer has now."""
        if optimizer is not None:
            for parameter, state in optimizer.state.items():
                self[parameter] = state

    def __deepcopy__(self, memo: dict[int, Any]) -> Moments:
        """The states, and their parameters, as the rest of the copy has them."""
        return self.of(copy.deepcopy(list(self.items()), memo))

    def __reduce__(self) -> tuple:
        return self.of, (list(self.items()),)


def convert(state: dict[str, Any], parameter: nn.Parameter) -> None:
    """Have moments in the type of a parameter that was converted since, but for counts."""
    for name, value in state.items():
        if isinstance(value, Tensor) and name != "step" and value.dtype != parameter.dtype:
            state[name] = value.to(parameter)


def check_moments(moments: Sequence[Any], parameters: Sequence[nn.Parameter]) -> None:
    """Raise ``ValueError`` for moments that no optimizer of torch keeps for these parameters."""
    kept: dict[int, dict[str, str]] = {}
    for state, parameter in zip(moments, parameters, strict=True):
        if not state:
            continue
        found = {name: _kind(moment, parameter) for name, moment in state.items()}
        # Some optimizers keep other moments of matrices than of vectors
        same = kept.setdefault(min(parameter.dim(), 2), found)
        if found != same or _WRONG in found.values():
            raise ValueError("its moments cannot be those of its parameters")


def _kind(moment: Any, parameter: nn.Parameter) -> str:
    """Of one value for all, or of the shape of the parameter or of means over its dimensions."""
    if not isinstance(moment, Tensor):
        return "plain" if moment is None or isinstance(moment, Number) else _WRONG
    if moment.layout != torch.strided or not moment.is_floating_point() or moment.is_meta:
        return _WRONG
    if moment.dim() == 0:
        return "one"
    sizes, full = moment.shape, parameter.shape
    fits = sizes == full or (
        len(sizes) == len(full)
        and all([size in (1, n) for size, n in zip(sizes, full, strict=True)])
    )
    return "shaped" if fits else _WRONG


def groups_of(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]
) -> list[dict[str, Any]]:
    """Options of an optimizer, and the numbers of its parameters in their order."""
    number = {id(p): i for i, p in reversed(list(enumerate(parameters)))}
    return [
        {
            # What a pair no longer has, such as a sigma that is predicted now, is never updated
            "parameters": [number[id(p)] for p in group["params"] if id(p) in number],
            **{
                key: list(value) if isinstance(value, tuple) else value
                for key, value in group.items()
                if isinstance(value, _PLAIN) or (isinstance(value, tuple) and _are_plain(value))
            },
        }
        for group in optimizer.param_groups
    ]


def _are_plain(values: tuple[Any, ...]) -> bool:
    return all([isinstance(value, _PLAIN) for value in values])


def restore_groups(
    optimizer: torch.optim.Optimizer,
    groups: Sequence[dict[str, Any]],
    parameters: Sequence[nn.Parameter],
    moments: Moments,
) -> None:
    """Put back what ``groups_of`` gave, and the state of each parameter.

    Raises ``RuntimeError`` where sites have gone from Pyro's store.
    """
    if any([i >= len(parameters) for stored in groups for i in stored["parameters"]]):
        raise RuntimeError(
            "pyro.param sites of the run that goes on are no longer in Pyro's store: call "
            "Trainer.resume after pyro.clear_param_store(), which has to come first"
        )
    for group, stored in zip(optimizer.param_groups, groups, strict=True):
        group["params"][:] = [parameters[i] for i in stored["parameters"]]
        for key in stored.keys() - {"parameters"}:
            value = stored[key]
            group[key] = tuple(value) if isinstance(value, list) else value
        for parameter in group["params"]:
            if state := moments.get(parameter):
                optimizer.state[parameter] = state
