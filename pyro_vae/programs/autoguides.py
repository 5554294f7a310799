"""Pyro's autoguides, whose parameters belong to data by their place in a batch."""

from __future__ import annotations

from typing import Any

from pyro.infer.autoguide import AutoGuide, AutoMessenger
from pyro.poutine.guide import GuideMessenger
from torch import Tensor

from ..data.arguments import Data
from ..ground.internals import prototype_frames
from .unwrapping import innermost, name_of


def is_autoguide(guide: Any) -> bool:
    """Whether this is one of Pyro's autoguides."""
    return isinstance(innermost(guide), AutoGuide | AutoMessenger)


def few(guide: Any, x: Data, y: Tensor | None, n: int = 1000) -> tuple[Data, Tensor | None]:
    """The first data, as many as a batch of an evaluation; all of them for an autoguide."""
    return (x, y) if is_autoguide(guide) else (x[:n], None if y is None else y[:n])


def is_messenger(guide: Any) -> bool:
    """Whether a guide runs the model itself, with other distributions, as AutoMessengers do."""
    return isinstance(innermost(guide), GuideMessenger)


def check_batch(guide: Any, n: int) -> None:
    """Raise ``ValueError`` for an autoguide of another number of data, or that runs the model."""
    if is_messenger(guide):
        raise ValueError(
            f"guide: {name_of(guide)} runs the model itself, data included, so that their density "
            "would be part of the guide's: use an autoguide such as AutoNormal, or guides.PerDatum"
        )
    check_rows(guide, n)


def check_rows(guide: Any, n: int) -> None:
    """Raise ``ValueError`` for an autoguide of another number of data."""
    inner = innermost(guide)
    frames = prototype_frames(inner) if isinstance(inner, AutoGuide) else {}
    sizes = [frame.size for frame in frames.values()]
    if sizes and n and n not in sizes:
        raise ValueError(
            f"guide: {name_of(guide)} has parameters for each of {max(sizes)} data, got {n}: "
            "pass the data of its first run, all in their order, or use guides.PerDatum for "
            "minibatches and an amortised guide, such as guides.BottomUp, for other data"
        )
