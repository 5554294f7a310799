"""Making torch optimizers: fused kernels, and options that a file can hold."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import nn

from ...ground.recorded import Recorded

OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
_add_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)


def fused(optimizer: type[torch.optim.Optimizer], **kwargs: object) -> OptimizerFactory:
    """A factory of ``optimizer`` that uses torch's fused kernel where that class has one."""

    def build(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        try:
            if optimizer not in (torch.optim.Adam, torch.optim.AdamW):
                return optimizer(parameters, fused=True, **kwargs)
            # Torch imports its compiler, for a second, to keep ``add_param_group`` out of it
            built = optimizer.__new__(optimizer)
            built.add_param_group = functools.partial(_add_group, built)
            built.__init__(parameters, fused=True, **kwargs)
            del built.add_param_group
            return built
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


def check_optimizer(optimizer: Any) -> None:
    """Raise ``TypeError`` for what is no torch optimizer, or one that evaluates a closure."""
    advice = "pass a class such as torch.optim.Adam, or a functools.partial of one"
    if isinstance(optimizer, PyroOptim):
        advice = f"pass {_instead_of(optimizer)}"
    if not callable(optimizer) or isinstance(optimizer, PyroOptim | torch.optim.Optimizer):
        objects = isinstance(optimizer, PyroOptim | torch.optim.Optimizer)
        got = f"a {type(optimizer).__name__} object" if objects else repr(optimizer)
        raise TypeError(f"optimizer: expected a class of torch.optim, got {got}: {advice}")
    inner = optimizer
    while isinstance(inner, functools.partial):
        inner = inner.func
    if inspect.isclass(inner) and issubclass(inner, torch.optim.LBFGS):
        raise TypeError(
            f"optimizer: {inner.__name__} evaluates one and the same loss several times per step, "
            f"and a sampled bound never is the same: {advice}"
        )


def _instead_of(optimizer: PyroOptim) -> str:
    """Arguments of a ``Trainer`` that say what a ``pyro.optim`` object says."""
    cls, options = optimizer.pt_optim_constructor, optimizer.pt_optim_args
    public = getattr(torch.optim, cls.__name__, None) is cls
    name = f"{'torch.optim' if public else cls.__module__}.{cls.__name__}"
    options = dict(options) if isinstance(options, dict) else {}
    lr = options.pop("lr", inspect.signature(cls).parameters["lr"].default)
    if options:
        name = f"functools.partial({name}, {', '.join(f'{k}={v!r}' for k, v in options.items())})"
    return f"optimizer={name}, lr={lr!r}"


def recordable(optimizer: Callable) -> Callable:
    """An optimizer class as it is, a ``functools.partial`` of one as ``Configured``."""
    if isinstance(optimizer, functools.partial) and not optimizer.args:
        return Configured(optimizer.func, **optimizer.keywords)
    return optimizer
