import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

from pyro_vae.guides import BottomUp, Delta, Guide
from pyro_vae.handlers import corrupt, scale_latents
from pyro_vae.infer import AnalyticELBO, TraceELBO
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE, Model

BETAS = [0, 0.3, 1, 4]


def forms(beta):
    """The ways to write one beta."""
    return [beta, torch.tensor(float(beta)), {"z1": beta}, {"z1": torch.tensor(float(beta))}]


def both(model, guide, beta):
    return scale_latents(model, beta), scale_latents(guide, beta)


def replayed(linear, guide, x):
    """Closed-form KL; log p(x|z) and log q(z|x) - log p(z) at the guide's next sample, (n,)."""
    q = guide.conditionals["z1"](x)
    with torch.random.fork_rng():
        z = q.rsample()
    reconstruction = dist.Normal(linear.vae.decoder(z), linear.sigma).log_prob(x).sum(-1)
    log_ratio = q.log_prob(z) - dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    return linear.kl(q.mean, q.stddev), reconstruction, log_ratio


@pytest.fixture
def deep():
    vae = VAE((6,), (4, 3), likelihood=Gaussian(0.7), hidden=(5,))
    return vae, BottomUp(vae)


@pytest.mark.parametrize("beta", BETAS)
def test_objective_is_reconstruction_minus_beta_kl_with_every_estimator(linear, beta):
    x, guide = linear.data(7), linear.guide(shift=0.3, widen=1.4)
    kl, reconstruction, log_ratio = replayed(linear, guide, x)
    for form in forms(beta):
        pair = both(linear.vae, guide, form)
        for loss, latent in [
            (TraceMeanField_ELBO().loss, kl),
            (lambda *pair_x: AnalyticELBO()(*pair_x)[0].detach(), kl),
            (Trace_ELBO().loss, log_ratio),
            (lambda *pair_x: TraceELBO()(*pair_x)[0].detach(), log_ratio),
            (lambda model, guide, x: Trace_ELBO()(model, guide)(x).detach(), log_ratio),
        ]:
            expected = -(reconstruction - beta * latent).sum()
            with torch.random.fork_rng():
                assert float(loss(*pair, x)) == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("beta", BETAS)
def test_the_expected_objective_is_the_closed_form(linear, beta):
    x, guide = linear.data(1), linear.guide(shift=0.3, widen=1.4)
    q = guide.conditionals["z1"](x)
    expected = linear.reconstruction(x, q.mean, q.stddev) - beta * linear.kl(q.mean, q.stddev)
    pair = both(linear.vae, guide, beta)
    copies = x.expand(2000, 6)
    draws = torch.tensor([-Trace_ELBO().loss(*pair, copies) / 2000 for _ in range(100)])
    error = draws.std() / 10
    assert excess((draws.mean() - expected) / error, draws=100) < 1
    assert error < 0.02


def test_beta_zero_trains_the_reconstruction_alone(linear):
    x, guide = linear.data(7), linear.guide(shift=0.3, widen=1.4)
    _, reconstruction, _ = replayed(linear, guide, x)
    parameters = [*linear.vae.parameters(), *guide.parameters()]
    expected = torch.autograd.grad(-reconstruction.sum(), parameters)
    for estimator in (TraceELBO(), AnalyticELBO()):
        with torch.random.fork_rng():
            loss, _ = estimator(*both(linear.vae, guide, 0.0), x)
        for got, wanted in zip(torch.autograd.grad(loss, parameters), expected, strict=True):
            torch.testing.assert_close(got, wanted)


def test_beta_per_layer(deep):
    vae, guide = deep
    x, beta = torch.randn(5, 6), {"z1": 0.25, "z2": torch.tensor(3.0)}
    with torch.random.fork_rng():
        loss = Trace_ELBO().loss(*both(vae, guide, beta), x)
    q = poutine.trace(guide).get_trace(x)
    p = poutine.trace(poutine.replay(vae, q)).get_trace(x)
    for trace in (p, q):
        trace.compute_log_prob()
    kl = {s: (q.nodes[s]["log_prob"] - p.nodes[s]["log_prob"]).sum() for s in vae.latents}
    expected = p.nodes["x"]["log_prob"].sum() - 0.25 * kl["z1"] - 3.0 * kl["z2"]
    assert loss == pytest.approx(-expected.item(), rel=1e-5)


