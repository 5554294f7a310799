import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO
from torch import nn
from torch.distributions import Normal
from torch.nn.functional import one_hot

from pyro_vae.guides import BottomUp, Delta
from pyro_vae.likelihoods import Bernoulli, Categorical, Gaussian
from pyro_vae.models import VAE

LAYERS = [(3,), (4, 3), (5, 4, 3)]


def deep(latents=(4, 3), **kwargs):
    kwargs = {"likelihood": Gaussian(0.7), "hidden": (5,)} | kwargs
    return VAE((6,), latents, **kwargs)


@pytest.mark.parametrize("latents", LAYERS)
def test_sites_from_the_top_to_the_data_in_one_plate(latents):
    vae = deep(latents)
    sites = [f"z{i}" for i in range(len(latents), 0, -1)]
    trace = poutine.trace(vae).get_trace(torch.randn(7, 6))
    nodes = {k: v for k, v in trace.nodes.items() if v["type"] == "sample"}
    assert list(nodes) == ["data", *sites, "x"]
    assert vae.latents == tuple(sites)
    for site, size in zip([*sites, "x"], [*latents[::-1], 6], strict=True):
        (frame,) = nodes[site]["cond_indep_stack"]
        assert (frame.name, frame.size, frame.dim) == ("data", 7, -1)
        assert nodes[site]["fn"].batch_shape == (7,)
        assert nodes[site]["fn"].event_shape == (size,)
        assert nodes[site]["value"].shape == (7, size)
    assert [k for k, v in nodes.items() if v["is_observed"]] == ["x"]


@pytest.mark.parametrize("condition", [0, 3])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("latents", LAYERS)
def test_log_density_by_hand(latents, skip, condition):
    vae = deep(latents, skip=skip, condition=condition)
    x, y = torch.randn(7, 6), torch.randint(3, (7,)) if condition else None
    label = [one_hot(y, 3).float()] if condition else []
    trace = poutine.trace(vae).get_trace(x, y=y)
    z = {s: trace.nodes[s]["value"] for s in vae.latents}
    expected = 0.0
    for i, site in enumerate(vae.latents):
        if i == 0:
            loc, scale = torch.zeros(()), torch.ones(())
        else:
            above = [z[s] for s in vae.latents[:i][::-1]]
            p = vae.conditionals[site]
            h = p.network(torch.cat([*(above if skip else above[:1]), *label], -1))
            loc, scale = p.loc(h), (1 + p.raw_scale(h).exp()).log() + p.min_scale
        expected = expected + Normal(loc, scale).log_prob(z[site]).sum()
    above = [z[s] for s in vae.latents[::-1]]
    features = vae.decoder(torch.cat([*(above if skip else above[:1]), *label], -1))
    expected = expected + Normal(features, 0.7).log_prob(x).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)


def test_ancestral_samples_have_the_exact_moments(linear):
    n = 50_000
    evidence = linear.evidence()
    x = linear.vae.sample(n)
    covariance = evidence.covariance_matrix
    mean_error = (x.mean(0) - linear.b) / (covariance.diagonal() / n).sqrt()
    assert excess(mean_error) < 1
    variances = covariance.diagonal()
    spread = (variances[:, None] * variances + covariance.square()) / n
    assert excess((x.T.cov() - covariance) / spread.sqrt()) < 1
    means = linear.vae.sample(n, mean=True)
    expected = linear.W @ linear.W.T
    spread = expected.diagonal()[:, None] * expected.diagonal() + expected.square()
    assert excess((means.T.cov() - expected) / (spread / n).sqrt()) < 1


def test_sample_means_are_the_means_of_the_same_draws():
    vae = deep(likelihood=Bernoulli())
    with torch.random.fork_rng():
        trace = poutine.trace(vae).get_trace(size=5)
    assert torch.equal(vae.sample(5, mean=True), trace.nodes["x"]["fn"].mean)


@pytest.mark.parametrize("event_shape", [(5,), (4, 3), (2, 5, 4), (2, 1, 3, 2)])
def test_event_shapes_of_one_to_four_dimensions(event_shape):
    for hidden in (None, (4,)):
        vae = VAE(event_shape, (3, 2), likelihood=Bernoulli(), hidden=hidden)
        x = vae.sample(3)
        assert x.shape == (3, *event_shape)
        trace = poutine.trace(vae).get_trace(x)
        node = trace.nodes["x"]
        trace.compute_log_prob()
        assert node["fn"].event_shape == event_shape
        assert node["log_prob"].shape == (3,)
        assert vae.event_size == math.prod(event_shape)
        assert BottomUp(vae).encode(x).mean["z2"].shape == (3, 2)


