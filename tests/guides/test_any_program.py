"""Guides of programs of every kind: built, trained, measured, kept."""

import copy
import functools
import pickle
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyro_vae import Trainer, diagnostics, guides, infer, load
from pyro_vae.conditionals import DiagonalNormal
from pyro_vae.data import Dataset
from pyro_vae.data.arguments import Arguments
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

N, D = 12, 4
DRAW = torch.Generator().manual_seed(0)
X, PIXELS = torch.randn(N, D, generator=DRAW), torch.rand(N, 1, 8, 8, generator=DRAW)
Y = torch.arange(N) % 3
FAMILIES = [guides.BottomUp, guides.FullCovariance, guides.Flow, guides.Delta]
every = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)


def normal(n, *shape):
    return dist.Normal(torch.zeros(n, *shape), 1.0).to_event(len(shape))


class Module(nn.Module):
    """A vector and a positive number make a vector."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, D)

    def forward(self, x):
        return self.labelled(x, torch.zeros(len(x)))

    def model(self, x):
        return self(x)

    def labelled(self, x, y, scale=1.0):
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(1.0 + y, 1.0))
            z = pyro.sample("z.0", normal(len(x), 2))
            loc = scale * self.linear(torch.cat([z, rate[:, None]], -1))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


class Labelled(Module):
    def forward(self, x, y, scale=1.0):
        return self.labelled(x, y, scale)


class Other(VAE):
    """A subclass with a program of its own."""

    def forward(self, x=None, *, y=None, size=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("code", normal(len(x), 2))
            loc = self.decoder(z)
            return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def pictures(x, img):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", normal(len(x), 2))
        pyro.sample("x", dist.Normal(z.repeat(1, 2), 1.0).to_event(1), obs=x)
        logits = z[:, :1, None, None].expand(-1, 1, 8, 8)
        pyro.sample("img", dist.Bernoulli(logits=logits).to_event(3), obs=(img > 0.5).float())


def several(x, y):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", normal(len(x), 2))
        pyro.sample("x", dist.Normal(z.repeat(1, 2), 1.0).to_event(1), obs=x)
        pyro.sample("y", dist.Categorical(logits=z @ torch.ones(2, 3)), obs=y)
        pyro.sample("fixed", dist.Normal(z[:, 0], 1.0), obs=torch.zeros(len(x)))


def part(x):
    with pyro.plate("data", 100, subsample=x):
        z = pyro.sample("z", normal(len(x), 2))
        pyro.sample("x", dist.Normal(z.repeat(1, 2), 1.0).to_event(1), obs=x)


def steps(x, over=range):
    with pyro.plate("data", len(x)):
        z = torch.zeros(len(x), 2, dtype=x.dtype)
        for t in over(D):
            z = pyro.sample(f"z{t}", dist.Normal(z, 1.0).to_event(1))
            pyro.sample(f"x{t}", dist.Normal(z[:, 0], 1.0), obs=x[:, t])


def whole_numbers(y):
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", normal(len(y), 2))
        pyro.sample("y", dist.Categorical(logits=z @ torch.ones(2, 3)), obs=y)


def shared(x):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(w.expand(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z[:, None].expand(-1, D), 1.0).to_event(1), obs=x)


def mixture(x):
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(k.float(), 1.0))
        loc = z.unsqueeze(-1).expand(*z.shape, D)
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


KINDS = {
    "module": (Module(), X, "q(z.0|x) q(rate|z.0,x)"),
    "method": (Module().model, X, "q(z.0|x) q(rate|z.0,x)"),
    "partial": (functools.partial(Module().labelled, scale=0.5), (X, Y), None),
    "handler": (poutine.scale(Module(), 0.5), X, "q(z.0|x) q(rate|z.0,x)"),
    "mask that hides nothing": (poutine.mask(steps, mask=True), X, None),
    "two arguments": (Labelled(), (X, Y), "q(rate|x,y) q(z.0|rate,x)"),
    "mapping": (Labelled(), {"x": X, "y": Y}, "q(rate|x,y) q(z.0|rate,x)"),
    "constant": (Labelled(), Arguments((X, Y), {"scale": 2.0}), "q(rate|x,y) q(z.0|rate,x)"),
    "pictures": (pictures, (X, PIXELS), "q(z|x,img)"),
    "several observed": (several, (X, Y), "q(z|x,y)"),
    "part of the data": (part, X, "q(z|x)"),
    "steps": (steps, X, "q(z3|x) q(z2|z3,x) q(z1|z2,x) q(z0|z1,x)"),
    "sequential plate": (
        functools.partial(steps, over=lambda n: pyro.plate("time", n)),
        X,
        "q(z3|x) q(z2|z3,x) q(z1|z2,x) q(z0|z1,x)",
    ),
    "whole numbers": (whole_numbers, Y, "q(z|y)"),
    "double": (steps, X.double(), None),
    "array": (Module(), X.numpy(), None),
    "data set": (Module(), Dataset(X), None),
    "subclass": (Other((D,), 2, likelihood=Gaussian(), hidden=(5,)), X, "q(code|x)"),
    "method of a model": (VAE((D,), 2, likelihood=Gaussian(), hidden=(5,)).forward, X, "q(z1|x)"),
}


def fit(model, guide, data, **options):
    batch = N if model is part else 5
    return Trainer(model, guide, seed=0, **options).fit(
        data, epochs=2, batch_size=batch, progress=False
    )


@pytest.mark.parametrize("kind", KINDS)
def test_programs_of_all_kinds(kind):
    model, data, factors = KINDS[kind]
    guide = guides.BottomUp(model, like=data, hidden=(5,))
    assert factors is None or factors in repr(guide)
    assert fit(model, guide, data).history[-1]["elbo"] < 0
    data = X if kind in ("array", "data set") else data
    assert infer.check_pair(model, guide, data).guide_order == guide.latents
    assert infer.elbo_terms(model, guide, data, samples=2).elbo.shape == (N,)
    assert infer.importance(model, guide, data, samples=5).log_likelihood.isfinite().all()
    assert {*infer.encode(guide, data).mean} == {*guide.latents}
    diagnostics.evaluate(model, guide, data, importance_samples=5)
    args = data.args if isinstance(data, Arguments) else data if isinstance(data, tuple) else ()
    kwargs = data if isinstance(data, dict) else getattr(data, "kwargs", {})
    args = args or (() if kwargs else (data,))
    SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(*args, **kwargs)
    drawn = Predictive(model, guide=guide, num_samples=3)(*args, **kwargs)
    assert {*guide.latents} <= {*drawn}


@every
@pytest.mark.parametrize("kind", ["constant", "pictures", "double", "subclass"])
def test_other_families_of_such_programs(kind, family):
    model, data, _ = KINDS[kind]
    guide = family(model, like=data, hidden=(5,))
    fit(model, guide, data)
    assert infer.elbo_terms(model, guide, data).elbo.isfinite().all()


@every
def test_graph_is_eager_to_the_last_bit(family, monkeypatch, graphs):
    monkeypatch.setattr("pyro_vae.training.step._STEPS_BEFORE_A_GRAPH", 0)
    model = Labelled()
    pairs = {"eager": (model, family(model, like=(X, Y), hidden=(5,)))}
    pairs["graph"] = copy.deepcopy(pairs["eager"])
    found = [fit(*pair, (X, Y), engine=engine) for engine, pair in pairs.items()]
    assert graphs
    assert found[0].history[-1]["elbo"] == found[1].history[-1]["elbo"]
    states = [guide.state_dict().values() for _, guide in pairs.values()]
    assert all(map(torch.equal, *states))


@every
def test_pairs_are_copied_pickled_saved_and_resumed(family, tmp_path):
    def pair(x=X):
        model = Labelled()
        return model, family(model, like=(x, Y), hidden=(5,))

    model, guide = pair()
    trainer = fit(model, guide, (X, Y))
    trainer.save(tmp_path / "pair.pt", arguments=False)
    torch.manual_seed(0)
    expected = infer.elbo_terms(model, guide, (X, Y)).elbo
    # Its networks are of the data that the other was built for
    anew = pair(100 * X)
    again = load(tmp_path / "pair.pt", model=anew[0], guide=anew[1])
    pickled = pickle.loads(pickle.dumps((model, guide)))
    assert pickled[1].model is pickled[0]
    for other in (anew, copy.deepcopy((model, guide)), pickled):
        torch.manual_seed(0)
        assert torch.equal(infer.elbo_terms(*other, (X, Y)).elbo, expected)
    for t in (trainer, again):
        t.fit((X, Y), epochs=1, batch_size=5, progress=False)
    assert all(map(torch.equal, guide.state_dict().values(), anew[1].state_dict().values()))


def test_what_all_data_share_is_left_to_composed():
    guide = guides.BottomUp(shared, like=X, hidden=(5,))
    assert guide.latents == ("z",)
    whole = guides.Composed(guide, globals=AutoNormal, like=X)
    terms = infer.elbo_terms(shared, whole, X)
    assert {*terms.kl} == {"w", "z"}
    fit(shared, whole, X)


def test_what_is_summed_out_is_left_to_its_objective():
    guide = guides.BottomUp(mixture, like=X, hidden=(5,))
    assert guide.latents == ("z",)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "sites .* are summed out")
        trainer = fit(mixture, guide, X, elbo=TraceEnum_ELBO(max_plate_nesting=1))
    assert trainer.history[-1]["elbo"] < 0


@pytest.mark.parametrize("order", ["bottom-up", "top-down"])
def test_the_order_of_drawing(order):
    guide = guides.BottomUp(steps, like=X, hidden=(5,), order=order)
    drawn = ("z3", "z2", "z1", "z0")
    assert guide.latents == (drawn if order == "bottom-up" else drawn[::-1])
    assert infer.check_pair(steps, guide, X).guide_order == guide.latents


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(D + 1, 7)

    def forward(self, x, y):
        return self.linear(torch.cat([x, y[:, None].to(x.dtype)], -1))


def test_an_encoder_of_one_s_own_is_given_the_data_as_they_are():
    model, encoder = Labelled(), Encoder()
    guide = guides.BottomUp(model, like=(X, Y), encoder=encoder, hidden=(5,))
    seen = []
    encoder.register_forward_hook(lambda _, given, __: seen.append(given))
    guide(X, Y)
    assert len(seen) == 1
    assert torch.equal(seen[0][0], X)
    assert torch.equal(seen[0][1], Y)
    before = encoder.linear.weight.clone()
    fit(model, guide, (X, Y))
    assert not torch.equal(encoder.linear.weight, before)


class Rate(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(D + 1, 2)

    def forward(self, x, y):
        loc, scale = self.linear(torch.cat([x, y[:, None].to(x.dtype)], -1)).unbind(-1)
        return dist.LogNormal(loc, scale.exp())


def test_conditionals_of_one_s_own_are_given_values_as_they_are():
    model = Labelled()
    above = DiagonalNormal(nn.Linear(1 + D, 6), 6, 2)
    seen = []

    class Above(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = above

        def forward(self, rate, x):
            seen.append(rate)
            return self.inner(torch.cat([rate[..., None], x], -1))

    guide = guides.BottomUp(
        model, like=(X, Y), conditionals={"rate": Rate(), "z.0": Above()}, hidden=(5,)
    )
    assert guide.inputs == {"rate": ("x", "y"), "z.0": ("rate", "x")}
    drawn = guide(X, Y)
    assert torch.equal(seen[-1], drawn["rate"])
    assert infer.importance(model, guide, (X, Y), samples=7).log_likelihood.shape == (N,)
    fit(model, guide, (X, Y))


def test_widths_for_each_latent():
    guide = guides.BottomUp(Module(), like=X, hidden=((3,), (5, 6)))
    widths = [
        [layer.out_features for layer in head.network.modules() if isinstance(layer, nn.Linear)]
        for head in guide.conditionals.values()
    ]
    assert widths == [[3], [5, 6]]
