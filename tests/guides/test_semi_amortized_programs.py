"""Refined guides of programs that are no ``VAE``."""

import copy
import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import sigmas
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyro_vae import Trainer, infer
from pyro_vae.guides import BottomUp, Composed, Delta, Flow, FullCovariance, Ladder, SemiAmortized

N, SIGMA = 12, 0.5


def data(*shape, n=N, seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def normal(shape, sigma=SIGMA):
    """z ~ N(0, 1), x ~ N(z, sigma^2), of one shape."""

    def program(x):
        with pyro.plate("data", len(x)):
            prior = dist.Normal(torch.zeros(shape), 1.0).to_event(len(shape))
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z, sigma).to_event(len(shape)), obs=x)

    return program


def items(dim):
    """The same for three items of a datum, in a plate to the right or the left of the data's."""

    def program(x):
        rows, inside = pyro.plate("data", len(x), dim=dim), pyro.plate("items", 3, dim=-3 - dim)
        with rows, inside:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, SIGMA), obs=x if dim == -2 else x.T)

    return program


def counts(x):
    with pyro.plate("data", len(x)):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.1))
        pyro.sample("x", dist.Poisson(rate), obs=x)


def log_evidence(x):
    return dist.GammaPoisson(2.0, 0.1).log_prob(x)


def drawn_counts(n=200):
    torch.manual_seed(5)
    return dist.GammaPoisson(2.0, 0.1).sample((n,))


def refined(guide, x, **options):
    """The normal of a guide in the coordinates of its one site, after refining."""
    made = SemiAmortized(guide, **options)
    node = poutine.trace(made).get_trace(x).nodes[made.latents[0]]["fn"]
    while not isinstance(node, torch.distributions.Normal):
        node = node.base_dist
    return node


def seeded(build, *args, **kwargs):
    torch.manual_seed(0)
    return build(*args, **kwargs)


@pytest.mark.parametrize("build", [BottomUp, Ladder])
@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_the_exact_posterior_is_found_whatever_the_shape(build, shape):
    x = data(*shape)
    program = normal(shape)
    program.kind = "array"
    q = refined(seeded(build, program, like=x), x, steps=80, lr=0.3)
    precision = 1 + SIGMA**-2
    torch.testing.assert_close(q.loc, x / SIGMA**2 / precision, atol=5e-3, rtol=0.0)
    expected = torch.full_like(x, precision**-0.5)
    torch.testing.assert_close(q.scale, expected, atol=5e-3, rtol=0.0)


@pytest.mark.parametrize("dim", [-1, -2])
def test_plates_inside_a_datum_are_those_folded_into_the_event(dim):
    x = data(3)
    folded, guide = BottomUp(normal((3,)), like=x), BottomUp(items(dim), like=x)
    guide.load_state_dict(folded.state_dict())
    offsets = [SemiAmortized(g).refine(x)["z"] for g in (guide, folded)]
    for a, b in zip(*offsets, strict=True):
        torch.testing.assert_close(a if dim == -2 else a.T, b)
        assert b.abs().sum() > 0


def test_a_part_of_the_data_is_refined_as_if_it_were_all():
    """Whatever weights it has in the program."""

    def part(x):
        with pyro.plate("data", 1000, subsample=torch.arange(len(x))):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, SIGMA), obs=x)

    x = data()
    for build, program in ((BottomUp, part), (Ladder, part), (Ladder, poutine.scale(part, 9.0))):
        guides = build(program, like=x), build(normal(()), like=x)
        guides[0].load_state_dict(guides[1].state_dict())
        found, expected = (SemiAmortized(g).refine(x)["z"] for g in guides)
        torch.testing.assert_close(found, expected)


def test_each_datum_is_refined_for_itself():
    x = data(3)
    guide = SemiAmortized(BottomUp(items(-1), like=x))
    together = guide.refine(x)["z"]
    for i, found in enumerate(together):
        alone = torch.cat([guide.refine(row[None])["z"][i] for row in x], 1)
        torch.testing.assert_close(alone, found, rtol=1e-4, atol=1e-5)