def test_sites_that_a_mapping_does_not_name_keep_their_scale(deep):
    vae, _ = deep
    trace = poutine.trace(scale_latents(vae, {"z2": 0.5})).get_trace(torch.zeros(2, 6))
    assert {s: trace.nodes[s]["scale"] for s in ("z2", "z1", "x")} == {"z2": 0.5, "z1": 1, "x": 1}


def test_scales_multiply(deep):
    program = scale_latents(poutine.scale(scale_latents(deep[0], 0.5), 3.0), 4.0)
    trace = poutine.trace(program).get_trace(torch.zeros(2, 6))
    assert {s: trace.nodes[s]["scale"] for s in ("z2", "z1", "x")} == {"z2": 6, "z1": 6, "x": 3}


@pytest.mark.parametrize(
    ("beta", "change"),
    [
        (torch.tensor(1.0), lambda beta: beta.fill_(0.25)),
        ({"z1": 1.0}, lambda beta: beta.update(z1=0.25)),
        ({"z1": torch.tensor(1.0)}, lambda beta: beta["z1"].fill_(0.25)),
    ],
)
def test_beta_changed_in_place_takes_effect_at_the_next_run(linear, beta, change):
    x = linear.data(3)
    pair = both(linear.vae, linear.guide(shift=1.0), beta)
    for value in (1.0, 0.25):
        with torch.random.fork_rng():
            loss = Trace_ELBO().loss(*pair, x)
        with torch.random.fork_rng():
            expected = Trace_ELBO().loss(*both(linear.vae, pair[1].program, value), x)
        assert loss == pytest.approx(expected, rel=1e-6)
        change(beta)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_negative_and_infinite_betas_are_refused(linear, value):
    for beta, where in [
        (value, "beta"),
        (torch.tensor(value), "beta"),
        ({"z1": value}, r"beta\['z1'\]"),
        ({"z1": torch.tensor(value)}, r"beta\['z1'\]"),
    ]:
        with pytest.raises(ValueError, match=f"{where}: expected a finite number >= 0"):
            scale_latents(linear.vae, beta)
    beta = torch.tensor(1.0)
    program = scale_latents(linear.vae, beta)
    beta.fill_(value)
    with pytest.raises(ValueError, match="beta: expected a finite number >= 0"):
        program(size=1)


def test_beta_of_another_kind_is_refused(linear):
    with pytest.raises(TypeError, match=r"beta: expected a number, a 0-d tensor or a mapping"):
        scale_latents(linear.vae, "warm-up")
    with pytest.raises(ValueError, match=r"beta\['z1'\]: expected a 0-d tensor, got \(2,\)"):
        scale_latents(linear.vae, {"z1": torch.ones(2)})


@pytest.mark.parametrize(
    ("site", "message"), [("z_1", "did you mean 'z1'"), ("top", "one of z1, z2, got 'top'")]
)
def test_an_unknown_site_gets_a_suggestion(deep, site, message):
    x = torch.zeros(2, 6)
    for program in deep:
        with pytest.raises(ValueError, match=f"^beta: .*{message}"):
            scale_latents(program, {site: 0.5})(x)


