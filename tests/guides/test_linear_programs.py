"""Guides of any linear-Gaussian program hold its exact posterior, and training finds it."""

import functools
import math
import random

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess
from stepping import trained
from torch import nn

from pyro_vae import guides, infer
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

N = 50
NOISE = 0.7
GRAPHS = {
    "chain": {"z5": (), "z4": ("z5",), "z3": ("z4",), "z2": ("z3",), "z1": ("z2",), "x": ("z1",)},
    "tree": {"z0": (), "z1": ("z0",), "z2": ("z0",), "x1": ("z1",), "x2": ("z2",)},
    "diamond": {"z0": (), "z1": ("z0",), "z2": ("z0",), "z3": ("z1", "z2"), "x": ("z3",)},
    "branches": {"z1": (), "z2": (), "x": ("z1", "z2")},
    "beside": {"z1": (), "z2": ("z1",), "x": ("z1", "z2")},
    "states": {
        **{"z1": (), "x1": ("z1",), "z2": ("z1",), "x2": ("z2",), "z3": ("z2",), "x3": ("z3",)}
    },
    "unseen": {"z1": (), "x": ("z1",), "z2": (), "z3": ("z1", "z2")},
    "below": {"z1": (), "x1": ("z1",), "z2": ("x1",), "x2": ("z1", "z2")},
}
ORDERS = ("bottom-up", "top-down")


class Linear(nn.Module):
    """Normals whose means are linear in those of their parents; x... observe parts of the data."""

    def __init__(self, parents, sizes, seed=0):
        super().__init__()
        self.parents, self.sizes = parents, sizes
        torch.manual_seed(seed)
        for site, of in parents.items():
            for p in of:
                weight = torch.randn(sizes[site], sizes[p], dtype=torch.float64)
                self.register_buffer(f"{site}_{p}", weight / sizes[p] ** 0.5)
        self.seen = [site for site in parents if site[0] == "x"]

    def weight(self, site, parent):
        return getattr(self, f"{site}_{parent}")

    def noise(self, site):
        return NOISE if site in self.seen else 1.0

    def observed(self, x):
        parts = x.split([self.sizes[site] for site in self.seen], -1)
        return dict(zip(self.seen, parts, strict=True))

    def forward(self, x):
        found, values = self.observed(x), {}
        with pyro.plate("data", len(x)):
            for site, of in self.parents.items():
                loc = x.new_zeros(len(x), self.sizes[site])
                loc = loc + sum(values[p] @ self.weight(site, p).T for p in of)
                q = dist.Normal(loc, self.noise(site)).to_event(1)
                values[site] = pyro.sample(site, q, obs=found.get(site))

    @functools.cached_property
    def rows(self):
        """Where each site is in the joint covariance."""
        parts = torch.arange(sum(self.sizes.values())).split(list(self.sizes.values()))
        return dict(zip(self.sizes, parts, strict=True))

    @functools.cached_property
    def covariance(self):
        size = sum(self.sizes.values())
        slope, noise = torch.zeros(size, size).double(), torch.ones(size).double()
        for site, of in self.parents.items():
            noise[self.rows[site]] = self.noise(site)
            for p in of:
                slope[self.rows[site][:, None], self.rows[p]] = self.weight(site, p)
        root = torch.linalg.inv(torch.eye(size).double() - slope) * noise
        return root @ root.T

    def part(self, sites, others=None):
        others = sites if others is None else others
        of, to = ([int(i) for s in names for i in self.rows[s]] for names in (sites, others))
        return self.covariance[of][:, to]

    def evidence(self):
        covariance = self.part(self.seen)
        return dist.MultivariateNormal(torch.zeros(len(covariance)).double(), covariance)

    def conditional(self, site, given):
        """Slope and covariance of a site given others, where all means are 0."""
        slope = torch.linalg.solve(self.part(given), self.part(given, [site])).T
        return slope, self.part([site]) - slope @ self.part(given, [site])


def exact(guide, model):
    """The guide with the best conditionals given what it sees, for networks without layers.

    With full covariances these are the exact ones; the precision of a diagonal normal is the
    diagonal of theirs.
    """
    for site, given in guide.inputs.items():
        head = guide.conditionals[site]
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
        names = [s for s in given if s != "x"] + model.seen * ("x" in given)
        slope, covariance = model.conditional(site, names)
        # Networks see and return numbers near one: what they are given as (value - m) / s
        shifts, scales = (
            torch.cat([slope.new_zeros(0), *(units(guide, s)[i] for s in given)]) for i in (0, 1)
        )
        center, spread = units(guide, site)
        if not hasattr(head, "relative"):
            covariance = torch.linalg.inv(covariance).diag().reciprocal().diag()
        factor = torch.linalg.cholesky(covariance / spread / spread[:, None])
        with torch.no_grad():
            head.loc.bias.copy_((slope @ shifts - center) / spread)
            if given:
                head.loc.weight.copy_(slope * scales / spread[:, None])
            head.raw_scale.bias.copy_((factor.diag() - head.min_scale).expm1().log())
            if model.sizes[site] > 1 and hasattr(head, "relative"):
                lower = factor / factor.diag()[:, None] * len(factor) ** 0.5
                head.relative.bias.copy_(lower[head.below[0], head.below[1]])
    return guide


def units(guide, name):
    """What networks see of an input or a latent as 0, and as 1 above it."""
    if name == "x":
        measures = getattr(guide.reading.arguments, "measures", None)
        if measures is not None:
            return measures[0].loc, measures[0].scale
        size = guide.model.event_shape[0]
    else:
        place = guide.places[name]
        if place.center is not None:
            return place.center, place.spread
        size = place.size
    return torch.zeros(size).double(), torch.ones(size).double()


