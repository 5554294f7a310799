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


def find_text(source: Any, vocabulary: Symbols) -> tuple[str, Callable[[], Splits]]:
    """What a text file, or lines in memory, are called, and what reads them.

    Raises:
        FileNotFoundError: the file is not there.
        TypeError: no path and no lines.
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
    if not isinstance(source, list | tuple) or not all(isinstance(v, str) for v in source):
        raise TypeError(
            f"source: expected a text file or a list of lines for kind='tokens', got "
            f"{type(source).__name__}: pass such, or Dataset(x) for numbers"
        )
    return "text", partial(_read, source, vocabulary)


def _read(lines: list[str], vocabulary: Symbols) -> Splits:
    if not isinstance(vocabulary, Vocabulary):
        vocabulary = Vocabulary.of(lines, words=vocabulary == "words")
    return (Dataset(lines, vocabulary=vocabulary),)
