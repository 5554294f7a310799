"""Pyro's autoguides, whose parameters belong to data by their place in a batch."""

from __future__ import annotations

from typing import Any

from pyro.infer.autoguide import AutoGuide, AutoMessenger
from pyro.poutine.guide import GuideMessenger
from torch import Tensor

from ..ground.internals import prototype_frames
from .unwrapping import innermost, name_of


def is_autoguide(guide: Any) -> bool:
    """Whether this is one of Pyro's autoguides."""
    return isinstance(innermost(guide), AutoGuide | AutoMessenger)


def few(guide: Any, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The first two data, enough to try a pair on; all of them for an autoguide."""
    return (x, y) if is_autoguide(guide) else (x[:2], None if y is None else y[:2])


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


def check_messenger(model: Any, guide: Any) -> None:
    """Raise ``ValueError`` unless a guide that runs the model runs this one, without handlers."""
    messenger = innermost(guide)
    if messenger is not guide or messenger.model is not model:
        raise ValueError(
            f"guide: {name_of(guide)} runs the model that it was made of, got another one, or "
            "handlers around one of the two: pass guide.model and the guide as they are"
        )


def check_rows(guide: Any, n: int) -> None:
    """Raise ``ValueError`` for an autoguide of another number of data."""
    inner = innermost(guide)
    if not isinstance(inner, AutoGuide):
        return
    sizes = [frame.size for frame in prototype_frames(inner).values()]
    if sizes and n not in sizes:
        raise ValueError(
            f"guide: {name_of(guide)} has parameters for each of {max(sizes)} data, got {n}: "
            "pass the data of its first run, all in their order, or use guides.PerDatum for "
            "minibatches and an amortised guide, such as guides.BottomUp, for other data"
        )
