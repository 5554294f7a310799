"""Which model a guide belongs to: the one that it was built for, or trained with since."""

from __future__ import annotations

import itertools
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from ..data.arguments import Data
from ..ground.references import WeakReference
from ..ground.streams import forked
from .calling import call
from .methods import as_program, held_by
from .modes import evaluating
from .program import Guide
from .unwrapping import below_handlers, innermost, name_of
from .values import check_programs

_TRAINED_WITH = "trained_with"
_ADVICE = (
    "build the guide with this model; or copy, pickle and average both together, such as "
    "copy.deepcopy((model, guide))"
)
# guide -> models with which it was told not to belong to them
_told: weakref.WeakKeyDictionary[nn.Module, weakref.WeakSet[nn.Module]] = (
    weakref.WeakKeyDictionary()
)


def join(model: Callable, guide: Callable) -> None:
    """Take down that a guide is trained with a model; copies of the two together know it, too."""
    model, guide = innermost(model), innermost(guide)
    if not (isinstance(model, nn.Module) and isinstance(guide, nn.Module)):
        return
    for part in [guide, *_parts(guide)]:
        if _model_of(part) is not model:
            # Past nn.Module, which need not know
            object.__setattr__(part, _TRAINED_WITH, WeakReference(model))


def check_borrowed(model: Callable, guide: Callable) -> list[Guide]:
    """Parts of a guide built for another model; ``ValueError`` where one uses its tensors."""
    inner, outer = innermost(model), innermost(guide)
    strangers: list[Guide] = []
    for part in _parts(outer) if isinstance(outer, nn.Module) else ():
        if part.runs_model and not is_same(part.model, model):
            raise _foreign(model, part)
        known = not isinstance(inner, nn.Module) or part is not innermost(part)
        if not (known or innermost(part.model) in inner.modules()):
            strangers.append(part)
    for part in strangers:
        used = _tensors(*held_by(part.model)).keys() & _tensors(part).keys()
        used |= _tensors(*part.borrowed_modules).keys()
        if not used <= _tensors(as_program(model)).keys():
            raise _foreign(model, part)
    return strangers


def check_run(model: Callable, guide: Callable, x: Data, y: Tensor | None = None) -> None:
    """The same for one that does not say so: modules of another model run while it does."""
    ran: list[nn.Module] = []
    for part in check_borrowed(model, guide):
        held = _tensors(as_program(model)).keys()
        modules = [m for module in held_by(part.model) for m in module.modules()]
        foreign = [m for m in modules if not _tensors(m).keys() <= held]
        hooks = [m.register_forward_pre_hook(lambda m, _: ran.append(m)) for m in foreign]
        try:
            with evaluating(model, guide), poutine.block(), forked(x.device):
                call(guide, x, y)
        finally:
            for hook in hooks:
                hook.remove()
        if ran:
            raise _foreign(model, part)


def check_belonging(model: Callable, *guides: Callable) -> None:
    """Raise for a guide that uses another model's tensors; tell, once, of one trained with it.

    Models with the same weights are one and the same here. Raises ``TypeError`` for what is no
    program.
    """
    check_programs(model, *guides)
    program, model = model, innermost(model)
    for guide in map(innermost, guides):
        if isinstance(guide, nn.Module):
            check_borrowed(program, guide)
        if not (isinstance(guide, nn.Module) and isinstance(model, nn.Module)):
            continue
        own = _model_of(next(iter(_parts(guide)), guide))
        told = _told.get(guide, ())
        if own is None or own in model.modules() or model in told or _same(model, own):
            continue
        _told.setdefault(guide, weakref.WeakSet()).add(model)
        warnings.warn(
            f"this {name_of(guide)} belongs to another {name_of(own)} than it is evaluated with, "
            f"whose posterior it does not approximate: {_ADVICE}",
            stacklevel=5,
        )


def is_same(one: Callable, other: Callable) -> bool:
    """Whether two programs are one and the same below all handlers."""
    # A method of a plain object is another one each time it is asked for, but equal
    return as_program(below_handlers(one)) == as_program(below_handlers(other))


def _foreign(model: Callable, guide: Guide) -> ValueError:
    return ValueError(
        f"guide: this {name_of(guide)} uses the model that it was built for, which is "
        f"another one than this {name_of(model)}: {_ADVICE}"
    )


def _parts(guide: nn.Module) -> list[Guide]:
    return [part for part in guide.modules() if isinstance(part, Guide)]


def _model_of(guide: nn.Module) -> nn.Module | None:
    trained_with = getattr(guide, _TRAINED_WITH, lambda: None)()
    model = innermost(getattr(guide, "model", None)) if trained_with is None else trained_with
    return model if isinstance(model, nn.Module) else None


def _tensors(*modules: nn.Module) -> dict[int, Tensor]:
    return {id(t): t for m in modules for t in itertools.chain(m.parameters(), m.buffers())}


def _same(one: nn.Module, other: nn.Module) -> bool:
    """Whether all tensors are equal."""
    mine, others = one.state_dict(), other.state_dict()
    return mine.keys() == others.keys() and all(map(_equal, mine.values(), others.values()))


def _equal(a: Any, b: Any) -> bool:
    return a.shape == b.shape and a.device == b.device and torch.equal(a, b)
