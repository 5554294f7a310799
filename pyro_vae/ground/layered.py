"""Places for the nodes of a directed graph, in layers, and ways for its arrows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .graphs import Parents

Point = tuple[float, float]
# A group, and a number in it
Lane = tuple[int, int]
# A node, or the bend of an arrow at a layer that it passes: (source, target, layer)
_Item = str | tuple[str, str, int]
_SWEEPS = 24
# Ways bend for nodes, not nodes for ways
_WEIGHT_OF_BENDS = 0.03
_BETWEEN_BENDS, _BESIDE_BENDS, _BETWEEN_LANES = 0.25, 0.6, 1.5


@dataclass(frozen=True)
class Layout:
    """Places in units of the distance of neighbours; layer 0 is the first.

    Attributes:
        nodes: node -> place within its layer, and layer.
        bends: arrow (source, target) -> places at the layers that it passes.
    """

    nodes: dict[str, Point]
    bends: dict[tuple[str, str], list[Point]]


def layered(parents: Parents, zones: Mapping[str, int], lanes: Mapping[str, Lane]) -> Layout:
    """Lay out a graph so that arrows go from layer to layer, and cross seldom.

    Layers are those of the longest ways; within a layer, nodes are near those that they are
    joined to.

    Source: "Methods for Visual Understanding of Hierarchical System Structures", Sugiyama, Tagawa,
    Toda (1981).

    Args:
        parents: node -> the nodes whose arrows end in it, parents first.
        zones: node -> a number; layers of a zone come after all those of lower ones.
        lanes: node -> a group and a number; nodes of a lane have those of lower numbers of its
            group on one side.

    Example:
        >>> graph, zones = {"z": (), "x": ("z",)}, {"z": 0, "x": 0}
        >>> layered(graph, zones, {"z": (0, 0), "x": (0, 0)}).nodes
        {'z': (0.0, 0.0), 'x': (0.0, 1.0)}
    """
    layer = _layers(parents, zones)
    rows: list[list[_Item]] = [[] for _ in range(max(layer.values()) + 1)]
    near: dict[_Item, list[_Item]] = {node: [] for node in parents}
    lane: dict[_Item, Lane] = dict(lanes)
    for node in parents:
        rows[layer[node]].append(node)
    zone_of = [zones[row[0]] for row in rows]
    for target, sources in parents.items():
        for source in sources:
            way: list[_Item] = [source]
            for between in range(layer[source] + 1, layer[target]):
                bend = (source, target, between)
                rows[between].append(bend)
                inside = zone_of[between] == zones[target]
                near[bend], lane[bend] = [], lanes[target if inside else source]
                way.append(bend)
            for one, other in itertools.pairwise([*way, target]):
                near[one].append(other)
                near[other].append(one)
    rows = _ordered(rows, near, lane)
    place = _placed(rows, near, lane)
    bends: dict[tuple[str, str], list[Point]] = {}
    for depth, row in enumerate(rows):
        for item in row:
            if isinstance(item, tuple):
                bends.setdefault(item[:2], []).append((place[item], float(depth)))
    return Layout({n: (place[n], float(layer[n])) for n in parents}, bends)


def _layers(parents: Parents, zones: Mapping[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    start = 0
    for zone in sorted({*zones.values()}):
        inside = [node for node in parents if zones[node] == zone]
        for node in inside:
            found[node] = max([start, *(found[p] + 1 for p in parents[node] if p in found)])
        last = max(found[node] for node in inside)
        for node in reversed(inside):
            # Without parents it is where it is needed
            children = [found[c] for c in inside if node in parents[c]]
            if not parents[node]:
                found[node] = min([last + 1, *children]) - 1 if children else last
        start = last + 1
    return found


def _ordered(
    rows: list[list[_Item]],
    near: Mapping[_Item, list[_Item]],
    lane: Mapping[_Item, Lane],
) -> list[list[_Item]]:
    """Rows sorted by lane, and within lanes so that few arrows cross."""
    rows = [sorted(row, key=lane.__getitem__) for row in rows]
    best, least = rows, _crossings(rows, near)
    for sweep in range(_SWEEPS):
        step = 1 if sweep % 2 == 0 else -1
        rows = list(rows)
        for number in range(len(rows))[::step]:
            if not 0 <= number - step < len(rows):
                continue
            at = {item: i for i, item in enumerate(rows[number - step])}
            wanted = {}
            for i, item in enumerate(rows[number]):
                seen = [at[other] for other in near[item] if other in at]
                wanted[item] = lane[item], sum(seen) / len(seen) if seen else i
            rows[number] = sorted(rows[number], key=wanted.__getitem__)
        if (found := _crossings(rows, near)) < least:
            best, least = rows, found
    return best


def _crossings(
    rows: Iterable[Sequence[_Item]],
    near: Mapping[_Item, list[_Item]],
) -> int:
    total = 0
    for upper, lower in itertools.pairwise(rows):
        at = {item: i for i, item in enumerate(lower)}
        arrows = [(i, at[b]) for i, a in enumerate(upper) for b in near[a] if b in at]
        total += sum((a - c) * (b - d) < 0 for (a, b), (c, d) in itertools.combinations(arrows, 2))
    return total


def _placed(
    rows: Sequence[Sequence[_Item]],
    near: Mapping[_Item, list[_Item]],
    lane: Mapping[_Item, Lane],
) -> dict[_Item, float]:
    """Places in their rows, near the neighbours' and at a distance from each other."""
    weight = {item: _WEIGHT_OF_BENDS if isinstance(item, tuple) else 1.0 for item in near}
    offsets = {}
    for row in rows:
        total = 0.0
        for before, item in itertools.pairwise([None, *row]):
            if before is not None:
                bends = isinstance(before, tuple) + isinstance(item, tuple)
                total += (1.0, _BESIDE_BENDS, _BETWEEN_BENDS)[bends]
            offsets[item] = total
    place = {item: offsets[item] - offsets[row[-1]] / 2 for row in rows for item in row}
    for sweep in range(_SWEEPS):
        for row in rows[:: 1 if sweep % 2 == 0 else -1]:
            wanted = []
            for item in row:
                total = sum(weight[other] for other in near[item])
                mean = sum(weight[other] * place[other] for other in near[item])
                wanted.append((mean / total if total else place[item]) - offsets[item])
            values = _rising(wanted, [weight[item] for item in row])
            place |= {i: v + offsets[i] for i, v in zip(row, values, strict=True)}
    # Lanes of a group beside each other
    edges: dict[int, float] = {}
    for group, number in sorted({*lane.values()}):
        items = [item for item in place if lane[item] == (group, number)]
        first = min(place[item] for item in items)
        shift = max(0.0, edges.get(group, -math.inf) + _BETWEEN_LANES - first)
        place |= {item: place[item] + shift for item in items}
        edges[group] = max(place[item] for item in items)
    return place


def _rising(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The values that never fall which are nearest to these, by weighted squares."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        block = (value, weight, 1)
        while blocks and blocks[-1][0] > block[0]:
            (v, w, n), (u, x, m) = blocks.pop(), block
            block = ((v * w + u * x) / (w + x), w + x, n + m)
        blocks.append(block)
    return [value for value, _, count in blocks for _ in range(count)]
