"""The penalty is in the objective, once, with the right sign; and nowhere else."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO

from pyro_vae import Trainer, infer, load
from pyro_vae.guides import BottomUp, Delta
from pyro_vae.handlers import regularize, scale_latents
from pyro_vae.infer import AnalyticELBO, ImportanceWeightedELBO, TraceELBO
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE
from pyro_vae.regularizers import DIP, DIP2, MMD

REGULARIZERS = [DIP(3.0), DIP2(3.0), MMD(20.0)]
each = pytest.mark.parametrize("regularizer", REGULARIZERS, ids=["DIP", "DIP2", "MMD"])


def by_hand(linear, guide, x, regularizer, beta=1.0):
    """Reconstruction - beta KL at the guide's next sample and the penalty, one after the other."""
    q = guide.conditionals["z1"](x)
    with torch.random.fork_rng():
        z = q.rsample()
        penalty = regularizer(q, z)
    log_p = dist.Normal(linear.vae.decoder(z), linear.sigma).log_prob(x).sum(-1)
    log_ratio = q.log_prob(z) - dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    return log_p, log_ratio, linear.kl(q.mean, q.stddev), penalty


@each
def test_every_estimator_loses_the_penalty_per_datum(linear, regularizer):
    x, guide = linear.data(7), linear.guide(shift=0.3, widen=1.4)
    log_p, log_ratio, kl, penalty = by_hand(linear, guide, x, regularizer)
    regularized = regularize(guide, regularizer)
    for loss, latent in [
        (Trace_ELBO().loss, log_ratio),
        (lambda *pair_x: Trace_ELBO().differentiable_loss(*pair_x).detach(), log_ratio),
        (lambda *pair_x: TraceELBO()(*pair_x)[0].detach(), log_ratio),
        (lambda *pair_x: 7 * TraceELBO("mean")(*pair_x)[0].detach(), log_ratio),
        (lambda *pair_x: AnalyticELBO()(*pair_x)[0].detach(), kl),
        (TraceMeanField_ELBO().loss, kl),
    ]:
        with torch.random.fork_rng():
            got = float(loss(linear.vae, regularized, x))
        expected = -(log_p - latent).sum() + 7 * penalty
        assert got == pytest.approx(expected.item(), rel=1e-5)


