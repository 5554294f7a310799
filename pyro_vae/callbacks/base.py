"""What a callback is, and what several of them look at."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn

from ..ground.tables import lookup

HOOKS = ("on_fit_begin", "on_step_end", "on_epoch_end", "on_fit_end")


class Training(Protocol):
    """What a callback may see of a ``Trainer``; ``lr`` may be assigned."""

    model: Callable
    guide: Callable
    history: list[dict[str, Any]]
    step: int
    lr: float
    told_collapsed: set[str]

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The torch optimizer of the present pair."""

    @property
    def constant_beta(self) -> bool:
        """Whether beta is a number, or numbers per site, for good."""

    def modules(self) -> list[nn.Module]:
        """Model and guide, where they are modules."""

    def parameters(self) -> list[nn.Parameter]:
        """All parameters of model and guide, ``pyro.param`` sites too; shared ones twice."""

    def stop(self) -> None:
        """End the present run after this epoch."""


class Callback:
    """Base class with empty hooks; any object with some of these methods will do.

    Where ``fit`` writes checkpoints, a callback also has ``state_dict()``, tensors and plain data
    that tell what it keeps between epochs, and ``load_state_dict(state)``, which a resumed run
    calls after ``on_fit_begin``.

    Example:
        >>> class Print:
        ...     def on_epoch_end(self, trainer, row, **kwargs):
        ...         print(row["epoch"], row["elbo"])
    """

    def on_fit_begin(self, trainer: Training, **kwargs: Any) -> None:
        """Before the first step; ``trainer.optimizer`` exists."""

    def on_step_end(self, trainer: Training, **kwargs: Any) -> None:
        """After each optimizer step; reading a loss here waits for the device."""

    def on_epoch_end(self, trainer: Training, row: dict[str, Any], **kwargs: Any) -> None:
        """After each epoch, with its history row."""

    def on_fit_end(self, trainer: Training, **kwargs: Any) -> None:
        """After the last epoch, also when Ctrl-C or a callback ended the run."""


def check_callbacks(callbacks: Any) -> None:
    """Raise ``TypeError`` unless ``callbacks`` is a list or tuple of objects with hooks."""
    if not isinstance(callbacks, list | tuple):
        raise TypeError(
            f"callbacks: expected a list of objects, got {type(callbacks).__name__}: write "
            "callbacks=[...]"
        )
    for callback in callbacks:
        if inspect.isclass(callback):
            raise TypeError(
                f"callbacks: expected objects, got the class {callback.__name__}: write "
                f"{callback.__name__}(...)"
            )
        if not any(callable(getattr(callback, hook, None)) for hook in HOOKS):
            raise TypeError(
                f"callbacks: expected objects with one of {', '.join(HOOKS)}, got {callback!r}, "
                "which would never be called: write a subclass of callbacks.Callback"
            )


def default_monitor(trainer: Training) -> str:
    """What a run is to raise: its own objective, or the bound while beta changes."""
    return "validation.objective" if trainer.constant_beta else "validation.elbo"


def monitored(row: dict[str, Any], monitor: str) -> float:
    """The value at a dotted key of a history row; ``ValueError`` where there is none."""
    value = lookup(row, monitor)
    if value is None:
        raise ValueError(
            f"monitor: the history has no {monitor!r}: pass validation= to fit, or monitor one of "
            f"{sorted(k for k, v in row.items() if isinstance(v, int | float))}"
        )
    return float(value)


def trained(trainer: Training) -> list[torch.Tensor]:
    """All that is trained, ``pyro.param`` sites of plain functions among it."""
    return [p for group in trainer.optimizer.param_groups for p in group["params"]]
