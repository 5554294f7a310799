"""How results are told: numbers with their standard errors, and one table in five forms."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .optional import needed

if TYPE_CHECKING:
    import pandas

# Letters of a caption in a line of a page
_WIDEST = 100
_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\`*_|<$&~"})
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%_#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
    # What follows a line's end in brackets would be a distance
    | {"[": "{[}"}
)


def number(value: float) -> str:
    """Two decimals, or two digits where these would show nothing."""
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def two_decimals(value: float) -> str:
    """Two decimals whatever the size, without a minus sign for what is rounded to zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def duration(seconds: float) -> str:
    """Seconds for people.

    Example:
        >>> duration(12.3), duration(150), duration(9000)
        ('12 s', '2 min', '2 h 30 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def with_error(value: float, error: float, form: Callable[[float], str] = number) -> str:
    """A number and its standard error, left out where there is none."""
    return form(value) if math.isnan(error) else f"{form(value)} +- {form(error)}"


def or_none(error: float) -> float | None:
    """A number for JSON, which has no NaN."""
    return None if math.isnan(error) else error


def standard_error(values: Tensor) -> Tensor:
    """Standard error of the means over the first dimension of (n, ...), NaN for a single value."""
    n = len(values)
    return values.std(0) / math.sqrt(n) if n > 1 else torch.full_like(values[0], math.nan)


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean of (n,) and its standard error, NaN for a single value."""
    values = values.double()
    return float(values.mean()), float(standard_error(values))


@dataclass(frozen=True)
class Cell:
    """The text that a table shows in one place, and the numbers that it stands for.

    Their keys are what follows the column's name in a frame, "" for nothing.
    """

    text: str
    numbers: Mapping[str, Any]

    @classmethod
    def estimate(cls, mean: float, error: float, form: Callable[[float], str] = number) -> Cell:
        """A number with its standard error."""
        return cls(with_error(mean, error, form), {"": mean, "error": error})

    @classmethod
    def count(cls, some: int, of: int, error: float | None = None) -> Cell:
        """How many of so many, and the standard error of their number, shown where it is not 0."""
        shown = error is not None and error >= 0.005
        text = f"{some} of {of}" + (f" +- {number(error)}" if shown else "")
        return cls(text, {"": some, "of": of, **({} if error is None else {"error": error})})

    @classmethod
    def of(cls, value: Cell | str | float | tuple[float, float] | None) -> Cell:
        """Text, a number, a number with its standard error, or nothing."""
        if isinstance(value, Cell):
            return value
        if isinstance(value, tuple):
            return cls.estimate(*value)
        if value is None:
            return cls("", {})
        return cls(value if isinstance(value, str) else number(value), {"": value})


