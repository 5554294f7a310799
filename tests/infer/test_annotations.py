"""Pyro's annotations in guides: factors, auxiliary and observed sites, marks to enumerate."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from differentiated import Half, gradients
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from torch import nn
from torch.nn.functional import one_hot, softplus

from pyro_vae import Trainer, diagnostics, infer
from pyro_vae.infer import Graph, TraceELBO
from pyro_vae.infer.objectives.pyro_elbo import PyroELBO

GENES, CLASSES, N = 6, 3, 7


@pytest.fixture(autouse=True)
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def normal(parameters):
    loc, scale = parameters.chunk(2, -1)
    return dist.Normal(loc, softplus(scale)).to_event(1)


class Annotated(nn.Module):
    """Cells x of a class y: y and z1 give z2, which gives x; the guide goes from x to z2, y, z1.

    Of data with labels, the guide's classifier of z2 learns by a factor.
    """

    def __init__(self, *, labels, rsample=False, scale=0.1):
        super().__init__()
        self.labels, self.rsample, self.scale = labels, rsample, scale
        self.decoder, self.likelihood = nn.Linear(2 + CLASSES, 2), nn.Linear(2, GENES)
        self.encoder, self.inner = nn.Linear(GENES, 4), nn.Linear(2 + CLASSES, 4)
        self.classifier = nn.Linear(2, CLASSES)

    def split(self, x):
        x, y = x.split((GENES, CLASSES), -1)
        return x, y if self.labels else None

    def around(self, x):
        return pyro.plate("data", len(x)), poutine.scale(scale=self.scale)

    def model(self, x):
        pyro.module("annotated", self)
        x, y = self.split(x)
        plate, scale = self.around(x)
        with plate, scale:
            z1 = pyro.sample("z1", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(CLASSES)), obs=y)
            below = self.decoder(joined(z1, y))
            z2 = pyro.sample("z2", dist.Normal(below, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.likelihood(z2), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("annotated", self)
        x, y = self.split(x)
        plate, scale = self.around(x)
        with plate, scale:
            z2 = pyro.sample("z2", normal(self.encoder(x)))
            q = dist.OneHotCategorical(logits=self.classifier(z2))
            if y is None:
                y = pyro.sample("y", q)
            else:
                loss = -0.5 * q.log_prob(y)
                pyro.factor("classification_loss", loss, has_rsample=self.rsample)
            pyro.sample("z1", normal(self.inner(joined(z2, y))))


def joined(z, y):
    z, y = (v.expand(*torch.broadcast_shapes(z.shape[:-1], y.shape[:-1]), -1) for v in (z, y))
    return torch.cat([z, y], -1)


def halves(whole):
    return Half(whole, "model"), Half(whole, "guide")


def cells():
    x = torch.randn(N, GENES)
    return torch.cat([x, one_hot(torch.arange(N) % CLASSES, CLASSES).double()], -1)


def differentiated(estimator, *data):
    loss = estimator(*data)[0]
    loss.backward()
    return loss.detach()


def check(found, expected):
    assert found[0] == pytest.approx(expected[0], abs=1e-10)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-10, atol=1e-8)


@pytest.mark.filterwarnings("ignore:this pair runs eagerly")
@pytest.mark.parametrize("scale", [1.0, 0.1])
@pytest.mark.parametrize(
    ("labels", "rsample"), [(True, False), (True, True), (False, False)],
)  # fmt: skip
def test_loss_and_every_gradient_are_stock_pyros(labels, rsample, scale):
    whole, x = Annotated(labels=labels, rsample=rsample, scale=scale), cells()
    expected = gradients(lambda: Trace_ELBO().loss_and_grads(whole.model, whole.guide, x), whole)
    assert len(expected[1]) == 10
    assert all(g.abs().max() > 1e-6 for g in expected[1].values())
    check(gradients(lambda: differentiated(TraceELBO(), *halves(whole), x), whole), expected)
    graph, pair = Graph(TraceELBO()), halves(whole)
    for _ in range(3):
        check(gradients(lambda: graph.backward(*pair, x)[0], whole), expected)
    # A gradient by the score function reads values, which a record cannot
    assert graph.records == (labels and rsample)
    check(gradients(lambda: PyroELBO(Trace_ELBO()).backward(*pair, x)[0], whole), expected)


def test_steps_are_those_of_stock_svi():
    x, found = cells(), []
    for ours in (False, True):
        pyro.clear_param_store()
        torch.manual_seed(0)
        whole = Annotated(labels=True)
        if ours:
            adam = functools.partial(torch.optim.Adam, lr=1e-2)
            svi = infer.SVI(*halves(whole), adam)
        else:
            svi = SVI(whole.model, whole.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        torch.manual_seed(1)
        found.append([float(svi.step(x)) for _ in range(5)])
    assert found[1] == pytest.approx(found[0], rel=1e-8)


def enumerating():
    return TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)


@pytest.mark.parametrize("labels", [False, True])
def test_a_class_that_is_summed_out_in_the_guide(labels):
    """Loss and gradient are stock Pyro's; the terms are those of the bound where it has any."""
    whole, x = Annotated(labels=labels, scale=1.0), cells()
    mark = functools.partial(pyro.infer.config_enumerate, default="parallel", expand=True)
    pair = whole.model, mark(whole.guide)
    expected = gradients(lambda: enumerating().loss_and_grads(*pair, x), whole)
    check(gradients(lambda: PyroELBO(enumerating()).backward(*pair, x)[0], whole), expected)
    model, guide = halves(whole)
    trainer = Trainer(model, mark(guide), elbo=enumerating(), seed=0)
    trainer.fit(x, epochs=2, batch_size=4, validation=x, progress=False)
    terms = {"z1", "z2", "classification_loss"} if labels else set()
    for row in trainer.history:
        assert set(row["kl"]) == set(row["validation"]["kl"]) == terms
        assert row["elbo"] == pytest.approx(row["objective"])


