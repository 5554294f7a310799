"""Ladders of users' linear-Gaussian programs hold the exact posterior."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.distributions import MultivariateNormal

from pyro_vae.guides import Ladder
from pyro_vae.infer import check_pair, elbo_terms

NOISE = 0.6


def orthonormal(rows, columns):
    return torch.linalg.qr(torch.randn(rows, columns)).Q


class Network(nn.Module):
    """site ~ N(sum_p A_p p, s^2) for its parents p, of sizes of their own, with orthonormal A_p.

    With these each message from below is an isotropic normal, as a ladder's proposals are.
    """

    def __init__(self, sizes, parents, coordinates=None):
        super().__init__()
        self.sizes, self.parents, self.coordinates = sizes, parents, coordinates
        self.weights = nn.ParameterDict(
            {
                f"{site}_{parent}": orthonormal(sizes[site], sizes[parent])
                for site, above in parents.items()
                for parent in above
            }
        )

    def forward(self, **data):
        n, z = len(next(iter(data.values()))), {}
        with pyro.plate("data", n):
            for site, above in self.parents.items():
                loc = sum((z[p] @ self.weights[f"{site}_{p}"].T for p in above), torch.zeros(()))
                loc = loc.expand(n, self.sizes[site]) if not above else loc
                p = dist.Normal(loc, NOISE if above else 1.0).to_event(1)
                if self.coordinates and site not in data:
                    p = dist.TransformedDistribution(p, [self.coordinates])
                z[site] = pyro.sample(site, p, obs=data.get(site))
                if self.coordinates and site not in data:
                    z[site] = self.coordinates.inv(z[site])

    def evidence(self, observed):
        """The joint distribution of the observed sites."""
        maps, total = {}, sum(self.sizes.values())
        start = 0
        for site, above in self.parents.items():
            own = torch.zeros(self.sizes[site], total)
            own[:, start : start + self.sizes[site]] = torch.eye(self.sizes[site])
            start += self.sizes[site]
            above_it = (self.weights[f"{site}_{p}"].detach() @ maps[p] for p in above)
            maps[site] = sum(above_it, own * (NOISE if above else 1.0))
        joint = torch.cat([maps[site] for site in observed])
        return MultivariateNormal(torch.zeros(len(joint)), joint @ joint.T)


def drawn(network, observed, n):
    sizes = [network.sizes[site] for site in observed]
    parts = network.evidence(observed).sample((n,)).split(sizes, -1)
    return dict(zip(observed, parts, strict=True))


def log_weights(model, guide, **data):
    q = poutine.trace(guide).get_trace(**data)
    p = poutine.trace(poutine.replay(model, trace=q)).get_trace(**data)
    for trace in (p, q):
        trace.compute_log_prob()
    p, q = ([n["log_prob"] for n in t.nodes.values() if "log_prob" in n] for t in (p, q))
    return sum(v for v in p if v.dim()) - sum(v for v in q if v.dim())


def fitted(model, guide, evidence, **data):
    """The guide whose log-weights are log p(x), which only the exact posterior's are."""
    options = {"max_iter": 1000, "tolerance_grad": 1e-12, "tolerance_change": 0}
    options |= {"history_size": 50, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS(guide.parameters(), **options)

    def closure():
        optimizer.zero_grad()
        torch.manual_seed(0)
        loss = (log_weights(model, guide, **data) - evidence).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)


NETWORKS = {
    "chain": (
        {"c": 1, "b": 2, "a": 2, "x": 3},
        {"c": (), "b": ("c",), "a": ("b",), "x": ("a",)},
        ("x",),
    ),
    "tree": (
        {"c": 1, "a": 2, "b": 1, "x": 2, "y": 3},
        {"c": (), "a": ("c",), "b": ("c",), "x": ("a",), "y": ("b",)},
        ("x", "y"),
    ),
    "two causes": ({"a": 1, "b": 1, "x": 1}, {"a": (), "b": (), "x": ("a", "b")}, ("x",)),
    "diamond": (
        {"c": 1, "a": 1, "b": 1, "x": 1},
        {"c": (), "a": ("c",), "b": ("c",), "x": ("a", "b")},
        ("x",),
    ),
    "skip": ({"b": 1, "a": 1, "x": 2}, {"b": (), "a": ("b",), "x": ("a", "b")}, ("x",)),
    "steps": (
        dict.fromkeys(("a", "b", "c", "x", "y", "z"), 1),
        {"a": (), "x": ("a",), "b": ("a",), "y": ("b",), "c": ("b",), "z": ("c",)},
        ("x", "y", "z"),
    ),
}


@pytest.fixture
def double():
    kind = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(kind)


@pytest.mark.parametrize(
    ("name", "positive"), [*((name, False) for name in NETWORKS), ("diamond", True)]
)
def test_ladders_hold_the_exact_posterior(name, positive, double):
    sizes, parents, observed = NETWORKS[name]
    coordinates = dist.transforms.ExpTransform() if positive else None
    model = Network(sizes, parents, coordinates).requires_grad_(False)
    data = drawn(model, observed, 150)
    guide = Ladder(model, like=data, hidden=())
    assert guide.latents == tuple(site for site in parents if site not in observed)
    evidence = model.evidence(observed)
    together = torch.cat(list(data.values()), -1)
    fitted(model, guide, evidence.log_prob(together), **data)
    fresh = drawn(model, observed, 200)
    assert check_pair(model, guide, fresh).lacking == {}
    terms = elbo_terms(model, guide, fresh)
    # At every z, not on average
    expected = evidence.log_prob(torch.cat(list(fresh.values()), -1))
    torch.testing.assert_close(terms.elbo, expected, atol=1e-4, rtol=0)