@dataclass(frozen=True)
class Table:
    r"""What a result tells, for text, notebooks, frames, Markdown and LaTeX.

    Attributes:
        caption: what the numbers are of.
        header: names of the columns.
        rows: text, numbers, pairs of a number and its standard error, None for nothing, or other
            cells; a row per line.
        notes: sentences below.
        units: of each column, behind its name; () for none.
        line: how a line is printed, a format of all cells, where text and notebooks go without
            the header; "" for columns as wide as they need to be.
        left: columns that notebooks and text align to the left. The first one is in text.

    Example:
        >>> table = Table("20 data", ["site", "KL"], [["z_1", (1.25, 0.5)]])
        >>> print(table)
        20 data
          site           KL
          z_1   1.25 +- 0.50
        >>> print(table.to_markdown())
        20 data
        <BLANKLINE>
        | site | KL |
        |---|---|
        | z\_1 | 1.25 ± 0.50 |
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell | str | float | tuple[float, float] | None]]
    notes: Sequence[str] = ()
    units: Sequence[str] = ()
    line: str = ""
    left: Collection[int] = ()

    def texts(self) -> list[list[str]]:
        """The rows as they are read."""
        return [[Cell.of(cell).text for cell in row] for row in self.rows]

    def _head(self) -> list[str]:
        units = self.units or [""] * len(self.header)
        return [f"{h}, {u}" if u else h for h, u in zip(self.header, units, strict=True)]

    def __str__(self) -> str:
        """Caption, columns of equal width, notes."""
        lines, line = self.texts(), self.line
        if not line:
            lines = [self._head(), *lines]
            widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
            sides = ["<" if i in {0, *self.left} else ">" for i in range(len(widths))]
            line = "".join(f"  {{:{s}{w}}}" for s, w in zip(sides, widths, strict=True))
        return "\n".join([self.caption, *(line.format(*c).rstrip() for c in lines), *self.notes])

    def to_html(self) -> str:
        """The same for reports, everything escaped."""

        def cells(tag: str, line: Sequence[str]) -> str:
            texts = [html.escape(cell).replace("+-", "&plusmn;") for cell in line]
            tags = [tag + " style='text-align:left'" * (i in self.left) for i in range(len(line))]
            found = (f"<{t}>{c}</{tag}>" for t, c in zip(tags, texts, strict=True))
            return f"<tr>{''.join(found)}</tr>"

        body = "" if self.line else cells("th", self._head())
        for row in self.texts():
            if self.line and self.units:
                row = [f"{c} {unit}".strip() for c, unit in zip(row, self.units, strict=True)]
            body += cells("td", row)
        below = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return f"<table><caption>{html.escape(self.caption)}</caption>{body}</table>{below}"

    def _repr_html_(self) -> str:
        """The same for notebooks, where lines do not wrap and a caption does not widen columns.

        A caption that is wider than a page is a paragraph above, which wraps.
        """
        page = self.to_html().replace("<table>", "<table style='white-space:nowrap'>", 1)
        if len(self.caption) <= _WIDEST:
            return page.replace("<caption>", "<caption style='width:0;text-align:left'>", 1)
        table, caption, rest = re.split("<caption>|</caption>", page, maxsplit=2)
        return f"<p>{caption}</p>{table}{rest}"

    def to_frame(self) -> pandas.DataFrame:
        """The numbers as a ``pandas.DataFrame``; the first column is its index.

        The standard errors of a column are in one more, "KL error" for "KL".

        Raises:
            ImportError: pandas is not installed.
        """
        pandas = pandas_or("to_markdown() or to_latex()")
        # By place, for two columns may have one name
        found = [
            {(i, k): v for i, cell in enumerate(row) for k, v in Cell.of(cell).numbers.items()}
            for row in self.rows
        ]
        places = sorted(dict.fromkeys(place for row in found for place in row), key=lambda p: p[0])
        places = places if found else [(i, "") for i in range(len(self.header))]
        columns = {place: [row.get(place) for row in found] for place in places}
        index = pandas.Index(columns.pop((0, "")), name=self.header[0])
        frame = pandas.DataFrame(columns, index=index)
        frame.columns = [f"{self.header[i]} {what}".rstrip() for i, what in columns]
        return frame

    def to_markdown(self) -> str:
        """A Markdown table below its caption."""

        def told(text: str) -> str:
            text = " ".join(text.split()).translate(_MARKDOWN).replace("+-", "±")
            return text.replace("](", r"\](")

        head, *lines = ([told(c) for c in row] for row in [self._head(), *self.texts()])
        table = ["| " + " | ".join(row) + " |" for row in (head, *lines)]
        table.insert(1, "|" + "---|" * len(head))
        return "\n\n".join([told(self.caption), "\n".join(table), *map(told, self.notes)])

    def to_latex(self) -> str:
        r"""A LaTeX ``table`` with its caption, which needs ``\usepackage{booktabs}``."""

        def told(text: str) -> str:
            text = " ".join(text.split()).translate(_LATEX).replace("+-", r"$\pm$")
            return re.sub(r"(?<!\w)-(?=\d)", "$-$", text)

        head, *lines = (
            " & ".join(map(told, row)) + r" \\" for row in [self._head(), *self.texts()]
        )
        sides = "".join("l" if i in {0, *self.left} else "r" for i in range(len(self.header)))
        table = [r"\toprule", head, r"\midrule", *lines, r"\bottomrule", r"\end{tabular}"]
        above = [r"\begin{table}", r"\centering", rf"\caption{{{told(self.caption)}}}"]
        notes = [rf"\par {told(note)}" for note in self.notes]
        return "\n".join(
            [*above, rf"\begin{{tabular}}{{{sides}}}", *table, *notes, r"\end{table}"]
        )


class Tabular:
    """A result that is printed, shown in notebooks and handed on as its ``table()``."""

    def table(self) -> Table:
        """The numbers under their names."""
        raise NotImplementedError

    def __repr__(self) -> str:
        """The table as text."""
        return str(self.table())

    def _repr_html_(self) -> str:
        """The table for notebooks."""
        return self.table()._repr_html_()

    def to_html(self) -> str:
        """The table for pages, everything escaped."""
        return self.table().to_html()

    def to_frame(self) -> pandas.DataFrame:
        """The numbers of the table as a ``pandas.DataFrame``, see ``Table.to_frame``."""
        return self.table().to_frame()

    def to_markdown(self) -> str:
        """The table in Markdown."""
        return self.table().to_markdown()

    def to_latex(self) -> str:
        r"""The table in LaTeX, which needs ``\usepackage{booktabs}``."""
        return self.table().to_latex()


def pandas_or(instead: str) -> Any:
    """The module pandas; ``ImportError`` that names what to use ``instead`` where it is absent."""
    return needed("pandas", "tables", "a frame", f"use {instead}")


def lookup(row: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key in nested dicts, None if it is not there."""
    value: Any = row
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def flat(value: Any, name: str = "", *, joint: str = "/", lists: bool = True) -> dict[str, Any]:
    """What nested dicts and lists hold, by names such as "kl/z1" and "unit_kl/z1/0".

    Without ``lists`` these stay as they are.

    Example:
        >>> flat({"elbo": -9.0, "kl": {"z1": 2.5}, "beta": [1, 4]})
        {'elbo': -9.0, 'kl/z1': 2.5, 'beta/0': 1, 'beta/1': 4}
    """
    if isinstance(value, Mapping):
        items = value.items()
    elif lists and isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {name: value}
    named = {f"{name}{joint}{key}" if name else str(key): inside for key, inside in items}
    parts = [flat(inside, key, joint=joint, lists=lists) for key, inside in named.items()]
    return {key: inside for part in parts for key, inside in part.items()}
