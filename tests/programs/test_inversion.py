"""The faithful inverse has the edges of the exact posterior, and no others."""

import itertools
import random

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.ground.graphs import ancestors, boundary, eliminated
from pyro_vae.infer import faithful_inverse, structure
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
# Far above rounding, far below any product of the weights
ZERO, NONZERO = 1e-11, 1e-8


def program(parents):
    """A program of scalar normals; what is called x... observes a column each, in their order."""
    seen = [name for name in parents if name[0] == "x"]

    def model(x):
        values = {}
        with pyro.plate("data", len(x)):
            for name, of in parents.items():
                loc = sum((values[p] for p in of), x.new_zeros(len(x)))
                obs = x[:, seen.index(name)] if name in seen else None
                values[name] = pyro.sample(name, dist.Normal(loc, 1.0), obs=obs)

    return model


def like(parents):
    return X[:, : sum(name[0] == "x" for name in parents)]


def inverse(parents, order="bottom-up"):
    return faithful_inverse(structure(program(parents), like(parents)), order)


def covariance(parents, seed=0):
    """Of the joint linear-Gaussian distribution of the graph with random weights."""
    names = list(parents)
    weights = torch.zeros(len(names), len(names), dtype=torch.float64)
    for name, of in parents.items():
        for parent in of:
            sign = random.Random(f"{seed}{name}{parent}").choice((-1, 1))
            size = random.Random(f"{parent}{name}{seed}").uniform(0.5, 1.5)
            weights[names.index(name), names.index(parent)] = sign * size
    root = torch.linalg.inv(torch.eye(len(names), dtype=torch.float64) - weights)
    return root @ root.T


def needed(parents, site, known):
    """The known nodes whose coefficient in the exact conditional of a site is not zero."""
    names = list(parents)
    whole, of = covariance(parents), [names.index(k) for k in known]
    if not of:
        return set()
    solved = torch.linalg.solve(whole[of][:, of], whole[of, names.index(site)]).abs()
    assert not ((solved > ZERO) & (solved < NONZERO)).any()
    return {name for name, value in zip(known, solved.tolist(), strict=True) if value > NONZERO}


def random_graph(seed):
    rng = random.Random(seed)
    latents = [f"z{i}" for i in range(rng.randint(1, 7))]
    observed = [f"x{i}" for i in range(rng.randint(1, 3))]
    nodes = latents + observed
    # Latents may be below what is observed
    if seed % 3 == 0:
        rng.shuffle(nodes)
    density = rng.uniform(0.1, 0.6)
    return {n: tuple(p for p in nodes[:i] if rng.random() < density) for i, n in enumerate(nodes)}


def sets(parents):
    return {name: {*of} for name, of in parents.items()}


def latents_of(parents):
    return [name for name in parents if name[0] == "z"]


def observed_of(parents):
    return [name for name in parents if name[0] == "x"]


@pytest.mark.parametrize("seed", range(30))
def test_edges_are_those_of_the_exact_posterior(seed):
    parents = random_graph(seed)
    model = structure(program(parents), like(parents))
    assert {site: {*of} for site, of in model.parents.items()} == sets(parents)
    for order in ("bottom-up", "top-down"):
        found = faithful_inverse(model, order)
        assert {*found.latents} == {*latents_of(parents)}
        for number, site in enumerate(found.latents):
            known = [*found.latents[:number], *observed_of(parents)]
            assert {*found.inputs[site]} == needed(parents, site, known), (site, order, parents)


@pytest.mark.parametrize("seed", range(100, 200))
def test_a_boundary_is_that_of_the_exact_distribution_whatever_is_known(seed):
    parents = random_graph(seed)
    rng = random.Random(seed)
    for site in parents:
        known = [name for name in parents if name != site and rng.random() < 0.5]
        assert boundary(parents, site, known) == needed(parents, site, known)


@pytest.mark.parametrize("seed", range(30, 38))
def test_bottom_up_draws_children_before_parents_and_top_down_as_the_model(seed):
    parents = random_graph(seed)
    model = structure(program(parents), like(parents))
    drawn = faithful_inverse(model).latents
    for site in drawn:
        after = drawn[drawn.index(site) :]
        assert ancestors(parents, [site]) & {*drawn} <= {*after}
    assert faithful_inverse(model, "top-down").latents == tuple(model.latents)


def edges(parents, drawn):
    known = [[*drawn[:i], *observed_of(parents)] for i in range(len(drawn))]
    return sum(len(boundary(parents, s, k)) for s, k in zip(drawn, known, strict=True))


def topological(parents):
    for order in itertools.permutations(latents_of(parents)):
        if all(
            {*order[i:]}.isdisjoint(ancestors(parents, [s]) - {s}) for i, s in enumerate(order)
        ):
            yield order


def test_the_order_of_elimination_takes_few_edges():
    taken, best, worst = 0, 0, 0
    for seed in range(25):
        parents = random_graph(seed)
        if len(latents_of(parents)) < 6:
            counts = [edges(parents, order[::-1]) for order in topological(parents)]
            taken += edges(parents, inverse(parents).latents)
            best, worst = best + min(counts), worst + max(counts)
    assert best <= taken <= 1.02 * best < worst