@pytest.mark.parametrize("shape", [(7, 5), (7, 6, 1), (6,), (0, 6)])
def test_data_of_another_shape_are_refused(shape):
    vae = deep()
    message = rf"site 'x': expected shape \(n, 6\) with n >= 1, got \({shape[0]}, ?"
    for program in (vae, BottomUp(vae), vae.check_data):
        with pytest.raises(ValueError, match=message):
            program(torch.zeros(shape))


@pytest.mark.parametrize(("model", "data"), [("float32", "float64"), ("float64", "float32")])
def test_data_of_another_dtype_are_refused(model, data):
    vae = deep().to(getattr(torch, model))
    x = torch.zeros(2, 6, dtype=getattr(torch, data))
    message = rf"got torch.{data} data for a model of torch.{model}: use x.to\(torch.{model}\)"
    for program in (vae, BottomUp(vae), vae.check_data):
        with pytest.raises(ValueError, match=message):
            program(x)


def test_data_outside_the_range_are_refused_while_validation_is_on():
    vae = deep(likelihood=Bernoulli())
    with pytest.raises(ValueError, match="Bernoulli expects only 0 and 1"):
        vae(torch.full((2, 6), 0.5))
    with pyro.validation_enabled(False):
        vae(torch.full((2, 6), 0.5))


class TestOwnParts:
    def test_decoder(self):
        class Decoder(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.randn(9, 6))

            def forward(self, z1, z2, y):
                return torch.cat([z1, z2, y], -1) @ self.weight

        vae = deep((4, 3), skip=True, condition=2, decoder=Decoder())
        z1, z2, y = torch.randn(5, 4), torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
        expected = torch.cat([z1, z2, one_hot(y, 2)], -1) @ vae.decoder.weight
        torch.testing.assert_close(vae.decode({"z1": z1, "z2": z2}, y=y).mean, expected)

    @pytest.mark.parametrize(
        ("likelihood", "wanted", "got"),
        [(Gaussian(), r"\(n, 6\)", r"\(n, 5\)"), (Categorical(4), r"\(n, 6, 4\)", r"\(n, 5\)")],
    )
    def test_decoder_of_the_wrong_shape(self, likelihood, wanted, got):
        message = rf"expects features {wanted}, the decoder returned {got}"
        with pytest.raises(ValueError, match=message):
            deep(likelihood=likelihood, decoder=nn.Linear(4, 5))

    def test_a_decoder_with_batch_norm_is_not_touched_by_the_check(self):
        decoder = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
        deep(decoder=decoder)
        assert decoder[1].num_batches_tracked == 0
        assert decoder.training

    def test_encoder(self):
        class Encoder(nn.Module):
            def forward(self, x, y):
                return torch.cat([x.square(), y], -1)

        vae = deep(condition=2)
        guide = BottomUp(vae, encoder=Encoder())
        x, y = torch.randn(3, 6), torch.tensor([1, 0, 1])
        expected = guide.conditionals["z1"].loc(torch.cat([x**2, one_hot(y, 2)], -1))
        torch.testing.assert_close(guide.encode(x, y=y).mean["z1"], expected)

    def test_top_down(self):
        class Fixed(nn.Module):
            def __init__(self, size):
                super().__init__()
                self.loc = nn.Parameter(torch.full((size,), 7.0))

            def forward(self, *context):
                loc = self.loc + sum(c.sum(-1, keepdim=True) for c in context)
                return dist.Laplace(loc, 2.0).to_event(1)

        vae = deep((4, 3), top_down={"z2": Fixed(3), "z1": Fixed(4)}, hidden=())
        trace = poutine.trace(vae).get_trace(torch.zeros(5, 6))
        z2, z1 = (trace.nodes[s]["value"] for s in ("z2", "z1"))
        trace.compute_log_prob()
        expected = torch.distributions.Laplace(7.0, 2.0).log_prob(z2).sum(-1)
        torch.testing.assert_close(trace.nodes["z2"]["log_prob"], expected)
        loc = 7.0 + z2.sum(-1, keepdim=True)
        expected = torch.distributions.Laplace(loc, 2.0).log_prob(z1).sum(-1)
        torch.testing.assert_close(trace.nodes["z1"]["log_prob"], expected)
        assert "conditionals.z2.loc" in dict(vae.named_parameters())

    def test_a_module_that_is_falsy_is_used_all_the_same(self):
        class Prior(nn.Sequential):
            def forward(self):
                return dist.Normal(torch.full((3,), 9.0), 1.0).to_event(1)

        vae = VAE((6,), 3, likelihood=Gaussian(), top_down={"z1": Prior()})
        assert len(vae.conditionals["z1"]) == 0
        assert poutine.trace(vae).get_trace(size=2).nodes["z1"]["fn"].mean.min() == 9

    def test_a_prior_sees_no_label(self):
        class Prior(nn.Module):
            def forward(self):
                return dist.Normal(torch.full((3,), 9.0), 1.0).to_event(1)

        vae = deep((4, 3), condition=2, top_down={"z2": Prior()})
        trace = poutine.trace(vae).get_trace(y=torch.tensor([0, 1]))
        assert trace.nodes["z2"]["fn"].mean.min() == 9

    def test_unknown_site(self):
        with pytest.raises(ValueError, match=r"top_down: expected one of .*, got 'z3'"):
            deep((4, 3), top_down={"z3": nn.Identity()})


