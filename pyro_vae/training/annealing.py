"""Beta during a run: schedules, and the 0-d tensors by which the programs are scaled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..ground.arguments import at_least
from ..handlers import scale_latents
from ..schedules import Constant, Schedule, as_schedule


class Annealing:
    """Beta of a run, one for all latent sites or one per site, in any form that ``Trainer`` takes.

    A 0-d tensor is read at each step, and never written. ``constant`` tells whether every beta
    is a number that stays, ``moves`` whether one is a schedule, which ``set`` follows.

    Example:
        >>> from pyro_vae.schedules import WarmUp
        >>> annealing = Annealing({"z1": WarmUp(steps=4), "z2": 2.0})
        >>> annealing.start(torch.device("cpu"))
        >>> annealing.set(step=1, steps_per_epoch=10)
        >>> annealing.values()
        {'z1': 0.25, 'z2': 2.0}
    """

    def __init__(self, beta: float | Schedule | Tensor | Mapping[str, Any]) -> None:
        items = beta if isinstance(beta, Mapping) else {None: beta}
        self.schedules: dict[str | None, Schedule | Tensor] = {
            site: _schedule(value, "beta" if site is None else f"beta[{site!r}]")
            for site, value in items.items()
        }
        self.weights: dict[str | None, Tensor] = {}
        every = self.schedules.values()
        self._is_one = self.schedules.get(None) == Constant(1.0)
        self.constant = all([isinstance(schedule, Constant) for schedule in every])
        self.moves = not all([isinstance(schedule, Constant | Tensor) for schedule in every])

    def check(self, latents: Sequence[str], drawn: Sequence[str] | None = None) -> None:
        """Raise ``ValueError`` for a site that is not among ``latents``, or that none draws."""
        unknown = [s for s in self.schedules if s is not None and s not in latents]
        if unknown:
            raise ValueError(
                f"beta: the model has no latent site {unknown[0]!r}, it has {tuple(latents)}"
            )
        alike = self.schedules.get(None)
        weighed = self.schedules if alike is None else () if alike == Constant(1.0) else latents
        drawn = latents if drawn is None else drawn
        if summed := [s for s in weighed if s is not None and s not in drawn]:
            raise ValueError(
                f"beta: site {summed[0]!r} is summed out and has no KL to weigh: pass "
                f"beta={{site: value}} for sites that the guide draws, {tuple(drawn)}"
            )

    def start(self, device: torch.device, before: Annealing | None = None) -> None:
        """Make the tensors; those of the run ``before``, which records read, serve again."""
        made = {} if before is None else before._made
        self._made = {
            site: made[site]
            if site in made and made[site].device == device
            # A tensor that nobody else has
            else torch.zeros((), device=device)
            for site, s in self.schedules.items()
            if not isinstance(s, Tensor)
        }
        self.weights = {**self.schedules, **self._made}
        self._last: dict[str | None, float] = {}

    def set(self, step: int, steps_per_epoch: int) -> None:
        """Fill the tensors with the values of ``step``."""
        for site, schedule in self.schedules.items():
            if isinstance(schedule, Schedule):
                value = schedule(step, steps_per_epoch)
                if value != self._last.get(site):
                    self.weights[site].fill_(value)
                    self._last[site] = value

    def scale(self, program: Callable) -> Callable:
        """The program with its latent sites scaled; as it is where beta is 1 for good."""
        if self._is_one:
            return program
        return scale_latents(program, self.weights.get(None, self.weights))

    def identity(self) -> tuple[Any, ...]:
        """What is equal, while both are there, where programs are scaled by the same tensors."""
        return () if self._is_one else (*self.weights, *map(id, self.weights.values()))

    def snapshot(self) -> dict[str | None, Tensor]:
        """The weights as they are now, on the device: reading them is left for later."""
        return {site: weight.clone() for site, weight in self.weights.items()}

    def values(
        self, weights: Mapping[str | None, Tensor] | None = None
    ) -> float | dict[str, float]:
        """The values of a snapshot, by default those now, as numbers: one, or one per site."""
        values = {site: float(weight) for site, weight in (weights or self.weights).items()}
        return values.get(None, values)


def _schedule(value: Any, where: str) -> Schedule | Tensor:
    if isinstance(value, Schedule | Real):
        return as_schedule(value, where)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{where}: expected a number, a schedule, a 0-d tensor, or a mapping from site to one "
            f"of them, got {value!r}"
        )
    if value.dim():
        raise ValueError(f"{where}: expected a 0-d tensor, got shape {tuple(value.shape)}")
    at_least(where, value)
    return value
