"""One run of a user's program for model and guide, or two: the same numbers, and what is moved."""

import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.runtime import am_i_wrapped
from torch import nn

from pyro_vae import Trainer, guides, handlers, infer, load, regularizers
from pyro_vae.conditionals import StandardNormal
from pyro_vae.guides import Ladder
from pyro_vae.infer import SVI, AnalyticELBO, ImportanceWeightedELBO, TraceELBO

X = torch.linspace(-2, 2, 24).reshape(6, 4).sin()


class Deep(nn.Module):
    """x (4,) <- a (3,) <- b (2,), each by a network, with BatchNorm where wanted."""

    def __init__(self, norm=True):
        super().__init__()
        self.top = nn.Linear(1, 2)
        self.middle, self.bottom = (
            nn.Sequential(
                nn.Linear(n, 5), nn.BatchNorm1d(5) if norm else nn.ELU(), nn.Linear(5, m)
            )
            for n, m in ((2, 6), (3, 4))
        )

    def forward(self, x):
        with pyro.plate("data", len(x)):
            top = self.top(x.new_ones(1))
            b = pyro.sample("b", dist.Normal(top, 1.0).to_event(1))
            loc, scale = self.middle(b).chunk(2, -1)
            a = pyro.sample("a", dist.Normal(loc, scale.exp()).to_event(1))
            return pyro.sample("x", dist.Normal(self.bottom(a), 0.5).to_event(1), obs=x)


def built(norm=True, **options):
    torch.manual_seed(0)
    model = Deep(norm)
    return model, Ladder(model, like=X, hidden=(8,), **options)


def batches(module):
    return {int(m.num_batches_tracked) for m in module.modules() if isinstance(m, nn.BatchNorm1d)}


def calls(*modules):
    found = dict.fromkeys(modules, 0)
    for module in modules:
        module.register_forward_hook(lambda m, *_: found.update({m: found[m] + 1}))
    return found


ESTIMATORS = {
    "trace": TraceELBO(),
    "analytic": AnalyticELBO(),
    "one particle": ImportanceWeightedELBO(1),
    "particles": ImportanceWeightedELBO(3),
}


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("norm", [True, False])
def test_each_conditional_runs_once(name, norm):
    model, _ = built(norm)
    encoder = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    guide = Ladder(model, like=X, hidden=(8,), encoder=encoder)
    estimator = ESTIMATORS[name]
    # Whether programs can run under an outer plate is found out first
    estimator.prepare(model, guide, X)
    assert batches(model) <= {0} and batches(guide) == {0}
    found = calls(model, model.middle, model.bottom, encoder)
    estimator(model, guide, X)[0].backward()
    assert {*found.values()} == {1}
    assert batches(model) == ({1} if norm else set()) and batches(guide) == {1}


@pytest.mark.parametrize("engine", ["eager", "graph"])
@pytest.mark.parametrize("beta", [None, 0.5])
def test_batch_norm_moves_once_per_step(engine, beta):
    model, guide = built()
    pair = (
        (model, guide)
        if beta is None
        else (handlers.scale_latents(p, beta) for p in (model, guide))
    )
    svi = SVI(*pair, engine=engine)
    for _ in range(3):
        svi.step(X)
    assert batches(model) == {3}


KEEP = torch.tensor([True, False, True, True, False, True])
UNDER = {
    "nothing": lambda m, g: (m, g),
    "beta": lambda m, g: (handlers.scale_latents(m, 0.3), handlers.scale_latents(g, 0.3)),
    "beta of a site": lambda m, g: (
        handlers.scale_latents(m, {"a": 0.3}),
        handlers.scale_latents(g, {"a": 0.3}),
    ),
    "free bits": lambda m, g: (handlers.free_bits(m, {"b": 5.0}), g),
    "penalty": lambda m, g: (m, handlers.regularize(g, regularizers.MMD(), site="a")),
    "corrupt": lambda m, g: (m, handlers.corrupt(g, lambda x: x / 2)),
    "another prior": lambda m, g: (
        handlers.replace_prior(m, StandardNormal(3), site="a"),
        g,
    ),
    "scale": lambda m, g: (poutine.scale(m, scale=0.3), poutine.scale(g, scale=0.3)),
    "mask": lambda m, g: (poutine.mask(m, mask=KEEP), poutine.mask(g, mask=KEEP)),
    "several": lambda m, g: (
        handlers.scale_latents(handlers.free_bits(m, 0.1), 0.3),
        handlers.scale_latents(handlers.regularize(g, regularizers.MMD(), site="b"), 0.3),
    ),
}


