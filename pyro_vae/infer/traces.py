"""Running a pair and reading its traces: site by site, datum by datum."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..labels import accepts_labels as accepts_labels
from ..labels import label_arguments
from ..programs import evaluating, is_latent
from .belonging import check_belonging

# What torch says about parameters outside their range
_REFUSED = re.compile(
    r"Expected parameter (?P<parameter>\w+) .*? distribution (?P<distribution>\w+)"
)
_NOT_FINITE = re.compile(r"\b(nan|inf)\b")


def trace_pair(
    model: Callable, guide: Callable, x: Tensor, y: Tensor | None = None
) -> tuple[Trace, Trace]:
    """Traces of the model, replayed against the guide, and of the guide.

    Raises:
        ValueError: latent sites of one that the other does not have.
        FloatingPointError: a distribution whose parameters are NaN or infinite.
    """
    with naming_overflow():
        guide_trace = poutine.trace(guide).get_trace(x, **label_arguments(guide, y))
        replayed = poutine.replay(model, trace=guide_trace)
        model_trace = poutine.trace(replayed).get_trace(x, **label_arguments(model, y))
    check_sites(latent_sites(model_trace), latent_sites(guide_trace))
    return model_trace, guide_trace


@contextlib.contextmanager
def naming_overflow() -> Iterator[None]:
    """A distribution of NaN or infinite parameters is an overflow, with something to do about."""
    try:
        yield
    except ValueError as error:
        found = _REFUSED.match(str(error))
        if found is None or not _NOT_FINITE.search(str(error)):
            raise
        raise FloatingPointError(
            f"{found['parameter']} of a {found['distribution']} became NaN or infinite: rescale "
            "data of very large values, lower lr, set clip_norm, or bound the scales"
        ) from error


def check_sites(in_model: list[str], in_guide: list[str]) -> None:
    """Raise ``ValueError`` unless both programs have the same latent sites."""
    problems = [
        f"latent site {s!r} of the model is missing in the guide (it has {in_guide})"
        for s in in_model
        if s not in in_guide
    ] + [
        f"site {s!r} of the guide is no latent site of the model (it has {in_model})"
        for s in in_guide
        if s not in in_model
    ]
    if problems:
        raise ValueError(
            "guide: " + "; ".join(problems) + ". Name the sites alike, or build it for this model"
        )


def latent_sites(trace: Trace) -> list[str]:
    """Latent sites in the order in which the program samples them."""
    return [name for name, site in trace.nodes.items() if is_latent(site)]


def observed_sites(trace: Trace) -> list[str]:
    """Observed sites, factors among them."""
    return [
        name
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and site["is_observed"] and not site_is_subsample(site)
    ]


def is_random(name: str, site: dict[str, Any]) -> bool:
    """Whether a site of a trace has a log-probability of its own: no subsample of a plate."""
    return site["type"] == "sample" and not site_is_subsample(site)


def point_masses(trace: Trace) -> list[str]:
    """Latent sites of a guide's trace whose distribution has no density."""
    return [s for s in latent_sites(trace) if is_point_mass(trace.nodes[s]["fn"])]


def is_point_mass(distribution: Any) -> bool:
    """Whether a distribution is a ``Delta``, however its dimensions were declared."""
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return isinstance(distribution, Delta)


def per_datum(value: Tensor, site: dict[str, Any], shape: tuple[int, ...]) -> Tensor:
    """Sum a site's log-probability (or KL) over every dimension but those of the data plate.

    Args:
        value: log-probability of the site, its batch shape.
        site: the trace's node, whose plates name the dimensions.
        shape: (n,), or (k, n) under an outer plate of k samples.

    Raises:
        ValueError: the site is not in a plate of size n.
    """
    n = shape[-1]
    # Outermost first: under the plate of samples, the data plate is one of the others
    frames = [f for f in site["cond_indep_stack"] if f.vectorized]
    plates = [f for f in frames[len(shape) - 1 :] if f.size == n]
    plates.sort(key=lambda f: f.name != "data")
    data_dim = plates[0].dim if plates else -1
    keep = [data_dim - i for i in range(len(shape))][::-1]
    others = [d for d in range(-value.dim(), 0) if d not in keep]
    inside = {f.dim for f in frames}
    undeclared = [d for d in others if d not in inside and value.shape[d] > 1]
    total = value.sum(others) if others else value
    if undeclared or tuple(total.shape) != shape:
        raise ValueError(
            f"site {site['name']!r}: expected log-probabilities of shape {shape}, one per datum, "
            f"got {tuple(value.shape)}: sample it inside pyro.plate('data', len(x)) and declare "
            "its other dimensions with .to_event"
        )
    return total


def unscaled(site: dict[str, Any]) -> Tensor:
    """A site's log-probability with its mask but without any ``poutine.scale``."""
    return scale_and_mask(site["unscaled_log_prob"], 1.0, site["mask"])


@contextlib.contextmanager
def measuring(*programs: Callable, device: torch.device) -> Iterator[None]:
    """Evaluate a model with guides: ``undisturbed``, once they are found to belong together."""
    check_belonging(*programs)
    with undisturbed(*programs, device=device):
        yield


@contextlib.contextmanager
def undisturbed(*programs: Callable, device: torch.device) -> Iterator[None]:
    """Leave no trace: evaluation mode, no gradients, RNG restored afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), evaluating(*programs):
        yield
