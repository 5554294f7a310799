"""What missing data can be trained on, and by whom."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..data.arguments import Arguments, columns_of, named
from ..programs.missing import takes_missing
from ..programs.program import Guide
from ..programs.running import unaware
from ..programs.unwrapping import innermost
from .feeds import Loaded, Resident


def check_incomplete(feed: Resident | Loaded, guide: Callable) -> None:
    """Raise ``ValueError`` where missing data cannot be trained on with a guide.

    Those are of guides that do not know of it, and data without any value in a row, or in an
    element of all rows, where all are at hand.
    """
    if isinstance(innermost(guide), Guide) and not takes_missing(guide):
        raise unaware(guide)
    if isinstance(feed, Loaded):
        return
    columns = columns_of(feed.data.x)
    gone = [column.reshape(len(column), -1).isnan() for column in columns]
    keys = feed.data.columns if isinstance(feed.data, Arguments) else ("x",)
    for key, lost in zip(keys, gone, strict=True):
        if (never := lost.all(0)).any():
            first = int(never.long().argmax())
            table = () if isinstance(feed.data, Arguments) else feed.data.columns
            told = f"column {table[first].name!r}" if table else f"element {first}"
            raise ValueError(
                f"data: expected each element of {named(key)} to be seen in some row, got "
                f"{int(never.sum())} of {len(never)} that are missing in all {len(lost)}, the "
                f"first of them {told}: leave these elements out"
            )
    if (empty := torch.cat(gone, 1).all(1)).any():
        raise ValueError(
            f"data: expected something to be seen in each row, got {int(empty.sum())} of "
            f"{len(empty)} without, the first in row {int(empty.long().argmax())}: leave these "
            "rows out"
        )
