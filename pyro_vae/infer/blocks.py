"""Blocks of data whose results are kept in a folder as they are finished."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from ..data.arguments import Arguments, Data
from ..data.identity import identity
from ..ground.files import expanded, write_atomically
from ..programs.methods import held_by


class Blocks:
    """Results of numbered blocks, tensors by name, in files of a folder, or nowhere where None.

    Each file tells of what it is, so that no other estimate takes it for its own: ``settings``,
    the programs' tensors, and the block's data. Raises ``ValueError`` for a folder on a path that
    cannot be written in full, and ``OSError`` for one that is none.
    """

    def __init__(
        self, folder: str | Path | None, settings: Mapping[str, Any], *programs: Callable
    ) -> None:
        self.folder = None if folder is None else expanded("folder", folder)
        self.settings: dict[str, Any] = dict(settings)
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise type(error)(
                    error.errno,
                    f"folder: expected a folder that can be written to, got {self.folder} "
                    f"({error.strerror}): choose another one",
                ) from error
            self.settings["parameters"] = _checksum(programs)

    def read(self, number: int, x: Data, y: Tensor | None) -> dict[str, Tensor] | None:
        """The results of a block of data, None where it is not finished.

        Raises ``ValueError`` for a file of something else.
        """
        if self.folder is None or not (path := self._file(number)).exists():
            return None
        try:
            held = torch.load(path, weights_only=True, map_location=x.device)
            of, results = held["of"], held["results"]
        except Exception as error:  # whatever torch runs into
            raise ValueError(
                f"folder: {path} holds no block of an estimate: remove it, or pass another folder"
            ) from error
        here = self._told(x, y)
        if others := [name for name in here if of.get(name) != here[name]]:
            raise ValueError(
                f"folder: {path} is of an estimate with other {' and '.join(others)}: pass "
                "another folder, or what it was started with"
            )
        return results

    def write(self, number: int, x: Data, y: Tensor | None, results: dict[str, Tensor]) -> None:
        """Keep the results of a block, in whole or not at all."""
        if self.folder is not None:
            content = io.BytesIO()
            torch.save({"of": self._told(x, y), "results": results}, content)
            write_atomically(self._file(number), content.getvalue())

    def _file(self, number: int) -> Path:
        return self.folder / f"block-{number:05}.pt"

    def _told(self, x: Data, y: Tensor | None) -> dict[str, Any]:
        columns = x if isinstance(x, Arguments) else Arguments((x,) if y is None else (x, y))
        return {**self.settings, "data": identity(columns)}


def _checksum(programs: tuple[Callable, ...]) -> int:
    """Of all tensors of the programs' modules, and of Pyro's store where one is a function."""
    tensors: list[Tensor] = []
    for program in programs:
        for module in held_by(program):
            tensors += [*module.parameters(), *module.buffers()]
    if not all(map(held_by, programs)):
        store = pyro.get_param_store()
        tensors += [value for _, value in sorted(store.named_parameters())]
    found = 0
    for tensor in tensors:
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found = zlib.crc32(values.numpy(), found)
    return found