class TestCounts:
    def test_the_gap_shrinks_on_held_data(self):
        x, held = drawn_counts(400).split(200)
        guide = seeded(BottomUp, counts, like=x)
        pair = guide, SemiAmortized(guide, steps=20, lr=0.3)
        before, after = (infer.elbo_terms(counts, g, held, samples=5).elbo for g in pair)
        gain = (after - before).double()
        assert gain.mean() > sigmas() * gain.std() / math.sqrt(len(held))
        gaps = [float((log_evidence(held) - elbo).mean()) for elbo in (before, after)]
        assert gaps[1] < 0.15 < 1 < gaps[0]

    def test_importance_sampling_finds_the_evidence(self):
        x = drawn_counts(20)
        guide = SemiAmortized(seeded(BottomUp, counts, like=x), steps=30, lr=0.3)
        estimate = infer.importance(counts, guide, x, samples=2000)
        difference = (estimate.log_likelihood - log_evidence(x)).double()
        error = estimate.standard_error.double().square().sum().sqrt()
        assert abs(difference.sum()) < sigmas() * error
        assert error < 0.5

    def test_encode_and_copies(self):
        x = drawn_counts(20)
        guide = SemiAmortized(BottomUp(counts, like=x))
        code = guide.encode(x)
        assert (code.sample["rate"] > 0).all()
        assert code.mean["rate"].shape == (20,)
        twin = copy.deepcopy(guide)
        assert torch.equal(twin.refine(x)["rate"][0], guide.refine(x)["rate"][0])


def coin(x):
    with pyro.plate("data", len(x)):
        p = pyro.sample("p", dist.Beta(2.0, 3.0))
        pyro.sample("x", dist.Bernoulli(p), obs=x)


def topics(x):
    with pyro.plate("data", len(x)):
        p = pyro.sample("p", dist.Dirichlet(torch.tensor([2.0, 1.0])))
        pyro.sample("x", dist.Categorical(p), obs=x)


def test_refined_densities_integrate_to_one_over_the_support():
    x = torch.tensor([0.0, 1.0, 1.0])
    grid = torch.linspace(0, 1, 20_001, dtype=torch.float64)[1:-1, None]
    for program, point in ((coin, lambda p: p), (topics, lambda p: torch.stack([p, 1 - p], -1))):
        guide = SemiAmortized(BottomUp(program, like=x), steps=10).double()
        node = poutine.trace(guide).get_trace(x.double()).nodes["p"]
        assert node["fn"].support.check(node["value"]).all()
        density = node["fn"].log_prob(point(grid.expand(-1, 3))).exp()
        total = torch.trapezoid(density, grid, dim=0)
        torch.testing.assert_close(total, torch.ones_like(total), atol=2e-3, rtol=0.0)


class Deep(nn.Module):
    """z2 -> z1 -> x, y, with a normalised conditional and an argument that nothing observes."""

    def __init__(self):
        super().__init__()
        self.top_down = nn.Sequential(
            nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)
        )
        self.down = nn.Linear(3, 4)

    def forward(self, x, shift):
        pyro.module("deep", self)
        with pyro.plate("data", len(x)):
            top = pyro.sample("a.top", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            scale = pyro.sample("scale", dist.LogNormal(0.0, 0.3))
            z = pyro.sample("z", dist.Normal(self.top_down(top), 0.7).to_event(1))
            loc = self.down(z) + shift[:, None]
            pyro.sample("x", dist.Normal(loc, scale[:, None]).to_event(1), obs=x)


def deep(build):
    torch.manual_seed(3)
    x, shift = data(4, n=20), data(n=20, seed=1)
    model = Deep()
    return model, SemiAmortized(build(model, like=(x, shift)), steps=2), (x, shift)


@pytest.mark.parametrize("build", [BottomUp, Ladder])
class TestSeveralSites:
    def test_the_graph_is_the_eager_run_to_the_last_bit(self, build, monkeypatch):
        monkeypatch.setattr("pyro_vae.training.step._STEPS_BEFORE_A_GRAPH", 0)
        model, guide, columns = deep(build)
        runs = {"eager": (model, guide), "graph": copy.deepcopy((model, guide))}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            bounds = [
                Trainer(*programs, engine=engine, seed=0, lr=0.01)
                .fit(columns, epochs=3, batch_size=10, progress=False)
                .history[-1]["elbo"]
                for engine, programs in runs.items()
            ]
        assert bounds[0] == bounds[1]
        tensors = [[*m.state_dict().values(), *g.state_dict().values()] for m, g in runs.values()]
        assert all(map(torch.equal, *tensors))
        # What the steps of refining run does not move, nor does a second run of the program
        assert int(model.top_down[1].num_batches_tracked) == 6

    def test_it_belongs_to_its_model_and_is_better_than_its_guide(self, build):
        model, guide, columns = deep(build)
        assert set(infer.check_pair(model, guide, columns).guide_order) == {"a.top", "scale", "z"}
        held = data(4, n=300, seed=2), data(n=300, seed=3)
        better = SemiAmortized(guide.guide, steps=20, lr=0.05)
        before, after = (
            infer.elbo_terms(model, g, held, samples=5).elbo for g in (guide.guide, better)
        )
        gain = (after - before).double()
        assert gain.mean() > sigmas() * gain.std() / math.sqrt(len(gain))
        with pytest.raises(ValueError, match="uses the model that it was built for"):
            infer.elbo_terms(Deep(), guide, columns)


class Own(nn.Module):
    """q(z|x) by hand, too wide and off; it takes no weights."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Linear(1, 1)

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(self.loc(x[:, None])[:, 0] + 1.0, 2.0))


def weighed(x, weights):
    """As ``normal``, where data of weight 0 are not seen."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with poutine.mask(mask=weights > 0):
            pyro.sample("x", dist.Normal(z, SIGMA), obs=x)


def test_a_module_of_ones_own_and_masked_data():
    x, weights = data(), torch.arange(N) % 2
    made = SemiAmortized(Own(), model=weighed, like=(x, weights), steps=80, lr=0.3)
    node = poutine.trace(made).get_trace(x, weights).nodes["z"]["fn"]
    precision = 1 + weights / SIGMA**2
    expected = x * weights / SIGMA**2 / precision
    torch.testing.assert_close(node.loc, expected, atol=5e-3, rtol=0.0)
    torch.testing.assert_close(node.scale, precision.rsqrt(), atol=5e-3, rtol=0.0)
    infer.check_pair(weighed, made, (x, weights))


def test_masked_latents_stay_as_they_are():
    def program(x, weights):
        with pyro.plate("data", len(x)), poutine.mask(mask=weights > 0):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, SIGMA), obs=x)

    x, weights = data(), torch.arange(N) % 2
    guide = SemiAmortized(Ladder(program, like=(x, weights)))
    for offset in guide.refine(x, weights)["z"]:
        assert torch.equal(offset != 0, weights > 0)


