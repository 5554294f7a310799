"""How many of the data a panel shows and measures."""

from __future__ import annotations

from collections.abc import Callable

from ..data import Dataset
from ..data.arguments import Arguments
from ..programs.autoguides import takes_all

POINTS = 2000
MEASURED = 500


def first_of(data: Dataset | Arguments, guide: Callable, most: int | None) -> Dataset | Arguments:
    """The first data; all of them for a guide that is run on no fewer."""
    return data if takes_all(guide) else data[:most]
