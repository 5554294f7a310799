"""Data sets of text: a datum for each line."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..ground.arguments import known
from ..ground.files import expanded
from .dataset import Dataset
from .sources import Splits
from .text import Vocabulary, lines_of

Symbols = Vocabulary | Literal["characters", "words"]


def is_text(source: Any) -> bool:
    """Whether this is a path or lines, and no numbers."""
    lines = isinstance(source, list | tuple) and all(isinstance(v, str) for v in source)
    return lines or isinstance(source, str | Path)


def find_text(source: Any, vocabulary: Symbols) -> tuple[str, Callable[[], Splits]]:
    """What a text file, or lines in memory, are called, and what reads them.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: an unknown kind of vocabulary; when read, what ``Vocabulary`` refuses.
    """
    if not isinstance(vocabulary, Vocabulary):
        known("vocabulary", vocabulary, ("characters", "words"))
    if isinstance(source, str | Path):
        path = expanded("source", source)
        if not path.is_file():
            raise FileNotFoundError(
                f"source: expected a text file for kind='tokens', got {path}, which is no file "
                f"(seen from {Path.cwd()}): check the path, or pass a list of lines"
            )
        return path.name, lambda: _read(lines_of(path), vocabulary)
    return "text", partial(_read, source, vocabulary)


def _read(lines: list[str], vocabulary: Symbols) -> Splits:
    if not isinstance(vocabulary, Vocabulary):
        vocabulary = Vocabulary.of(lines, words=vocabulary == "words")
    return (Dataset(lines, vocabulary=vocabulary),)
