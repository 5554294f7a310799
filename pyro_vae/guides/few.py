"""Some data on which guides that are made of guides find out what these sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..data.arguments import Arguments, Data
from ..programs.calling import missing
from ..programs.given import matched
from ..programs.inspecting import FEW
from ..programs.labels import covariates_of, placeholders
from ..programs.placing import like as like_of
from ..programs.unwrapping import innermost


def few_data(
    model: Callable, guides: tuple[nn.Module, ...], like: Any = None
) -> tuple[Data, Tensor | None] | None:
    """A few data of a model, and labels where it needs them: of ``like``, else what guides keep.

    They are on the guides' device and of their floating type. None where nobody has any.
    """
    if like is None:
        kept = [g.few for g in guides if getattr(g, "few", None) is not None]
        if not kept:
            return None
        x, y = kept[0]
        like = x if y is None else {"x": x, "y": y}
    # Parts may take less than the model
    found = matched(like, model, name="like")
    x, y = found.x[:FEW], None if found.y is None else found.y[:FEW]
    if (one := like_of(*guides, model)) is not None:
        x = x.to(one.device, one.dtype)
        y = None if y is None else y.to(one.device)
    if y is None and isinstance(x, Tensor) and _needs_labels(model):
        y = placeholders(model, len(x), x.device).get("y")
    return x, y


def _needs_labels(model: Callable) -> bool:
    if covariates_of(model) is not None:
        return True
    if condition := getattr(innermost(model), "condition", None):
        return condition > 0
    return "y" in missing(model, Arguments((None,)))
