"""Training and evaluation mode, each put back as it was."""

from __future__ import annotations

import contextlib
import itertools
import operator
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from ..ground.turns import turn
from .methods import held_by
from .registration import unregistered

_mode = operator.attrgetter("training")


@contextlib.contextmanager
def evaluating(*programs: Any) -> Iterator[None]:
    """Evaluation mode without gradients; modes and Pyro's store are restored afterwards.

    The model of a guide is in it too, since a guide may run the model's own conditionals.
    """
    modules: dict[nn.Module, None] = {}
    for program in programs:
        for module in (program,) if isinstance(program, nn.Module) else held_by(program):
            modules |= dict.fromkeys(_run_by(module))
    with turn:
        modes = [*map(_mode, modules)]
        try:
            for module in modules:
                module.training = False
            with torch.no_grad(), unregistered(*programs, stored=False):
                yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode


def _run_by(program: nn.Module) -> list[nn.Module]:
    modules = list(program.modules())
    # A guide's model is no child of it
    models = [m for module in modules if isinstance(m := vars(module).get("model"), nn.Module)]
    return [*modules, *itertools.chain.from_iterable(map(nn.Module.modules, models))]


@contextlib.contextmanager
def training(module: nn.Module, mode: bool = True) -> Iterator[None]:
    """Training mode, or evaluation mode with gradients; each module's own mode is restored.

    Parts that are in evaluation mode under a module that trains stay in it.
    """
    modes = {m: m.training for m in module.modules()}
    if not (mode and module.training):
        module.train(mode)
    try:
        yield
    finally:
        for m, mode in modes.items():
            m.training = mode


@contextlib.contextmanager
def resting(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Evaluation mode, with gradients, of these modules alone; theirs is restored."""
    modes = {module: module.training for module in modules}
    for module in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