def test_functions_are_wrapped_as_functions():
    def model(x, extra=1):
        """Its own docstring."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("code", dist.Normal(0.0, 1.0))
            pyro.sample("seen", dist.Normal(z, 1.0), obs=x)
        return extra

    wrapped = scale_latents(model, 0.25)
    assert (wrapped.__name__, wrapped.__doc__) == ("model", "Its own docstring.")
    assert wrapped(torch.zeros(3), extra=5) == 5
    trace = poutine.trace(wrapped).get_trace(torch.zeros(3))
    assert (trace.nodes["code"]["scale"], trace.nodes["seen"]["scale"]) == (0.25, 1.0)


def test_wrapped_modules_keep_parameters_methods_and_kind(deep):
    vae, guide = deep
    model, wrapped = both(vae, guide, 0.5)
    assert isinstance(model, Model)
    assert isinstance(wrapped, Guide)
    for program, original in ((model, vae), (wrapped, guide)):
        pairs = zip(program.parameters(), original.parameters(), strict=True)
        assert all(a is b for a, b in pairs)
    assert (model.latents, model.event_shape) == (vae.latents, (6,))
    assert wrapped.model is vae
    x = torch.randn(3, 6)
    for run in (
        lambda m, g: m.sample(4),
        lambda m, g: m.decode({"z1": torch.ones(2, 4)}).mean,
        lambda m, g: g.encode(x).sample["z2"],
        lambda m, g: g.encode(x).mean["z2"],
    ):
        with torch.random.fork_rng():
            expected = run(vae, guide)
        assert torch.equal(run(model, wrapped), expected)
    with pytest.raises(ValueError, match="expected shape"):
        model.check_data(torch.zeros(3, 5))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = model.nonsense
    assert repr(model) == f"scale_latents(beta=0.5) on\n{vae!r}"


def test_wrapped_modules_register_once_under_the_inner_name(deep):
    vae, guide = deep
    x = torch.zeros(2, 6)
    vae(x), guide(x)
    before = list(pyro.get_param_store().keys())
    for program in both(*both(vae, guide, 0.5), 0.5):
        program(x)
    assert list(pyro.get_param_store().keys()) == before


def test_copies_of_wrapped_programs_run(linear):
    program = copy.deepcopy(scale_latents(linear.vae, {"z1": 0.5}))
    assert program is not linear.vae
    trace = poutine.trace(program).get_trace(linear.data(2))
    assert trace.nodes["z1"]["scale"] == 0.5


class TestCorrupt:
    def test_the_guide_sees_the_function_of_the_data_and_the_model_does_not(self, linear):
        x, guide = linear.data(5), linear.guide()
        noisy = corrupt(guide, lambda x: 2 * x)
        with torch.random.fork_rng():
            expected = guide(2 * x)["z1"]
        with torch.random.fork_rng():
            assert torch.equal(noisy(x)["z1"], expected)
        with torch.random.fork_rng():
            _, terms = TraceELBO()(linear.vae, noisy, x)
        p = dist.Normal(linear.vae.decoder(expected), linear.sigma)
        torch.testing.assert_close(terms.reconstruction, p.log_prob(x).sum(-1).detach())
        assert torch.equal(noisy.encode(x).mean["z1"], guide.encode(2 * x).mean["z1"])

    def test_gaussian_noise_has_its_standard_deviation(self, linear):
        guide, x = Delta(linear.vae), torch.zeros(1, 6)
        codes = corrupt(guide, 0.5)(x.expand(20_000, 6))["z1"].detach()
        head = guide.conditionals["z1"].loc
        covariance = 0.25 * head.weight.detach() @ head.weight.detach().T
        error = (codes.mean(0) - head.bias.detach()) / (covariance.diagonal() / 20_000).sqrt()
        assert excess(error) < 1
        ratio = codes.var(0) / covariance.diagonal()
        assert excess((ratio - 1) * (20_000 / 2) ** 0.5) < 1

    def test_no_noise_is_the_guide(self, linear):
        x, guide = linear.data(5), linear.guide()
        assert torch.equal(corrupt(guide, 0.0).encode(x).mean["z1"], guide.encode(x).mean["z1"])

    def test_labels_go_through(self):
        vae = VAE((6,), 2, likelihood=Gaussian(), condition=3)
        guide, x, y = BottomUp(vae), torch.randn(4, 6), torch.tensor([0, 1, 2, 0])
        got = corrupt(guide, torch.zeros_like).encode(x, y=y).mean["z1"]
        assert torch.equal(got, guide.encode(torch.zeros(4, 6), y=y).mean["z1"])

    def test_functions_are_corrupted_too(self):
        assert torch.equal(corrupt(lambda x: x, lambda x: x + 1)(torch.zeros(2)), torch.ones(2))

    @pytest.mark.parametrize("noise", [-0.1, math.inf, math.nan])
    def test_bad_noise(self, linear, noise):
        with pytest.raises(ValueError, match="noise: expected a finite number >= 0"):
            corrupt(linear.guide(), noise)
