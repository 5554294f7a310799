"""Training and evaluation mode, each put back as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..ground.turns import turn
from .registration import unregistered


@contextlib.contextmanager
def evaluating(*programs: Any) -> Iterator[None]:
    """Evaluation mode without gradients; each module's own mode is restored afterwards.

    The model of a guide is in it too, since a guide may run the model's own conditionals.
    """
    modules = [m for p in programs if isinstance(p, nn.Module) for m in _run_by(p)]
    with turn:
        modes = [(module, module.training) for module in modules]
        try:
            for module in modules:
                module.training = False
            with torch.no_grad(), unregistered():
                yield
        finally:
            for module, training in modes:
                module.training = training


def _run_by(program: nn.Module) -> Iterator[nn.Module]:
    for module in program.modules():
        yield module
        # A guide's model is no child of it
        if isinstance(model := vars(module).get("model"), nn.Module):
            yield from model.modules()


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