NAMED = {
    "chain": (
        {"z5": (), "z4": ("z5",), "z3": ("z4",), "z2": ("z3",), "z1": ("z2",), "x": ("z1",)},
        "q(z1|x) q(z2|z1) q(z3|z2) q(z4|z3) q(z5|z4)",
        "q(z5|x) q(z4|z5,x) q(z3|z4,x) q(z2|z3,x) q(z1|z2,x)",
    ),
    "tree": (
        {"z0": (), "z1": ("z0",), "z2": ("z0",), "x1": ("z1",), "x2": ("z2",)},
        "q(z2|x1,x2) q(z1|z2,x1) q(z0|z1,z2)",
        "q(z0|x1,x2) q(z1|z0,x1) q(z2|z0,x2)",
    ),
    "diamond": (
        {"z0": (), "z1": ("z0",), "z2": ("z0",), "z3": ("z1", "z2"), "x": ("z3",)},
        "q(z3|x) q(z2|z3) q(z1|z2,z3) q(z0|z1,z2)",
        "q(z0|x) q(z1|z0,x) q(z2|z1,z0,x) q(z3|z2,z1,x)",
    ),
    "branches": (
        {"z1": (), "z2": (), "x": ("z1", "z2")},
        "q(z2|x) q(z1|z2,x)",
        "q(z1|x) q(z2|z1,x)",
    ),
    "states": (
        {"z1": (), "x1": ("z1",), "z2": ("z1",), "x2": ("z2",), "z3": ("z2",), "x3": ("z3",)},
        "q(z3|x1,x2,x3) q(z2|z3,x1,x2) q(z1|z2,x1)",
        "q(z1|x1,x2,x3) q(z2|z1,x2,x3) q(z3|z2,x3)",
    ),
    "apart": ({"z1": (), "x1": ("z1",), "z2": (), "x2": ("z2",)}, "q(z2|x2) q(z1|x1)", None),
    "unseen": (
        {"z1": (), "x": ("z1",), "z2": (), "z3": ("z1", "z2")},
        "q(z3|x) q(z1|z3,x) q(z2|z1,z3)",
        "q(z1|x) q(z2) q(z3|z2,z1)",
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_inverses_of_graphs_that_are_known(name):
    parents, up, down = NAMED[name]
    assert repr(inverse(parents)) == up
    if down is not None:
        assert repr(inverse(parents, "top-down")) == down


@pytest.mark.parametrize(
    "options, up, down",
    [
        ({}, "q(z1|x) q(z2|z1)", "q(z2|x) q(z1|z2,x)"),
        ({"skip": True}, "q(z1|x) q(z2|z1,x)", "q(z2|x) q(z1|z2,x)"),
        ({"condition": 3}, "q(z1|x,y) q(z2|z1,y)", "q(z2|x,y) q(z1|z2,x,y)"),
    ],
)
def test_inverses_of_the_models_of_this_library(options, up, down):
    vae = VAE((6,), (2, 2), likelihood=Gaussian(), **options)
    assert repr(faithful_inverse(structure(vae))) == up
    assert repr(faithful_inverse(structure(vae), "top-down")) == down


def test_global_latents_are_given_and_enumerated_ones_are_summed_out():
    def model(x):
        scale = pyro.sample("scale", dist.Gamma(2.0, 2.0))
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, scale))
            k = pyro.sample("k", dist.Categorical(logits=torch.stack([a, -a], -1)), infer=SUMMED)
            b = pyro.sample("b", dist.Normal(k.float(), 1.0))
            pyro.sample("x", dist.Normal(b[:, None], 1.0).expand([len(x), 3]).to_event(1), obs=x)

    SUMMED = {"enumerate": "parallel"}
    assert repr(faithful_inverse(structure(model, X))) == "q(b|x,scale) q(a|b,scale)"
    assert repr(faithful_inverse(structure(model, X), "top-down")) == "q(a|x,scale) q(b|a,x)"


def test_factors_join_what_they_see_and_are_no_inputs():
    def model(x):
        with pyro.plate("data", len(x)):
            a, b = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in "ab")
            pyro.factor("near", -(a - b).square())
            pyro.sample("x", dist.Normal(a[:, None], 1.0).expand([len(x), 3]).to_event(1), obs=x)

    assert repr(faithful_inverse(structure(model, X))) == "q(a|x) q(b|a)"


def test_what_observes_what_is_observed_is_told_apart():
    """Of x1 -> x2 <- z the latent needs both: given x2 its parents depend on each other."""
    assert repr(inverse({"z": (), "x1": (), "x2": ("x1", "z")})) == "q(z|x1,x2)"
    assert repr(inverse({"z": (), "x1": ("z",), "x2": ("x1",)})) == "q(z|x1)"


def test_a_long_chain_takes_no_time():
    parents = {}
    for t in range(150):
        parents[f"z{t}"] = (f"z{t - 1}",) if t else ()
        parents[f"x{t}"] = (f"z{t}",)
    order = eliminated(parents, latents_of(parents), observed_of(parents))
    assert order == latents_of(parents)
    assert boundary(parents, "z149", observed_of(parents)) == {*observed_of(parents)}


def test_bad_orders_and_discrete_latents_are_refused():
    model = structure(VAE((6,), (2, 2), likelihood=Gaussian()))
    with pytest.raises(ValueError, match=r"order: .*top-down"):
        faithful_inverse(model, "topdown")

    def mixture(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(k[:, None], 1.0).expand([len(x), 3]).to_event(1), obs=x)

    with pytest.raises(ValueError, match=r"site 'k': .* got a Bernoulli: mark it infer="):
        faithful_inverse(structure(mixture, X))
