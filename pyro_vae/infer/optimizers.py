"""Making torch optimizers: fused kernels, and options that a file can hold."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..recorded import Recorded

OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def fused(optimizer: type[torch.optim.Optimizer], **kwargs: object) -> OptimizerFactory:
    """A factory of ``optimizer`` that uses torch's fused kernel where that class has one."""

    def build(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        try:
            return optimizer(parameters, fused=True, **kwargs)
        except (TypeError, RuntimeError):
            return optimizer(parameters, **kwargs)

    return build


class Configured(Recorded):
    """``functools.partial`` of an optimizer class, in a form that a file can hold."""

    def __init__(self, optimizer: Callable, **options: Any) -> None:
        self.optimizer, self.options = optimizer, options

    def __call__(self, parameters: list[nn.Parameter], **kwargs: Any) -> torch.optim.Optimizer:
        """The optimizer of these parameters; ``kwargs`` win over the options."""
        return self.optimizer(parameters, **{**self.options, **kwargs})


def recordable(optimizer: Callable) -> Callable:
    """An optimizer class as it is, a ``functools.partial`` of one as ``Configured``."""
    if isinstance(optimizer, functools.partial) and not optimizer.args:
        return Configured(optimizer.func, **optimizer.keywords)
    return optimizer
