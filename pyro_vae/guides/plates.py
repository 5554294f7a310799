"""The plates of a model, around the sites of its guides."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
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

    def of(self, n: int) -> dict[str, AbstractContextManager[Any]]:
        """For n data: site -> what opens its plates."""
        made: dict[Any, AbstractContextManager[Any]] = {}
        around: dict[str, AbstractContextManager[Any]] = {}
        for site, frames in self._frames.items():
            for frame in frames:
                if frame not in made:
                    made[frame] = self._made(*frame, n)
            plates = [*map(made.__getitem__, frames)]
            around[site] = _Nested(plates) if len(plates) > 1 else plates[0]
        return around

    def _made(self, name: str, size: int | None, dim: int, n: int) -> AbstractContextManager[Any]:
        if size is not None or self._total is None:
            return pyro.plate(name, n if size is None else size, dim=dim)
        # A part of all, as the model has it
        return pyro.plate(name, self._total, subsample=torch.arange(n), dim=dim)


class _Nested:
    """Several plates as one; where one of them fails none stays open."""

    def __init__(self, plates: list[AbstractContextManager[Any]]) -> None:
        self._plates, self._open = plates, contextlib.ExitStack()

    def __enter__(self) -> None:
        with contextlib.ExitStack() as stack:
            for plate in self._plates:
                stack.enter_context(plate)
            self._open = stack.pop_all()

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)
