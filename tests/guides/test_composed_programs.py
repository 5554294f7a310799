"""Parts of guides of programs that are no ``VAE``."""

import copy
import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI as StockSVI
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyro_vae import Trainer, infer
from pyro_vae.guides import BottomUp, Composed, Flow, FullCovariance, Ladder
from pyro_vae.programs.program import Guide

N = 12
X = torch.linspace(-1, 2, N * 3).view(N, 3)
SCALE = torch.linspace(0.5, 1.5, N)
COLUMNS = X, SCALE


class Deep(nn.Module):
    """c -> b -> a -> x, where a has a plate inside the datum."""

    def __init__(self):
        super().__init__()
        self.top_down = nn.Linear(2, 2)

    def forward(self, x, scale):
        with pyro.plate("data", len(x), dim=-2):
            c = pyro.sample("c", dist.Normal(torch.zeros(1, 2), 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(self.top_down(c), 0.5).to_event(1))
            with pyro.plate("items", 3, dim=-1):
                a = pyro.sample("a", dist.Gamma(1.0, b[..., 0].exp()))
                pyro.sample("x", dist.Normal(a, scale[:, None]), obs=x)


def part(model, *sites, kind=BottomUp, **options):
    return kind(model, like=COLUMNS, sites=sites, **options)


def test_the_parts_of_a_guide_are_the_guide_to_the_last_bit():
    model = Deep()
    whole = BottomUp(model, like=COLUMNS)
    assert whole.latents == ("a", "b", "c")
    parts = [part(model, "a"), part(model, "b", "c")]
    for p in parts:
        p.conditionals = nn.ModuleDict({s: whole.conditionals[s] for s in p.latents})
    guide = Composed(*parts)
    assert guide.latents == whole.latents
    results = []
    for g in (whole, guide):
        torch.manual_seed(1)
        terms = infer.elbo_terms(model, g, COLUMNS)
        weights = infer.importance(model, g, COLUMNS, samples=30)
        results.append([terms.elbo, *terms.kl.values(), weights.log_likelihood])
    assert all(map(torch.equal, *results))
    assert infer.check_pair(model, guide, COLUMNS).guide_order == guide.latents


def test_the_plates_of_one_name_are_one():
    model = Deep()
    guide = Composed(part(model, "a"), part(model, "b", kind=Flow), part(model, "c"))
    trace = poutine.trace(guide).get_trace(*COLUMNS)
    assert [n for n in trace.nodes if n in ("data", "items", *"abc")] == [
        "data",
        "items",
        *"abc",
    ]
    assert [f.name for f in trace.nodes["b"]["cond_indep_stack"]] == ["data"]


def test_a_random_part_of_a_plate_is_the_same_for_all_parts():
    def model(x):
        with pyro.plate("data", N, subsample_size=4) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            v = pyro.sample("v", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + v, 1.0), obs=x[rows])

    class Row(nn.Module):
        def __init__(self, site):
            super().__init__()
            self.site = site

        def forward(self, x):
            with pyro.plate("data", N, subsample_size=4) as rows:
                pyro.sample(self.site, dist.Normal(x[rows], 0.001))

    x = torch.arange(N).float()
    guide = Composed(Row("z"), Row("v"), model=model, like=x)
    trace = poutine.trace(guide).get_trace(x)
    rows = trace.nodes["data"]["value"].float()
    for site in ("z", "v"):
        torch.testing.assert_close(trace.nodes[site]["value"], rows, atol=0.1, rtol=0.0)


