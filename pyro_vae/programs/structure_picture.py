"""Plate diagrams, drawn with matplotlib alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path

from ..ground.drawing import new_axes, shown
from ..ground.graphs import Parents
from ..ground.layered import Lane, Point, layered

_HEIGHT, _LETTER, _FACTOR = 0.3, 0.065, 0.1
_LINE = "#404040"
_FILL = {"latent": "white", "observed": "#d0d0d0", "given": "#d0d0d0"}
_LABEL = 0.28
# Left, bottom, right and top
_Box = tuple[float, float, float, float]


def plate_diagram(
    parents: Parents, kinds: Mapping[str, str], plates: Mapping[str, Sequence[str]]
) -> Figure:
    """Draw a graph of random variables.

    Args:
        parents: node -> the nodes whose arrows end in it, parents first.
        kinds: node -> "latent", "observed", "factor" or "given".
        plates: node -> labels of the plates around it.

    Returns:
        A figure of one axes.
    """
    labels = list(dict.fromkeys(label for node in parents for label in plates[node]))
    inside = {label: {n for n in parents if label in plates[n]} for label in labels}
    layout = layered(parents, *_zones_and_lanes(parents, plates, inside))

    half = max(_HEIGHT, *(0.1 + _LETTER * len(node) for node in parents))
    across = [x for x, _ in layout.nodes.values()]
    deep = max(y for _, y in layout.nodes.values())
    lying = deep > 3 and deep > 1.5 * (max(across) - min(across))

    def at(point: Point) -> Point:
        across, depth = point
        if lying:
            return depth * (2 * half + 0.6), -across * 1.1
        return across * (2 * half + 0.5), -depth * 1.2

    centres = {node: at(point) for node, point in layout.nodes.items()}
    bends = {arrow: [at(point) for point in way] for arrow, way in layout.bends.items()}
    frames = _frames(inside, centres, bends, half)
    boxes = [*frames.values(), *(_box(centre, half) for centre in centres.values())]
    boxes += [_box(point) for way in bends.values() for point in way]
    left, bottom = (min(box[i] for box in boxes) - 0.1 for i in (0, 1))
    right, top = (max(box[i] for box in boxes) + 0.1 for i in (2, 3))
    (ax,) = new_axes(1, 1, (0.9 * (right - left), 0.9 * (top - bottom)))
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    ax.axis("off")
    for label, (x0, y0, x1, y1) in frames.items():
        box = f"round,pad=0,rounding_size={min(0.2, (x1 - x0) / 4)}"
        style = {"facecolor": "none", "edgecolor": _LINE, "linewidth": 1.0}
        ax.add_patch(FancyBboxPatch((x0, y0), x1 - x0, y1 - y0, boxstyle=box, **style))
        ax.text(x1 - 0.1, y0 + 0.07, shown(label), ha="right", va="bottom", fontsize="small")
    sizes = {n: (half, _HEIGHT) if k != "factor" else (_FACTOR, _FACTOR) for n, k in kinds.items()}
    for node, (x, y) in centres.items():
        _draw_node(ax, node, kinds[node], (x, y), sizes[node])
    for target, sources in parents.items():
        for source in sources:
            way = [centres[source], *bends.get((source, target), ()), centres[target]]
            way[0] = _rim(way[0], way[1], sizes[source])
            way[-1] = _rim(way[-1], way[-2], sizes[target])
            style = {"arrowstyle": "-|>", "mutation_scale": 11, "color": _LINE, "zorder": 1}
            ax.add_patch(FancyArrowPatch(path=_smooth(way), **style))
    return ax.figure


def _zones_and_lanes(
    nodes: Iterable[str], plates: Mapping[str, Sequence[str]], inside: Mapping[str, set[str]]
) -> tuple[dict[str, int], dict[str, Lane]]:
    """What is in the largest plate below what is not, and the other plates beside each other."""
    largest = max(inside, key=lambda label: len(inside[label]), default=None)
    zones = {node: int(largest in plates[node]) for node in nodes}
    others = {node: frozenset(plates[node]) - {largest} for node in nodes}
    order = _side_by_side(list(dict.fromkeys(others.values())))
    across = any(len({zones[n] for n in inside[label]}) > 1 for label in inside)
    return zones, {n: (0 if across else zones[n], order.index(others[n])) for n in nodes}


def _side_by_side(sets: list[frozenset[str]]) -> Sequence[frozenset[str]]:
    """Sets of plates in an order in which each plate, if possible, is around neighbours alone."""

    def gaps(order: Sequence[frozenset[str]]) -> int:
        rows = [[plate in held for held in order] for plate in frozenset().union(*order)]
        return sum(b and not a for row in rows for a, b in itertools.pairwise([False, *row]))

    # Of more than a few any order is as good
    return min(itertools.permutations(sets), key=gaps) if len(sets) < 7 else sets


def _frames(
    inside: Mapping[str, set[str]],
    centres: Mapping[str, Point],
    bends: Mapping[tuple[str, str], Sequence[Point]],
    half: float,
) -> dict[str, _Box]:
    """Of each plate, around the plates inside of it."""
    found = {}
    for label in sorted(inside, key=lambda label: len(inside[label])):
        members = inside[label]
        ways = [p for arrow, way in bends.items() if members.issuperset(arrow) for p in way]
        boxes = [_box(centres[node], half) for node in members] + [*map(_box, ways)]
        boxes += [box for other, box in found.items() if inside[other] <= members]
        left, bottom, right, top = (
            limit(box[i] for box in boxes) for i, limit in enumerate((min, min, max, max))
        )
        wanting = max(0.0, 0.085 * len(label) - 0.1 - (right - left)) / 2
        left, right = left - 0.15 - wanting, right + 0.15 + wanting
        bottom -= 0.1 + _LABEL
        # No label on another
        while any(bottom == box[1] and left < box[2] and box[0] < right for box in found.values()):
            bottom -= _LABEL
        found[label] = (left, bottom, right, top + 0.15)
    return found


def _box(centre: Point, half: float = 0.15) -> _Box:
    (x, y), height = centre, min(half, _HEIGHT)
    return x - half, y - height, x + half, y + height


def _draw_node(ax: Axes, node: str, kind: str, centre: Point, size: Point) -> None:
    (x, y), (width, height) = centre, size
    corner = (x - width, y - height)
    style = {"edgecolor": _LINE, "linewidth": 1.2, "zorder": 2}
    if kind == "factor":
        ax.add_patch(Rectangle(corner, 2 * width, 2 * height, facecolor=_LINE, **style))
        ax.text(x + 0.18, y, shown(node), va="center", zorder=3)
        return
    if kind == "given":
        ax.add_patch(Rectangle(corner, 2 * width, 2 * height, facecolor=_FILL[kind], **style))
    else:
        patch = Ellipse(centre, 2 * width, 2 * height, facecolor=_FILL[kind], **style)
        ax.add_patch(patch)
    ax.text(x, y, shown(node), ha="center", va="center", zorder=3)


def _rim(centre: Point, towards: Point, size: Point) -> Point:
    """Where a line from the centre of a node leaves it."""
    dx, dy = towards[0] - centre[0], towards[1] - centre[1]
    share = 1 / math.hypot(dx / size[0], dy / size[1])
    return centre[0] + share * dx, centre[1] + share * dy


def _smooth(way: Sequence[Point]) -> Path:
    """A curve through all points, straight for two."""
    ends = [way[0], *way, way[-1]]
    points, codes = [way[0]], [Path.MOVETO]
    for a, b, c, d in zip(ends, ends[1:], ends[2:], ends[3:], strict=False):
        points += [_moved(b, a, c, 1 / 6), _moved(c, d, b, 1 / 6), c]
        codes += [Path.CURVE4] * 3
    return Path(points, codes)


def _moved(point: Point, start: Point, end: Point, share: float) -> Point:
    return point[0] + share * (end[0] - start[0]), point[1] + share * (end[1] - start[1])
