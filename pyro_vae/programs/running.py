"""Running a pair, with and without traces left behind."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.poutine import Trace
from pyro.poutine.guide import GuideMessenger
from torch import Tensor

from ..data.arguments import Data
from ..ground.streams import forked
from ..ground.turns import turn
from .autoguides import check_messenger, check_rows
from .belonging import check_belonging
from .calling import arguments_of
from .modes import evaluating
from .plates import PROGRAM
from .sites import check_latents, check_observed
from .tracing import refuse_missing
from .unwrapping import innermost

# What torch says about parameters outside their range
_REFUSED = re.compile(
    r"Expected parameter (?P<parameter>\w+) .*? distribution (?P<distribution>\w+)"
)
_NOT_FINITE = re.compile(r"\b(nan|inf)\b")


def trace_pair(
    model: Callable,
    guide: Callable,
    x: Data,
    y: Tensor | None = None,
    *,
    enumerating: bool = False,
    drawing: contextlib.AbstractContextManager | None = None,
) -> tuple[Trace, Trace]:
    """Traces of the model, replayed against the guide, and of the guide, which runs ``drawing``.

    Where ``enumerating``, the model alone may have latent sites that are marked for enumeration.
    Raises ``ValueError`` for other latent sites of one that the other does not have, and
    ``FloatingPointError`` for a distribution whose parameters are NaN or infinite.
    """
    inner = innermost(guide)
    if isinstance(inner, AutoGuide):
        check_rows(guide, len(x))
    with naming_overflow():
        if isinstance(inner, GuideMessenger):
            check_messenger(model, guide)
            args, kwargs = arguments_of(model, x, y)
            with drawing or contextlib.nullcontext():
                guide(*args, **kwargs)
            model_trace, guide_trace = guide.get_traces()
            vars(model_trace)[PROGRAM] = model
        elif drawing is None and getattr(inner, "leads", False):
            with inner.leading(x, y) as leading:
                with leading:
                    model_trace = traced(model, x, y)
                guide_trace = traced(guide, x, y)
        else:
            with drawing or contextlib.nullcontext():
                guide_trace = traced(guide, x, y)
            model_trace = traced(poutine.replay(model, trace=guide_trace), x, y)
    check_observed(model_trace)
    check_latents(model_trace, guide_trace, enumerating=enumerating)
    return model_trace, guide_trace


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
def naming_overflow() -> Iterator[None]:
    """A distribution of NaN or infinite parameters is an overflow, with something to do about."""
    try:
        yield
    except ValueError as error:
        found = _REFUSED.match(str(error))
        if found is None or not _NOT_FINITE.search(str(error)):
            raise
        raise overflow(f"{found['parameter']} of a {found['distribution']}") from error


def overflow(what: str) -> FloatingPointError:
    """The error for what became NaN or infinite, with something to do about."""
    return FloatingPointError(
        f"{what} became NaN or infinite: rescale data of very large values, lower lr, set "
        "clip_norm, or bound the scales"
    )


@contextlib.contextmanager
def measuring(*programs: Callable, device: torch.device) -> Iterator[None]:
    """Evaluate a model with guides: ``undisturbed``, once they are found to belong together."""
    check_belonging(*programs)
    with undisturbed(*programs, device=device):
        yield


@contextlib.contextmanager
def undisturbed(*programs: Callable, device: torch.device) -> Iterator[None]:
    """Leave no trace: evaluation mode, no gradients, RNG restored afterwards."""
    with turn, forked(device), evaluating(*programs):
        yield
