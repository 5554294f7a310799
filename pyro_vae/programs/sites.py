"""What kind of site each node of a trace is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Delta, MaskedDistribution
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..distributions import base_of
from ..ground.internals import mask_of
from .missing import Seen

# The plate of samples per datum
SAMPLES = "importance_samples"
# Where a trace keeps what its sites are
_KINDS = "kinds_of_sites"
_OF_AUTOGUIDES = re.compile("_(unconstrained|aux)$")


@dataclass(frozen=True, eq=False)
class Kinds:
    """The sites of a trace by what they are, each in the order of the program.

    Attributes:
        count: nodes of the trace.
        random: name -> site with a log-probability of its own: no subsample of a plate.
        latent: latent sites, those that are marked ``is_auxiliary`` left out.
        marked: those.
        enumerated: latent sites that are marked for enumeration, as by ``config_enumerate``.
        observed: observed sites, factors among them; what ``pyro.deterministic`` records is none.
        density: sites whose log-probabilities add up to a program's own: all but penalties.
    """

    count: int
    random: dict[str, dict[str, Any]]
    latent: list[str]
    marked: list[str]
    enumerated: list[str]
    observed: list[str]
    density: list[str]


def kinds(trace: Trace) -> Kinds:
    """What the sites of a trace are, told once for each trace."""
    found = vars(trace).get(_KINDS)
    if found is None or found.count != len(trace.nodes):
        found = vars(trace)[_KINDS] = _told(trace)
    return found


def _told(trace: Trace) -> Kinds:
    found = Kinds(len(trace.nodes), {}, [], [], [], [], [])
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        found.random[name] = site
        infer = site["infer"]
        if infer.get("_deterministic", False):
            continue
        if site["is_observed"]:
            found.observed.append(name)
        elif infer.get("is_auxiliary", False):
            found.marked.append(name)
        else:
            found.latent.append(name)
            if infer.get("enumerate"):
                found.enumerated.append(name)
        if not infer.get("is_penalty", False):
            found.density.append(name)
    return found


def compute_log_probs(trace: Trace, sites: Iterable[str]) -> None:
    """Have the log-probabilities of some sites.

    Raises ``ValueError`` for a transform that has no inverse, such as a planar one, where its
    density is asked for at another value than the last that it has drawn.
    """
    try:
        # Called as (name, site): None, which is false, for all others
        trace.compute_log_prob(dict.fromkeys(trace.nodes.keys() - sites).get)
    except KeyError as error:
        if "intermediates cache" not in str(error):
            raise
        raise ValueError(
            f"site {_without_inverse(trace, sites)!r}: expected a density at any value, got "
            f"{error.args[0].split()[0]}, which has no inverse: give the guide a transform with "
            "one, such as dist.transforms.AffineAutoregressive, or train with elbo='trace' and "
            "evaluate with importance_samples=0"
        ) from error


def _without_inverse(trace: Trace, sites: Iterable[str]) -> str | None:
    for name in sites:
        try:
            trace.nodes[name]["fn"].log_prob(trace.nodes[name]["value"])
        except KeyError:
            return name
    return None


def is_latent(site: Mapping[str, Any]) -> bool:
    """Whether a trace's node or a handler's message is a latent sample site."""
    return (
        site["type"] == "sample"
        and not site["is_observed"]
        and not site_is_subsample(site)
        and not site["infer"].get("_deterministic", False)
    )


def is_auxiliary(site: Mapping[str, Any]) -> bool:
    """Whether a latent site is marked as one that only the guide has."""
    return (
        site["type"] == "sample" and site["infer"].get("is_auxiliary", False) and is_latent(site)
    )


def is_joint(site: dict[str, Any]) -> bool:
    """Whether an auxiliary site is one draw for all data, outside of their plate."""
    return is_auxiliary(site) and all(f.name == SAMPLES for f in site["cond_indep_stack"])


def is_penalty(site: dict[str, Any]) -> bool:
    """Whether a site is no part of a density: only the objective has it."""
    return site["infer"].get("is_penalty", False)


def is_masked(site: dict[str, Any]) -> bool:
    """Whether some of a site's log-probabilities may not count."""
    return any(mask is not None and mask is not True for mask, _ in _masks(site))


def present(site: dict[str, Any]) -> Tensor | None:
    """Which elements of a site's value no mask hides, of its shape; None where none is hidden."""
    value, found = site["value"], None
    for mask, shape in _masks(site):
        if mask is None or mask is True:
            continue
        shown = torch.as_tensor(mask, device=value.device).expand(shape)
        shown = shown.reshape(*shape, *(1,) * (value.dim() - len(shape))).expand(value.shape)
        found = shown if found is None else found & shown
    return found


def _masks(site: dict[str, Any]) -> list[tuple[Any, torch.Size]]:
    """The masks around a site and of its distribution, each with the shape that it masks."""
    distribution = site["fn"]
    found = [(site["mask"], distribution.batch_shape)]
    while hasattr(distribution, "base_dist"):
        if isinstance(distribution, Seen):
            found.append((~site["value"].isnan(), site["value"].shape))
        elif isinstance(distribution, MaskedDistribution):
            found.append((mask_of(distribution), distribution.batch_shape))
        distribution = distribution.base_dist
    return found


