"""Directed graphs without circles: separation, the order of an inversion, layers."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping

# Node -> the nodes whose arrows end in it, in an order in which parents come first
Parents = Mapping[str, Collection[str]]


def ancestors(parents: Parents, nodes: Iterable[str]) -> set[str]:
    """These nodes and all from which a way of arrows leads to them."""
    found, left = set(), [*nodes]
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left += parents[node]
    return found


def moral(parents: Parents, nodes: Collection[str]) -> dict[str, set[str]]:
    """Neighbours of each node where nodes that share a child are joined, arrows without heads."""
    found: dict[str, set[str]] = {node: set() for node in nodes}
    for node in nodes:
        for one, other in itertools.combinations({node, *parents[node]}, 2):
            found[one].add(other)
            found[other].add(one)
    return found


def boundary(parents: Parents, node: str, known: Collection[str]) -> set[str]:
    """The fewest of some ``known`` nodes that make one independent of all others of them.

    These are the ones that are not d-separated from it by the rest of those known: in the moral
    graph of all ancestors they are reached by ways through unknown nodes alone.

    Source: "Probabilistic Reasoning in Intelligent Systems", Pearl (1988).

    Example:
        >>> chain = {"z3": (), "z2": ("z3",), "z1": ("z2",), "x": ("z1",)}
        >>> boundary(chain, "z2", {"x", "z1"}), boundary(chain, "z3", {"x"})
        ({'z1'}, {'x'})
    """
    known = {*known} - {node}
    near = moral(parents, ancestors(parents, [*known, node]))
    found, left, seen = set(), [node], {node}
    while left:
        for other in near[left.pop()] - seen:
            seen.add(other)
            if other in known:
                found.add(other)
            else:
                left.append(other)
    return found


def eliminated(parents: Parents, hidden: Collection[str], given: Collection[str]) -> list[str]:
    """An order of ``hidden`` nodes, parents first, that joins few others as each is taken out.

    Of those whose hidden parents are gone the next one joins the fewest pairs of its neighbours,
    not counting pairs of ``given`` nodes; of equals the first.
    """
    near, given = moral(parents, parents.keys()), {*given}
    above = {node: ancestors(parents, [node]) & {*hidden} - {node} for node in hidden}
    order: list[str] = []
    while len(order) < len(above):
        free = [node for node in above if node not in order and above[node] <= {*order}]
        node = min(free, key=lambda node: len(_joined(near, node, given)))
        for one, other in _joined(near, node, given):
            near[one].add(other)
            near[other].add(one)
        for other in near.pop(node):
            near[other].discard(node)
        order.append(node)
    return order


def _joined(near: Mapping[str, set[str]], node: str, given: set[str]) -> list[tuple[str, str]]:
    """The pairs that are joined as a node is taken out."""
    pairs = itertools.combinations(sorted(near[node]), 2)
    return [(a, b) for a, b in pairs if b not in near[a] and not (a in given and b in given)]