@pytest.mark.parametrize(
    ("kwargs", "story"),
    [
        ({"latents": 3}, "p(x, z1) = p(x|z1) p(z1)"),
        ({"latents": (4, 3)}, "p(x, z1, z2) = p(x|z1) p(z1|z2) p(z2)"),
        (
            {"latents": (4, 3), "condition": 2},
            "p(x, z1, z2|y) = p(x|z1,y) p(z1|z2,y) p(z2)",
        ),
        (
            {"latents": (5, 4, 3), "skip": True},
            "p(x, z1, z2, z3) = p(x|z1,z2,z3) p(z1|z2,z3) p(z2|z3) p(z3)",
        ),
    ],
)
def test_repr_tells_the_generative_story(kwargs, story):
    vae = deep(**kwargs)
    lines = repr(vae).splitlines()
    assert lines[1].strip() == story
    assert lines[2].strip().startswith("x: Gaussian (6,), z1: ")


def test_copies_are_independent():
    vae = deep()
    clone = copy.deepcopy(vae)
    with torch.no_grad():
        for p in clone.parameters():
            p.add_(1)
    z = {"z1": torch.zeros(1, 4)}
    assert not torch.equal(vae.decode(z).mean, clone.decode(z).mean)
    pair = copy.deepcopy((vae, BottomUp(vae)))
    assert pair[1].model is pair[0]


