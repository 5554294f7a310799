"""Which plate is that of the data, and how many data there are in it and in all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

from pyro.poutine import Trace
from pyro.poutine.indep_messenger import CondIndepStackFrame

from ..ground.arguments import known
from .sites import is_penalty, kinds
from .unwrapping import innermost

Frames = list[CondIndepStackFrame]
# What Pyro says for the size of ``pyro.plate("data")``
_ANY = -1
# The plate of an objective of Pyro with ``vectorize_particles``
_PARTICLES = "num_particles_vectorized"
# Where a trace keeps the program that it is of
PROGRAM = "program_of_trace"
# Plates of each program that once were not as large as the data, so that theirs is another one
_others: WeakKeyDictionary[Callable, set[str]] = WeakKeyDictionary()


@dataclass(frozen=True)
class DataPlate:
    """The plate whose elements are the data; its dimension may be another at each site.

    Attributes:
        names: what the programs call it.
        size: how many data there are in a trace.
        total: how many there are in the whole data set.
        objective: of how many data an objective is the sum: of more than ``size`` where the
            programs themselves subsample the plate.
        whole: whether there is none, in programs that have their data themselves: these are one
            datum, and all sites are outside.
    """

    names: frozenset[str]
    size: int
    total: int
    objective: int
    whole: bool = False

    @property
    def share(self) -> float:
        """How much of what is outside the plate belongs to these data in an objective."""
        return self.objective / self.total

    def frame(self, node: dict[str, Any]) -> CondIndepStackFrame | None:
        """The plate around a site; None outside of it."""
        for frame in node["cond_indep_stack"]:
            if frame.name in self.names and frame.vectorized and suits(frame, self.size):
                return frame
        return None


def suits(frame: CondIndepStackFrame, n: int) -> bool:
    """Whether a plate is as large as n data, or of no size of its own."""
    return frame.size in (n, _ANY)


class AmbiguousPlateError(ValueError):
    """Several plates may be that of the data."""


def data_plate(
    traces: Iterable[Trace],
    n: int,
    *,
    plate: str | None = None,
    total: int | None = None,
    outer: int = 0,
) -> DataPlate:
    """The data plate of a model's trace, with that of its guide, or of one trace alone.

    It is the one called ``plate``, where that is given. Else it is a plate around the observed
    sites (of one trace alone, around all): of size ``n``, as many as x has rows; or whose full
    size is n; or of any size. Where there are several it is "data", or the only one around all of
    these sites. The first ``outer`` plates around each site are not the programs'. The data are a
    part of ``total``, all that there are where it is None.

    Raises ``ValueError`` for a ``plate`` that there is not, several that may be it, or one that
    is not divided as the data are.
    """
    first, *others = traces
    if plate is None and not outer and (frame := _only_frame((first, *others), n)):
        return _measured(frozenset([frame.name]), frame, n, total)
    nodes = _nodes(first)
    observed = [first.nodes[s] for s in kinds(first).observed if not is_penalty(first.nodes[s])]
    both = [*nodes.values(), *(node for trace in others for node in _nodes(trace).values())]
    if plate is not None:
        around = [frame for node in both for frame in _frames(node, outer)]
        known("plate", plate, dict.fromkeys(frame.name for frame in around))
        names = frozenset([plate])
    else:
        sites = observed if others else [*nodes.values()]
        no_data = frozenset().union(*_others_of(first, *others))
        around = _candidates(sites, n, outer, no_data)
        names = _chosen(around, _candidates(nodes.values(), n, outer, no_data), n)
        around = [frame for frames in around for frame in frames]
    frame = next((frame for frame in around if frame.name in names), None)
    if frame is None:
        # Where nothing stands for a row of the data, all rows are one datum
        seen = observed or [*nodes.values()]
        alone = bool(others) and total in (None, n) and not outer
        whole = not n or (alone and all(map(_is_single, seen)))
        size = 1 if whole else n
        return DataPlate(names, size, size, size, whole=whole)
    found = _measured(names, frame, n, total)
    if others:
        names |= _of_the_guide(found, nodes, _nodes(others[0]))
        found = replace(found, names=names)
    if plate is None and not outer:
        _check_others(found, both, _others_of(first, *others))
    return found


def _is_single(node: dict[str, Any]) -> bool:
    """Whether a site has one density: neither plates around it nor a batch."""
    return node["fn"].batch_shape.numel() == 1 and not _frames(node, 0)


def _only_frame(traces: Iterable[Trace], n: int) -> CondIndepStackFrame | None:
    """The plate around each site, of n data, where there is no other; most often."""
    found = None
    for trace in traces:
        for site in kinds(trace).density:
            frames = trace.nodes[site]["cond_indep_stack"]
            if len(frames) != 1 or frames[0].size != n or not frames[0].vectorized:
                return None
            if found is not None and frames[0].name != found.name:
                return None
            found = frames[0]
    return found


def _nodes(trace: Trace) -> dict[str, dict[str, Any]]:
    return {site: trace.nodes[site] for site in kinds(trace).density}


def _frames(node: dict[str, Any], outer: int) -> Frames:
    stack = node["cond_indep_stack"]
    return [f for f in stack if f.vectorized and f.name != _PARTICLES][outer:]


def _candidates(
    sites: Iterable[dict[str, Any]], n: int, outer: int, no_data: Set[str]
) -> list[Frames]:
    """The plates of each site that may be that of n data; none of sites without."""
    around = [_frames(node, outer) for node in sites]
    around = [[f for f in frames if f.name not in no_data] or frames for frames in around]
    for may_be in (lambda f: suits(f, n), lambda f: f.full_size == n, lambda f: True):
        found = [[frame for frame in frames if may_be(frame)] for frames in around]
        if any(found):
            return [frames for frames in found if frames]
    return []


def _chosen(around: list[Frames], of_all: list[Frames], n: int) -> frozenset[str]:
    names = [{frame.name for frame in frames} for frames in around]
    shared = set.intersection(*names) if names else set()
    if len(shared) != 1 and of_all:
        shared = set.intersection(*[{frame.name for frame in frames} for frames in of_all])
    found = set()
    for candidates in names:
        best = candidates & {"data"} or candidates & shared or candidates
        if len(best) > 1:
            sizes = {f.name: f.size for frames in around for f in frames if f.name in best}
            alike = {*sizes.values()} == {n}
            raise AmbiguousPlateError(
                f"the plates {', '.join(map(repr, sizes))} are all "
                + (f"as large as the data ({n})" if alike else "around what is observed")
                + ": pass plate= with the name of that of the data, or call that 'data'"
            )
        found |= best
    return frozenset(found)


def _measured(
    names: frozenset[str], frame: CondIndepStackFrame, n: int, total: int | None
) -> DataPlate:
    size, full = frame.size, frame.full_size
    if size == _ANY:
        return DataPlate(names, n, total or n, n)
    if full not in (None, size):
        # Of a batch, or of all data
        return DataPlate(names, size, (total if full == n else None) or full, full)
    if size != n:
        if n and total not in (None, n):
            raise ValueError(
                f"plate {frame.name!r}: expected the {n} data of a batch, which are a part of "
                f"{total}, got {size} in the program: pass batch_size={total}, all in each step"
            )
        total = None
    return DataPlate(names, size, total or size, size)


def _of_the_guide(
    plate: DataPlate, in_model: dict[str, dict[str, Any]], in_guide: dict[str, dict[str, Any]]
) -> frozenset[str]:
    """What else the guide calls the plate: around its factors, and latents of the model inside."""
    found: set[str] = set()
    for site, node in in_guide.items():
        beside = in_model.get(site)
        local = node["is_observed"] if beside is None else plate.frame(beside) is not None
        if local and plate.frame(node) is None:
            found |= {f.name for f in _frames(node, 0) if f.size == plate.size}
    outside = [node for node in in_model.values() if plate.frame(node) is None]
    return frozenset(found.difference(f.name for node in outside for f in _frames(node, 0)))


def _others_of(*traces: Trace) -> list[set[str]]:
    """Plates of programs that are not the data's, by their traces; to be added to."""
    programs = [vars(trace)[PROGRAM] for trace in traces if PROGRAM in vars(trace)]
    return [_others.setdefault(innermost(program), set()) for program in programs] or [set()]


def _check_others(
    plate: DataPlate, nodes: Iterable[dict[str, Any]], no_data: list[set[str]]
) -> None:
    """Raise ``ValueError`` for sites of another plate that may always be as large as the data."""
    for node in nodes:
        frames = [frame for frame in _frames(node, 0) if frame.name not in plate.names]
        for names in no_data:
            names.update(frame.name for frame in frames if frame.size != plate.size)
        if plate.frame(node) is not None:
            continue
        if others := [
            frame for frame in frames if not any(frame.name in names for names in no_data)
        ]:
            raise AmbiguousPlateError(
                f"site {node['name']!r}: its plate {others[0].name!r} is as large as that of the "
                f"data, {min(plate.names)!r} ({plate.size}): give both one name if each of its "
                f"elements belongs to a datum, else pass plate={min(plate.names)!r}"
            )