class Top(nn.Module):
    """q(b, c|a) by hand, of the data alone; it returns nothing and declares nothing."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Linear(3, 2)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-2):
            for site in ("b", "c"):
                pyro.sample(site, dist.Normal(self.loc(x)[:, None], 1.0).to_event(1))


class Declared(Guide):
    """The same, declared, which is given a."""

    latents, parents = ("b", "c"), ("a",)

    def forward(self, x, *, given):
        assert given["a"].shape == (len(x), 3)
        with pyro.plate("data", len(x), dim=-2):
            for site in self.latents:
                loc = given["a"][:, None, :2]
                pyro.sample(site, dist.Normal(loc, 1.0).to_event(1))


def test_parts_by_hand():
    model = Deep()
    lower = part(model, "a")
    for upper in (Top(), Declared(model)):
        guide = Composed(lower, upper)
        assert guide.latents == ("a", "b", "c")
        assert infer.check_pair(model, guide, COLUMNS).guide_order == guide.latents
        Trainer(model, guide, seed=0).fit(COLUMNS, epochs=1, batch_size=5, progress=False)
    alone = Composed(Top(), lower)
    assert alone.latents == ("b", "c", "a")
    # What a part has not returned is there for the later ones
    after = Composed(Top(), part(model, "a", kind=functools.partial(BottomUp, order="top-down")))
    assert after.latents == ("b", "c", "a")
    assert infer.elbo_terms(model, after, COLUMNS).elbo.isfinite().all()


def test_coverage_is_checked_when_it_is_made():
    model, other = Deep(), Deep()
    a, b, c = (part(model, site) for site in "abc")
    for parts, problem in (
        ((a, b), "site 'c' is covered by no part"),
        ((a, b, c, c), "site 'c' is covered by more than one part"),
        ((a, c, b), r"parts\[1\] \(BottomUp\) conditions on 'b', which no part before it"),
        ((a, b, part(other, "c")), r"parts\[2\] .* for another model"),
        ((a, b, Top()), "parts: site 'b' is covered by more than one part"),
        ((a, Top(), c), "parts: site 'c' is covered by more than one part"),
    ):
        with pytest.raises(ValueError, match=problem):
            Composed(*parts)
    with pytest.raises(ValueError, match="latent site 'a' of the model is missing"):
        Composed(Top(), model=model, like=COLUMNS)
    with pytest.raises(TypeError, match=r"like: expected data for Deep, which has to be run"):
        Composed(Declared(model))
    with pytest.raises(TypeError, match=r"parts\[0\]: expected a guide that declares its latents"):
        Composed(Top(), model=model)


@pytest.mark.parametrize("kind", [FullCovariance, functools.partial(Flow, steps=1)])
def test_the_graph_is_the_eager_run_to_the_last_bit(kind, monkeypatch):
    monkeypatch.setattr("pyro_vae.training.step._STEPS_BEFORE_A_GRAPH", 0)
    torch.manual_seed(2)
    model = Deep()
    guide = Composed(part(model, "a"), part(model, "b", "c", kind=kind))
    runs = {"eager": (model, guide), "graph": copy.deepcopy((model, guide))}
    bounds = [
        Trainer(*programs, engine=engine, seed=0, lr=0.01)
        .fit(COLUMNS, epochs=3, batch_size=6, progress=False)
        .history[-1]["elbo"]
        for engine, programs in runs.items()
    ]
    assert bounds[0] == bounds[1]
    assert all(map(torch.equal, *([*g.parameters()] for _, g in runs.values())))


class Levels(nn.Module):
    """z ~ N(w, 1) and rows x ~ N(z, s) with one w, and one v per level, for all data."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(()))

    def forward(self, x, scale):
        w = pyro.sample("w", dist.Normal(self.mean, 3.0))
        with pyro.plate("levels", 3):
            v = pyro.sample("v", dist.LogNormal(0.0, 0.1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(w, 1.0))
            loc = z[:, None] * v
            pyro.sample("x", dist.Normal(loc, scale[:, None]).to_event(1), obs=x)


class TestGlobals:
    @pytest.mark.parametrize("kind", [BottomUp, FullCovariance, Ladder])
    def test_library_guides_are_parts(self, kind):
        model = Levels()
        local = kind(model, like=COLUMNS)
        with pytest.raises(ValueError, match=r"site 'w'.*guides\.Composed\(|given: .*'w'"):
            infer.SVI(model, local).step(*COLUMNS)
        guide = Composed(local, globals=AutoNormal)
        assert guide.latents == ("w", "v", "z")
        found = infer.check_pair(model, guide, COLUMNS)
        assert found.outside[:2] == ("w", "v")
        trainer = Trainer(model, guide, seed=0, lr=0.01)
        trainer.fit(COLUMNS, epochs=2, batch_size=6, progress=False)
        assert set(trainer.history[-1]["kl_global"]) == {"w", "v"}
        svi = StockSVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        before = guide.globals.locs.w.item()
        svi.step(*COLUMNS)
        assert guide.globals.locs.w.item() != before

    def test_a_ladder_merges_the_prior_at_their_values(self):
        model = Levels()
        guide = Composed(Ladder(model, like=COLUMNS), globals=AutoNormal).eval()
        found = []
        for w in (-4.0, 4.0):
            with torch.no_grad():
                guide.globals.locs.w.fill_(w)
                guide.globals.scales.w = torch.tensor(1e-6)
                found.append(poutine.trace(guide).get_trace(*COLUMNS).nodes["z"]["fn"])
        # The proposal is the same for both, and the prior N(w, 1)
        torch.testing.assert_close(found[1].scale, found[0].scale)
        torch.testing.assert_close(found[1].loc - found[0].loc, 8 * found[0].scale ** 2)

    def test_who_leaves_them_out_is_told(self):
        model = Levels()
        with pytest.raises(ValueError, match="site 'w' is covered by no part, pass globals="):
            Composed(BottomUp(model, like=COLUMNS))
        with pytest.raises(ValueError, match="globals: expected a model with latents outside"):
            Composed(BottomUp(Deep(), like=COLUMNS), globals=AutoNormal)
