"""Which parameters a pair trains: found once they are there, told where no step moves them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

_SHOWN = 10


class UntrainedWarning(UserWarning):
    """Parameters of a pair that no step moves.

    Where that is meant, freeze them (``requires_grad_(False)``), or filter this category.
    """


class Sites(Messenger):
    """The trainable ``pyro.param`` sites that run inside: name -> the tensor in Pyro's store."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Tensor] = {}

    def _pyro_post_param(self, msg: dict[str, Any]) -> None:
        parameter = msg["value"].unconstrained()
        if parameter.requires_grad:
            self.found[msg["name"]] = parameter


def named_parameters(**programs: Callable) -> dict[str, nn.Parameter]:
    """The modules' trainable parameters, each once, under the role of the first that holds it."""
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for role, program in programs.items():
        if isinstance(program, nn.Module):
            for name, parameter in program.named_parameters():
                if parameter.requires_grad:
                    found.setdefault(id(parameter), (f"{role}.{name}", parameter))
    return dict(found.values())


class Waiting:
    """Parameters that have had no gradient yet; told, once, after so many steps.

    Args:
        steps: steps to wait for a gradient.

    Attributes:
        parameters: those that still wait, by name.
    """

    def __init__(self, steps: int) -> None:
        self.steps = self._left = steps
        self.parameters: dict[str, Tensor] = {}

    def add(self, parameters: Mapping[str, Tensor]) -> None:
        """Wait for these as well."""
        self.parameters.update(parameters)
        self._left = self.steps

    def step(self) -> None:
        """Look at the gradients of a step."""
        self.parameters = {
            name: p for name, p in self.parameters.items() if p.grad is None and p.requires_grad
        }
        self._left -= 1
        if self.parameters and not self._left:
            names, self.parameters = list(self.parameters), {}
            steps = "the first step" if self.steps == 1 else f"{self.steps} steps"
            warnings.warn(
                f"these parameters got no gradient in {steps}: {listed(names)}. They stay as they "
                "are until a step reaches them: use them in the program, or freeze them with "
                "requires_grad_(False)",
                UntrainedWarning,
                stacklevel=4,
            )


def listed(names: Iterable[str]) -> str:
    """Names in a row; of many the first."""
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
