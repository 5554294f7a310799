"""Laplace, Student's t and log-normal likelihoods: densities, draws, units, limits."""

import copy
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from pyro_vae import Trainer, callbacks, diagnostics, guides
from pyro_vae.distributions import ExactStudentT, ExpNormal
from pyro_vae.likelihoods import (
    Gaussian,
    Laplace,
    LearnedSigma,
    LogNormal,
    PerPixelSigma,
    StudentT,
)
from pyro_vae.models import VAE

MEAN = torch.tensor([2e3, 0.0, -4.0])
SCALE = torch.tensor([1e2, 1.0, 1e-2])
SIGMA = 0.7
SCIPYS = {
    "Laplace": (Laplace(SIGMA), lambda m: stats.laplace(m, SIGMA)),
    "StudentT": (StudentT(SIGMA, df=3.0), lambda m: stats.t(3.0, m, SIGMA)),
    "LogNormal": (LogNormal(SIGMA), lambda m: stats.lognorm(SIGMA, scale=np.exp(m))),
}
each = pytest.mark.parametrize(("likelihood", "of"), SCIPYS.values(), ids=SCIPYS)


@each
@pytest.mark.parametrize("m", [-1.5, 0.0, 2.0])
def test_the_density_and_the_draws_are_those_of_scipy(likelihood, of, m):
    p, exact = likelihood(torch.tensor(m)), of(m)
    x = (
        torch.linspace(0.1, 9.0, 40)
        if isinstance(likelihood, LogNormal)
        else torch.linspace(-9, 9, 40)
    )
    np.testing.assert_allclose(p.log_prob(x), exact.logpdf(x), rtol=1e-5, atol=2e-6)
    assert float(p.mean) == pytest.approx(exact.mean(), rel=1e-5)
    assert float(p.variance) == pytest.approx(exact.var(), rel=1e-5)
    draws = p.sample((20_000,)).double().numpy()
    assert stats.kstest(draws, exact.cdf).pvalue > 1e-6


@each
def test_it_integrates_to_one(likelihood, of):
    p = copy.deepcopy(likelihood).double()(torch.tensor(0.4, dtype=torch.float64))
    u = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    # Over numbers whose logarithms, or inverse hyperbolic sines, are evenly spaced
    x, width = (u.exp(), u.exp()) if isinstance(likelihood, LogNormal) else (u.sinh(), u.cosh())
    total = torch.trapezoid(p.log_prob(x).exp() * width, u)
    assert float(total) == pytest.approx(1, abs=1e-8)


@each
def test_standardised_data_have_their_units(likelihood, of):
    kind = type(likelihood)
    options = {"df": 3.0} if kind is StudentT else {}
    features, loc = torch.randn(5, 3), MEAN / 1e3
    scale = SCALE.clamp(max=1) if kind is LogNormal else SCALE
    raw = kind(SIGMA, loc=loc, scale=scale, **options)
    plain = kind(SIGMA, **options)
    near = raw(features).sample()
    standard = raw.inputs(near)
    if kind is LogNormal:
        expected = plain(features).base_dist.log_prob(standard) - scale.log() - near.log()
        torch.testing.assert_close(standard, (near.log() - loc) / scale)
    else:
        expected = plain(features).log_prob(standard) - scale.log()
        torch.testing.assert_close(standard, (near - loc) / scale)
        torch.testing.assert_close(raw(features).mean, loc + scale * features)
        torch.testing.assert_close(raw(features).stddev, plain(features).stddev * scale)
    found = raw(features).log_prob(near)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    wide = raw(features).expand(torch.Size((2, 5, 3))).log_prob(near)
    torch.testing.assert_close(wide[1], found)


@pytest.mark.parametrize("kind", [Laplace, StudentT])
def test_a_mean_far_from_zero_costs_no_digits(kind):
    far = kind(loc=1e4, scale=1.0)(torch.full((1,), 0.3))
    near, x = kind()(torch.full((1,), 0.3)), torch.tensor([0.125])
    torch.testing.assert_close(far.log_prob(x + 1e4), near.log_prob(x), rtol=1e-6, atol=1e-6)


def test_standardized_is_by_the_training_data():
    x = torch.randn(50, 3) * SCALE + MEAN
    x[:, 1] = 5.0
    found = Laplace.standardized(x)
    assert isinstance(found.noise, LearnedSigma)
    torch.testing.assert_close(found.loc, x.mean(0))
    assert found.scale[1] == 1 and not found.inputs(x)[:, 1].any()
    holes = torch.cat([x, torch.full((1, 3), torch.nan)])
    torch.testing.assert_close(Laplace.standardized(holes).scale, found.scale)
    positive = LogNormal.standardized((x / 1e3).exp(), "per_pixel")
    assert isinstance(positive.noise, PerPixelSigma)
    seen = positive.inputs((x / 1e3).exp())
    torch.testing.assert_close(seen[:, 0].std(correction=0), torch.ones(()))


# Student's t