@each
def test_the_gradient_is_that_of_bound_minus_penalty(linear, regularizer):
    x, guide = linear.data(7), linear.guide(shift=0.3, widen=1.4)
    parameters = [*linear.vae.parameters(), *guide.parameters()]
    log_p, log_ratio, kl, penalty = by_hand(linear, guide, x, regularizer)
    for estimator, latent in ((TraceELBO("mean"), log_ratio), (AnalyticELBO("mean"), kl)):
        expected = torch.autograd.grad(
            -(log_p - latent).mean() + penalty, parameters, retain_graph=True
        )
        with torch.random.fork_rng():
            loss, _ = estimator(linear.vae, regularize(guide, regularizer), x)
        for got, wanted in zip(torch.autograd.grad(loss, parameters), expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@each
@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_the_importance_weighted_bound_loses_the_mean_penalty_of_its_particles(
    linear, regularizer, beta
):
    x, guide = linear.data(7), linear.guide(shift=0.3, widen=1.4)
    estimator, regularized = ImportanceWeightedELBO(5, "mean"), regularize(guide, regularizer)
    pairs = [[scale_latents(p, beta) for p in (linear.vae, g)] for g in (guide, regularized)]
    found = []

    def gradient(value):
        return torch.autograd.grad(value, list(guide.parameters()), materialize_grads=True)

    for programs in pairs:
        estimator.prepare(*programs, x)
        torch.manual_seed(3)
        loss, terms = estimator(*programs, x)
        found.append((loss, terms.elbo, gradient(loss)))
    torch.manual_seed(3)
    q = guide.conditionals["z1"](x).expand((5, 7))
    z = q.rsample()
    penalty = regularizer(q, z).mean()
    torch.testing.assert_close(found[1][0] - found[0][0], penalty)
    assert torch.equal(found[1][1], found[0][1])
    for got, plain, more in zip(found[1][2], found[0][2], gradient(penalty), strict=True):
        torch.testing.assert_close(got, plain + more, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("particles", [1, 2, 5])
def test_a_function_of_the_data_counts_once_whatever_the_particles(linear, particles):
    """It takes q of batch shape (n,), as told, and gives one number: no part of it is lost."""
    x, guide = linear.data(7), linear.guide(shift=0.3, widen=1.4)

    def penalty(q, z):
        return q.mean.square().sum(-1).mean()

    estimator = ImportanceWeightedELBO(particles, "mean")
    programs = guide, regularize(guide, penalty)
    draws = torch.stack(
        [torch.stack([estimator(linear.vae, p, x)[0] for p in programs]) for _ in range(300)]
    ).detach()
    plain, penalised = draws.unbind(1)
    error = (draws.var(0).sum() / len(draws)).sqrt()
    expected = penalty(guide.conditionals["z1"](x), None).detach()
    assert expected > 10 * error
    assert abs(penalised.mean() - plain.mean() - expected) < 4 * error


def test_the_importance_weighted_bound_of_a_guide_that_cannot_broadcast(linear):
    """The penalty is that of all rows, which for the moments is that of the data."""

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", dist.Normal(x[:, :2], 1.0).to_event(1))
            _, _ = z.shape

    x, losses, estimator = linear.data(7), [], ImportanceWeightedELBO(5, "mean")
    for program in (guide, regularize(guide, DIP(3.0))):
        estimator.prepare(linear.vae, program, x)
        assert not estimator.vectorised[program]
        torch.manual_seed(3)
        losses.append(estimator(linear.vae, program, x)[0])
    penalty = DIP(3.0)(dist.Normal(x[:, :2], 1.0).to_event(1), None)
    torch.testing.assert_close(losses[1] - losses[0], penalty)


@each
@pytest.mark.parametrize("beta", [0.0, 4.0])
@pytest.mark.parametrize("outside", [True, False])
def test_beta_does_not_scale_it(linear, regularizer, beta, outside):
    x, guide = linear.data(7), linear.guide(shift=0.3, widen=1.4)
    log_p, log_ratio, _, penalty = by_hand(linear, guide, x, regularizer)
    if outside:
        scaled = scale_latents(regularize(guide, regularizer), beta)
    else:
        scaled = regularize(scale_latents(guide, beta), regularizer)
    with torch.random.fork_rng():
        loss, _ = TraceELBO()(scale_latents(linear.vae, beta), scaled, x)
    expected = -(log_p - beta * log_ratio).sum() + 7 * penalty
    torch.testing.assert_close(loss, expected)


@each
def test_reported_numbers_are_those_of_the_guide_itself(linear, regularizer):
    x, guide = linear.data(7), linear.guide(shift=0.3)
    regularized = regularize(guide, regularizer)
    for report in (
        lambda g: infer.elbo_terms(linear.vae, g, x).elbo,
        lambda g: infer.elbo_terms(linear.vae, g, x, estimator=AnalyticELBO()).kl["z1"],
        lambda g: infer.log_likelihood(linear.vae, g, x, importance_samples=50),
        lambda g: g.encode(x).sample["z1"],
        lambda g: infer.reconstruct(linear.vae, g, x),
    ):
        with torch.random.fork_rng():
            expected = report(guide)
        with torch.random.fork_rng():
            assert torch.equal(report(regularized), expected)
    assert infer.check_pair(linear.vae, regularized, x) == infer.check_pair(linear.vae, guide, x)


def test_history_reports_the_bound_and_the_objective_has_the_penalty(linear):
    x, guide = linear.data(60), linear.guide(shift=0.3)
    q = guide.conditionals["z1"](x)
    regularizer = DIP(3.0)
    trainer = Trainer(linear.vae, regularize(guide, regularizer), lr=1e-12, seed=0)
    trainer.fit(x, validation=x, epochs=1, batch_size=60, progress=False)
    row = trainer.history[0]
    penalty = float(regularizer(q, None).detach())
    assert penalty > 1
    assert row["elbo"] - row["objective"] == pytest.approx(penalty, rel=1e-3)
    assert row["elbo"] == pytest.approx(row["reconstruction"] - row["kl"]["z1"], rel=1e-5)
    assert row["validation"]["elbo"] == pytest.approx(row["elbo"], abs=1)


def test_it_weighs_the_same_for_every_batch_size(linear):
    """n copies of a batch have the same DIP penalty and the same mean bound."""
    x, guide = linear.data(7), linear.guide(shift=0.3)
    regularized, loss = regularize(guide, DIP2(3.0)), AnalyticELBO("mean")
    differences = []
    for rows in (x, x.repeat(5, 1)):
        with torch.random.fork_rng():
            with_penalty, terms = loss(linear.vae, regularized, rows)
        differences.append(float((with_penalty + terms.elbo.mean()).detach()))
    assert differences[0] == pytest.approx(differences[1], rel=1e-4)
    penalty = DIP2(3.0)(guide.conditionals["z1"](x), None)
    assert differences[0] == pytest.approx(float(penalty.detach()), rel=1e-4)


def test_vectorised_particles_have_one_penalty_each(linear):
    x, guide = linear.data(7), linear.guide(shift=0.3)
    plain = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    losses = []
    for program in (guide, regularize(guide, DIP(3.0))):
        with torch.random.fork_rng():
            losses.append(plain.loss(linear.vae, program, x))
    penalty = DIP(3.0)(guide.conditionals["z1"](x), None)
    assert losses[1] - losses[0] == pytest.approx(7 * float(penalty.detach()), rel=1e-3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("regularizer", "make", "particles"),
    [
        (DIP(3.0), BottomUp, 1),
        (DIP2(3.0), BottomUp, 1),
        (MMD(20.0), Delta, 1),
        (MMD(20.0), BottomUp, 5),
    ],
)
def test_the_graph_is_eager_to_the_last_bit(regularizer, make, particles):
    vae = VAE((6,), 3, likelihood=Gaussian(), hidden=(8,))
    pair = vae, regularize(make(vae), regularizer)
    runs = []
    for engine in ("eager", "graph"):
        twins = copy.deepcopy(pair)
        svi = infer.SVI(*twins, loss=ImportanceWeightedELBO(particles), engine=engine)
        with torch.random.fork_rng():
            losses = [float(svi.step(torch.randn(4, 6))) for _ in range(10)]
        runs.append((losses, [p.detach().clone() for p in twins[1].parameters()]))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))