class Propensity(nn.Module):
    """A guide that predicts whether x > 0 of a datum, besides its latent."""

    def __init__(self, **how):
        super().__init__()
        self.net, self.q, self.how = nn.Linear(GENES, 1), nn.Linear(GENES, 4), how

    def forward(self, x):
        with pyro.plate("data", len(x)):
            t = dist.Bernoulli(logits=self.net(x).squeeze(-1))
            pyro.sample("t", t, obs=(x[:, 0] > 0).double(), **self.how)
            pyro.sample("z", normal(self.q(x)))


class Hidden(nn.Module):
    """A guide without one of its sites, whose net rests."""

    def __init__(self, guide, site):
        super().__init__()
        self.guide, self.site = guide, site
        guide.net.requires_grad_(False)

    def forward(self, x):
        with poutine.block(hide=[self.site]):
            self.guide(x)


class Simple(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, GENES)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("how", [{}, {"infer": {"is_auxiliary": True}}])
def test_what_a_guide_observes_is_refused_before_training(how):
    model, guide, x = Simple(), Propensity(**how), torch.randn(N, GENES)
    message = r"it observes 't', whose log q counts against the bound.*hide=\['t'\]"
    for use in (
        lambda g: infer.check_pair(model, g, x),
        lambda g: infer.elbo_terms(model, g, x),
        lambda g: infer.SVI(model, g).step(x),
        lambda g: infer.ImportanceWeightedELBO(3)(model, g, x),
        lambda g: Trainer(model, g).fit(x, epochs=1, progress=False),
        lambda g: diagnostics.evaluate(model, g, x, importance_samples=3),
    ):
        with pytest.raises(ValueError, match=message) as error:
            use(guide)
        assert "\n" not in str(error.value)
        use(Hidden(guide, "t"))


def test_what_a_guide_records_is_not_observed():
    """Deterministic sites, and points that are observed at themselves, have no density."""

    def guide(x):
        q(x)
        with pyro.plate("again", len(x)):
            pyro.deterministic("kept", x, event_dim=1)
            pyro.sample("old", dist.Delta(x, event_dim=1), obs=x)

    model, q, x = Simple(), Hidden(Propensity(), "t"), torch.randn(N, GENES)
    expected = infer.elbo_terms(model, q, x).elbo
    torch.testing.assert_close(infer.elbo_terms(model, guide, x).elbo, expected)


class Easy(EasyGuide):
    """A group of sites drawn as one, from a net of the data or by parameters of each datum."""

    def __init__(self, model, *, amortised):
        super().__init__(model)
        self.net = nn.Linear(GENES, 8) if amortised else None

    def guide(self, x):
        with self.plate("data", len(x)):
            if self.net is None:
                loc = pyro.param("loc", lambda: torch.zeros(len(x), 4))
                q = dist.Normal(loc, 0.5).to_event(1)
            else:
                q = normal(self.net(x))
            self.group("z.*").sample("both", q)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.top, self.net = nn.Linear(2, 2), nn.Linear(2, GENES)

    def forward(self, x):
        pyro.module("two", self)
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.LogNormal(self.top(z2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z1), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("amortised", [True, False])
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_an_easy_guide_trains_as_under_stock_pyro(amortised, engine):
    x, found = torch.randn(N, GENES), []
    for ours in (False, True):
        pyro.clear_param_store()
        torch.manual_seed(0)
        model = Two()
        guide = Easy(model, amortised=amortised)
        guide(x)
        torch.manual_seed(1)
        if ours:
            adam = functools.partial(torch.optim.Adam, lr=1e-2)
            svi = infer.SVI(model, guide, adam, engine=engine)
        else:
            svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        found.append([float(svi.step(x)) for _ in range(5)])
    assert found[1] == pytest.approx(found[0], rel=1e-8)


def test_an_easy_guide_of_a_net_trains_on_minibatches_and_is_evaluated():
    x, model = torch.randn(20, GENES), Two()
    guide = Easy(model, amortised=True)
    trainer = Trainer(model, guide, seed=0, beta=0.5)
    trainer.fit(x, epochs=2, batch_size=8, validation=x, progress=False)
    row = trainer.history[-1]
    assert row["elbo"] == pytest.approx(row["reconstruction"] - sum(row["kl"].values()))
    weights = infer.importance(model, guide, x, samples=300)
    bound = infer.elbo_terms(model, guide, x, samples=300).elbo
    assert (weights.log_likelihood > bound - 0.5).all()
