"""Files of a folder: beside each other or in class folders, in one set or in several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .labels import in_order

_VALIDATION = ("val", "valid", "validation")
# The files of a kind in a folder, and in those inside it where asked
Find = Callable[[Path, bool], list[Path]]


class Listed(NamedTuple):
    """Files of one set, with the numbers and names of their classes."""

    paths: list[Path]
    y: np.ndarray | None
    names: tuple[str, ...]


def divided(path: Path, find: Find, kind: str) -> list[Listed]:
    """The files of a folder, or of ``train``, ``test`` and ``val`` in it, in this order.

    Raises:
        ValueError: no file, files of some class folders alone or beside them, several folders for
            validation, other classes in one set than in another; ``kind`` is what files are.
    """
    validation = [p for name in _VALIDATION if (p := path / name).is_dir()]
    held_out = [p for p in (path / "test", *validation) if p.is_dir()]
    if len(validation) > 1:
        raise ValueError(
            f"{path}: expected one folder for validation, got "
            f"{' and '.join(p.name for p in validation)}: join them, or move one away"
        )
    several = (path / "train").is_dir() and held_out
    parts = [_listed(p, find, kind) for p in ([path / "train", *held_out] if several else [path])]
    for part, found in zip(held_out, parts[1:], strict=False):
        if found.names != parts[0].names:
            raise ValueError(
                f"{path}: expected the same class folders in train and {part.name}, got "
                f"{list(parts[0].names)} and {list(found.names)}: add the missing ones"
            )
    return parts


def _listed(path: Path, find: Find, kind: str) -> Listed:
    folders = {p.name: p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")}
    classes = [folders[name] for name in in_order(folders)]
    loose = find(path, False)
    inside = [find(folder, True) for folder in classes]
    if loose and any(inside):
        raise ValueError(
            f"{path}: expected {kind} either in class folders or beside each other, got "
            f"{len(loose)} beside {len(classes)} folders: move them into one"
        )
    if not loose and not (classes and all(inside)):
        one = kind.removesuffix("s")
        empty = [p.name for p, files in zip(classes, inside, strict=True) if not files]
        where = f"no {one} in the class folders {empty}" if any(inside) else f"no {one}"
        raise ValueError(
            f"{path}: expected {kind} (.png, .jpg, .wav, ...), in class folders or not, got "
            f"{where}: check the folder; .npy and .npz files are loaded by their own path"
        )
    if loose:
        return Listed(loose, None, ())
    y = np.repeat(np.arange(len(classes)), [len(files) for files in inside])
    names = tuple(p.name for p in classes)
    return Listed([file for files in inside for file in files], y, names)
