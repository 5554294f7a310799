"""Running a pair and reading its traces: site by site, datum by datum."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta, MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..labels import accepts_labels as accepts_labels
from ..labels import label_arguments
from ..programs import evaluating, is_auxiliary, is_latent
from ..turns import turn
from ..unwrapping import check_batch
from .auxiliary import is_joint
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
    check_batch(guide, len(x))
    with naming_overflow():
        guide_trace = poutine.trace(guide).get_trace(x, **label_arguments(guide, y))
        replayed = poutine.replay(model, trace=guide_trace)
        model_trace = poutine.trace(replayed).get_trace(x, **label_arguments(model, y))
    check_observed(model_trace)
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
    """Observed sites, factors among them; what ``pyro.deterministic`` records is none."""
    return [
        name
        for name, site in trace.nodes.items()
        if is_random(name, site)
        and site["is_observed"]
        and not site["infer"].get("_deterministic", False)
    ]


def check_observed(model_trace: Trace) -> None:
    """Raise ``ValueError`` for a model without an observed site."""
    if not observed_sites(model_trace):
        raise ValueError("model: it observes nothing: pass obs=x to the data's sample site")


def density_sites(trace: Trace) -> list[str]:
    """Sites whose log-probabilities add up to a program's own: all but penalties on a guide."""
    counted = {*observed_sites(trace), *latent_sites(trace), *auxiliary_sites(trace)}
    return [s for s, site in trace.nodes.items() if s in counted and not is_penalty(site)]


def is_penalty(site: dict[str, Any]) -> bool:
    """Whether a site is no part of a density: only the objective has it."""
    return site["infer"].get("is_penalty", False)


def is_random(name: str, site: dict[str, Any]) -> bool:
    """Whether a site of a trace has a log-probability of its own: no subsample of a plate."""
    return site["type"] == "sample" and not site_is_subsample(site)


def without_rsample(trace: Trace) -> list[str]:
    """Sites of a guide, factors among them, whose gradient takes the score function."""
    return [s for s in density_sites(trace) if not trace.nodes[s]["fn"].has_rsample]


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


def is_masked(site: dict[str, Any]) -> bool:
    """Whether some of a site's log-probabilities may not count."""
    distribution = site["fn"]
    while hasattr(distribution, "base_dist") and not isinstance(distribution, MaskedDistribution):
        distribution = distribution.base_dist
    return site["mask"] is not None or isinstance(distribution, MaskedDistribution)


class Contributions:
    """What each site of a trace contributes to log p or log q, per datum.

    Every estimator reads this. Called with a site it is the site's log-probability where no mask
    hides it, observations, latents and factors alike, without any ``poutine.scale`` (beta) and
    without the N/n of a data plate that is subsampled; a plate inside a datum that is subsampled
    keeps its N/n, which makes the sum unbiased.

    Args:
        trace: of a model or of a guide.
        shape: (n,), or (k, n) under an outer plate of k samples.

    Raises:
        ValueError: a scale or a mask of another shape than the plates of its site.
    """

    def __init__(self, trace: Trace, shape: tuple[int, ...]) -> None:
        self.trace, self.shape = trace, shape
        self._shared = _shared_plates(trace, shape)
        for site in density_sites(trace):
            _check_shapes(site, trace.nodes[site])

    def __call__(self, site: str) -> Tensor:
        """Of ``shape``; the log-probability is computed unless the trace has it."""
        node = self._computed(site)
        return self.sum(site, masked(node["unscaled_log_prob"], node))

    def density(self, site: str) -> Tensor:
        """The same where it is exact, as a weight needs it.

        Raises:
            ValueError: a plate inside a datum is subsampled.
        """
        self._refuse_subsampling(site)
        return self(site)

    def weight(self, site: str) -> Tensor:
        """``density`` times the site's ``poutine.scale``."""
        self._refuse_subsampling(site)
        total = self._summed(site, self._computed(site)["log_prob"])
        share = self.subsampled(site)
        return total if share == 1 else total / share

    def sum(self, site: str, value: Tensor) -> Tensor:
        """A quantity of the site, of its batch shape, as ``shape``."""
        total, inside = self._summed(site, value), self.inside(site)
        return total if inside == 1 else total * inside

    def subsampled(self, site: str) -> float:
        """N/n of the data plate at a site; 1 where the plate is not subsampled."""
        return _share([self._plate(site)])

    def inside(self, site: str) -> float:
        """N/n of the plates inside a datum at a site, subsampled or not."""
        frames = self.trace.nodes[site]["cond_indep_stack"]
        plate = self._plate(site)
        return _share([f for f in frames if f is not plate])

    def value(self, site: str) -> Tensor:
        """The value of a latent site, whose first dimensions are those of ``shape``.

        Raises:
            ValueError: a plate is to the left of that of the data.
        """
        node, plate = self.trace.nodes[site], self._plate(site)
        first = plate.dim if plate else 0
        left = [f for f in node["cond_indep_stack"] if f.vectorized and f.dim < first]
        if len(left) >= len(self.shape):
            raise ValueError(
                f"site {site!r}: its plate {left[-1].name!r} is to the left of that of the data, "
                "whose dimension has to be the first of a latent here: give it a dim to the right"
            )
        return node["value"]

    def _plate(self, site: str) -> CondIndepStackFrame | None:
        return _data_plate(self.trace.nodes[site], self.shape, self._shared)

    def _summed(self, site: str, value: Tensor) -> Tensor:
        node = self.trace.nodes[site]
        if is_joint(node):
            # Equal parts of what belongs to all data alike
            return (value.sum() / self.shape[-1]).expand(self.shape)
        return per_datum(value, node, self.shape, self._shared)

    def _computed(self, site: str) -> dict[str, Any]:
        node = self.trace.nodes[site]
        if "unscaled_log_prob" not in node:
            self.trace.compute_log_prob(lambda name, _: name == site)
        return node

    def _refuse_subsampling(self, site: str) -> None:
        if self.inside(site) != 1:
            raise ValueError(
                f"site {site!r}: a plate inside the datum is subsampled, so that its density is "
                "an estimate, and weights with one are no bound: use elbo='trace', or the whole "
                "plate"
            )


