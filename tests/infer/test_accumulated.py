"""The gradient of a batch is added up from parts of it."""

import contextlib

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from pyro.infer.autoguide import AutoDelta
from torch import nn

from pyro_vae import guides, infer, likelihoods, models
from pyro_vae.data import Arguments

X = torch.randn(11, 6, generator=torch.Generator().manual_seed(1))
N = 40  # data in all, of which X are a part


def vae(guide=guides.Delta, **options):
    torch.manual_seed(0)
    likelihood = likelihoods.Gaussian(1.0)
    model = models.VAE((6,), (3, 2), likelihood=likelihood, hidden=(8,), **options)
    return model, guide(model)


class Shared(nn.Module):
    """A weight that all data share; ``plate`` is that of the data."""

    def __init__(self, plate):
        super().__init__()
        self.plate, self.bias = plate, nn.Parameter(torch.zeros(6))

    def forward(self, x):
        weight = pyro.sample("weight", dist.Normal(0.0, 1.0).expand([6]).to_event(1))
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            mean = self.bias + weight * z[:, None]
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


class PointMasses(nn.Module):
    def __init__(self, plate):
        super().__init__()
        self.plate, self.net = plate, nn.Linear(6, 1)
        self.weight = nn.Parameter(torch.linspace(-1, 1, 6))

    def forward(self, x):
        pyro.sample("weight", dist.Delta(self.weight, event_dim=1))
        with self.plate(x):
            pyro.sample("z", dist.Delta(self.net(x)[:, 0]))


def scaled_by_hand(x):
    stack = contextlib.ExitStack()
    stack.enter_context(pyro.poutine.scale(scale=N / len(x)))
    stack.enter_context(pyro.plate("data", len(x)))
    return stack


PLATES = {
    "of the data": lambda x: pyro.plate("data", len(x)),
    "scaled up": lambda x: pyro.plate("data", N, subsample=torch.arange(len(x))),
    "scaled up from all": lambda x: pyro.plate("data", len(X), subsample=torch.arange(len(x))),
}


def gradients(svi, x, y=None):
    loss, terms = svi.gradient(x) if y is None else svi.gradient(x, y=y)
    return loss, terms, [p.grad.clone() for p in svi.parameters()]


def assert_same(whole, parts, x, y=None):
    for _ in range(3):  # with Pyro's checks, without, and as a record
        loss, terms, expected = gradients(whole, x, y)
        found, by_parts, gradient = gradients(parts, x, y)
        torch.testing.assert_close(found, loss, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(by_parts.elbo, terms.elbo)
        assert by_parts.shared == terms.shared
        for one, other in zip(gradient, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ["eager", "graph"])
@pytest.mark.parametrize("accumulate", [4, 50])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_parts_add_up_to_the_batch(reduction, accumulate, engine):
    loss, pair = infer.TraceELBO(reduction), vae(condition=2)
    whole = infer.SVI(*pair, loss=loss)
    parts = infer.SVI(*pair, loss=loss, engine=engine, accumulate=accumulate)
    assert_same(whole, parts, X, torch.arange(11) % 2)


@pytest.mark.parametrize("total", [None, N])
@pytest.mark.parametrize("plate", PLATES)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_what_all_data_share_counts_once(reduction, plate, total):
    """Each part has its share of the KL, in the program's own scale."""
    pair, loss = (Shared(PLATES[plate]), PointMasses(PLATES[plate])), infer.TraceELBO(reduction)
    whole, parts = (infer.SVI(*pair, loss=loss, accumulate=k) for k in (1, 3))
    x = Arguments((X,), total=None if plate == "scaled up from all" else total)
    assert_same(whole, parts, x)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_scale_by_the_size_of_a_batch_is_refused(reduction):
    """Each part would count as much as the batch."""
    pair, loss = (Shared(scaled_by_hand), PointMasses(scaled_by_hand)), infer.TraceELBO(reduction)
    with pytest.raises(
        ValueError, match=r"site 'z': .* scale 3.63636 of 11 data and 13.3333 of 3"
    ):
        infer.SVI(*pair, loss=loss, accumulate=3).step(X)
    infer.SVI(*pair, loss=loss).step(X)


def test_draws_are_those_of_the_parts_in_turn():
    """An importance-weighted bound is averaged over the data, part by part."""
    pair, loss = vae(guides.BottomUp), infer.ImportanceWeightedELBO(3, "mean")
    svi = infer.SVI(*pair, loss=loss, accumulate=2)
    parameters = svi.parameters()
    for _ in range(2):
        torch.manual_seed(1)
        found, terms, gradient = gradients(svi, X)
        torch.manual_seed(1)
        losses = [loss(*pair, part)[0] * len(part) / 11 for part in (X[:5], X[5:])]
        expected = torch.autograd.grad(sum(losses), parameters)
        torch.testing.assert_close(found, sum(losses).detach())
        assert len(terms.elbo) == 11
        torch.testing.assert_close(gradient, [*expected], rtol=1e-5, atol=1e-6)


def test_clipping_comes_after_the_sum():
    norm = 1e-2
    steps = []
    for accumulate in (1, 4):
        pair = vae()
        sgd = lambda parameters: torch.optim.SGD(parameters, lr=1.0)  # noqa: E731
        svi = infer.SVI(*pair, sgd, clip_norm=norm, accumulate=accumulate)
        before = torch.cat([p.detach().flatten() for p in svi.parameters()])
        svi.step(X)
        steps.append(torch.cat([p.detach().flatten() for p in svi.parameters()]) - before)
    assert float(steps[0].norm()) == pytest.approx(norm, rel=1e-4)
    torch.testing.assert_close(steps[1], steps[0], rtol=1e-3, atol=1e-7)


def test_an_evaluation_goes_by_parts_too():
    pair = vae()
    whole, parts = (infer.SVI(*pair, accumulate=k) for k in (1, 4))
    torch.testing.assert_close(parts.evaluate_loss(X), whole.evaluate_loss(X))


def test_sites_of_the_store_are_trained():
    """Functions, whose parameters come with the first step."""

    def model(x):
        scale = pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, scale).expand([6]).to_event(1), obs=x)

    found = []
    for accumulate in (1, 3):
        pyro.clear_param_store()
        svi = infer.SVI(model, lambda x: None, accumulate=accumulate)
        for _ in range(3):
            svi.step(X)
        found.append(pyro.param("scale").item())
    assert found[1] == pytest.approx(found[0], rel=1e-6) and found[0] != 2.0


def test_a_plate_per_datum_cannot_be_divided():
    def model(x):
        with pyro.plate("data", 11):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    svi = infer.SVI(model, AutoDelta(model), accumulate=2)
    with pytest.raises(ValueError, match="has parameters for each of 11 data, got 5"):
        svi.step(X[:, 0])


def test_objectives_that_are_no_sum_are_refused():
    with pytest.raises(TypeError, match=r"accumulate: expected an estimator of pyro_vae"):
        infer.SVI(*vae(), loss=pyro.infer.Trace_ELBO(), accumulate=2)
    with pytest.raises(ValueError, match="accumulate: expected"):
        infer.SVI(*vae(), accumulate=0)
