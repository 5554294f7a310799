"""Ladders of programs of all kinds: priors, plates, masks, parts of data, what is summed out."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from torch.distributions import MultivariateNormal

from pyro_vae import Trainer, infer
from pyro_vae.guides import BottomUp, Composed, Ladder
from pyro_vae.infer import TraceELBO
from pyro_vae.networks import MLP

N = 7
X = torch.linspace(-1, 1, N).sin()


def of(prior, read=lambda z: z):
    """x ~ N(read(z), 1) with z ~ prior(w) and w ~ N(0, 1)."""

    def model(x):
        with pyro.plate("data", len(x)):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            z = pyro.sample("z", prior(w))
            pyro.sample("x", dist.Normal(read(z), 1.0), obs=x)

    return model


def twice(w):
    return w[..., None].expand(*w.shape, 2)


def matrix(w):
    return torch.eye(2) + w[..., None, None] * torch.tensor([[0.0, 0.0], [1.0, 0.0]])


# What is no normal in the coordinates of its support -> how many parameters there are
OTHERS = {
    "Gamma": (lambda w: dist.Gamma(w.exp(), 1.0), 2),
    "Beta": (lambda w: dist.Beta(w.exp(), 2.0), 2),
    "Dirichlet": (lambda w: dist.Dirichlet(torch.stack([w.exp(), w * 0 + 2, 1 + w**2], -1)), 3),
    "StudentT": (lambda w: dist.StudentT(4.0, w, 1.0), 3),
    "several": (
        lambda w: dist.StudentT(4.0, w[..., None].expand(*w.shape, 2), 1.0).to_event(1),
        6,
    ),
    "MultivariateNormal": (
        lambda w: dist.MultivariateNormal(w[..., None].expand(*w.shape, 2), scale_tril=matrix(w)),
        6,
    ),
    "Weibull": (lambda w: dist.Weibull(w.exp(), 2.0), 2),
    "Gumbel": (lambda w: dist.Gumbel(w, 1.0), 2),
    "InverseGamma": (lambda w: dist.InverseGamma(3.0, w.exp()), 2),
    "affine": (
        lambda w: dist.TransformedDistribution(
            dist.Normal(torch.zeros(2), 1.0),
            [dist.transforms.AffineTransform(w[..., None], 2.0, event_dim=1)],
        ),
        4 + 1,
    ),
    "half": (lambda w: dist.HalfNormal(w.exp()), 1),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_prior_that_is_no_normal_is_seen_by_the_proposal(name):
    prior, parameters = OTHERS[name]
    model = of(prior, lambda z: z.sum(-1) if z.shape[-1:] in ((2,), (3,)) else z)
    guide = Ladder(model, like=X, hidden=(8,))
    assert "no normal prior, whose parameters are seen: z" in repr(guide)
    head = guide.heads["z"].network
    assert head.layers[0].in_features - guide.networks["z"].out_features == parameters
    trace = poutine.trace(guide).get_trace(X)
    node, w = trace.nodes["z"], trace.nodes["w"]["value"]
    support = prior(w).support
    assert support.check(node["value"]).all()
    # What the prior is decides what is proposed
    near, far = (
        poutine.trace(poutine.condition(guide, data={"w": w + by})).get_trace(X).nodes["z"]
        for by in (0.0, 1.0)
    )
    assert not torch.equal(near["fn"].log_prob(node["value"]), far["fn"].log_prob(node["value"]))
    terms = infer.elbo_terms(model, guide, X, samples=3)
    assert terms.elbo.isfinite().all()


@pytest.mark.parametrize("name", ["Gamma", "Beta", "StudentT", "LogNormal"])
def test_densities_integrate_to_one(name):
    prior = OTHERS.get(name, (lambda w: dist.LogNormal(w, 0.5),))[0]
    guide = Ladder(of(prior), like=X.double(), hidden=(8,))
    q = poutine.trace(guide).get_trace(X.double()).nodes["z"]["fn"]
    u = torch.linspace(-200, 200, 100_001, dtype=torch.double)
    transform = torch.distributions.biject_to(prior(torch.zeros(())).support)
    z = transform(u)
    # Up to where rounding ends
    inside = (transform.inv(z) - u).abs() < 1e-3
    slope = transform.log_abs_det_jacobian(u, z)[inside]
    total = (q.log_prob(z[inside, None]) + slope[:, None]).exp().sum(0) * (u[1] - u[0])
    torch.testing.assert_close(total, torch.ones(N).double(), atol=1e-3, rtol=0)


def test_a_prior_without_parameters_is_refused():
    def mixture(w):
        return dist.MaskedMixture(w > 0, dist.Normal(w, 1.0), dist.Normal(-w, 0.1))

    with pytest.raises(ValueError, match="site 'z': expected a prior whose parameters a ladder"):
        Ladder(of(mixture), like=X)
    BottomUp(of(mixture), like=X)(X)


def steps(x, lengths):
    """A walk of up to three steps, of which a datum has as many as its length."""
    with pyro.plate("data", len(x)):
        z = torch.zeros(len(x))
        for t in range(3):
            with poutine.mask(mask=t < lengths):
                z = pyro.sample(f"z{t}", dist.Normal(z, 1.0))
                pyro.sample(f"x{t}", dist.Normal(z, 0.5), obs=x[:, t])


def test_sequences_of_different_lengths():
    lengths = torch.arange(60) % 3 + 1
    walk = torch.ones(3, 3).tril()
    evidence = MultivariateNormal(torch.zeros(3), walk @ walk.T + 0.25 * torch.eye(3))
    x = evidence.sample((60,))
    x[torch.arange(3) >= lengths[:, None]] = 3.0
    guide = Ladder(steps, like=(x, lengths), hidden=(16,))
    assert not guide.leads
    trainer = Trainer(steps, guide, lr=3e-2, seed=0)
    trainer.fit((x, lengths), epochs=150, batch_size=60, progress=False)
    found = infer.importance(steps, guide, (x, lengths), samples=3000)
    for length in (1, 2, 3):
        rows, some = lengths == length, evidence.covariance_matrix[:length, :length]
        expected = MultivariateNormal(torch.zeros(length), some).log_prob(x[rows, :length])
        error = (found.log_likelihood[rows] - expected).abs()
        assert (error < 5 * found.standard_error[rows].clamp(min=2e-2)).all()


def weighed(x, scale=1.0):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with poutine.scale(scale=scale):
            b = pyro.sample("b", dist.Normal(a, 1.0))
        pyro.sample("x", dist.Normal(b, 0.5), obs=x)


def test_scales_of_the_program_count_in_the_guide():
    def model(x):
        return weighed(x, 0.25)

    plain, scaled = (Ladder(m, like=X, hidden=(8,)) for m in (weighed, model))
    scaled.load_state_dict(plain.state_dict())
    assert plain.leads and not scaled.leads
    terms = infer.elbo_terms(weighed, plain, X)
    again = infer.elbo_terms(model, scaled, X)
    torch.testing.assert_close(again.kl, terms.kl)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loss, drawn = TraceELBO()(model, scaled, X)
    expected = drawn.reconstruction - drawn.kl["a"] - 0.25 * drawn.kl["b"]
    torch.testing.assert_close(loss.detach(), -expected.sum())


def test_a_part_of_the_data():
    def part(x):
        with pyro.plate("data", 10 * N, subsample=torch.arange(len(x))):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 0.5), obs=x)

    guide, whole = (Ladder(m, like=X, hidden=(8,)) for m in (part, weighed))
    whole.load_state_dict(guide.state_dict())
    assert not guide.leads
    losses = []
    for pair in ((part, guide), (weighed, whole)):
        torch.manual_seed(0)
        losses.append(TraceELBO()(*pair, X)[0])
    torch.testing.assert_close(losses[0], 10 * losses[1])


def test_plates_inside_the_datum_are_as_folded_ones():
    rows = torch.randn(40, 3)

    def plated(x):
        with pyro.plate("data", len(x), dim=-2):
            top = pyro.sample("top", dist.Normal(torch.zeros(()), 1.0))
            with pyro.plate("inside", 3, dim=-1):
                z = pyro.sample("z", dist.LogNormal(top, 0.5))
                pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def folded(x):
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Normal(0.0, 1.0))
            z = pyro.sample("z", dist.LogNormal(torch.stack([top, top, top], -1), 0.5).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    one, other = (Ladder(m, like=rows, hidden=(8,)) for m in (plated, folded))
    other.load_state_dict(one.state_dict())
    assert one.leads and other.leads
    for leads in (True, False):
        one.leads = leads
        found = []
        for pair in ((plated, one), (folded, other)):
            terms = infer.elbo_terms(*pair, rows)
            found.append({"elbo": terms.elbo, **terms.kl})
        torch.testing.assert_close(*found)


def shared(x):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(w, 1.0))
        b = pyro.sample("b", dist.Normal(a, 1.0))
        pyro.sample("x", dist.Normal(b, 0.5), obs=x)


def test_latents_that_all_data_share():
    ladder = Ladder(shared, like=X, hidden=(8,))
    with pytest.raises(ValueError, match=r"use guides\.Composed"):
        ladder(X)
    guide = Composed(ladder, globals=AutoNormal, like=X, model=shared)
    Trainer(shared, guide, lr=1e-2, seed=0).fit(X, epochs=2, progress=False)
    terms = infer.elbo_terms(shared, guide, X, samples=2)
    assert terms.elbo.isfinite().all() and set(terms.kl) == {"a", "b", "w"}


def below(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        y = pyro.sample("y", dist.Normal(z, 1.0))
        c = pyro.sample("c", dist.Bernoulli(logits=y), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(c, 1.0), obs=x)


def above(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(c, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_what_is_summed_out():
    with pytest.raises(ValueError, match="'z': expected a prior that depends on no latent that"):
        Ladder(above, like=X)
    guide = Ladder(below, like=X, hidden=(8,))
    assert guide.latents == ("z", "y")
    trainer = Trainer(below, guide, elbo=TraceEnum_ELBO(), lr=1e-2, seed=0)
    trainer.fit(X, epochs=3, progress=False)
    assert trainer.history[-1]["elbo"] < 0


def chain(x):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        b = pyro.sample("b", dist.Normal(a[..., :2], 1.0).to_event(1))
        pyro.sample("x", dist.Normal(b, 1.0).to_event(1), obs=x)


def test_arguments():
    x = torch.randn(9, 2)
    inputs = {
        upward: Ladder(chain, like=x, hidden=[(8,), (4,)], upward=upward).networks["a"]
        for upward in ("activations", "means")
    }
    assert [n.layers[0].in_features for n in inputs.values()] == [8, 2]
    encoder = MLP((2,), (5,))
    guide = Ladder(chain, like=x, encoder=encoder, hidden=[(8,), (4,)])
    assert guide.networks["b"] is encoder
    assert guide.networks["a"].layers[0].in_features == 5
    with pytest.raises(ValueError, match=r"upward: expected one of activations, means, got 'x'"):
        Ladder(chain, like=x, upward="x")
    with pytest.raises(TypeError, match="like: expected data for chain"):
        Ladder(chain)
    with pytest.raises(ValueError, match=r"x: expected shape \('n', 2\)"):
        guide(torch.zeros(3, 1))
