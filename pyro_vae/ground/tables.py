"""What the reports share: numbers with their standard errors, tables as text and as HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


def number(value: float) -> str:
    """Two decimals, or two digits where these would show nothing."""
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def with_error(value: float, error: float) -> str:
    """A number and its standard error, left out where there is none."""
    return number(value) if math.isnan(error) else f"{number(value)} +- {number(error)}"


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean of (n,) and its standard error, NaN for a single value."""
    values = values.double()
    n = len(values)
    return float(values.mean()), float(values.std() / math.sqrt(n)) if n > 1 else math.nan


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, the first to the left, the others to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  "
        + "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def html_table(
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    notes: Sequence[str] = (),
) -> str:
    """The same for notebooks and reports, everything escaped."""

    def cells(tag: str, line: Sequence[str]) -> str:
        texts = (html.escape(cell).replace("+-", "&plusmn;") for cell in line)
        return "<tr>" + "".join(f"<{tag}>{text}</{tag}>" for text in texts) + "</tr>"

    body = cells("th", header) + "".join(cells("td", row) for row in rows)
    below = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return f"<table><caption>{html.escape(caption)}</caption>{body}</table>{below}"


def lookup(row: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key in nested dicts, None if it is not there."""
    value: Any = row
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value
