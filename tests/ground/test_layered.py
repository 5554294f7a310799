"""Layers, lanes and ways of a graph."""

import itertools
import random

import pytest

from pyro_vae.ground.layered import layered

CHAIN = {"z3": (), "z2": ("z3",), "z1": ("z2",), "x": ("z1",)}
TREE = {"a": (), "b": ("a",), "c": ("a",), "d": ("b",), "e": ("b",), "f": ("c",), "g": ("c",)}
DIAMOND = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}
LADDER = {"z3": (), "z2": ("z3",), "z1": ("z2", "z3"), "x": ("z1", "z2", "z3")}
CROSSED = {"a": (), "b": (), "c": (), "p": ("c",), "q": ("b",), "r": ("a",)}
GRAPHS = (CHAIN, TREE, DIAMOND, LADDER, CROSSED)


def flat(parents, zones=0):
    return layered(parents, dict.fromkeys(parents, zones), dict.fromkeys(parents, (0, 0)))


def random_graph(seed):
    rng = random.Random(seed)
    return {
        f"n{i}": tuple(f"n{j}" for j in range(i) if rng.random() < 0.3)
        for i in range(rng.randint(1, 12))
    }


def crossings(parents, found):
    ways = {
        (s, t): [found.nodes[s], *found.bends.get((s, t), ()), found.nodes[t]]
        for t, of in parents.items()
        for s in of
    }
    pieces = [piece for way in ways.values() for piece in itertools.pairwise(way)]
    return sum(
        a[1] == c[1] and b[1] == d[1] and (a[0] - c[0]) * (b[0] - d[0]) < 0
        for (a, b), (c, d) in itertools.combinations(pieces, 2)
    )


def apart(found):
    """The smallest distance of two nodes of a layer."""
    pairs = itertools.combinations(found.nodes.values(), 2)
    return min((abs(a - b) for (a, k), (b, m) in pairs if k == m), default=1.0)


@pytest.mark.parametrize("parents", GRAPHS)
def test_known_graphs_have_no_crossings_and_short_arrows(parents):
    found = flat(parents)
    assert crossings(parents, found) == 0
    assert apart(found) > 0.999
    for node, of in parents.items():
        assert found.nodes[node][1] == max((found.nodes[p][1] + 1 for p in of), default=0)


def test_a_chain_is_straight_and_a_tree_is_even():
    assert {place for place, _ in flat(CHAIN).nodes.values()} == {0.0}
    tree = flat(TREE).nodes
    assert tree["a"][0] == pytest.approx((tree["b"][0] + tree["c"][0]) / 2, abs=0.05)
    # What passes beside a chain hardly bends it
    ladder = flat(LADDER)
    places = [place for place, _ in ladder.nodes.values()]
    assert max(places) - min(places) < 0.2
    assert [depth for _, depth in ladder.bends["z3", "x"]] == [1, 2]


@pytest.mark.parametrize("seed", range(30))
def test_arrows_go_on_and_neighbours_keep_their_distance(seed):
    parents = random_graph(seed)
    found = flat(parents)
    assert found.nodes.keys() == parents.keys()
    assert apart(found) > 0.999
    for target, of in parents.items():
        for source in of:
            way = [*found.bends.get((source, target), ())]
            depths = [found.nodes[source][1], *(d for _, d in way), found.nodes[target][1]]
            assert all(b - a == 1 for a, b in itertools.pairwise(depths))


@pytest.mark.parametrize("seed", range(20))
def test_zones_are_below_each_other_and_lanes_beside_each_other(seed):
    rng = random.Random(seed)
    parents = random_graph(seed)
    zones = {node: int(i > len(parents) // 3) for i, node in enumerate(parents)}
    lanes = {node: (zones[node], rng.randint(0, 2)) for node in parents}
    found = layered(parents, zones, lanes).nodes
    for one, other in itertools.permutations(parents, 2):
        if zones[one] < zones[other]:
            assert found[one][1] < found[other][1]
        elif zones[one] == zones[other] and lanes[one] < lanes[other]:
            assert found[one][0] < found[other][0] - 0.999


def test_nodes_without_parents_are_where_they_are_needed():
    parents = {"a": (), "b": ("a",), "c": ("b",), "late": (), "d": ("c", "late")}
    found = flat(parents).nodes
    assert found["late"][1] == found["c"][1] == 2