def _check_shapes(site: str, node: dict[str, Any]) -> None:
    """Raise ``ValueError`` where scale or mask do not have the shape of the site's plates."""
    batch = node["fn"].batch_shape
    for what in ("scale", "mask"):
        given = node[what]
        if isinstance(given, Tensor) and given.dim():
            sizes = zip(reversed(given.shape), reversed(batch), strict=False)
            if given.dim() > len(batch) or any(a not in (1, b) for a, b in sizes):
                raise ValueError(
                    f"site {site!r}: expected a {what} of the shape of its plates, "
                    f"{tuple(batch)}, got {tuple(given.shape)}: mask elements with "
                    "Distribution.mask before .to_event"
                )


def masked(log_prob: Tensor, site: dict[str, Any]) -> Tensor:
    """Log-probabilities of a site, 0 where its mask hides them, without ``poutine.scale``."""
    return scale_and_mask(log_prob, 1.0, site["mask"])


def _share(frames: list[CondIndepStackFrame | None]) -> float:
    """By how much subsampling in these plates scales log-probabilities."""
    return math.prod(
        f.full_size / f.size for f in frames if f is not None and f.full_size not in (None, f.size)
    )


def _plates_of_size(site: dict[str, Any], shape: tuple[int, ...]) -> list[CondIndepStackFrame]:
    """The plates of a site that are as large as the data, without the outer ones of samples."""
    # Outermost first
    frames = [f for f in site["cond_indep_stack"] if f.vectorized]
    return [f for f in frames[len(shape) - 1 :] if f.size == shape[-1]]


def _shared_plates(trace: Trace, shape: tuple[int, ...]) -> list[str]:
    """Names of the plates as large as the data that are around every site in any such plate."""
    plates = [_plates_of_size(trace.nodes[s], shape) for s in density_sites(trace)]
    names = [{f.name for f in around} for around in plates if around]
    return sorted(set.intersection(*names)) if names else []


def _data_plate(
    site: dict[str, Any], shape: tuple[int, ...], shared: Sequence[str] = ()
) -> CondIndepStackFrame | None:
    """The data plate of a site: by name, the only one of its size, or that all sites share."""
    plates = _plates_of_size(site, shape)
    if named := [f for f in plates if f.name == "data"]:
        return named[0]
    if len(plates) > 1 and (around := [f for f in plates if f.name in shared]):
        plates = around
    if len(plates) > 1:
        raise ValueError(
            f"site {site['name']!r}: the plates {', '.join(repr(f.name) for f in plates)} are all "
            f"as large as the data ({shape[-1]}): name the plate of the data 'data'"
        )
    return plates[0] if plates else None


def per_datum(
    value: Tensor, site: dict[str, Any], shape: tuple[int, ...], shared: Sequence[str] = ()
) -> Tensor:
    """Sum a site's log-probability (or KL) over every dimension but those of the data plate.

    Args:
        value: log-probability of the site, its batch shape.
        site: the trace's node, whose plates name the dimensions.
        shape: (n,), or (k, n) under an outer plate of k samples.
        shared: names of plates that may be that of the data where several have its size.

    Raises:
        ValueError: the site is not in a plate of size n, or it is not told which plate is that
            of the data.
    """
    plate = _data_plate(site, shape, shared)
    data_dim = plate.dim if plate else -1
    keep = [data_dim - i for i in range(len(shape))][::-1]
    others = [d for d in range(-value.dim(), 0) if d not in keep]
    inside = {f.dim for f in site["cond_indep_stack"] if f.vectorized}
    undeclared = [d for d in others if d not in inside and value.shape[d] > 1]
    total = value.sum(others) if others else value
    if undeclared or tuple(total.shape) != shape:
        raise ValueError(
            f"site {site['name']!r}: expected log-probabilities of shape {shape}, one per datum, "
            f"got {tuple(value.shape)}: sample it inside pyro.plate('data', len(x)) and declare "
            "its other dimensions with .to_event"
        )
    return total


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
    with turn, torch.random.fork_rng(devices), evaluating(*programs):
        yield