class TestDecode:
    def test_missing_layers_take_their_conditional_means(self):
        vae = deep((5, 4, 3))
        z3 = torch.randn(2, 3)
        z2 = vae.conditionals["z2"](z3).mean
        z1 = vae.conditionals["z1"](z2).mean
        torch.testing.assert_close(vae.decode({"z3": z3}).mean, vae.decoder(z1))
        torch.testing.assert_close(vae.decode({"z2": z2}).mean, vae.decoder(z1))
        torch.testing.assert_close(vae.decode({"z1": z1}).mean, vae.decoder(z1))

    def test_a_layer_above_that_is_missing_takes_its_prior_mean(self):
        vae = deep((4, 3), skip=True)
        z1 = torch.randn(2, 4)
        torch.testing.assert_close(vae.decode({"z1": z1}).mean, vae.decoder(z1, torch.zeros(2, 3)))

    def test_a_tensor_for_one_layer(self, linear):
        z = torch.randn(5, 2)
        p = linear.vae.decode(z)
        torch.testing.assert_close(p.mean, z @ linear.W.T + linear.b)
        assert (p.batch_shape, p.event_shape) == ((5,), (6,))
        assert not p.mean.requires_grad

    @pytest.mark.parametrize(
        ("z", "message"),
        [
            (torch.zeros(2, 4), r"a tensor is enough for one latent layer.*\{'z2': z\}"),
            ({}, "expected at least one of .*, got an empty mapping"),
            ({"z4": torch.zeros(2, 4)}, r"z: expected one of z2, z1, got 'z4'"),
            ({"z1": torch.zeros(2, 3)}, r"z\['z1'\]: expected shape \(n, 4\), got \(2, 3\)"),
            ({"z1": torch.zeros(4)}, r"z\['z1'\]: expected shape \(n, 4\), got \(4,\)"),
            (
                {"z1": torch.zeros(2, 4), "z2": torch.zeros(3, 3)},
                "unequal n, got {'z1': 2, 'z2': 3}",
            ),
        ],
    )
    def test_errors(self, z, message):
        with pytest.raises(ValueError, match=message):
            deep((4, 3)).decode(z)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"event_shape": (3, 0)}, "event_shape: expected positive integers"),
        ({"event_shape": ()}, "event_shape: expected positive integers"),
        ({"latents": 0}, "latents: expected positive integers, got 0"),
        ({"latents": (3, -1)}, "latents: expected positive integers"),
        ({"latents": (3, 2.5)}, "latents: expected positive integers"),
        ({"hidden": ((3,), (2,), (1,))}, r"one tuple per latent layer \(2\)"),
    ],
)
def test_bad_sizes(kwargs, message):
    arguments = {"event_shape": (6,), "latents": (4, 3), "likelihood": Gaussian()} | kwargs
    with pytest.raises(ValueError, match=message):
        VAE(**arguments)


def test_a_likelihood_class_is_not_a_likelihood():
    with pytest.raises(TypeError, match=r"expected an instance such as likelihoods.Bernoulli\(\)"):
        deep(likelihood=Bernoulli)


def test_at_least_one_sample():
    with pytest.raises(ValueError, match="n: expected a whole number of at least 1, got 0"):
        deep().sample(0)


class TestStockTools:
    def test_predictive(self, linear):
        draws = Predictive(linear.vae, num_samples=3000, parallel=True)(size=2)
        assert {k: v.shape[1:] for k, v in draws.items()} == {"z1": (2, 2), "x": (2, 6)}
        residual = draws["x"] - draws["z1"] @ linear.W.T - linear.b
        assert excess((residual.std() / linear.sigma - 1) * (2 * residual.numel()) ** 0.5) < 1

    def test_predictive_with_a_guide(self, linear):
        x, guide = linear.data(3), linear.guide()
        mean, sd = linear.posterior(x)
        draws = Predictive(linear.vae, guide=guide, num_samples=4000, parallel=True)(x)["z1"]
        error = (draws.reshape(4000, 3, 2).mean(0) - mean) / sd * 4000**0.5
        assert excess(error) < 1

    @pytest.mark.parametrize("guide", [BottomUp, Delta])
    @pytest.mark.parametrize(
        "kwargs",
        [
            {"event_shape": (6,), "latents": (4, 3), "hidden": (5,)},
            {"event_shape": (6,), "latents": (4, 3), "skip": True, "condition": 3},
            {"event_shape": (1, 5, 4), "latents": 2, "condition": 3},
            {"event_shape": (5, 4), "latents": (2, 2), "skip": True, "likelihood": Categorical(3)},
        ],
    )
    def test_vectorised_particles_are_particles(self, kwargs, guide):
        vae = VAE(**({"likelihood": Gaussian()} | kwargs))
        guide = guide(vae)
        y = torch.tensor([0, 1, 2, 1])
        x = vae.sample(4, y=y if vae.condition else None)
        elbo = Trace_ELBO(num_particles=5, vectorize_particles=True, max_plate_nesting=1)
        with torch.random.fork_rng():
            loss = elbo.loss(vae, guide, x, y=y)
        with pyro.plate("particles", 5, dim=-2):
            trace = poutine.trace(guide).get_trace(x, y=y)
        signs = {vae: 1} if isinstance(guide, Delta) else {vae: 1, guide: -1}
        expected = 0.0
        for k in range(5):
            z = {s: trace.nodes[s]["value"][k] for s in vae.latents}
            for program, sign in signs.items():
                run = poutine.trace(poutine.condition(program, data=z)).get_trace(x, y=y)
                expected += sign * run.log_prob_sum().item()
        assert loss == pytest.approx(-expected / 5, rel=1e-5)