CASES = [(name, k) for name in UNDER for k in (1, 3) if (name, k) != ("mask", 3)]


@pytest.mark.parametrize(("name", "particles"), CASES)
def test_one_run_or_two_give_the_same_numbers_under_handlers(name, particles):
    found = []
    for leads in (True, False):
        model, guide = built(norm=False)
        assert guide.leads
        guide.leads = leads
        pair, parameters = UNDER[name](model, guide), [*model.parameters(), *guide.parameters()]
        loss, *terms = losses(ImportanceWeightedELBO(particles), pair)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        found.append([loss, *terms, *(g for g in gradients if g is not None)])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def losses(estimator, pair):
    estimator.prepare(*pair, X)
    torch.manual_seed(1)
    loss, terms = estimator(*pair, X)
    return [loss, terms.elbo, *terms.kl.values()]


@pytest.mark.parametrize(
    ("stock", "ours"), [(Trace_ELBO(), TraceELBO()), (TraceMeanField_ELBO(), AnalyticELBO())]
)
def test_stock_pyro_gives_the_same_loss(stock, ours):
    model, guide = built()
    for program in (model, guide):
        program.eval()
    torch.manual_seed(1)
    loss, _ = ours(model, guide, X)
    torch.manual_seed(1)
    torch.testing.assert_close(torch.tensor(stock.loss(model, guide, X)), loss.detach())


def test_a_latent_that_is_observed_is_no_latent():
    model, guide = built(norm=False)
    value = torch.ones(6, 2)
    known = poutine.condition(model, data={"b": value})
    with pytest.raises(ValueError, match="'b'"):
        TraceELBO()(known, guide, X)
    built_for_it = Ladder(known, like=X, hidden=(8,))
    assert built_for_it.latents == ("a",) and built_for_it.leads
    found = []
    for leads in (True, False):
        built_for_it.leads = leads
        found.append(losses(TraceELBO(), (known, built_for_it)))
    torch.testing.assert_close(*found)


def test_latents_are_encoded_to_their_means():
    _, guide = built(norm=False)
    code = guide.encode(X)
    trace = poutine.trace(poutine.condition(guide, data=code.mean)).get_trace(X)
    for site in ("b", "a"):
        torch.testing.assert_close(code.mean[site], trace.nodes[site]["fn"].mean)


def test_importance_agrees_with_any_other_guide():
    model, guide = built(norm=False)
    estimate = infer.importance(model, guide, X, samples=4000)
    other = infer.importance(model, guides.BottomUp(model, like=X), X, samples=4000)
    error = (estimate.standard_error**2 + other.standard_error**2).sqrt()
    assert ((estimate.log_likelihood - other.log_likelihood).abs() < 5 * error).all()


def test_errors_leave_nothing_behind():
    model, guide = built(norm=False)

    def fails(*_):
        raise RuntimeError("as programs do")

    for module in (model.bottom, guide.networks["a"]):
        expected = losses(TraceELBO(), (model, guide))
        hook = module.register_forward_hook(fails)
        for estimator in (TraceELBO(), ImportanceWeightedELBO(2)):
            with pytest.raises(RuntimeError, match="as programs do"):
                estimator(model, guide, X)
        assert not am_i_wrapped()
        if module is not model.bottom:
            with pytest.raises(RuntimeError, match="as programs do"):
                guide(X)
        hook.remove()
        torch.testing.assert_close(losses(TraceELBO(), (model, guide)), expected, rtol=0, atol=0)
        # By itself it draws anew
        assert not torch.equal(guide(X)["a"], guide(X)["a"])