def sized(parents, sizes=None):
    sizes = sizes or {site: 1 + i % 3 for i, site in enumerate(parents)}
    model = Linear(parents, {site: sizes[site] for site in parents})
    torch.manual_seed(1)
    return model, model.evidence().sample((N,))


def gap(model, guide, x, samples=1):
    bound = infer.elbo_terms(model, guide, x, samples=samples).elbo
    return model.evidence().log_prob(x) - bound


def random_graph(seed):
    """Latents and observed sites in any order, of any sizes."""
    rng = random.Random(seed)
    nodes = [f"z{i}" for i in range(rng.randint(1, 5))] + [f"x{i}" for i in range(2)]
    rng.shuffle(nodes)
    parents = {n: tuple(p for p in nodes[:i] if rng.random() < 0.5) for i, n in enumerate(nodes)}
    return parents, {n: rng.randint(1, 3) for n in nodes}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", GRAPHS)
def test_full_covariances_hold_the_exact_posterior_of_latents_of_any_size(name, order):
    model, x = sized(GRAPHS[name])
    guide = exact(guides.FullCovariance(model, like=x, order=order, hidden=()), model)
    assert gap(model, guide, x).abs().max() < 1e-8
    assert not infer.check_pair(model, guide, x).lacking


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", GRAPHS)
def test_normals_hold_the_exact_posterior_of_single_numbers(name, order):
    model, x = sized(GRAPHS[name], dict.fromkeys(GRAPHS[name], 1))
    guide = exact(guides.BottomUp(model, like=x, order=order, hidden=()), model)
    assert gap(model, guide, x).abs().max() < 1e-8


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("seed", range(12))
def test_the_exact_posterior_of_any_graph(seed, order):
    model, x = sized(*random_graph(seed))
    guide = exact(guides.FullCovariance(model, like=x, order=order, hidden=()), model)
    assert gap(model, guide, x).abs().max() < 1e-8


@pytest.mark.parametrize("name", GRAPHS)
def test_partial_guides_together_hold_it_too(name):
    model, x = sized(GRAPHS[name])
    whole = guides.FullCovariance(model, like=x, hidden=())
    parts = [
        guides.FullCovariance(model, like=x, hidden=(), sites=[site]) for site in whole.latents
    ]
    guide = guides.Composed(*(exact(part, model) for part in parts))
    assert guide.latents == whole.latents
    assert gap(model, guide, x).abs().max() < 1e-8


TRAINED = {
    "BottomUp": (guides.BottomUp, 1, {}),
    "FullCovariance": (guides.FullCovariance, 2, {}),
    "Flow": (guides.Flow, 2, {"step_hidden": 8}),
}


@pytest.mark.parametrize("name", TRAINED)
def test_training_finds_the_evidence_of_what_two_latents_make(name):
    family, size, options = TRAINED[name]
    graph = GRAPHS["branches"]
    model, x = sized(graph, dict.fromkeys(graph, size))
    guide = family(model, like=x, hidden=(), **options)
    guide = trained(model.requires_grad_(False), guide, x, steps=250, lr=0.1)
    found = gap(model, guide, x, samples=100).mean()
    assert found < 0.05


def skipping():
    """A linear VAE of two layers whose data see both, and the same as a linear program."""
    linear, x = sized({"z2": (), "z1": ("z2",), "x": ("z1", "z2")}, {"z1": 2, "z2": 2, "x": 6})
    vae = VAE((6,), (2, 2), likelihood=Gaussian(NOISE), hidden=(), skip=True).double()
    above, decoder = vae.conditionals["z1"], vae.decoder.layers[0]
    for parameter in vae.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        above.loc.weight.copy_(linear.weight("z1", "z2"))
        nn.init.constant_(above.raw_scale.bias, math.log(math.expm1(1 - above.min_scale)))
        decoder.weight.copy_(torch.cat([linear.weight("x", s) for s in ("z1", "z2")], -1))
    return vae, linear, x


def lost(guide, model):
    """The gap in nats where normals of the exact precision leave its correlations out."""
    total = 0.0
    for site, given in guide.inputs.items():
        latents = [s for s in given if s != "x"]
        covariance = model.conditional(site, latents + model.seen * ("x" in given))[1]
        precisions = torch.linalg.inv(covariance).diag()
        total += 0.5 * (precisions.log().sum() + covariance.logdet())
    return total


def test_every_layer_of_a_vae_that_skips_sees_the_data():
    vae, linear, x = skipping()
    full = exact(guides.FullCovariance(vae, hidden=()).double(), linear)
    assert full.inputs == {"z1": ("x",), "z2": ("z1", "x")}
    evidence = linear.evidence().log_prob(x)
    assert (infer.elbo_terms(vae, full, x).elbo - evidence).abs().max() < 1e-5
    diagonal = exact(guides.BottomUp(vae, hidden=()).double(), linear)
    short = evidence - infer.elbo_terms(vae, diagonal, x, samples=400).elbo
    expected = float(lost(diagonal, linear))
    assert 0 < expected < 0.3
    # Of the data, each of which has draws of its own
    error = short.std() / N**0.5
    assert excess((short.mean() - expected) / error, draws=N) < 1


@pytest.mark.parametrize("family", [guides.BottomUp, guides.Flow])
def test_training_closes_the_gap_of_a_vae_that_skips(family):
    vae, linear, x = skipping()
    options = {} if family is guides.BottomUp else {"step_hidden": 8}
    guide = family(vae, hidden=(), **options).double()
    guide = trained(vae.requires_grad_(False), guide, x, steps=250, lr=0.1)
    short = linear.evidence().log_prob(x) - infer.elbo_terms(vae, guide, x, samples=100).elbo
    assert short.mean() < 0.35
