"""The plates of a model, around the sites of its guides."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import pyro
import torch

from ..programs.structure import Structure


class Plates:
    """Opens the plates of latents of a model: that of the data, and those inside a datum.

    Args:
        structure: that of the model.
        latents: those that the guide draws.
    """

    def __init__(self, structure: Structure, latents: Iterable[str]) -> None:
        self._data, self._total = structure.plate, structure.total
        self._frames = {
            site: [(self._data, None, structure.latents[site].dim)]
            + [(plate.name, plate.size, plate.dim) for plate in structure.latents[site].plates]
            for site in latents
        }

    def of(self, n: int) -> Callable[[str], AbstractContextManager[Any]]:
        """For n data: what opens the plates of a site, one object for each of them."""
        made: dict[Any, AbstractContextManager[Any]] = {}

        def around(site: str) -> AbstractContextManager[Any]:
            frames = self._frames[site]
            for frame in frames:
                if frame not in made:
                    made[frame] = self._made(*frame, n)
            if len(frames) == 1:
                return made[frames[0]]
            with contextlib.ExitStack() as stack:
                for frame in frames:
                    stack.enter_context(made[frame])
                # Where one of them fails none stays open
                return stack.pop_all()

        return around

    def _made(self, name: str, size: int | None, dim: int, n: int) -> AbstractContextManager[Any]:
        if size is not None or self._total is None:
            return pyro.plate(name, n if size is None else size, dim=dim)
        # A part of all, as the model has it
        return pyro.plate(name, self._total, subsample=torch.arange(n), dim=dim)
