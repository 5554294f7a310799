"""The plates of a model, around the sites of its guides."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
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

    def __init__(self, structure: Structure, latents: Sequence[str]) -> None:
        self._data, self._total = structure.plate, structure.total
        self._frames: dict[str, list[tuple[str, int | None, int]]] = {}
        different = set()
        for site in latents:
            latent = structure.latents[site]
            self._frames[site] = frames = [(self._data, None, latent.dim)]
            for plate in latent.plates:
                frames.append((plate.name, plate.size, plate.dim))
            different.update(frames)
        # All latents in the one plate of the data, as most often
        alone = self._total is None and len(different) == 1
        self._dim = different.pop()[-1] if alone else None

    def of(self, n: int) -> dict[str, AbstractContextManager[Any]]:
        """For n data: site -> what opens its plates."""
        if self._dim is not None:
            return dict.fromkeys(self._frames, pyro.plate(self._data, n, dim=self._dim))
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