def careful(x):
    """Goes on after any error, and looks at its latents."""
    with pyro.plate("data", len(x)):
        try:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        except Exception:
            z = torch.zeros(len(x))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_programs_that_catch_all_errors():
    x = torch.randn(5)
    guide = Ladder(careful, like=x, hidden=(4,))
    torch.manual_seed(0)
    loss, _ = TraceELBO()(careful, guide, x)
    torch.manual_seed(0)
    assert Trace_ELBO().loss(careful, guide, x) == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("elbo", "norm"),
    [
        ("trace", True),
        ("analytic", True),
        (ImportanceWeightedELBO(2), True),
        (ImportanceWeightedELBO(2), False),
    ],
)
def test_graph_equals_eager(elbo, norm):
    found = []
    for engine in ("eager", "graph"):
        model, guide = built(norm)
        trainer = Trainer(model, guide, elbo=elbo, lr=1e-2, seed=0, engine=engine)
        trainer.fit(X.repeat(4, 1), epochs=3, batch_size=6, progress=False)
        optimized = [p for group in trainer.optimizer.param_groups for p in group["params"]]
        assert len({*map(id, optimized)}) == len(optimized)
        assert {*map(id, optimized)} == {id(p) for m in (model, guide) for p in m.parameters()}
        assert trainer.engine == engine
        assert batches(model) == ({12} if norm else set())
        found.append([p.detach() for p in optimized] + [torch.tensor(trainer.history[-1]["elbo"])])
    assert all(map(torch.equal, *found))


def test_objectives_of_pyro():
    found = []
    for elbo in ("trace", Trace_ELBO()):
        model, guide = built(norm=False)
        trainer = Trainer(model, guide, elbo=elbo, lr=1e-2, seed=0, engine="eager")
        trainer.fit(X, epochs=3, progress=False)
        found.append([p.detach() for m in (model, guide) for p in m.parameters()])
    torch.testing.assert_close(*found)


class Two(nn.Module):
    """Two programs."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 4)

    def one(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(self.layer(z[..., None]), 1.0).to_event(1), obs=x)

    def other(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 2.0))
            pyro.sample("x", dist.Normal(self.layer(z[..., None]), 1.0).to_event(1), obs=x)


def test_a_guide_that_runs_its_model_is_of_no_other():
    def cell():
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0).expand([4, len(x)]).to_event(0), obs=x.T)

        return model

    two = Two()
    pairs = [(Deep(), Deep()), (two.one, two.other), (careful, lambda x: careful(x))]
    for own, other in pairs:
        x = X[:, 0] if own is careful else X
        guide = Ladder(own, like=x, hidden=(4,))
        match = "uses the model that it was built for, which is another one"
        for run in (infer.check_pair, infer.elbo_terms):
            run(own, guide, x)
            with pytest.raises(ValueError, match=match):
                run(other, guide, x)
        with pytest.raises(ValueError, match=match):
            SVI(other, guide).step(x)
        with pytest.raises(ValueError, match=match):
            Trainer(other, guide)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_of_a_pair_are_one(copied):
    two = Two()
    for model in (Deep(norm=False), two.one):
        guide = Ladder(model, like=X, hidden=(4,))
        again = copied((model, guide))
        assert again[1].model is not guide.model
        expected = infer.elbo_terms(model, guide, X).elbo
        assert torch.equal(infer.elbo_terms(*again, X).elbo, expected)
        found = calls(again[0] if isinstance(again[0], nn.Module) else again[0].__self__.layer)
        TraceELBO()(*again, X)
        assert {*found.values()} == {1}


def test_saved_pairs(tmp_path):
    model, guide = built()
    trainer = Trainer(model, guide, seed=0).fit(X, epochs=2, progress=False)
    trainer.save(tmp_path / "pair.pt", arguments=False)
    others = built()
    load(tmp_path / "pair.pt", model=others[0], guide=others[1])
    expected = infer.elbo_terms(model, guide, X).elbo
    assert torch.equal(infer.elbo_terms(*others, X).elbo, expected)
