"""What a trainer raises, and how: replaced as a whole, never changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pyro.infer import ELBO
from torch import Tensor

from ..infer.engine.optimizers import check_optimizer, recordable
from ..infer.engine.svi import Engine, check_engine
from ..infer.objectives.elbo import Estimator
from ..infer.objectives.pyro_elbo import as_estimator
from ..schedules import Schedule
from .annealing import Annealing
from .precision import Precision, PrecisionName, as_precision


def check_lr(lr: float) -> None:
    """Raise ``ValueError`` for a learning rate that no run begins with."""
    if not 0 < lr < math.inf:
        raise ValueError(f"lr: expected a positive finite number, got {lr}")


@dataclass(frozen=True)
class Objective:
    """The arguments of a ``Trainer`` besides its pair, checked; see there.

    ``lr`` is the learning rate at the start of the next run, whatever a scheduler ended with.
    """

    beta: float | Schedule | Tensor | Mapping[str, Any]
    lr: float
    optimizer: Callable[..., torch.optim.Optimizer]
    elbo: Literal["trace", "analytic", "enumerate"] | Estimator | ELBO
    clip_norm: float | None
    engine: Engine | None
    precision: PrecisionName | Precision

    def __post_init__(self) -> None:
        check_optimizer(self.optimizer)
        norm = self.clip_norm
        if norm is not None and not norm > 0:
            raise ValueError(f"clip_norm: expected a positive number or None, got {norm}")
        as_precision(self.precision)
        object.__setattr__(self, "elbo", as_estimator(self.elbo))
        if self.engine is not None:
            check_engine(self.engine)
        Annealing(self.beta)

    def arguments(self) -> dict[str, Any]:
        """As a file holds them."""
        return {**vars(self), "optimizer": recordable(self.optimizer)}
