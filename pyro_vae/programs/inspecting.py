"""The structure of a program, from its class or from a run on a few data."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pyro.poutine import Trace
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor
from torch.distributions.constraints import Constraint, real

from ..data.arguments import Data, columns_of, holding, named, tensors_of
from ..distributions import plain
from .calling import arguments_of
from .checks import check_data
from .given import given
from .labels import parameters_of
from .origins import Origins, SiteOrigins, counts
from .plates import data_plate
from .running import traced, undisturbed
from .sites import check_observed, compute_log_probs, is_masked, kinds
from .structure import Latent, Observed, Plate, Structure
from .unwrapping import below_handlers, name_of

# Of how many data a program is run: seldom as many as another plate has elements
FEW = 11
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def structure(
    model: Callable,
    like: Any = None,
    *,
    arguments: Mapping[str, Any] | None = None,
    plate: str | None = None,
) -> Structure:
    """The sites of a generative program and who sees whom, without changing any state.

    A model of this library knows its own. Any other program is run on a few data, with a record
    of the sites and arguments from which each log-probability is computed.

    Args:
        model: generative program; handlers around one of this library's models do not count.
        like: data of the form that the program is trained on, a few are enough; left out for a
            model of this library, or a program that has its data itself.
        arguments: constants among the program's own arguments, by name.
        plate: name of the plate over the data, where several could be it.

    Raises:
        TypeError: no data for a program that has to be run.
        ValueError: data on which the program does not run, no plate over the data, a site that
            sees a datum from outside of that plate, sites that are there for some data and not
            for others, dimensions that are neither of plates nor of events.

    Example:
        >>> from pyro_vae import likelihoods, models
        >>> vae = models.VAE((6,), latents=(4, 3), likelihood=likelihoods.Gaussian())
        >>> structure(vae)
        2 latents, 1 observed site
          z2  ~ Normal (3,)  in "data"  <- nothing
          z1  ~ Normal (4,)  in "data"  <- z2
          x   observed (6,)  in "data"  <- z1
    """
    own = _own(below_handlers(model))
    if own is not None and like is None:
        return own
    try:
        x, y = given(like, None, model, arguments=arguments, plate=plate)
    except TypeError as error:
        if like is not None:
            raise
        raise TypeError(
            f"like: expected data for {name_of(model)}, which has to be run on a few, got none: "
            "pass like=x, or all arguments with a row per datum, like=(x, ...)"
        ) from error
    if own is not None:
        check_data(model, x, y)
        return own
    return _inspected(model, x, y, plate)


def _own(program: Any) -> Structure | None:
    """What a class of models tells of its program, unless a subclass has another program."""
    for cls in type(program).__mro__:
        if "forward" in vars(cls):
            told = getattr(program, "structure", None) if "structure" in vars(cls) else None
            return told if isinstance(told, Structure) else None
    return None


class Argument(NamedTuple):
    """An argument of the program, as an origin; that of a site is its name."""

    name: str


@dataclass(frozen=True)
class Run:
    """A run of a program, with all log-probabilities.

    Attributes:
        nodes: the random variables in their order.
        seen: site -> sites and arguments from which its log-probability is computed.
        made: observed site -> the arguments from which its value is computed.
        whole: argument -> the site that observes it as it is.
    """

    trace: Trace
    nodes: dict[str, dict[str, Any]]
    seen: dict[str, frozenset[str | Argument]]
    made: dict[str, list[str]]
    whole: dict[str, str]

    def told(self, site: str) -> str | None:
        """What has to be alike in all runs."""
        if site not in self.nodes:
            return None
        node = self.nodes[site]
        plates = [f"{f.name!r} ({f.size})" for f in node["cond_indep_stack"] if f.vectorized]
        what = "observed" if node["is_observed"] else "latent"
        return f"{what} of event shape {tuple(node['fn'].event_shape)} in plates {plates}"


def noted(model: Callable, x: Data, y: Tensor | None) -> Run:
    """Run a program, noting from what each log-probability is computed."""
    origins = Origins()
    sites = SiteOrigins(origins)
    with undisturbed(model, device=x.device), warnings.catch_warnings(action="ignore"), origins:
        names = {id(t): name for name, t in columns_by_name(model, x, y).items()}
        tensors = [
            origins.begin(t, Argument(names[id(t)])) if id(t) in names else t
            for t in tensors_of(x, y)
        ]
        x, y = holding(x, y, tensors)
        with sites:
            trace = traced(model, x, y)
        compute_log_probs(trace, kinds(trace).density)
    columns = columns_by_name(model, x, y)
    nodes = {s: trace.nodes[s] for s in kinds(trace).density if counts(trace.nodes[s])}
    seen = {site: origins.of(node["log_prob"]) for site, node in nodes.items()}
    made: dict[str, list[str]] = {}
    whole: dict[str, str] = {}
    for site, value in sites.observed.items():
        found = origins.of(value)
        # Residuals are observed, too
        seen[site] |= {origin for origin in found if not isinstance(origin, Argument)}
        made[site] = [name for name in columns if Argument(name) in found]
        for name in made[site]:
            if value.shape == columns[name].shape and value.data_ptr() == columns[name].data_ptr():
                whole.setdefault(name, site)
    return Run(trace, nodes, seen, made, whole)


def columns_by_name(model: Callable, x: Data, y: Tensor | None) -> dict[str, Tensor]:
    """The arguments that have a row per datum, by name."""
    args, kwargs = arguments_of(model, x, y)
    positional = [p.name for p in parameters_of(model) if p.kind in _POSITIONAL]
    names = [*positional[: len(args)], *(named(i) for i in range(len(positional), len(args)))]
    columns = {id(t) for t in (*columns_of(x), y) if t is not None}
    found = {**dict(zip(names, args, strict=True)), **kwargs}
    return {name: value for name, value in found.items() if id(value) in columns}


def _inspected(model: Callable, x: Data, y: Tensor | None, plate: str | None) -> Structure:
    total = len(columns_of(x)[0]) if columns_of(x) else 0
    n = min(total, FEW)
    rows = torch.arange(n, device=x.device)
    # The first data, then the first one and the last one in the place of each of them
    picked = (rows, torch.zeros_like(rows), torch.full_like(rows, total - 1))
    try:
        first, *others = [noted(model, x[p], None if y is None else y[p]) for p in picked]
    except Exception as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in columns_of(x))
        # What Pyro says of a site begins with its name alone
        lines = str(error).partition("Trace Shapes:")[0].split("\n")
        told = " ".join(filter(None, lines[:2])) or type(error).__name__
        raise ValueError(
            f"like: {name_of(model)} does not run on data of shape {shapes} ({told}): pass data "
            "such as it is trained on"
        ) from error
    for other in others:
        _check_alike(first, other)
    check_observed(first.trace)
    around = data_plate([first.trace], n, plate=plate or getattr(x, "plate", None))
    frames = {site: around.frame(node) for site, node in first.nodes.items()}
    # A program that has its data itself knows how many; Pyro's plates may have no size, -1
    if not any(frames.values()) or (n and around.size not in (n, -1)):
        raise ValueError(
            f"model: expected a plate over the data, {n or 'all'} in this run, got sites "
            f"{[*first.nodes]} without: sample what belongs to a datum inside "
            "pyro.plate('data', len(x))"
        )
    return _built(first, frames, min(around.names))


def _check_alike(first: Run, other: Run) -> None:
    for site in {**first.nodes, **other.nodes}:
        told = [run.told(site) or "not there" for run in (first, other)]
        if told[0] != told[1]:
            raise ValueError(
                f"site {site!r}: expected the same sites whatever the data and latents are, got "
                f"it {told[0]} in one run, {told[1]} in another: sample it in each run, and hide "
                "it with poutine.mask where a datum has none"
            )


def _built(run: Run, frames: Mapping[str, CondIndepStackFrame | None], plate: str) -> Structure:
    latents: dict[str, Latent] = {}
    observed: dict[str, Observed] = {}
    parents: dict[str, tuple[str, ...]] = {}
    for site, node in run.nodes.items():
        common: dict[str, Any] = {
            "distribution": type(plain(node["fn"])).__name__,
            "event_shape": tuple(node["fn"].event_shape),
            "plates": _plates(site, node, frames[site]),
            "is_global": frames[site] is None,
            "dim": frames[site].dim if frames[site] else -1,
            "masked": is_masked(node),
            "scaled": _is_weighed(node),
        }
        seen = {_shown(origin, site, run, observed) for origin in run.seen[site]} - {site}
        order = (*reversed(latents), *reversed(observed), *sorted(seen - run.nodes.keys()))
        parents[site] = tuple(name for name in order if name in seen)
        _check_inside(site, parents[site], frames)
        if node["is_observed"]:
            whole = [name for name, of in run.whole.items() if of == site]
            argument = next(iter(whole + run.made[site]), None)
            observed[site] = Observed(argument=argument, whole=bool(whole), **common)
        else:
            latents[site] = _latent(node, common)
    arguments = [name for seen in parents.values() for name in seen if name not in run.nodes]
    parts = [f.full_size for f in frames.values() if f and f.full_size != f.size]
    total = parts[0] if parts else None
    return Structure(latents, observed, parents, tuple(dict.fromkeys(arguments)), plate, total)


def _is_weighed(node: dict[str, Any]) -> bool:
    """Whether a site counts otherwise than for the parts of plates that are drawn."""
    frames = [f for f in node["cond_indep_stack"] if f.vectorized and f.full_size]
    weight = torch.as_tensor(node["scale"]) / math.prod(f.full_size / f.size for f in frames)
    return not torch.allclose(weight, torch.ones_like(weight))


def _shown(origin: str | Argument, site: str, run: Run, observed: Mapping[str, Observed]) -> str:
    """The name of what ``site`` sees: of data that were ``observed`` as they are, their site's."""
    if isinstance(origin, str):
        return origin
    by = run.whole.get(origin.name)
    if by == site or by in observed:
        return by
    return f"{origin.name} (argument)" if origin.name in run.nodes else origin.name


