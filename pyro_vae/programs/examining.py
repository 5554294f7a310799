"""What each evaluation does before it counts anything."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..data import Dataset
from ..data.arguments import Arguments, Data
from .autoguides import few, take_all
from .belonging import check_belonging
from .checks import PairSummary, check_data, check_guide, compared
from .given import matched
from .running import undisturbed
from .unwrapping import is_ours


@contextlib.contextmanager
def examined(
    data: Any,
    model: Callable,
    *guides: Callable,
    arguments: Mapping[str, Any] | None = None,
    plate: str | None = None,
    labelled: bool = False,
) -> Iterator[tuple[Dataset | Arguments, tuple[PairSummary, ...]]]:
    """Evaluate a model with guides on data: ``undisturbed``, once all are found to fit.

    The data, and what is told of them, are anything that ``matched`` takes. Yields them where the
    programs are, dynamic binarisation drawn once, and what ``check_pair`` finds of each guide.
    Raises ``TypeError`` for a class or another object in place of a program, ``ValueError`` for
    data that the model cannot have produced and a guide that does not fit.
    """
    for guide in guides:
        check_guide(model, guide)
    own = {"arguments": arguments, "plate": plate, "labelled": labelled}
    data = matched(data, model, *guides, **own)
    # Not by measuring, which would make the warning of strangers one call deeper
    check_belonging(model, *guides)
    with undisturbed(model, *guides, device=data.device):
        x, y = data.batch(torch.arange(len(data), device=data.device))
        check_data(model, x, y)
        pairs = tuple(_summary(model, guide, x, y) for guide in guides)
        if isinstance(x, Arguments):
            yield x, pairs
            return
        kept = {"factors": data.factors, "factor_names": data.factor_names}
        yield Dataset(x, y, channels="first", names=data.names or None, **kept), pairs


def _summary(model: Callable, guide: Callable, x: Data, y: Tensor | None) -> PairSummary:
    """What ``check_pair`` finds on a part of the data, or on all for programs of a fixed size."""
    part = few(guide, x, y)
    try:
        return compared(model, guide, *part)
    except Exception as error:  # whatever a program raises
        if is_ours(guide) or len(part[0]) == len(x):
            raise
        try:
            found = compared(model, guide, x, y)
        except Exception as whole:
            # Of programs that run on all data alone it is that which tells what is wrong
            raise (error if isinstance(whole, torch.OutOfMemoryError) else whole) from None
    take_all(guide)
    return found
