"""Pyro's autoguides, most of whose parameters belong to data by their place in a batch."""

from __future__ import annotations

from typing import Any

from pyro.infer.autoguide import AutoGuide, AutoMessenger
from torch import Tensor

from ..ground.internals import prototype_frames
from .unwrapping import innermost, name_of


def is_autoguide(guide: Any) -> bool:
    """Whether this is one of Pyro's autoguides."""
    return isinstance(innermost(guide), AutoGuide | AutoMessenger)


def is_per_datum(guide: Any) -> bool:
    """Whether an autoguide has parameters for each datum, or may have: it was not run yet."""
    guide = innermost(guide)
    if not isinstance(guide, AutoGuide):
        return isinstance(guide, AutoMessenger)
    parts = [m for m in guide.modules() if isinstance(m, AutoGuide) and m is not guide]
    return any(map(_is_per_datum, parts or [guide]))


def _is_per_datum(guide: AutoGuide) -> bool:
    if guide.prototype_trace is None:
        return True
    given = guide.prototype_trace.nodes["_INPUT"].get("args", ())
    sizes = [len(x) for x in given if isinstance(x, Tensor) and x.dim()]
    # Observed sites, which would tell the data plate, are not in this trace
    frames = prototype_frames(guide).values()
    return any(not sizes or sizes[0] in (f.size, f.full_size) for f in frames)


def few(guide: Any, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The first two data, enough to try a pair on; all for an autoguide with a place for each."""
    return (x, y) if is_per_datum(guide) else (x[:2], None if y is None else y[:2])


def check_batch(guide: Any, n: int) -> None:
    """Raise ``ValueError`` for an autoguide of another number of data, or that runs the model."""
    if not is_per_datum(guide):
        return
    if isinstance(innermost(guide), AutoMessenger):
        raise ValueError(
            f"guide: {name_of(guide)} runs the model itself, data included, so that their density "
            "would be part of the guide's: use an autoguide such as AutoNormal, or guides.PerDatum"
        )
    frames = prototype_frames(innermost(guide))
    sizes = [frame.size for frame in frames.values()]
    if sizes and n not in sizes:
        raise ValueError(
            f"guide: {name_of(guide)} has parameters for each of {max(sizes)} data, got {n}: "
            "pass the data of its first run, all in their order, or use guides.PerDatum for "
            "minibatches and an amortised guide, such as guides.BottomUp, for other data"
        )
