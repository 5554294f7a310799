"""The last result of a conditional, handed from one program to another."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..ground.internals import version


class HandOver:
    """Distributions that one program evaluated and the other is to use, once each.

    A guide that weighs the model's own conditional against the data has computed what the model
    is about to compute again. Taking it over saves the time, and moves the running statistics of
    BatchNorm once per step. A result is only ever used for the very same tensors in the same
    mode: any other inputs, parameters or gradient mode find nothing.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self._given: dict[str, tuple[tuple[Any, ...], list[Tensor], dist.Distribution]] = {}

    def give(
        self, site: str, module: nn.Module, inputs: Sequence[Tensor], result: dist.Distribution
    ) -> None:
        """Keep the result of ``module(*inputs)`` for ``site`` until it is taken or replaced."""
        tensors = [*inputs, *module.parameters()]
        self._given[site] = (_mode(module, tensors), tensors, result)

    def take(
        self, site: str, module: nn.Module, inputs: Sequence[Tensor]
    ) -> dist.Distribution | None:
        """The result for these inputs, which is forgotten here; None if there is none."""
        mode, given, result = self._given.pop(site, (None, [], None))
        if result is None:
            return None
        tensors = [*inputs, *module.parameters()]
        same = len(tensors) == len(given) and all(map(operator.is_, tensors, given))
        return result if same and _mode(module, tensors) == mode else None

    def __deepcopy__(self, memo: dict[int, Any]) -> HandOver:
        """Empty: what is under way between two programs is not part of either."""
        return HandOver()

    def __reduce__(self) -> tuple[Any, ...]:
        """Empty, as in a copy."""
        return HandOver, ()


def _mode(module: nn.Module, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    # A tensor changed in place keeps its identity, but not its version
    versions = tuple(None if t.is_inference() else version(t) for t in tensors)
    return module.training, torch.is_grad_enabled(), versions
