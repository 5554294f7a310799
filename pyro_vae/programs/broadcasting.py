"""What is compared once, wherever the traces of a pair are first read."""

from __future__ import annotations

import operator
import sys
import warnings
from typing import Any

from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine import Trace

from ..distributions import base_of
from .plates import DataPlate
from .sites import is_point_mass, kinds

_vectorized = operator.attrgetter("vectorized")


def check_shapes(
    model_trace: Trace, guide_trace: Trace, data: DataPlate, *, observing: bool = False
) -> None:
    """Compare value, distribution and plates of every site of a pair.

    torch broadcasts a value against a distribution of another shape, and counts it as often. That
    no dimension is left undeclared is seen by ``Contributions``, which reads the densities. Raises
    ``ValueError``, also for a guide that observes something, unless it may be ``observing``, and
    for a site of the model that is marked as the guide's alone.
    """
    p, q = kinds(model_trace), kinds(guide_trace)
    if marked := p.marked:
        raise ValueError(
            f"site {marked[0]!r} of the model is marked is_auxiliary, which is for sites that "
            "only the guide has: remove the mark"
        )
    if q.observed and not observing and (seen := observed_by(guide_trace)):
        as_model = " as the model does" if seen[0] in p.observed else ""
        raise ValueError(
            f"guide: expected one that draws latents given the data, it observes {seen[0]!r}"
            f"{as_model}, whose log q counts against the bound, which trains it to be wrong: hide "
            f"it there, by poutine.block(..., hide={seen}), or pass the Pyro objective that was "
            "written for the guide, as elbo= of Trainer or loss= of infer.SVI"
        )
    for name, site in (*p.random.items(), *q.random.items()):
        if _is_compared(site):
            _check_shape(name, site, data)


def observed_by(guide_trace: Trace) -> list[str]:
    """Sites that a guide observes and that have a density: no factors, no point masses."""
    found = kinds(guide_trace)
    sites = ((s, found.random[s]["fn"]) for s in found.observed)
    return [s for s, fn in sites if fn.event_shape != (0,) and not is_point_mass(fn)]


def warn_enumerated(guide_trace: Trace) -> None:
    """Tell that sites which are marked for enumeration are drawn, as ``Trace_ELBO`` does."""
    if marked := kinds(guide_trace).enumerated:
        warnings.warn(
            f"sites {marked} are configured for enumeration, which these estimators do not do: "
            "they are drawn, with a score-function gradient; remove config_enumerate, or pass "
            "elbo='enumerate' to sum them out",
            stacklevel=2,
        )


def _is_compared(site: dict[str, Any]) -> bool:
    """Whether a site has a value of its own: neither ``pyro.deterministic`` nor a factor."""
    known = isinstance(site["fn"], TorchDistributionMixin)
    recorded = site["infer"].get("_deterministic", False)
    return known and not recorded and site["fn"].event_shape != (0,)


def _event_shape(distribution: Any, value: tuple[int, ...]) -> tuple[int, ...]:
    """Of a distribution of sequences of any duration, with that of the value."""
    event, inner = tuple(distribution.event_shape), base_of(distribution)
    # Slow to import, and whoever has one has imported it
    mue = sys.modules.get("pyro.contrib.mue.missingdatahmm")
    missing = mue is not None and isinstance(inner, mue.MissingDataDiscreteHMM)
    if not missing and getattr(inner, "duration", 0) is not None:
        return event
    time = len(inner.event_shape)
    return (*event[:-time], *value[len(value) - time :][:1], *event[len(event) - time + 1 :])


def _check_shape(name: str, site: dict[str, Any], data: DataPlate) -> None:
    fn, got = site["fn"], tuple(getattr(site["value"], "shape", ()))
    event = tuple(fn.event_shape)
    # One number may be observed for all data
    if got == () == event:
        return
    plates, batch = [*filter(_vectorized, site["cond_indep_stack"])], [*fn.batch_shape]
    for plate in plates:
        # A handler between two plates keeps the outer one from the distribution
        batch = [1] * (-plate.dim - len(batch)) + batch
        if batch[plate.dim] == 1 and plate.size > 0:
            batch[plate.dim] = plate.size
    if got == (*batch, *event):
        return
    event = _event_shape(fn, got)
    expected = (*batch, *event)
    if got == expected:
        return
    over_data = data.frame(site)
    least = len(event) - (over_data.dim if over_data else -1)
    # Data may be the same under each of a plate to their left
    if len(got) >= least and got == expected[len(expected) - len(got) :]:
        return
    raise ValueError(
        f"site {name!r}: expected a value of shape {expected}, from the batch shape "
        f"{tuple(fn.batch_shape)} and event shape {event} of its {type(fn).__name__} and its "
        f"plates {[f.name for f in plates]}, got {got}, which torch would broadcast, so that data "
        "count more than once: give the distribution parameters of the value's shape (or the "
        "value the distribution's, with squeeze, unsqueeze or expand), and declare the dimensions "
        "of one datum with .to_event"
    )