@pytest.mark.parametrize("df", [0.05, 1.01, 4.0, 31.9, 32.1, 1e3, 1e5, 1e8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_students_t_is_exact_for_all_degrees_of_freedom(df, dtype):
    df, y = torch.tensor(df, dtype=dtype), torch.tensor([0.0, 0.3, -2.0, 30.0], dtype=dtype)
    with mpmath.workdps(50):
        v = mpmath.mpf(float(df))
        constant = (
            mpmath.loggamma((v + 1) / 2) - mpmath.loggamma(v / 2) - mpmath.log(v * mpmath.pi) / 2
        )
        expected = [
            float(constant - (v + 1) / 2 * mpmath.log(1 + mpmath.mpf(float(k)) ** 2 / v))
            for k in y
        ]
    digits = 5e-6 if dtype == torch.float32 else 1e-13
    zero, one = torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype)
    found = ExactStudentT(df, zero, one).log_prob(y)
    assert found.tolist() == pytest.approx(expected, rel=digits, abs=digits)


def test_students_t_of_many_degrees_of_freedom_is_a_normal():
    x, features = torch.linspace(-4, 4, 30), torch.zeros(30)
    found = StudentT(SIGMA, df=1e7)(features).log_prob(x)
    torch.testing.assert_close(found, Gaussian(SIGMA)(features).log_prob(x), rtol=1e-4, atol=1e-4)


def test_learned_degrees_of_freedom_tell_outliers_from_normal_data():
    torch.manual_seed(0)
    found = {}
    for name, x in (
        ("heavy", torch.tensor(stats.t(2.5).rvs(3000, random_state=1)).float()),
        ("normal", torch.randn(3000)),
    ):
        likelihood = StudentT("learned", df="learned")
        optimizer = torch.optim.Adam(likelihood.parameters(), lr=1e-2)
        for _ in range(120):
            optimizer.zero_grad()
            (-likelihood(torch.zeros(3000)).log_prob(x).mean()).backward()
            optimizer.step()
        found[name] = float(likelihood.freedom.value)
        assert set(likelihood.freedom.logged()) == {"df"}
    assert 2 < found["heavy"] < 3.2 and found["normal"] > 10


@pytest.mark.parametrize("raw", [-1e3, 0.0, 1e3])
def test_learned_degrees_of_freedom_stay_above_one(raw):
    likelihood = StudentT(df="learned")
    torch.nn.init.constant_(likelihood.freedom.raw, raw)
    log_prob = likelihood(torch.zeros(4)).log_prob(torch.tensor([0.0, 1.0, 1e4, 1e6])).sum()
    log_prob.backward()
    assert log_prob.isfinite() and likelihood.freedom.raw.grad.isfinite()
    assert float(likelihood.freedom.value) > 1
    assert torch.equal(likelihood.mean(torch.ones(4)), torch.ones(4))


# With the rest of the library


@pytest.mark.parametrize("kind", [Laplace, StudentT, LogNormal])
def test_a_sigma_goes_on_to_one_that_is_predicted(kind):
    x = torch.randn(40, 3).exp()
    vae = VAE((3,), latents=2, likelihood=kind("learned"), hidden=(4,))
    trainer = Trainer(vae, guides.BottomUp(vae), seed=0).fit(x, epochs=1, progress=False)

    def bound():
        return diagnostics.evaluate(vae, trainer.guide, x, importance_samples=0).terms.elbo

    before = bound()
    vae.predict_sigma()
    torch.testing.assert_close(bound(), before)
    assert "sigma_min" in trainer.fit(x, epochs=1, progress=False).history[-1]


@pytest.mark.parametrize("kind", [Laplace, StudentT, LogNormal])
def test_a_sigma_that_is_no_mean_square_is_not_updated_by_it(kind):
    vae = VAE((3,), latents=2, likelihood=kind("learned"), hidden=(4,))
    x = torch.randn(20, 3).exp()
    with pytest.raises(ValueError, match=f"UpdateSigma: expected a Gaussian.*got {kind.__name__}"):
        Trainer(vae, guides.BottomUp(vae)).fit(
            x, epochs=1, callbacks=[callbacks.UpdateSigma(x)], progress=False
        )


@pytest.mark.parametrize("kind", [Laplace, StudentT])
def test_the_closed_form_of_a_normal_is_refused(kind):
    with pytest.raises(ValueError, match=f"sigma: {kind.__name__} expected .*'optimal'"):
        kind("optimal")


@pytest.mark.parametrize("df", [0, -1.0, math.inf, "learnt", None])
def test_bad_degrees_of_freedom_are_refused(df):
    with pytest.raises(ValueError, match="df: expected a positive finite number"):
        StudentT(df=df)


def test_what_has_no_logarithm_is_refused_with_the_way_out():
    vae = VAE((2,), latents=1, likelihood=LogNormal(), hidden=())
    x = torch.tensor([[1.0, 2.0], [0.5, 0.0]])
    with pytest.raises(
        ValueError, match=r"positive values, got 1 others, the first 0 in datum 1: .*"
    ):
        vae.check_data(x)
    with pytest.raises(ValueError, match="expected finite values"):
        vae.check_data(torch.full((1, 2), math.inf))


def test_a_log_normal_of_the_optimal_sigma_learns_it_once_per_batch():
    likelihood = LogNormal("optimal")
    x = torch.randn(200, 2).mul(0.3).exp()
    p = likelihood(torch.zeros(200, 2))
    assert isinstance(p, ExpNormal)
    p.log_prob(x)
    assert float(likelihood.sigma) == pytest.approx(
        float(x.log().square().mean().sqrt()), rel=1e-5
    )


@pytest.mark.parametrize("scale", [1.0, 60.0, 1e4])
@pytest.mark.parametrize("kind", [Laplace, StudentT, LogNormal])
def test_extreme_features_give_finite_gradients(kind, scale):
    likelihood = kind("predicted")
    shape = likelihood.feature_shape((3,))
    for features in (torch.full(shape, scale), torch.full(shape, -scale)):
        features.requires_grad_()
        log_prob = likelihood(features).log_prob(torch.tensor([1e-6, 1.0, 1e6])).sum()
        (gradient,) = torch.autograd.grad(log_prob, features)
        assert log_prob.isfinite() and gradient.isfinite().all()
