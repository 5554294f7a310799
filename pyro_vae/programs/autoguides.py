"""Pyro's autoguides, most of whose parameters belong to data by their place in a batch."""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakSet

from pyro.infer.autoguide import AutoGuide, AutoMessenger
from pyro.poutine.guide import GuideMessenger
from torch import Tensor, nn

from ..data.arguments import Data
from ..ground.internals import AUTOGUIDE_MODEL, prototype_frames
from .unwrapping import innermost, is_ours, name_of


def is_autoguide(guide: Any) -> bool:
    """Whether this is one of Pyro's autoguides."""
    return isinstance(innermost(guide), AutoGuide | AutoMessenger)


# Guides that were found to run on all data and on no part of them
_of_all: WeakSet[Any] = WeakSet()


def take_all(guide: Any) -> None:
    """Tell that a guide, with its model, runs on all data and on no part of them."""
    _of_all.add(innermost(guide))


def takes_all(guide: Any) -> bool:
    """Whether a guide is to be run on all data at once."""
    return is_per_datum(guide) or (bool(_of_all) and innermost(guide) in _of_all)


def few(guide: Any, x: Data, y: Tensor | None, n: int = 1000) -> tuple[Data, Tensor | None]:
    """The first data, as many as a batch of an evaluation.

    All for one that takes no fewer, as an autoguide with a place for each; of a guide of this
    library, which takes any number, the first two.
    """
    n = min(n, 2) if is_ours(guide) else n
    return (x, y) if takes_all(guide) else (x[:n], None if y is None else y[:n])


def is_messenger(guide: Any) -> bool:
    """Whether a guide runs the model itself, with other distributions, as AutoMessengers do."""
    return isinstance(innermost(guide), GuideMessenger)


def is_per_datum(guide: Any) -> bool:
    """Whether an autoguide has parameters for each datum, or may have: it was not run yet."""
    guide = innermost(guide)
    if not isinstance(guide, AutoGuide):
        return isinstance(guide, AutoMessenger)
    parts = [part for part in _autoguides(guide) if part is not guide]
    return any(map(_is_per_datum, parts or [guide]))


def copies(model: nn.Module, guide: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Copies of a pair, those of autoguides with the copy of their model.

    Pyro copies these without it, and takes it from the originals, which get it back.
    """
    parts = _autoguides(guide)
    before = [dict(vars(part)) for part in parts]
    models = [state[AUTOGUIDE_MODEL] for state in before]
    try:
        model, guide, models = copy.deepcopy((model, guide, models))
    finally:
        for part, state in zip(parts, before, strict=True):
            vars(part).update(state)
    for part, own in zip(_autoguides(guide), models, strict=True):
        vars(part)[AUTOGUIDE_MODEL] = own
    return model, guide


def _autoguides(guide: nn.Module) -> list[AutoGuide]:
    return [part for part in guide.modules() if isinstance(part, AutoGuide)]


def _is_per_datum(guide: AutoGuide) -> bool:
    if guide.prototype_trace is None:
        return True
    given = guide.prototype_trace.nodes["_INPUT"].get("args", ())
    sizes = [len(x) for x in given if isinstance(x, Tensor) and x.dim()]
    # Observed sites, which would tell the data plate, are not in this trace
    frames = prototype_frames(guide).values()
    return any(not sizes or sizes[0] in (f.size, f.full_size) for f in frames)


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
    if not isinstance(inner, AutoGuide) or not is_per_datum(guide):
        return
    sizes = [frame.size for frame in prototype_frames(inner).values()]
    if sizes and n and n not in sizes:
        raise ValueError(
            f"guide: {name_of(guide)} has parameters for each of {max(sizes)} data, got {n}: "
            "pass the data of its first run, all in their order, or use guides.PerDatum for "
            "minibatches and an amortised guide, such as guides.BottomUp, for other data"
        )