def _latent(node: dict[str, Any], common: dict[str, Any]) -> Latent:
    try:
        support = _plain(node["fn"].support)
        discrete = support.is_discrete
    except NotImplementedError:
        support, discrete = real, False
    marked = bool(node["infer"].get("enumerate"))
    return Latent(support=support, discrete=discrete, enumerated=marked, **common)


def _plain(support: Constraint) -> Constraint:
    """A support whose bounds, where they are alike for all data, are numbers."""
    support = copy.copy(support)
    for key, value in vars(support).items():
        if isinstance(value, Constraint):
            setattr(support, key, _plain(value))
        elif isinstance(value, Tensor) and value.numel() and (value == value.flatten()[0]).all():
            setattr(support, key, value.flatten()[0].item())
    return support


def _plates(
    site: str, node: dict[str, Any], data: CondIndepStackFrame | None
) -> tuple[Plate, ...]:
    frames = sorted((f for f in node["cond_indep_stack"] if f.vectorized), key=lambda f: f.dim)
    batch = tuple(node["fn"].batch_shape)
    declared = {len(batch) + f.dim for f in frames}
    if others := [size for d, size in enumerate(batch) if size > 1 and d not in declared]:
        raise ValueError(
            f"site {site!r}: expected a batch shape of its plates {[f.name for f in frames]}, got "
            f"{batch}, with dimensions of {others} that are of no plate: declare them with "
            ".to_event"
        )
    return tuple(
        Plate(f.name, f.size, f.dim, None if f.full_size == f.size else f.full_size)
        for f in frames
        if f is not data
    )


def _check_inside(
    site: str, parents: tuple[str, ...], frames: Mapping[str, CondIndepStackFrame | None]
) -> None:
    local = [parent for parent in parents if frames.get(parent)]
    if local and frames[site] is None:
        raise ValueError(
            f"site {site!r}: expected it inside the plate of the data, as it sees {local[0]!r} of "
            "each datum, got it outside: sample it inside that plate"
        )
