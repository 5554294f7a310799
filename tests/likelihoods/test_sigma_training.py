"""Every kind of sigma in training and evaluation: what moves, engines, files, the history."""

import copy
import math
import warnings

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from test_sigma import KINDS, MODELS, NAMES, built, pair

from pyro_vae import Trainer, data, diagnostics, guides, handlers, infer, load, models, schedules
from pyro_vae.likelihoods import Gaussian, LearnedSigma, OptimalSigma


def state(*modules):
    return {
        f"{i}.{name}": tensor.clone()
        for i, module in enumerate(modules)
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }


def assert_same(before, after):
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
@pytest.mark.parametrize(("initial", "used"), [(1.0, False), (0.1, True)])
def test_tones_come_back_where_sigma_begins_below_them(initial, used):
    tones = data.load(data.tones(400, length=512))
    torch.manual_seed(0)
    vae = models.VAE(
        tones.event_shape,
        latents=((4, 32),),
        likelihood=Gaussian(LearnedSigma(initial), scale=float(tones.train.x.std())),
        kind=tones.kind,
        channels=(16, 32, 32, 32),
    )
    guide = guides.BottomUp(vae)
    beta = schedules.WarmUp(epochs=10)
    trainer = Trainer(vae, guide, beta=beta, lr=3e-3, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that latents collapse
        trainer.fit(tones.train, epochs=30, batch_size=40, progress=False)
    ratio, _ = diagnostics.signal_to_noise(vae, guide, tones.test).mean
    assert ratio > 10 if used else ratio < 1


# Evaluation


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("sigma", KINDS)
def test_evaluation_changes_no_state(sigma, model):
    vae, guide = pair(sigma, model)
    x = torch.randn(5, *vae.event_shape)
    before = state(vae, guide)
    estimate = infer.importance(vae, guide, x, samples=30)
    again = infer.importance(vae, guide, x[:2], samples=30)
    assert estimate.log_likelihood.isfinite().all() and again.log_likelihood.isfinite().all()
    infer.elbo_terms(vae, guide, x, samples=3)
    infer.reconstruct(vae, guide, x)
    infer.check_pair(vae, guide, x)
    vae.sample(3)
    vae.eval()
    infer.TraceELBO()(vae, guide, x)[0].backward()
    assert_same(before, state(vae, guide))


@pytest.mark.parametrize("sigma", NAMES)
def test_importance_weights_of_an_exact_posterior_are_exact(linear, sigma):
    """Each is p(x), whatever z: under outer plates, too, sigma is the frozen one."""
    guide, x = linear.guide(), linear.data(20)
    if sigma == "predicted":
        linear.vae.predict_sigma()
    else:
        linear.vae.likelihood = Gaussian(sigma)
        linear.vae.likelihood.feature_shape((6,))
        linear.vae.likelihood.noise.maximise(torch.full((6,), linear.sigma**2))
    estimate = infer.importance(linear.vae, guide, x, samples=30)
    torch.testing.assert_close(
        estimate.log_likelihood, linear.evidence().log_prob(x), rtol=1e-4, atol=1e-4
    )


def test_without_gradients_optimal_stays_where_it_is():
    vae, guide = pair("optimal")
    before = state(vae, guide)
    svi = pyro.infer.SVI(vae, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    svi.evaluate_loss(torch.randn(5, 6))
    assert_same(before, state(vae, guide))


# Moving the estimate


def test_the_estimate_is_a_mean_and_then_a_moving_mean_of_the_batches():
    likelihood = Gaussian(OptimalSigma(momentum=0.25))
    batches, expected = torch.randn(12, 20) * torch.rand(12, 1), None
    for i, x in enumerate(batches):
        likelihood(torch.zeros(20)).log_prob(x)
        rate = max(1 / (i + 1), 0.25)
        square = x.double().square().mean().item()
        expected = square if expected is None else expected + rate * (square - expected)
        assert likelihood.sigma.square().item() == pytest.approx(expected, rel=1e-5)


def test_one_distribution_moves_the_estimate_once():
    likelihood, features = built("optimal")
    p = likelihood(features)
    first = p.log_prob(torch.zeros(3, 4))
    moved = likelihood.sigma.clone()
    again = p.expand((2, 3, 4)).to_event(1).log_prob(torch.zeros(3, 4))
    assert torch.equal(again, first.sum(-1).expand(2, 3))
    assert torch.equal(p.log_prob(torch.zeros(3, 4)), first)
    assert torch.equal(likelihood.sigma, moved)
    assert likelihood.noise.batches == 1


STEPS = {
    "trace": lambda m, g, x: infer.TraceELBO()(m, g, x),
    "analytic": lambda m, g, x: infer.AnalyticELBO()(m, g, x),
    "graph": lambda m, g, x: infer.Graph(infer.TraceELBO())(m, g, x),
    "stock": lambda m, g, x: Trace_ELBO().differentiable_loss(m, g, x),
    "stock SVI": lambda m, g, x: pyro.infer.SVI(
        m, g, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO()
    ).step(x),
    "vectorised": lambda m, g, x: Trace_ELBO(
        num_particles=3, vectorize_particles=True, max_plate_nesting=1
    ).differentiable_loss(m, g, x),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_moves_the_estimate_once(step):
    vae, guide = pair("optimal")
    STEPS[step](vae, guide, torch.randn(5, 6))
    assert vae.likelihood.noise.batches == 1
    assert not vae.likelihood.noise.variance.requires_grad


# Engines


@pytest.mark.parametrize(("model", "beta"), [*((m, 1.0) for m in MODELS), ("skip", 0.3)])
@pytest.mark.parametrize("sigma", NAMES)
def test_graph_equals_eager_to_the_last_bit(sigma, model, beta):
    programs = pair(sigma, model)
    twins = copy.deepcopy(programs)
    x = torch.randn(4, 10, *programs[0].event_shape)
    runs = []
    for both, engine in ((programs, "eager"), (twins, "graph")):
        svi = infer.SVI(*(handlers.scale_latents(p, beta) for p in both), engine=engine)
        with torch.random.fork_rng():
            losses = [svi.step(batch) for batch in x]
        runs.append((losses, state(*both)))
    assert all(torch.equal(a, b) for a, b in zip(runs[0][0], runs[1][0], strict=True))
    assert_same(runs[0][1], runs[1][1])
    assert all(b.grad_fn is None for b in twins[0].buffers())


@pytest.mark.parametrize("sigma", NAMES)
def test_stock_pyro_trains_sigma(sigma):
    vae, guide = pair(sigma)
    before = vae.likelihood.sigma.clone()
    svi = pyro.infer.SVI(vae, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(torch.randn(20, 6) * 0.1) for _ in range(60)]
    assert losses[-1] < losses[0]
    assert (vae.likelihood.sigma < 0.8 * before).all()


def test_beta_and_sigma_are_two_numbers():
    """The gradient of sigma does not depend on beta, that of the KL on beta alone."""
    gradients = {}
    for beta in (0.0, 1.0, 5.0):
        torch.manual_seed(0)
        vae, guide = pair("learned")
        scaled = (handlers.scale_latents(p, beta) for p in (vae, guide))
        torch.manual_seed(1)
        loss, terms = infer.TraceELBO()(*scaled, torch.randn(5, 6))
        loss.backward()
        gradients[beta] = vae.likelihood.noise.raw.grad
        expected = -terms.reconstruction.sum() + beta * terms.kl["z1"].sum()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.equal(gradients[0.0], gradients[1.0])
    assert torch.equal(gradients[1.0], gradients[5.0])


# Files, precision, arguments


@pytest.mark.parametrize("model", ["vector", "skip image"])
@pytest.mark.parametrize(
    "sigma", [*KINDS, LearnedSigma(0.3, floor=1e-3), OptimalSigma(momentum=0.5)], ids=str
)
def test_the_file_holds_sigma(sigma, model, tmp_path):
    vae, guide = pair(copy.deepcopy(sigma), model)
    trainer = Trainer(vae, guide, lr=2e-3, seed=0)
    x = 0.1 * torch.randn(20, *vae.event_shape)
    trainer.fit(x, epochs=2, batch_size=10, progress=False)
    trainer.save(tmp_path / "file.pt")
    again = load(tmp_path / "file.pt")
    assert type(again.model.likelihood.noise) is type(vae.likelihood.noise)
    assert again.model.likelihood.noise.floor == vae.likelihood.noise.floor
    expected = infer.elbo_terms(vae, guide, x)
    assert torch.equal(infer.elbo_terms(again.model, again.guide, x).elbo, expected.elbo)
    for t in (trainer, again):
        t.fit(x, epochs=1, batch_size=10, progress=False)
    assert_same(state(trainer.model, trainer.guide), state(again.model, again.guide))


@pytest.mark.parametrize("sigma", KINDS)
def test_double_precision(sigma):
    vae, guide = (p.double() for p in pair(sigma))
    x = torch.randn(20, 6).double()
    Trainer(vae, guide, seed=0).fit(x, epochs=2, batch_size=10, progress=False)
    p = vae.decode(torch.zeros(2, 3).double())
    assert p.stddev.dtype == p.mean.dtype == torch.float64
    terms = infer.elbo_terms(vae, guide, x)
    assert terms.elbo.dtype == torch.float64


# What the history tells


@pytest.mark.parametrize("engine", ["eager", "graph"])
@pytest.mark.parametrize("sigma", KINDS)
def test_each_epoch_logs_sigma(sigma, engine):
    vae, guide = pair(sigma)
    trainer = Trainer(vae, guide, lr=0.02, seed=0, engine=engine)
    trainer.fit(0.1 * torch.randn(40, 6), epochs=3, batch_size=20, progress=False)
    if sigma == 0.5:
        assert not any("sigma" in row for row in trainer.history)
        return
    logged = vae.likelihood.sigma.log().mean().exp().item()
    assert trainer.history[-1]["sigma"] == pytest.approx(logged, rel=1e-6)
    assert len(set(trainer.history.column("sigma"))) == 3
    if sigma in ("per_pixel", "predicted"):
        row = trainer.history[-1]
        assert row["sigma_min"] < row["sigma"] < row["sigma_max"]
    else:
        assert "sigma_min" not in trainer.history[-1]


def test_the_range_of_a_predicted_sigma_is_that_of_the_last_batch():
    vae, guide = pair("predicted")
    x = torch.randn(20, 6)
    torch.manual_seed(3)
    infer.TraceELBO()(vae, guide, x)
    torch.manual_seed(3)
    log_sigma = vae.decoder(guide.conditionals["z1"](x).rsample())[..., 1]
    logged = vae.likelihood.noise.logged()
    expected = [log_sigma.mean(), log_sigma.min(), log_sigma.max()]
    assert list(logged.values()) == pytest.approx([v.exp().item() for v in expected], rel=1e-6)


def test_a_sigma_on_its_floor_warns_once_and_says_what_to_do():
    vae, guide = pair("learned")
    with torch.no_grad():
        vae.likelihood.noise.raw.fill_(math.log(1e-4) / 10)
    trainer = Trainer(vae, guide, lr=1e-5, seed=0)
    with pytest.warns(UserWarning, match=r"reached its floor 0.0001.*LearnedSigma\(floor=") as w:
        trainer.fit(torch.zeros(20, 6), epochs=3, progress=False)
    assert len(w) == 1
