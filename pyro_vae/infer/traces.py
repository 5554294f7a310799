"""Running a pair and reading its traces: site by site, datum by datum."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from ..programs import evaluating, innermost, is_auxiliary, is_latent
from ..unwrapping import check_batch

# What torch says about parameters outside their range
_REFUSED = re.compile(
    r"Expected parameter (?P<parameter>\w+) .*? distribution (?P<distribution>\w+)"
)
# The plate of samples per datum
SAMPLES = "importance_samples"
_NOT_FINITE = re.compile(r"\b(nan|inf)\b")


def accepts_labels(program: Callable) -> bool:
    """Whether a program takes ``y=``."""
    program = innermost(program)
    function = program.forward if isinstance(program, nn.Module) else program
    parameters = inspect.signature(function).parameters.values()
    return any(p.name == "y" or p.kind is p.VAR_KEYWORD for p in parameters)


def label_arguments(program: Callable, y: Tensor | None) -> dict[str, Tensor]:
    """``{"y": y}`` where there are labels and the program takes them."""
    return {} if y is None or not accepts_labels(program) else {"y": y}


def trace_pair(
    model: Callable, guide: Callable, x: Tensor, y: Tensor | None = None
) -> tuple[Trace, Trace]:
    """Traces of the model, replayed against the guide, and of the guide.

    Raises:
        ValueError: latent sites of one that the other does not have.
        FloatingPointError: a distribution whose parameters are NaN or infinite.
    """
    check_batch(guide, len(x))
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
        advice = ". Name the sites alike, or build it for this model"
        if partly := [s for s in in_model if s not in in_guide and s.endswith("_unobserved")]:
            advice = (
                f". {partly[0]!r} is what obs_mask= leaves unobserved: draw it in the guide under "
                "the same mask, or observe under poutine.mask(mask=...) in place of obs_mask="
            )
        raise ValueError("guide: " + "; ".join(problems) + advice)


def latent_sites(trace: Trace) -> list[str]:
    """Latent sites in the order in which the program samples them, auxiliary ones left out."""
    return [
        name for name, site in trace.nodes.items() if is_latent(site) and not is_auxiliary(site)
    ]


def auxiliary_sites(trace: Trace) -> dict[str, str]:
    """Sites that a guide marks ``is_auxiliary`` -> the latent to whose KL term log q belongs.

    That is the latent of a name that the site's extends, as autoguides do, else the next one that
    is sampled, else the last.
    """
    auxiliary = [name for name, site in trace.nodes.items() if is_auxiliary(site)]
    if not auxiliary:
        return {}
    found, latents, order = {}, latent_sites(trace), list(trace.nodes)
    for aux in auxiliary:
        later = [s for s in latents if order.index(s) > order.index(aux)]
        named = [s for s in latents if aux in (f"{s}_unconstrained", f"{s}_aux")]
        found[aux] = (named + later + latents[-1:])[0]
    return found


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
    """Latent sites of a guide's trace whose distribution has no density.

    A ``Delta`` that is a function of auxiliary sites has one: theirs.
    """
    auxiliary = auxiliary_sites(trace)
    # An autoguide's site is for the latent that it is named after, others may be for any
    shared = any(not s.endswith(("_unconstrained", "_aux")) for s in auxiliary)
    drawn = latent_sites(trace) if shared else auxiliary.values()
    return [
        s for s in latent_sites(trace) if is_point_mass(trace.nodes[s]["fn"]) and s not in drawn
    ]


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
    """Evaluate without any trace: evaluation mode, no gradients, RNG restored afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), evaluating(*programs):
        yield
