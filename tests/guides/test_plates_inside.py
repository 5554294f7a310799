"""Latents with plates inside that of the data: as if these were a part of the event."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess
from pyro import poutine

from pyro_vae import guides, infer

N, T = 6, 3
FAMILIES = {
    "BottomUp": guides.BottomUp,
    "FullCovariance": guides.FullCovariance,
    "Flow": guides.Flow,
    "Delta": guides.Delta,
}
every = pytest.mark.parametrize("family", FAMILIES)
X = torch.randn(N, T, generator=torch.Generator().manual_seed(0))


def folded(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(2.0, torch.ones(T)).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def right(x):
    with pyro.plate("data", len(x), dim=-2), pyro.plate("time", T, dim=-1):
        z = pyro.sample("z", dist.Gamma(2.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def left(x):
    with pyro.plate("data", len(x)), pyro.plate("time", T):
        z = pyro.sample("z", dist.Gamma(2.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)


def built(family, model, **options):
    torch.manual_seed(0)
    return FAMILIES[family](model, like=X, hidden=(8,), **options)


def stirred(guide):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return guide


@every
def test_a_plate_to_the_right_has_the_same_parameters_and_numbers(family):
    pairs = [(model, stirred(built(family, model))) for model in (folded, right)]
    states = [guide.state_dict() for _, guide in pairs]
    assert states[0].keys() == states[1].keys()
    assert all(map(torch.equal, *(state.values() for state in states)))
    bounds = [infer.elbo_terms(*pair, X, samples=3).elbo for pair in pairs]
    torch.testing.assert_close(*bounds)
    if family != "Delta":
        first, second = (infer.importance(*pair, X, samples=2000) for pair in pairs)
        error = torch.hypot(first.standard_error, second.standard_error)
        assert excess((first.log_likelihood - second.log_likelihood) / error, draws=2000) < 1
    codes = [guide.encode(X) for _, guide in pairs]
    torch.testing.assert_close(codes[0].mean["z"], codes[1].mean["z"])


@every
def test_a_plate_to_the_left_has_the_same_distribution(family):
    guide, other = stirred(built(family, folded)), built(family, left)
    other.load_state_dict(guide.state_dict())
    z = poutine.trace(guide).get_trace(X).nodes["z"]["value"]
    densities = []
    for program, value in ((guide, z), (other, z.T)):
        trace = poutine.trace(poutine.condition(program, {"z": value})).get_trace(X)
        node = trace.nodes["z"]
        densities.append(node["fn"].log_prob(value).reshape(-1, N).sum(0))
    torch.testing.assert_close(*densities)
    if family != "BottomUp":  # whose mean of a positive number is that of draws
        torch.testing.assert_close(other.encode(X).mean["z"].T, guide.encode(X).mean["z"])


@every
def test_the_bound_of_a_plate_to_the_left_is_that_of_its_sites(family):
    guide = built(family, left)
    with infer.evaluating(left, guide):
        torch.manual_seed(5)
        _, terms = infer.TraceELBO()(left, guide, X)
        torch.manual_seed(5)
        trace = poutine.trace(guide).get_trace(X)
        replayed = poutine.trace(poutine.replay(left, trace=trace)).get_trace(X)
    for traced in (trace, replayed):
        traced.compute_log_prob()
    nodes = [replayed.nodes["x"], replayed.nodes["z"], trace.nodes["z"]]
    x, p, q = (node["log_prob"].sum(0) for node in nodes)
    torch.testing.assert_close(terms.elbo, x + p - q)


def around(x):
    """A latent of the datum, one in each of two plates, and one in both."""
    columns = pyro.plate("columns", T, dim=-1)
    with pyro.plate("data", len(x), dim=-3):
        top = pyro.sample("top", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 2, dim=-2):
            row = pyro.sample("row", dist.Normal(top, 1.0))
            with columns:
                cell = pyro.sample("cell", dist.Normal(row, 1.0))
                obs = x[:, None].expand(-1, 2, -1)
                pyro.sample("x", dist.Normal(cell, 1.0), obs=obs)
        with columns:
            pyro.sample("column", dist.LogNormal(top, 1.0))


@every
def test_latents_in_some_of_the_plates(family):
    guide = built(family, around)
    sizes = {"top": 1, "row": 2, "cell": 2 * T, "column": T}
    assert {site: place.size for site, place in guide.places.items()} == sizes
    assert infer.elbo_terms(around, guide, X).elbo.shape == (N,)
    assert {s: tuple(z.shape) for s, z in guide.encode(X).mean.items()} == {
        "top": (N, 1, 1),
        "row": (N, 2, 1),
        "cell": (N, 2, T),
        "column": (N, 1, T),
    }
    if family != "Delta":
        assert infer.importance(around, guide, X, samples=5).log_likelihood.shape == (N,)
