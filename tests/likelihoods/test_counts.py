"""Counts: probabilities against 50 digits, sums, draws, limits, exposures, what is refused."""

import math

import mpmath
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from chance import chance_of, excess, widened
from scipy import integrate, stats

from pyro_vae import Trainer, guides, infer, load
from pyro_vae.distributions import LogPoisson, MeanNegativeBinomial, SharedTotal
from pyro_vae.likelihoods import (
    Gaussian,
    LearnedDispersion,
    Multinomial,
    NegativeBinomial,
    PerColumnDispersion,
    Poisson,
    PredictedDispersion,
    ZeroInflated,
)
from pyro_vae.models import VAE

MEANS = [1e-3, 0.3, 2.0, 30.0, 1e3, 1e6]
DISPERSIONS = [1e-6, 1e-4, 0.02, 1.0, 30.0, 1e4]


def name(value):
    """Of a likelihood, in one line."""
    return "".join(repr(value).split()) if isinstance(value, torch.nn.Module) else None


def around(mean, sd):
    """Counts that are likely, and some that are not."""
    k = torch.arange(-6, 7, dtype=torch.float64)
    near = (mean + k * sd).round().clamp(min=0)
    return torch.cat([near, torch.tensor([0.0, 1.0, 2.0, 17.0, 1e3])]).unique().float()


def exact_poisson(x, f):
    x, f = mpmath.mpf(float(x)), mpmath.mpf(float(f))
    return float(x * f - mpmath.exp(f) - mpmath.loggamma(x + 1))


