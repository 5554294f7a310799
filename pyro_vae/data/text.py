"""Lines of text as rows of numbers, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..ground.arguments import whole
from ..ground.recorded import Recorded

UNKNOWN = "<unk>"
_SHOWN = 5


class Vocabulary(Recorded):
    """The symbols of a text, characters or words, which are numbered 1, 2, ...; 0 is the end.

    A line of m symbols is a row of ``length`` numbers, at least one 0 behind the m.

    Args:
        symbols: all of them; ``UNKNOWN``, where it is among them, stands for all others.
        length: numbers of a row, one more than the longest line has symbols.
        words: whether they are words, between white space, and no characters.

    Raises:
        ValueError: symbols that are no text, or not all different, a length below 1.

    Example:
        >>> vocabulary = Vocabulary.of(["a cab", "a bee"])
        >>> len(vocabulary), vocabulary.numbers(["bee"])
        (6, tensor([[3., 5., 5., 0., 0., 0.]]))
        >>> vocabulary.text(torch.tensor([[4.0, 2.0, 3.0, 0.0, 0.0, 0.0]]))
        ['cab']
    """

    def __init__(self, symbols: Sequence[str], length: int, *, words: bool = False) -> None:
        self.symbols = tuple(symbols)
        if not all(isinstance(s, str) and s for s in self.symbols) or len(self.symbols) == 0:
            raise ValueError(
                f"symbols: expected characters or words, got {self._shown(self.symbols)}: use "
                "Vocabulary.of(lines), or the text of all"
            )
        if twice := [s for s, count in Counter(self.symbols).items() if count > 1]:
            raise ValueError(
                f"symbols: expected each once, got {self._shown(twice)} more than once: leave "
                "out what is there already"
            )
        self.length, self.words = whole("length", length), bool(words)
        self._number = {symbol: i for i, symbol in enumerate(self.symbols, 1)}

    @classmethod
    def of(
        cls,
        lines: Iterable[str],
        *,
        words: bool = False,
        most: int | None = None,
        length: int | None = None,
    ) -> Vocabulary:
        """That of a text.

        Args:
            lines: the text.
            words: number words in place of characters.
            most: keep so many symbols, the most frequent ones, and ``UNKNOWN`` for all others;
                default: all there are, which leaves none unknown.
            length: numbers of a row; default as the longest of these lines needs.

        Raises:
            ValueError: no lines, or empty ones, by number.
        """
        split = _split(lines, words)
        counts = Counter(symbol for line in split for symbol in line)
        symbols = sorted(counts)
        if most is not None:
            kept = sorted(counts, key=lambda s: (-counts[s], s))[: whole("most", most)]
            symbols = [UNKNOWN, *sorted({*kept} - {UNKNOWN})]
        return cls(symbols, length or 1 + max(map(len, split)), words=words)

    def __len__(self) -> int:
        """Count the numbers, 0 too."""
        return len(self.symbols) + 1

    def __eq__(self, other: object) -> bool:
        """Whether numbers stand for the same symbols, in rows of any length."""
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return (self.symbols, self.words) == (other.symbols, other.words)

    def __hash__(self) -> int:
        """By the symbols."""
        return hash(self.symbols)

    def check(self, *programs: Any) -> None:
        """Raise ``ValueError`` for a model of other tokens, or of another number of them."""
        for likelihood in (getattr(program, "likelihood", None) for program in programs):
            if not hasattr(likelihood, "vocabulary"):
                continue
            of_model = likelihood.vocabulary
            if of_model != self if of_model is not None else likelihood.size != len(self):
                raise ValueError(
                    f"vocabulary: expected that of the model, {of_model or likelihood.size}, got "
                    f"{self!r}, whose numbers stand for other symbols: load the text with "
                    "vocabulary=, that of model.likelihood, or build the model with "
                    "likelihoods.Tokens(d.vocabulary)"
                )

    def __repr__(self) -> str:
        """Kind and number of symbols, and the length of a row."""
        kind = "words" if self.words else "characters"
        return f"Vocabulary({len(self.symbols)} {kind}, length={self.length})"

    def numbers(self, lines: Iterable[str]) -> Tensor:
        """The rows (n, length) of n lines.

        Raises:
            ValueError: unknown symbols, lines that are empty or too long, by number.
        """
        split = _split(lines, self.words)
        if long := [i for i, line in enumerate(split) if len(line) >= self.length]:
            kind = "words" if self.words else "characters"
            raise ValueError(
                f"text: expected at most {self.length - 1} {kind} in a line, got "
                f"{len(split[long[0]])} in line {long[0] + 1}, and {len(long)} such lines: leave "
                "them out, or use a vocabulary of a larger length="
            )
        other = self._number.get(UNKNOWN)
        rows = torch.zeros(len(split), self.length)
        unknown: dict[str, int] = {}
        for i, line in enumerate(split):
            found = [self._number.get(symbol, other) for symbol in line]
            if None in found:
                unknown |= {s: i + 1 for s in line if s not in self._number and s not in unknown}
            else:
                rows[i, : len(found)] = torch.tensor(found, dtype=rows.dtype)
        if unknown:
            raise ValueError(
                f"text: expected symbols of this {self!r}, got {self._shown(unknown)}, the first "
                f"in line {next(iter(unknown.values()))}: leave these lines out, or train with a "
                "vocabulary that has them, or Vocabulary.of(lines, most=...), to which they are "
                f"{UNKNOWN}"
            )
        return rows

    def text(self, x: Tensor) -> list[str]:
        """The lines of rows (n, t), each up to its end.

        Raises:
            ValueError: numbers that stand for no symbol.
        """
        if x.dim() != 2 or not ((x >= 0) & (x < len(self))).all():
            raise ValueError(
                f"x: expected rows (n, t) of numbers from 0 to {len(self) - 1}, got shape "
                f"{tuple(x.shape)}, {int(x.min())} to {int(x.max())}: pass such as vae.sample(10)"
            )
        numbers = x.long().tolist()
        ended = (row[: row.index(0)] if 0 in row else row for row in numbers)
        joint = " " if self.words else ""
        return [joint.join(self.symbols[k - 1] for k in row) for row in ended]

    def characters(self, x: Tensor) -> Tensor:
        """How many characters each row (n, t) has, its end counted as one."""
        return torch.tensor([len(line) + 1 for line in self.text(x)], device=x.device)

    @staticmethod
    def _shown(symbols: Iterable[str]) -> str:
        found = list(symbols)
        rest = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        return (", ".join(map(repr, found[:_SHOWN])) or "none") + rest


def _split(lines: Iterable[str], words: bool) -> list[Sequence[str]]:
    if isinstance(lines, str):
        raise TypeError(
            f"text: expected lines, got one text, {lines[:20]!r}: pass text.splitlines()"
        )
    lines = list(lines)
    if not lines:
        raise ValueError("text: expected lines, got none: check the file")
    if empty := [i + 1 for i, line in enumerate(lines) if not line.strip()]:
        raise ValueError(
            f"text: expected symbols in each line, got {len(empty)} that are empty, the first is "
            f"line {empty[0]}: remove them, [line for line in lines if line.strip()]"
        )
    return [line.split() if words else line for line in lines]


def lines_of(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        ValueError: a file that is no text in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected text in UTF-8, got a byte {error.object[error.start]:#04x} at "
            f"{error.start}: save it as UTF-8, iconv -t UTF-8"
        ) from error
