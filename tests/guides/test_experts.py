"""Guides of several modalities: exact where they can be, with any of them absent."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess
from modalities import NAMES, SUBSETS, Likelihood, Linear, N, Pictures, batch, pictures
from pyro import poutine
from torch import nn

from pyro_vae import guides, handlers, infer

KINDS = (guides.ProductOfExperts, guides.MixtureOfExperts, guides.MixtureOfProducts)
every = pytest.mark.parametrize("kind", KINDS)
MODEL = Linear()


def exact(kind, model=MODEL, posterior=False):
    experts = {name: Likelihood(MODEL, name, posterior=posterior) for name in NAMES}
    return kind(experts, model=model, like=MODEL.data())


def of(data, subset):
    return {name: data[name] for name in subset}


def q_of(guide, data):
    return poutine.trace(guide).get_trace(**data).nodes["z"]["fn"]


@pytest.mark.parametrize("subset", SUBSETS)
def test_a_product_is_the_posterior_of_any_subset(subset):
    guide, data = exact(guides.ProductOfExperts), of(MODEL.data(), subset)
    mean, scale, evidence = MODEL.exact(data)
    q = q_of(guide, data)
    assert torch.allclose(q.mean.double(), mean, atol=1e-5)
    assert torch.allclose(q.base_dist.scale.double(), scale, atol=1e-5)
    # With the posterior each weight is the evidence
    found = infer.importance(MODEL, guide, data, samples=3)
    assert torch.allclose(found.log_likelihood.double(), evidence, atol=1e-4)
    assert torch.allclose(infer.elbo_terms(MODEL, guide, data).elbo.double(), evidence, atol=1e-4)
    # What is None is absent as well
    others = {name: data.get(name) for name in NAMES}
    assert torch.equal(q_of(guide, others).mean, q.mean)
    assert torch.equal(infer.encode(guide, others).mean["z"], q.mean)


def rows():
    """Data of which each row has another subset of modalities, the first one none."""
    data = MODEL.data()
    for i, subset in enumerate([(), *SUBSETS]):
        for name in {*NAMES} - {*subset}:
            data[name][i] = torch.nan
    return data


def test_a_product_is_the_posterior_of_each_row_whatever_is_there():
    model, data = handlers.missing(MODEL), rows()
    guide = exact(guides.ProductOfExperts, model)
    mean, scale, evidence = MODEL.exact(data)
    q = q_of(guide, data)
    assert torch.allclose(q.mean.double(), mean, atol=1e-5)
    assert torch.allclose(q.base_dist.scale.double(), scale, atol=1e-5)
    assert torch.allclose(q.mean[0], MODEL.m) and evidence[0] == 0
    found = infer.importance(model, guide, data, samples=3)
    assert torch.allclose(found.log_likelihood.double(), evidence, atol=1e-4)


def test_a_product_of_posteriors_would_count_the_prior_again():
    guide = exact(guides.ProductOfExperts, posterior=True)
    data = MODEL.data()
    assert not torch.allclose(q_of(guide, data).mean.double(), MODEL.exact(data)[0], atol=0.01)


def test_mixtures_are_the_mean_of_their_components():
    data, z = MODEL.data(), torch.randn(N, 2)

    def log_p(subset):
        mean, scale, _ = MODEL.exact(of(data, subset))
        return dist.Normal(mean, scale).to_event(1).log_prob(z.double())

    for kind, subsets in (
        (guides.MixtureOfExperts, [s for s in SUBSETS if len(s) == 1]),
        (guides.MixtureOfProducts, SUBSETS),
    ):
        guide = exact(kind, posterior=kind is guides.MixtureOfExperts)
        expected = torch.stack([log_p(s) for s in subsets]).logsumexp(0) - math.log(len(subsets))
        assert torch.allclose(q_of(guide, data).log_prob(z).double(), expected, atol=1e-4)
        means = torch.stack([MODEL.exact(of(data, s))[0] for s in subsets])
        assert torch.allclose(q_of(guide, data).mean.double(), means.mean(0), atol=1e-4)
        # One modality alone is that component
        alone = q_of(guide, of(data, "b")).log_prob(z)
        assert torch.allclose(alone.double(), log_p("b"), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_mixtures_leave_absent_rows_out(kind):
    model, data = handlers.missing(MODEL), rows()
    posterior = kind is guides.MixtureOfExperts
    guide, z = exact(kind, model, posterior), torch.randn(N, 2)
    found = q_of(guide, data).log_prob(z)
    whole = exact(kind, MODEL, posterior)
    for i, subset in enumerate([(), *SUBSETS]):
        if subset:
            part = {name: data[name][i : i + 1] for name in subset}
            expected = q_of(whole, part).log_prob(z[i : i + 1])
        else:
            expected = dist.Normal(MODEL.m, MODEL.s).to_event(1).log_prob(z[:1])
        assert torch.allclose(found[i], expected, atol=1e-4)
    # Draws are from the components that are there
    torch.manual_seed(0)
    many = {name: value[3:4].expand(4000, -1) for name, value in data.items()}
    drawn = guide(**many)["z"].double()
    mean, scale, _ = (v[3] for v in MODEL.exact(data))
    assert SUBSETS[2] == ("c",)
    assert excess((drawn.mean(0) - mean) / (scale / 4000**0.5)) < 1
    assert torch.allclose(drawn.std(0), scale, rtol=0.1)


@every
def test_weights_are_unbiased(kind):
    """Log p(x) by importance sampling, from whatever components."""
    model, data = handlers.missing(MODEL), rows()
    guide = exact(kind, model, kind is guides.MixtureOfExperts)
    *_, evidence = MODEL.exact(data)
    torch.manual_seed(0)
    found = infer.importance(model, guide, data, samples=4000)
    assert torch.allclose(found.log_likelihood.double(), evidence, atol=0.15)
    bound = infer.elbo_terms(model, guide, data, samples=200).elbo
    assert (bound.double() < evidence + 0.05).all()


def test_draws_of_a_mixture_have_its_gradient_and_its_moments():
    """The path of a draw, whose component does not depend on parameters."""
    scale = torch.tensor([0.5, 2.0], requires_grad=True)

    class At(nn.Module):
        def __init__(self, i):
            super().__init__()
            self.i = i

        def forward(self, a=None, b=None, c=None):
            with pyro.plate("data", len(b if a is None else a)):
                loc = torch.full((2,), 3.0 * self.i)
                pyro.sample("z", dist.Normal(loc, scale[self.i]).to_event(1))

    data = MODEL.data(20000)
    experts = {"a": At(0), "b": At(1)}
    guide = guides.MixtureOfExperts(experts, model=MODEL, like=MODEL.data())
    torch.manual_seed(0)
    z = guide(a=data["a"], b=data["b"])["z"]
    # E z^2 = 1/2 (s_0^2 + s_1^2 + 9), whose gradient is s
    squares = z.square().mean(1)
    off = squares.detach().mean() - 0.5 * (0.25 + 4.0 + 9.0)
    assert excess(off / (squares.detach().std() / 20000**0.5)) < 1
    (gradient,) = torch.autograd.grad(squares.mean(), scale)
    assert torch.allclose(gradient, torch.tensor([0.5, 2.0]), rtol=0.05)
    # Half of the draws exactly are from each component
    near = (q_of(experts["a"], data).log_prob(z) > q_of(experts["b"], data).log_prob(z)).sum()
    assert abs(int(near) / 20000 - 0.5) < 0.06


def test_as_many_samples_as_modalities_have_one_component_each():
    class At(nn.Module):
        def __init__(self, i):
            super().__init__()
            self.i = i

        def forward(self, a=None, b=None, c=None):
            with pyro.plate("data", batch(a, b, c)):
                pyro.sample("z", dist.Normal(torch.full((2,), 9.0 * self.i), 0.1).to_event(1))

    experts = {name: At(i) for i, name in enumerate(NAMES)}
    guide = guides.MixtureOfExperts(experts, model=MODEL, like=MODEL.data())
    with pyro.plate("samples", 3, dim=-2):
        z = guide(**MODEL.data())["z"]
    assert z.shape == (3, N, 2)
    found = (z[:, :, 0] / 9).round().sort(0).values
    assert torch.equal(found, torch.arange(3.0)[:, None].expand(3, N))


@every
def test_several_latents_share_the_component(kind):
    def model(a=None, b=None):
        with pyro.plate("data", batch(a, b)):
            above = pyro.sample("above", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            below = pyro.sample("below", dist.Normal(above.sum(-1), 0.5))
            pyro.sample("a", dist.Normal(below, 1.0), obs=a)
            pyro.sample("b", dist.Normal(-below, 0.1), obs=b)

    data = {"a": torch.randn(N), "b": torch.randn(N)}
    guide = kind(["a", "b"], model=model, like=data, hidden=(4,))
    assert guide.latents == ("above", "below")
    assert [*infer.encode(guide, data).mean] == ["above", "below"]
    found = infer.importance(model, guide, data, samples=2000)
    # b = -below + noise, a = below + noise; below has variance 2.25
    cov = torch.tensor([[3.25, -2.25], [-2.25, 2.26]])
    both = torch.stack([data["a"], data["b"]], 1)
    expected = dist.MultivariateNormal(torch.zeros(2), cov).log_prob(both)
    error = found.standard_error.clamp(min=0.02)
    assert ((found.log_likelihood - expected).abs() < 6 * error + 0.05).float().mean() > 0.8
    # The joint density of a draw is that of the components as wholes
    trace = poutine.trace(guide).get_trace(**data)
    z = {site: trace.nodes[site]["value"] for site in guide.latents}
    trace.compute_log_prob()
    total = sum(trace.nodes[site]["log_prob"] for site in guide.latents)
    if kind is guides.MixtureOfExperts:
        parts = []
        for name, expert in zip(guide.modalities, guide.experts, strict=True):
            held = poutine.trace(poutine.condition(expert, data=z)).get_trace(**{name: data[name]})
            held.compute_log_prob()
            parts.append(sum(held.nodes[site]["log_prob"] for site in guide.latents))
        expected = torch.stack(parts).logsumexp(0) - math.log(2)
        assert torch.allclose(total, expected, atol=1e-4)


@every
def test_experts_of_any_form_are_taken(kind):
    model, data = Pictures(), pictures()
    alone = handlers.missing(model)
    options = {"order": "top-down", "hidden": (4,)}
    image = guides.BottomUp(alone, like={"image": data["image"]}, **options)

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(3, 4)

        def forward(self, label):
            return self.table(label.long())

    guide = kind({"image": image, "label": Encoder()}, model=model, like=data)
    assert guide.experts[0] is image and guide.modalities == ("image", "label")
    assert guide(**data)["z"].shape == (N, 2)
    # As guides alone they bring model and data
    label = guides.BottomUp(alone, like={"label": data["label"]}, **options)
    whole = kind({"image": image, "label": label})
    assert whole.experts[0] is image
    assert whole(label=data["label"])["z"].shape == (N, 2)


def test_a_mixture_takes_guides_that_are_no_normals():
    model, data = handlers.missing(Pictures()), pictures()
    options = {"order": "top-down", "hidden": (4,)}
    image = guides.FullCovariance(model, like={"image": data["image"]}, **options)
    label = guides.BottomUp(model, like={"label": data["label"]}, **options)
    guide = guides.MixtureOfExperts({"image": image, "label": label})
    assert infer.elbo_terms(model, guide, data).elbo.isfinite().all()


@every
def test_positive_latents_in_plates_inside_the_datum(kind):
    def model(a=None, b=None):
        with pyro.plate("data", batch(a, b), dim=-2), pyro.plate("time", 3, dim=-1):
            z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
            pyro.sample("a", dist.Poisson(z), obs=a)
            pyro.sample("b", dist.LogNormal(z.log(), 0.3), obs=b)

    data = {"a": torch.poisson(torch.ones(N, 3)), "b": torch.rand(N, 3) + 0.5}
    guide = kind(["a", "b"], model=model, like=data, hidden=(4,))
    z = guide(**data)["z"]
    assert z.shape == (N, 3) and (z > 0).all()
    assert infer.elbo_terms(model, guide, {"b": data["b"]}).elbo.shape == (N,)


@every
def test_an_argument_may_give_a_latent(kind):
    """What has the name of an argument that is None may be drawn."""

    def model(a=None, b=None, z=None):
        with pyro.plate("data", batch(a, b)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0), obs=z)
            pyro.sample("a", dist.Normal(z, 1.0), obs=a)
            pyro.sample("b", dist.Normal(z, 1.0), obs=b)

    data = {"a": torch.randn(N), "b": torch.randn(N)}
    guide = kind(["a", "b"], model=model, like=data, hidden=(4,))
    terms = infer.elbo_terms(model, guide, {"a": data["a"]})
    assert [*terms.kl] == ["z"] and terms.kl["z"].all()
    assert infer.check_pair(model, guide, data).observed == ("a", "b")
