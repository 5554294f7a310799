"""Tables in text files, of which some cells may be empty."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np

from .frames import Table, numbers_of
from .given import LABELS

# What stands in files for a value that is missing
MISSING = frozenset(("", "NA", "N/A", "NaN", "nan", "NULL", "null", "<NA>", "?"))


def read_delimited(
    path: Path, *, labelled: bool = True
) -> tuple[np.ndarray | Table, np.ndarray | None]:
    """A table, with a line of names or without, as x and, ``labelled``, a column of labels.

    Raises ``ValueError`` for lines of unequal length, and columns of numbers and text.
    """
    names, mark, first, skipped = _beginning(path)
    # Where the first name is empty, pandas wrote its index
    columns = range(1 if names and not names[0] else 0, len(first))
    texts = [i for i in columns if first[i] is not None and not _is_number(first[i])]
    named = [i for i in columns if names and names[i].strip().lower() in LABELS]
    several = named if names else texts
    if labelled and len(several) > 1:
        shown = ", ".join(repr(first[i]) for i in several)
        raise ValueError(
            f"{len(several)} columns of text or labels, {shown} in the first row: drop all but one"
        )

    def read(chosen: list[int], kind: type, **options: object) -> np.ndarray:
        return np.loadtxt(
            path,
            dtype=kind,
            comments=None,
            delimiter=mark,
            skiprows=skipped,
            usecols=chosen,
            ndmin=2,
            encoding="utf-8-sig",
            quotechar='"',
            **options,
        )

    def numbers(chosen: list[int]) -> np.ndarray:
        try:
            return read(chosen, np.float32)
        except ValueError:
            # Half as fast
            return read(chosen, np.float32, converters=_number)

    def text(column: int) -> list[str | None]:
        return [None if _is_missing(v) else str(v) for v in read([column], str)[:, 0]]

    words = {i: text(i) for i in texts}
    for i, column in words.items():
        if any(v is not None and _is_number(v) for v in column):
            value = next(v for v in column if v is not None and not _is_number(v))
            raise ValueError(f"column {i} of numbers and text, such as {value!r}")
    label = (named or (texts if len(texts) == 1 else [None]))[0] if labelled else None
    y = None
    if label is not None:
        y = words[label] if label in words else text(label)
        # A measurement by this name is no label
        if label not in words and not all(v is None or v.strip().isdigit() for v in y):
            label = y = None
        else:
            y = np.array(y, dtype=object if None in y else None)
    shown = [i for i in columns if i != label]
    found = {k: numbers_of(words[i], str(i)) for k, i in enumerate(shown) if i in words}
    plain = [i for i in shown if i not in words]
    rest = iter(numbers(plain).T if plain else ())
    values = [found[k][0] if k in found else next(rest) for k in range(len(shown))]
    if not names:
        return np.stack(values, 1).astype(np.float32), y
    index = read([0], str)[:, 0] if columns.start else None
    told = {k: categories for k, (_, categories) in found.items()}
    return Table(np.stack(values, 1), tuple(names[i] for i in shown), told, index), y


def _beginning(path: Path) -> tuple[list[str], str | None, list[str | None], int]:
    """Names of columns, what is between them, the first value of each, and lines before all."""
    names, mark, first, skipped = [], None, None, 0
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if not line.strip() or (first is None and line.startswith("#")):
                skipped += first is None
                continue
            if first is None:
                mark = next((mark for mark in "\t;," if mark in line), None)
            cells = next(csv.reader([line], delimiter=mark)) if mark else line.split()
            if first is None:
                first = [None] * len(cells)
                if _are_names(cells):
                    names, skipped = cells, skipped + 1
                    continue
            if len(cells) > len(first):
                raise ValueError(
                    f"{len(first)} columns in the first line, {len(cells)} in another"
                )
            for i, value in enumerate(cells):
                if first[i] is None and not _is_missing(value):
                    first[i] = value
            if None not in first:
                return names, mark, first, skipped
    if first is None:
        raise ValueError("no line of numbers")
    if first.count(None) == len(first):
        raise ValueError("names of columns alone" if names else "no line of numbers")
    return names, mark, first, skipped


def _are_names(cells: list[str]) -> bool:
    """Whether these are no values: nothing but text, or names by pandas, which may be numbers."""
    numbers = [_is_number(cell) for cell in cells]
    if not any(numbers):
        return not all(map(_is_missing, cells))
    # Its index has no name; those of columns 0, 1, ... are their places
    return not cells[0] and all(cell.isdigit() for cell in cells[1:])


def _is_missing(text: str) -> bool:
    return text.strip() in MISSING


def _number(text: str) -> float:
    return math.nan if _is_missing(text) else float(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
