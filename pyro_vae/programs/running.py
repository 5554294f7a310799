"""Running a pair, with and without traces left behind."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.poutine import Trace
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.mask_messenger import MaskMessenger
from pyro.poutine.scale_messenger import ScaleMessenger
from torch import Tensor

from ..data.arguments import Data
from ..ground.streams import forked
from ..ground.turns import turn
from .autoguides import check_messenger, check_rows
from .belonging import check_belonging, is_same
from .calling import arguments_of
from .missing import Absent, filled, has_missing
from .modes import evaluating
from .plates import PROGRAM
from .sites import check_latents, check_observed
from .tracing import refuse_missing
from .unwrapping import handlers_of, innermost, name_of

# What torch says about parameters outside their range
_REFUSED = re.compile(
    r"Expected parameter (?P<parameter>\w+) .*? distribution (?P<distribution>\w+)"
)
_NOT_FINITE = re.compile(r"\b(nan|inf)\b")
_WEIGHING = (ScaleMessenger, MaskMessenger)


def trace_pair(
    model: Callable,
    guide: Callable,
    x: Data,
    y: Tensor | None = None,
    *,
    enumerating: bool = True,
    drawing: contextlib.AbstractContextManager | None = None,
) -> tuple[Trace, Trace]:
    """Traces of the model, replayed against the guide, and of the guide, which runs ``drawing``.

    The model is without sites of modalities that are absent to a guide of several.
    Unless ``enumerating`` is false the model alone may have latent sites marked for enumeration.
    Raises ``ValueError`` for other latent sites of one that the other does not have, and
    ``FloatingPointError`` for a distribution whose parameters are NaN or infinite.
    """
    inner = innermost(guide)
    if isinstance(inner, AutoGuide):
        check_rows(guide, len(x))
    inner_leads = getattr(inner, "leads", False)
    with naming_overflow(guide, x, y):
        if isinstance(inner, GuideMessenger):
            check_messenger(model, guide)
            args, kwargs = arguments_of(model, x, y)
            with drawing or contextlib.nullcontext():
                guide(*args, **kwargs)
            model_trace, guide_trace = guide.get_traces()
            vars(model_trace)[PROGRAM] = model
        elif drawing is None and inner_leads and (led := traced_as_led(model, guide, x, y)):
            model_trace, guide_trace = led
        else:
            with drawing or contextlib.nullcontext():
                guide_trace = traced(guide, x, y)
            names = getattr(inner, "may_be_none", ())
            there = Absent(names)(model) if names else model
            model_trace = traced(poutine.replay(there, trace=guide_trace), x, y)
    check_observed(model_trace)
    built = hasattr(inner, "runs_model")
    check_latents(model_trace, guide_trace, enumerating=enumerating, built=built)
    return model_trace, guide_trace


def traced_as_led(
    model: Callable, guide: Callable, x: Data, y: Tensor | None = None
) -> tuple[Trace, Trace] | None:
    """Traces of a model on the latents of a guide that runs it, and of the guide, by one run.

    None where that would be other latents than the guide draws: for any other guide, and under
    handlers that do more than weigh sites.
    """
    inner = innermost(guide)
    if not getattr(inner, "leads", False) or not is_same(inner.model, model):
        return None
    around, own = handlers_of(model), handlers_of(inner.model)
    outer = len(around) - len(own)
    if around[outer:] != own or not all(map(_only_weighs, around[:outer] + handlers_of(guide))):
        return None
    with inner.leading(x, y) as leading:
        with leading:
            model_trace = traced(model, x, y)
        return model_trace, traced(guide, x, y)


def _only_weighs(handler: Any) -> bool:
    """Whether it leaves data, distributions and values of sites alone."""
    return isinstance(handler, _WEIGHING) or getattr(handler, "only_weighs", False)


def traced(program: Callable, x: Data, y: Tensor | None = None) -> Trace:
    """What a program does with data, and with labels where it takes them.

    Raises ``TypeError`` for a program that needs more than these.
    """
    args, kwargs = arguments_of(program, x, y)
    try:
        trace = poutine.trace(program).get_trace(*args, **kwargs)
    except TypeError:
        refuse_missing(program, args, kwargs)
        raise
    vars(trace)[PROGRAM] = program
    return trace


@contextlib.contextmanager
def naming_overflow(
    guide: Callable | None = None, x: Data | None = None, y: Tensor | None = None
) -> Iterator[None]:
    """A distribution of NaN or infinite parameters is an overflow, with something to do about.

    Unless it is NaN of data, which are missing, to a guide that does not know of it.
    """
    try:
        yield
    except ValueError as error:
        found = _REFUSED.match(str(error))
        if found is None or not _NOT_FINITE.search(str(error)):
            raise
        if guide is not None and has_missing(x) and _breaks(guide, x, y):
            if not _breaks(guide, filled(x), y):
                raise unaware(guide) from error
        raise overflow(f"{found['parameter']} of a {found['distribution']}") from error


def _breaks(program: Callable, x: Data, y: Tensor | None) -> bool:
    with undisturbed(program, device=x.device), poutine.block():
        try:
            traced(program, x, y)
        except ValueError:
            return True
    return False


def unaware(guide: Callable) -> ValueError:
    """The error for a guide to which NaN does not mean missing."""
    return ValueError(
        f"guide: expected one for data of which some are missing, got a {name_of(guide)} that "
        "does not know of it: build it for the handled model, as in "
        "guides.BottomUp(handlers.missing(vae)), or let your own see x.nan_to_num() and x.isnan()"
    )


def overflow(what: str) -> FloatingPointError:
    """The error for what became NaN or infinite, with something to do about."""
    return FloatingPointError(
        f"{what} became NaN or infinite: rescale data of very large values, lower lr, set "
        "clip_norm, or bound the scales"
    )


def shown_to(guide: Callable, model: Callable) -> Callable:
    """The model without sites of modalities that are absent to a guide of several."""
    names = getattr(innermost(guide), "may_be_none", ())
    return Absent(names)(model) if names else model


@contextlib.contextmanager
def measuring(*programs: Callable, device: torch.device) -> Iterator[None]:
    """Evaluate a model with guides: ``undisturbed``, once they are found to belong together.

    Of guides of several modalities absent ones are left out of the model.
    """
    check_belonging(*programs)
    names: tuple[str, ...] = ()
    for program in programs:
        names += getattr(program, "may_be_none", ())
    around = Absent(names) if names else contextlib.nullcontext()
    with undisturbed(*programs, device=device), around:
        yield


@contextlib.contextmanager
def undisturbed(*programs: Callable, device: torch.device) -> Iterator[None]:
    """Leave no trace: evaluation mode, no gradients, RNG restored afterwards."""
    with turn, forked(device), evaluating(*programs):
        yield