def exact_negative_binomial(x, f, a):
    x, r, m = mpmath.mpf(float(x)), 1 / mpmath.mpf(float(a)), mpmath.exp(mpmath.mpf(float(f)))
    binomial = mpmath.loggamma(x + r) - mpmath.loggamma(r) - mpmath.loggamma(x + 1)
    return float(binomial + r * mpmath.log(r / (r + m)) + x * mpmath.log(m / (r + m)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mean", MEANS)
def test_poisson_probabilities_are_exact(mean, dtype):
    """Where the formula of torch is wrong by a nat: the log-rate has more digits than it."""
    f = torch.tensor(mean, dtype=dtype).log()
    x = around(mean, math.sqrt(mean)).to(dtype)
    with mpmath.workdps(50):
        expected = [exact_poisson(k, f) for k in x]
    found = LogPoisson(f).log_prob(x)
    digits = 1e-5 if dtype == torch.float32 else 1e-13
    assert found.tolist() == pytest.approx(expected, rel=digits, abs=digits * (1 + mean**0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("a", DISPERSIONS)
@pytest.mark.parametrize("mean", MEANS)
def test_negative_binomial_probabilities_are_exact(mean, a, dtype):
    f, a = torch.tensor(mean, dtype=dtype).log(), torch.tensor(a, dtype=dtype)
    x = around(mean, math.sqrt(mean + float(a) * mean**2)).to(dtype)
    with mpmath.workdps(50):
        expected = [exact_negative_binomial(k, f, a) for k in x]
    found = MeanNegativeBinomial(f, a).log_prob(x)
    digits = 1e-5 if dtype == torch.float32 else 1e-13
    assert found.tolist() == pytest.approx(expected, rel=digits, abs=digits * (1 + mean**0.5))


@pytest.mark.parametrize("mean", [0.3, 4.0, 60.0])
def test_they_are_those_of_scipy_and_torch(mean):
    x, a = torch.arange(0.0, 200.0, dtype=torch.float64), 0.4
    log_mean = torch.full((), mean, dtype=torch.float64).log()
    p = MeanNegativeBinomial(log_mean, torch.tensor(a).double())
    scipys = stats.nbinom(1 / a, 1 / (1 + a * mean))
    # The dispersion is that of single precision
    np.testing.assert_allclose(p.log_prob(x), scipys.logpmf(x), rtol=1e-6)
    assert float(p.mean) == pytest.approx(scipys.mean())
    assert float(p.variance) == pytest.approx(scipys.var(), rel=1e-6)
    torch.testing.assert_close(
        LogPoisson(log_mean).log_prob(x), dist.Poisson(log_mean.exp()).log_prob(x)
    )


@pytest.mark.parametrize("a", [0.01, 0.5, 3.0])
@pytest.mark.parametrize("mean", [0.2, 3.0, 40.0])
def test_probabilities_sum_to_one(mean, a):
    x = torch.arange(0.0, 40_000.0, dtype=torch.float64)
    f, a = (torch.tensor(v, dtype=torch.float64) for v in (math.log(mean), a))
    gate = torch.tensor(0.7, dtype=torch.float64)
    for p in (
        LogPoisson(f),
        MeanNegativeBinomial(f, a),
        ZeroInflated(Poisson())(torch.stack([f, gate])),
        ZeroInflated(NegativeBinomial(0.5)).double()(torch.stack([f, gate])),
    ):
        assert float(p.log_prob(x).exp().sum()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    "likelihood",
    [
        Poisson(),
        NegativeBinomial(0.8),
        ZeroInflated(NegativeBinomial(0.3)),
        ZeroInflated(Poisson()),
    ],
    ids=name,
)
def test_draws_have_these_probabilities(likelihood):
    features = (
        torch.tensor([0.9, -0.5]) if isinstance(likelihood, ZeroInflated) else torch.tensor(1)
    )
    p, draws = likelihood(features), 40_000
    x = p.sample((draws,)).long()
    values = torch.arange(12.0)
    probabilities = p.log_prob(values).exp()
    counts = torch.bincount(x, minlength=12)[:12]
    assert chance_of(counts, draws, probabilities) > 1e-6
    # Of the mean, too, which is finite whatever is rare
    error = (float(x.double().mean()) - float(p.mean)) / (float(p.variance) / draws) ** 0.5
    assert excess([error]) < 1


@pytest.mark.parametrize(("mean", "a"), [(0.5, 1e-6), (20.0, 1e-6), (5e4, 1e-9)])
def test_a_negative_binomial_of_no_dispersion_is_poisson(mean, a):
    f, x = torch.tensor(mean).log(), around(mean, math.sqrt(mean))
    found = MeanNegativeBinomial(f, torch.tensor(a)).log_prob(x)
    poisson = LogPoisson(f).log_prob(x)
    # To first order in a
    correction = a * ((x - mean).square() - x) / 2
    likely = poisson > -30
    torch.testing.assert_close(
        found[likely], (poisson + correction)[likely], rtol=1e-5, atol=2e-5 * (1 + mean**0.5)
    )


@pytest.mark.parametrize("a", [1e-5, 0.3, 40.0])
@pytest.mark.parametrize("mean", [0.3, 8.0, 5e3])
def test_gradients_are_those_of_the_formulas(mean, a):
    x = around(mean, math.sqrt(mean + a * mean**2)).double()
    f = torch.tensor(mean).double().log().expand(len(x)).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(LogPoisson(f).log_prob(x).sum(), f)
    torch.testing.assert_close(gradient, x - f.exp().detach(), rtol=1e-9, atol=1e-9)
    log_a = torch.tensor(a).double().log().expand(len(x)).clone().requires_grad_()
    p = MeanNegativeBinomial(f, log_a.exp())
    got = torch.autograd.grad(p.log_prob(x).sum(), (f, log_a))
    m = f.exp().detach()
    alpha = log_a.exp().detach()
    torch.testing.assert_close(got[0], (x - m) / (1 + alpha * m), rtol=1e-9, atol=1e-9)
    # d log P / dr = digamma(x + r) - digamma(r) + log(r / (r + m)) + (m - x) / (r + m)
    with mpmath.workdps(50):
        r = 1 / mpmath.mpf(float(alpha[0]))
        mean = mpmath.mpf(float(m[0]))
        slopes = [
            -r
            * (
                mpmath.digamma(float(k) + r)
                - mpmath.digamma(r)
                + mpmath.log(r / (r + mean))
                + (mean - float(k)) / (r + mean)
            )
            for k in x
        ]
    assert got[1].tolist() == pytest.approx([*map(float, slopes)], rel=1e-6, abs=1e-8)


EVERY = [
    Poisson(),
    NegativeBinomial(),
    NegativeBinomial(1e-6),
    NegativeBinomial("predicted"),
    ZeroInflated(Poisson()),
    ZeroInflated(NegativeBinomial("predicted")),
    Multinomial(total=7),
]


@pytest.mark.parametrize("scale", [1.0, 90.0, 1e4])
@pytest.mark.parametrize("likelihood", EVERY, ids=name)
def test_extreme_features_give_finite_probabilities_gradients_and_draws(likelihood, scale):
    shape = likelihood.feature_shape((3,))
    for features in (
        torch.full(shape, scale),
        torch.full(shape, -scale),
        scale * torch.randn(shape),
    ):
        features.requires_grad_()
        p = likelihood(features)
        for x in (torch.zeros(3), torch.tensor([1.0, 0.0, 1e6])):
            log_prob = p.log_prob(x).sum()
            trained = [features, *likelihood.parameters()]
            for gradient in torch.autograd.grad(log_prob, trained, retain_graph=True):
                assert gradient.isfinite().all()
            assert log_prob.isfinite()
        assert p.mean.isfinite().all()
        assert (p.sample() >= 0).all()


@pytest.mark.parametrize("raw", [-1e3, -2.0, 0.0, 2.0, 1e3])
def test_dispersions_stay_within_their_bounds_and_go_on_training(raw):
    likelihood = NegativeBinomial()
    torch.nn.init.constant_(likelihood.overdispersion.raw, raw)
    x = torch.tensor([0.0, 3.0, 500.0])
    log_prob = likelihood(torch.zeros(3, requires_grad=True)).log_prob(x).sum()
    log_prob.backward()
    gradient = likelihood.overdispersion.raw.grad
    assert log_prob.isfinite() and gradient.isfinite() and gradient != 0
    assert 1e-6 <= float(likelihood.dispersion) < math.inf


def test_a_learned_dispersion_is_the_most_likely_one():
    torch.manual_seed(2)
    x = NegativeBinomial(0.6)(torch.full((1500,), 1.5)).sample()
    likelihood, log_mean = NegativeBinomial(LearnedDispersion(3.0)), x.mean().log()
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=5e-3)
    for _ in range(250):
        optimizer.zero_grad()
        (-likelihood(log_mean.expand(1500)).log_prob(x).mean()).backward()
        optimizer.step()
    near = likelihood.dispersion * torch.linspace(0.9, 1.1, 41)
    bound = MeanNegativeBinomial(log_mean, near[:, None]).log_prob(x).sum(-1)
    assert bound.argmax() in range(18, 23)
    assert likelihood.overdispersion.logged() == {"dispersion": float(likelihood.dispersion)}


@pytest.mark.parametrize("likelihood", EVERY, ids=name)
def test_expanding_repeats_the_distribution(likelihood):
    p = likelihood(torch.randn(2, *likelihood.feature_shape((3,))))
    wide = p.expand(torch.Size((4, *p.batch_shape)))
    x = p.sample((4,))
    assert wide.batch_shape == (4, *p.batch_shape)
    torch.testing.assert_close(wide.log_prob(x), p.log_prob(x))
    torch.testing.assert_close(wide.mean[1], p.mean)
    assert wide.sample().shape == x.shape


def test_a_zero_inflated_probability_is_that_of_the_mixture():
    f, g = torch.linspace(-2, 2, 9), torch.linspace(-8, 8, 9)
    p = ZeroInflated(Poisson())(torch.stack([f, g], -1))
    for x in (0.0, 1.0, 4.0):
        more, inside = g.sigmoid(), dist.Poisson(f.exp()).log_prob(torch.tensor(x)).exp()
        expected = (1 - more) * inside + more * (x == 0)
        torch.testing.assert_close(p.log_prob(torch.tensor(x)).exp(), expected)
    torch.testing.assert_close(p.mean, (-g).sigmoid() * f.exp())
    assert ZeroInflated(NegativeBinomial("predicted")).feature_shape((5,)) == (5, 3)


# Exposure


@pytest.mark.parametrize("likelihood", EVERY[:6], ids=name)
def test_an_offset_is_added_to_the_log_rate(likelihood):
    features = torch.randn(4, *likelihood.feature_shape((3,)))
    exposure = torch.tensor([0.5, 1.0, 3.0, 100.0])
    base, offset = likelihood.mean(features), exposure.log()
    for form in (offset, offset[:, None], offset[:, None].expand(4, 3)):
        torch.testing.assert_close(
            likelihood.mean(features, offset=form), base * exposure[:, None]
        )
    # Draws of the latents in front of the data
    many = features.expand(6, *features.shape)
    found = likelihood(many, offset=offset[None, :, None]).mean
    torch.testing.assert_close(found[5], base * exposure[:, None])


def test_offsets_of_another_shape_or_without_exposure_are_refused():
    features = torch.zeros(4, 3)
    for bad in (torch.zeros(3), torch.zeros(4, 2), torch.zeros(1, 4, 3), torch.zeros(())):
        with pytest.raises(ValueError, match=r"offset: expected a number per datum.*\(4, 3\)"):
            Poisson()(features, offset=bad)
    with pytest.raises(ValueError, match="offset: expected finite logarithms, got 1 others"):
        Poisson()(features, offset=torch.tensor([0.0, 1.0, 2.0, 0.0]).log()[:1].expand(1))
    doubled = Poisson().double()(features.double(), offset=torch.zeros(4))
    assert doubled.mean.dtype == torch.float64


@pytest.mark.parametrize("kind", [Poisson, NegativeBinomial])
def test_rates_may_begin_at_those_of_the_training_data(kind, tmp_path):
    x = torch.poisson(torch.tensor([0.5, 20.0, 800.0, 0.0]).expand(200, 4))
    likelihood = kind.standardized(x)
    mean = x.mean(0) + 0.5 / 200
    torch.testing.assert_close(likelihood.mean(torch.zeros(4)), mean)
    features = torch.randn(7, 4)
    plain, moved = kind()(features + mean.log()), likelihood(features)
    torch.testing.assert_close(moved.log_prob(x[:7]), plain.log_prob(x[:7]))
    exposed = likelihood.mean(features, offset=torch.full((7,), 2.0).log())
    torch.testing.assert_close(exposed, 2 * likelihood.mean(features))
    torch.testing.assert_close(likelihood.inputs(x), x.log1p() - mean.log1p())
    inflated = ZeroInflated(likelihood)
    torch.testing.assert_close(inflated.inputs(x), likelihood.inputs(x))
    vae = VAE((4,), latents=2, likelihood=likelihood, hidden=(4,))
    trainer = Trainer(vae, guides.BottomUp(vae), seed=0).fit(x, epochs=1, progress=False)
    trainer.save(tmp_path / "file.pt")
    again = load(tmp_path / "file.pt").model.likelihood
    assert torch.equal(again.loc, likelihood.loc)
    with pytest.raises(ValueError, match=r"loc: expected a number or the shape .*, \(3,\)"):
        VAE((3,), latents=2, likelihood=kind.standardized(x))
    with pytest.raises(ValueError, match="loc: expected finite numbers"):
        kind(loc=[0.0, math.inf])


# Shares of a total


@pytest.mark.parametrize("total", [1, 12, 100_000])
def test_a_multinomial_is_that_of_scipy_for_the_total_of_each_datum(total):
    logits = torch.randn(6, dtype=torch.float64)
    p = SharedTotal(logits, torch.tensor(float(total)))
    x = p.sample((20,))
    assert (x.sum(-1) == total).all() and (x >= 0).all()
    expected = stats.multinomial(total, logits.softmax(-1).numpy()).logpmf(x.numpy())
    np.testing.assert_allclose(p.log_prob(x), expected, rtol=1e-9, atol=1e-9)
    # Whatever the total of draws
    single = Multinomial(total=7)(logits.float()).log_prob(x.float())
    np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-5 * (1 + total**0.5))


def test_a_multinomial_sums_to_one_for_every_total():
    p = Multinomial(total=4)(torch.tensor([0.3, -1.0, 2.0]))
    for total in range(6):
        counts = [(a, b, total - a - b) for a in range(total + 1) for b in range(total + 1 - a)]
        every = p.log_prob(torch.tensor(counts).float()).exp().sum()
        assert float(every) == pytest.approx(1, abs=1e-5)


def test_draws_of_a_multinomial_have_its_probabilities():
    logits, draws = torch.tensor([0.3, -1.0, 2.0, 0.0]), 20_000
    x = Multinomial(total=9)(logits).sample((draws,))
    p = logits.softmax(-1)
    for k in range(4):
        seen = torch.bincount(x[:, k].long(), minlength=10)
        expected = stats.binom(9, float(p[k])).pmf(np.arange(10))
        assert chance_of(seen, draws, expected) > 1e-6
    assert Multinomial(total=9)(torch.tensor([0.0, -400.0])).sample()[1] == 0


def test_the_total_of_what_is_drawn_is_that_of_the_likelihood_or_of_each_datum():
    vae = VAE((4,), latents=2, likelihood=Multinomial(total=50), hidden=(4,))
    assert torch.equal(vae.sample(3).sum(-1), torch.full((3,), 50.0))
    torch.testing.assert_close(vae.sample(3, mean=True).sum(-1), torch.full((3,), 50.0))
    p = Multinomial(total=3)(torch.zeros(3, 4), offset=torch.tensor([1.0, 20.0, 300.0]).log())
    assert p.sample().sum(-1).tolist() == [1, 20, 300]
    torch.testing.assert_close(p.mean.sum(-1), torch.tensor([1.0, 20.0, 300.0]))


# Evidence


@pytest.mark.parametrize("likelihood", [Poisson(), NegativeBinomial(0.5)], ids=name)
def test_the_evidence_of_one_latent_is_that_of_quadrature(likelihood):
    """log p(x) = log E[P(x | e^(w z + b))], z ~ N(0, 1): a Poisson-log-normal distribution."""
    vae = VAE((1,), latents=1, likelihood=likelihood, hidden=())
    w, b = 0.8, 1.1
    torch.nn.init.constant_(vae.decoder.layers[0].weight, w)
    torch.nn.init.constant_(vae.decoder.layers[0].bias, b)
    guide = widened(guides.BottomUp(vae), 1.0)
    x = torch.tensor([[0.0], [1.0], [4.0], [15.0]])
    found = infer.importance(vae, guide, x, samples=20_000)

    def density(z, k):
        mean = math.exp(w * z + b)
        if isinstance(likelihood, Poisson):
            return stats.norm.pdf(z) * stats.poisson.pmf(k, mean)
        return stats.norm.pdf(z) * stats.nbinom.pmf(k, 2, 2 / (2 + mean))

    for i, k in enumerate(x.flatten().tolist()):
        exact = math.log(integrate.quad(density, -12, 12, args=(k,))[0])
        error = float(found.log_likelihood[i]) - exact
        assert excess([error / float(found.standard_error[i])]) < 1


# What is refused


@pytest.mark.parametrize(
    ("likelihood", "x", "message"),
    [
        (
            Poisson(),
            [[0.0, 1.0], [2.0, 0.5]],
            "whole numbers from 0 on, got 1 others, the first 0.5 in datum 1",
        ),
        (
            NegativeBinomial(),
            [[-1.0], [3.0]],
            "NegativeBinomial expects counts.*the first -1 in datum 0",
        ),
        (
            ZeroInflated(Poisson()),
            [[0.1]],
            r"likelihoods.LogNormal\(\), for others likelihoods.Gaussian",
        ),
        (Multinomial(9), [[1.5, 2.0]], "Multinomial expects counts"),
        (Poisson(), [[math.nan]], "expected finite values, got 1 NaN"),
    ],
)
def test_what_is_no_count_is_refused_with_the_way_out(likelihood, x, message):
    vae = VAE((len(x[0]),), latents=1, likelihood=likelihood, hidden=())
    with pytest.raises(ValueError, match=message):
        Trainer(vae, guides.BottomUp(vae)).fit(torch.tensor(x), epochs=1, progress=False)


@pytest.mark.parametrize("bad", [0, -1.0, math.inf, "learnt", True, None])
def test_a_bad_dispersion_is_refused(bad):
    with pytest.raises(
        ValueError, match="dispersion: expected a positive finite number, 'learned'"
    ):
        NegativeBinomial(bad)


def test_what_cannot_be_built_is_told():
    with pytest.raises(TypeError, match=r"likelihood: expected counts to inflate, got Gaussian"):
        ZeroInflated(Gaussian())
    with pytest.raises(ValueError, match=r"event_shape: Multinomial expects vectors"):
        VAE((1, 8, 8), latents=1, likelihood=Multinomial(9))
    with pytest.raises(
        ValueError, match=r"total: expected a whole number of at least 1, got 0\.5"
    ):
        Multinomial(total=0.5)
    for kind in (PerColumnDispersion(), PredictedDispersion()):
        with pytest.raises(ValueError, match=r"dispersion: P.* build the model first"):
            NegativeBinomial(kind)(torch.zeros(2, 2))
        VAE((3,), latents=1, likelihood=NegativeBinomial(kind))
        with pytest.raises(ValueError, match=r"belongs to a model of data \(3,\)"):
            VAE((4,), latents=1, likelihood=NegativeBinomial(kind))