def shared(x):
    w = pyro.sample("w", dist.LogNormal(0.0, 0.1))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(w * z, SIGMA), obs=x)


@pytest.mark.parametrize("build", [BottomUp, Ladder])
def test_what_all_data_share_is_left_as_it_is(build):
    x = data()
    parts = Composed(build(shared, like=x), globals=AutoNormal)
    guide = SemiAmortized(parts, steps=80, lr=0.3)
    assert guide.latents == ("w", "z")
    state = torch.get_rng_state()
    assert set(guide.refine(x)) == {"z"}
    assert torch.equal(torch.get_rng_state(), state)
    # At the mean of w, which is near one
    trace = poutine.trace(guide).get_trace(x)
    precision = 1 + SIGMA**-2
    expected = x / SIGMA**2 / precision
    torch.testing.assert_close(trace.nodes["z"]["fn"].loc, expected, atol=0.1, rtol=0.1)
    infer.check_pair(shared, guide, x)
    Trainer(shared, guide, seed=0).fit(x, epochs=1, batch_size=4, progress=False)


class ByGamma(nn.Module):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Gamma(x + 2.0, 1.1))


def test_what_is_no_normal_is_refused_by_name():
    x = data(3)
    for build in (FullCovariance, Flow, Delta):
        for program in (normal((3,)), items(-1)):
            with pytest.raises(TypeError, match="site 'z': expected a diagonal normal to refine"):
                SemiAmortized(build(program, like=x))
    with pytest.raises(TypeError, match=r"site 'rate': expected a diagonal normal.*got a Gamma"):
        SemiAmortized(ByGamma(), model=counts, like=drawn_counts())


def test_what_cannot_be_refined_is_told():
    x = data()

    def switched(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            c = pyro.sample("c", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(z + c, SIGMA), obs=x)

    with pytest.raises(ValueError, match="site 'c': expected no latents that are summed out"):
        SemiAmortized(BottomUp(switched, like=x))
    with pytest.raises(TypeError, match="like: expected data for Own"):
        SemiAmortized(Own(), model=weighed)
    with pytest.raises(TypeError, match=r"guide: expected a guide such as BottomUp.*got Own"):
        SemiAmortized(Own())

    def alike(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    with pytest.raises(ValueError, match="guide: expected latents inside the plate of the data"):
        SemiAmortized(AutoNormal(alike), model=alike, like=x)