def test_stock_pyro_whitens_the_means(linear):
    """With a heavy DIP-I penalty the covariance of the means goes to I."""
    x, guide = linear.data(400), linear.guide()
    linear.vae.requires_grad_(False)
    before = torch.cov(guide.encode(x).mean["z1"].T, correction=0)
    svi = SVI(
        linear.vae,
        regularize(guide, DIP(200.0)),
        pyro.optim.Adam({"lr": 0.01}),
        Trace_ELBO(),
    )
    for _ in range(150):
        svi.step(x)
    after = torch.cov(guide.encode(x).mean["z1"].T, correction=0)
    assert (before - torch.eye(2)).abs().max() > 0.1
    assert (after - torch.eye(2)).abs().max() < 0.05


def test_a_wasserstein_autoencoder_spreads_its_codes():
    """Beta 0 and a point mass: only the penalty says where the codes go."""
    torch.manual_seed(2)
    x, spread = torch.randn(400, 6), []
    for weight in (0.0, 50.0):
        torch.manual_seed(3)
        vae = VAE((6,), 2, likelihood=Gaussian(10**0.5), hidden=(16,))
        guide = regularize(Delta(vae), MMD(weight))
        trainer = Trainer(vae, guide, beta=0.0, lr=1e-2, seed=0)
        trainer.fit(x, epochs=40, batch_size=100, progress=False)
        codes = guide.encode(x).mean["z1"]
        spread.append(float(MMD().distance(codes, torch.randn(400, 2))))
    assert spread[1] < 0.02 < 0.1 < spread[0]


def test_two_penalties_and_a_file(tmp_path):
    vae = VAE((6,), (3, 2), likelihood=Gaussian(), hidden=(5,))
    guide = regularize(
        scale_latents(regularize(BottomUp(vae), DIP(2.0), site="z1"), 0.5), MMD(3.0), site="z2"
    )
    x = torch.randn(40, 6)
    trace = poutine.trace(guide).get_trace(x)
    trace.compute_log_prob()
    q = trace.nodes["z1"]["fn"]
    torch.testing.assert_close(trace.nodes["penalty"]["log_prob_sum"], 40 * DIP(2.0)(q, None))
    assert trace.nodes["penalty2"]["log_prob"].shape == ()
    trainer = Trainer(vae, guide, seed=0).fit(x, epochs=1, progress=False)
    trainer.save(tmp_path / "file")
    again = load(tmp_path / "file")
    assert repr(again) == repr(trainer)
    assert "regularize(MMD(weight=3.0), site='z2') on\nscale_latents(" in repr(again.guide)
    for t in (trainer, again):
        t.fit(x, epochs=1, progress=False)
    assert again.history[-1]["objective"] == trainer.history[-1]["objective"]


def test_functions_of_your_own(linear):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(x[:, :2], 1.0).to_event(1))

    x = linear.data(7)
    regularized = regularize(guide, lambda q, z: q.mean.square().sum() / 10)
    with torch.random.fork_rng():
        plain, _ = TraceELBO()(linear.vae, guide, x)
    with torch.random.fork_rng():
        loss, _ = TraceELBO()(linear.vae, regularized, x)
    torch.testing.assert_close(loss - plain, 0.7 * x[:, :2].square().sum())


def test_errors(linear):
    with pytest.raises(TypeError, match="guide: expected an inference program, got VAE"):
        regularize(linear.vae, DIP())
    deep = VAE((6,), (3, 2), likelihood=Gaussian())
    message = "site: expected one of z2, z1, got "
    with pytest.raises(ValueError, match=message + "None"):
        regularize(BottomUp(deep), DIP())
    with pytest.raises(ValueError, match=message + "'z3'"):
        regularize(BottomUp(deep), DIP(), site="z3")