def is_point_mass(distribution: Any) -> bool:
    """Whether a distribution is a ``Delta``, however its dimensions were declared."""
    return isinstance(base_of(distribution), Delta)


def auxiliary_sites(trace: Trace) -> dict[str, str]:
    """Sites that a guide marks ``is_auxiliary`` -> the latent to whose KL term log q belongs.

    That is the latent of a name that the site's extends, as autoguides do, else the next one that
    is sampled, else the last.
    """
    if not (auxiliary := kinds(trace).marked):
        return {}
    found, latents, order = {}, kinds(trace).latent, list(trace.nodes)
    for aux in auxiliary:
        later = [s for s in latents if order.index(s) > order.index(aux)]
        named = [s for s in latents if aux in (f"{s}_unconstrained", f"{s}_aux")]
        found[aux] = (named + later + latents[-1:])[0]
    return found


def without_rsample(trace: Trace) -> list[str]:
    """Sites of a guide, factors among them, whose gradient takes the score function."""
    return [s for s in kinds(trace).density if not trace.nodes[s]["fn"].has_rsample]


def point_masses(trace: Trace) -> list[str]:
    """Latent sites of a guide's trace whose distribution has no density.

    A ``Delta`` that is a function of auxiliary sites has one: theirs.
    """
    auxiliary, latents = auxiliary_sites(trace), kinds(trace).latent
    # An autoguide's site is for the latent that it is named after, others may be for any
    shared = not all(map(_OF_AUTOGUIDES.search, auxiliary))
    drawn = latents if shared else auxiliary.values()
    return [s for s in latents if s not in drawn and is_point_mass(trace.nodes[s]["fn"])]


def check_sites(in_model: list[str], in_guide: list[str], advice: str | None = None) -> None:
    """Raise ``ValueError`` unless both programs have the same latent sites."""
    if {*in_model} == {*in_guide}:
        return
    problems = [
        f"latent site {s!r} of the model is missing in the guide (it has {in_guide})"
        for s in in_model
        if s not in in_guide
    ] + [
        f"site {s!r} of the guide is no latent site of the model (it has {in_model})"
        for s in in_guide
        if s not in in_model
    ]
    advice = advice or ". Name the sites alike, or build it for this model"
    if partly := [s for s in in_model if s not in in_guide and s.endswith("_unobserved")]:
        advice = (
            f". {partly[0]!r} is what obs_mask= leaves unobserved: draw it in the guide under the "
            "same mask, or observe under poutine.mask(mask=...) in place of obs_mask="
        )
    raise ValueError("guide: " + "; ".join(problems) + advice)


def check_latents(
    model_trace: Trace, guide_trace: Trace, *, enumerating: bool = False, built: bool = False
) -> None:
    """``check_sites`` of traces; where ``enumerating``, the model alone may have marked sites.

    The guide may have been ``built`` by this library, and has left some latents to others then.
    """
    p, q = kinds(model_trace), kinds(guide_trace)
    in_model = p.latent
    if enumerating:
        in_model = [s for s in in_model if s in q.latent or s not in p.enumerated]
    if {*in_model} != {*q.latent}:
        missing = [p.random[s] for s in in_model if s not in q.latent]
        missing = [s for s in missing if built or s["infer"].get("enumerate") or _is_discrete(s)]
        check_sites(in_model, q.latent, next(filter(None, map(_left_to, missing)), None))


def _is_discrete(site: dict[str, Any]) -> bool:
    """Whether a latent has so few values that it can be summed out."""
    return getattr(site["fn"], "has_enumerate_support", False)


def _left_to(site: dict[str, Any]) -> str | None:
    """Who draws a latent for which guides of this library are not made."""
    if site["infer"].get("enumerate"):
        return f". {site['name']!r} is to be summed out: pass elbo='enumerate'"
    if _is_discrete(site):
        return (
            f". {site['name']!r} is discrete: mark it infer={{'enumerate': 'parallel'}} and pass "
            "elbo='enumerate', which sums it out, or draw it in the guide"
        )
    if any(frame.vectorized for frame in site["cond_indep_stack"]):
        return None
    return (
        f". {site['name']!r} is outside of the plate of the data: give it a guide of its own, "
        "guides.Composed(guide, globals=AutoNormal, like=x)"
    )


def check_observed(model_trace: Trace) -> None:
    """Raise ``ValueError`` for a model without an observed site."""
    if not kinds(model_trace).observed:
        raise ValueError("model: it observes nothing: pass obs=x to the data's sample site")


def refuse_auxiliary(trace: Trace, purpose: str) -> None:
    """Raise ``ValueError`` where a guide's density of its latents is hidden behind other sites."""
    if auxiliary := kinds(trace).marked:
        raise ValueError(
            f"site {auxiliary[0]!r}: {purpose} needs densities of the latents themselves, got a "
            "guide that draws them by way of this auxiliary site: use an amortised guide such as "
            "guides.BottomUp, or guides.PerDatum in place of an autoguide"
        )
