"""Models without a network, against closed forms, scikit-learn and torch's own distributions."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.decomposition import PCA
from torch.distributions import Bernoulli, MultivariateNormal, Normal

from pyro_vae import data, diagnostics, distributions, guides, likelihoods
from pyro_vae.diagnostics.baselines import (
    independent_bernoulli,
    independent_continuous_bernoulli,
    independent_histogram,
    independent_negative_binomial,
    independent_normal,
    of_seen,
    probabilistic_pca,
)
from pyro_vae.models import VAE, VQVAE, Covariates, PixelDecoder

MIX = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))


def correlated(n, seed):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed)) @ MIX + 2.0


TRAIN, TEST = correlated(300, 2), correlated(50, 3)


def close(found, expected):
    torch.testing.assert_close(found, expected.double(), rtol=1e-6, atol=1e-6)


def test_normals_by_hand():
    exact = Normal(TRAIN.double().mean(0), TRAIN.double().std(0)).log_prob(TEST).sum(-1)
    close(independent_normal(TRAIN, TEST), exact)
    shape = (-1, 2, 3)
    close(independent_normal(TRAIN.view(shape), TEST.view(shape)), exact)


def test_a_mean_far_from_zero_costs_no_digits():
    moved = independent_normal(TRAIN.double() + 1e9, TEST.double() + 1e9)
    torch.testing.assert_close(moved, independent_normal(TRAIN, TEST), rtol=1e-5, atol=1e-5)


def test_an_element_that_never_varies_is_as_sharp_as_the_sharpest_other():
    constant = torch.cat([TRAIN, torch.full((300, 1), 3.0)], 1)
    x = torch.cat([TEST, torch.full((50, 1), 3.5)], 1)
    extra = Normal(3.0, TRAIN.double().std(0).min()).log_prob(torch.tensor(3.5))
    close(independent_normal(constant, x), independent_normal(TRAIN, TEST) + extra)


def test_bernoullis_by_hand():
    train, x = (TRAIN > 2).float(), (TEST > 2).float()
    p = (train.double().sum(0) + 0.5) / 301
    close(independent_bernoulli(train, x), Bernoulli(p).log_prob(x.double()).sum(-1))
    # Of what never was 1, the surprise is finite
    never = independent_bernoulli(torch.zeros(300, 6), torch.ones(1, 6))
    assert float(never) == pytest.approx(6 * math.log(0.5 / 301))


def test_grey_values_are_probabilities_of_1():
    """The expected draw, so that the numbers do not depend on one."""
    grey = torch.tensor([[0.2], [0.4]])
    p = (0.6 + 0.5) / 3
    assert float(independent_bernoulli(grey, torch.ones(1, 1))) == pytest.approx(math.log(p))


@pytest.mark.parametrize("mean", [1e-3, 0.2, 0.5, 0.7])
def test_continuous_bernoullis_have_the_mean_of_the_data(mean):
    """Its likelihood is the highest of all logits: the derivative there is 0."""
    train = torch.full((4000, 1), mean)
    x = torch.tensor([[0.0], [1.0]])
    low, high = independent_continuous_bernoulli(train, x).tolist()
    logit = torch.tensor(high - low, dtype=torch.float64)
    found = distributions.ContinuousBernoulli(logit).mean
    assert float(found) == pytest.approx((4000 * mean + 0.5) / 4001, rel=1e-6)


def test_histograms_by_hand():
    k = torch.randint(4, (200, 2, 3), generator=torch.Generator().manual_seed(4))
    train, x = k[:180] / 3, k[180:] / 3
    expected = torch.zeros(20, dtype=torch.float64)
    for n, datum in enumerate(k[180:].flatten(1).tolist()):
        for element, level in enumerate(datum):
            count = int((k[:180].flatten(1)[:, element] == level).sum())
            expected[n] += math.log((count + 0.25) / 181)
    close(independent_histogram(train, x, levels=4), expected)


@pytest.mark.parametrize("latents", [1, 3, 5])
def test_probabilistic_pca_is_that_of_scikit_learn(latents):
    train, x = TRAIN.double().numpy(), TEST.double().numpy()
    expected = torch.from_numpy(PCA(latents).fit(train).score_samples(x))
    close(probabilistic_pca(TRAIN, TEST, latents), expected)


def test_as_many_latents_as_elements_are_a_full_covariance():
    exact = MultivariateNormal(TRAIN.double().mean(0), TRAIN.double().T.cov())
    close(probabilistic_pca(TRAIN, TEST, 40), exact.log_prob(TEST.double()))


def test_probabilistic_pca_of_more_elements_than_data():
    """The covariance W W^T + s^2 I of the closed form, written out."""
    generator = torch.Generator().manual_seed(5)
    train = torch.randn(12, 20, generator=generator, dtype=torch.float64)
    x = torch.randn(5, 20, generator=generator, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(train.T.cov())
    noise = values[:-3].mean()
    w = vectors[:, -3:] * (values[-3:] - noise).sqrt()
    exact = MultivariateNormal(train.mean(0), w @ w.T + noise * torch.eye(20))
    close(probabilistic_pca(train, x, 3), exact.log_prob(x))


def test_no_probabilistic_pca_without_noise():
    assert probabilistic_pca(TRAIN[:, :1], TEST[:, :1], 1) is None
    assert probabilistic_pca(TRAIN[:2], TEST, 1) is None
    assert probabilistic_pca(torch.ones(30, 4), torch.ones(3, 4), 2) is None


def test_negative_binomials_have_the_mean_and_the_most_likely_dispersion():
    torch.manual_seed(0)
    rates = torch.tensor([3.0, 40.0])
    train = likelihoods.NegativeBinomial(0.5)(rates.log().expand(4000, 2)).sample()
    x = torch.tensor([[0.0, 10.0], [5.0, 90.0]])
    found = independent_negative_binomial(train, x)
    mean, expected = train.double().mean(0) + 0.5 / len(train), 0.0
    for k in range(2):
        every = torch.logspace(-6, 6, 61, dtype=torch.float64)[:, None]
        stock = dist.NegativeBinomial(1 / every, logits=(every * mean[k]).log())
        best = stock.log_prob(train[:, k]).sum(1).argmax()
        assert 0.3 < every[best] < 0.8
        expected = expected + stock.log_prob(x[:, k])[best]
    close(found, expected)
    poisson = dist.Poisson(4.0).sample((4000, 1))
    one = torch.tensor([[4.0]])
    exact = dist.Poisson(poisson.double().mean() + 0.5 / 4000).log_prob(one)
    torch.testing.assert_close(
        independent_negative_binomial(poisson, one), exact[0], atol=1e-2, rtol=0
    )


EXPOSURES = [torch.linspace(0.5, 20.0, n).double() for n in (300, 50)]
# As many as can be expected, so that no dispersion is found
COUNTS = [(e[:, None] * torch.tensor([0.3, 1.0, 4.0])).round().float() for e in EXPOSURES]


def poissons(counts):
    """Log p of the second ones under the rates of the first, by torch's own distribution."""
    train, x = (c.double() for c in counts)
    rates = (train.sum(0) + 0.5) / EXPOSURES[0].sum()
    return dist.Poisson(rates * EXPOSURES[1][:, None]).log_prob(x).sum(1)


def test_rates_of_counts_are_those_per_exposure():
    logs = tuple(e.log() for e in EXPOSURES)
    found = independent_negative_binomial(*COUNTS, offsets=logs)
    torch.testing.assert_close(found, poissons(COUNTS), atol=1e-3, rtol=0)
    one = independent_negative_binomial(*COUNTS)
    close(
        independent_negative_binomial(*COUNTS, offsets=tuple(torch.zeros_like(v) for v in logs)),
        one,
    )
    assert (found - one).mean() > 3
    # What is missing leaves out its exposure, too
    gappy = [c.clone() for c in COUNTS]
    gappy[0][::2, 1], gappy[1][::3, 0] = math.nan, math.nan
    expected = torch.zeros(50).double()
    for k in range(3):
        known, seen = (~c[:, k].isnan() for c in gappy)
        rate = (gappy[0][known, k].double().sum() + 0.5) / EXPOSURES[0][known].sum()
        p = dist.Poisson(rate * EXPOSURES[1][seen])
        expected[seen] += p.log_prob(gappy[1][seen, k].double())
    found = of_seen(independent_negative_binomial, *gappy, offsets=logs)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


# In the evaluation


def evaluated(likelihood, train, test, latents=2, **options):
    torch.manual_seed(0)
    vae = VAE(train.shape[1:], latents, likelihood=likelihood, hidden=(4,), **options)
    guide = guides.BottomUp(vae)
    return diagnostics.evaluate(vae, guide, test, reference=train, importance_samples=0)


def means(evaluation):
    return {name: row["mean"] for name, row in evaluation.to_dict().items()}


@pytest.mark.parametrize(
    ("likelihood", "change", "independent"),
    [
        (likelihoods.Gaussian(), lambda x: x, "independent normal"),
        (likelihoods.ContinuousBernoulli(), torch.sigmoid, "independent continuous Bernoulli"),
        (likelihoods.Bernoulli(), lambda x: (x > 2).float(), "independent Bernoulli"),
        (likelihoods.Categorical(3), lambda x: x.clamp(1, 3).round() / 2 - 0.5, None),
    ],
)
def test_the_likelihood_tells_which(likelihood, change, independent):
    train, test = change(TRAIN), change(TEST)
    found = evaluated(likelihood, train, test).baselines
    expected = [independent or "independent histogram"]
    if not likelihood.levels and not isinstance(likelihood, likelihoods.Bernoulli):
        expected.append("probabilistic PCA")
        close(found["probabilistic PCA"], probabilistic_pca(train, test, 2))
    assert list(found) == expected


def test_counts_and_columns_have_theirs():
    counts, names = (
        [t.abs().round() for t in (TRAIN, TEST)],
        [t.clamp(0, 2).round() for t in (TRAIN, TEST)],
    )
    for likelihood in (
        likelihoods.Poisson(),
        likelihoods.NegativeBinomial("predicted"),
        likelihoods.ZeroInflated(likelihoods.Poisson()),
    ):
        found = evaluated(likelihood, *counts).baselines
        assert list(found) == ["independent negative binomial"]
    assert evaluated(likelihoods.Multinomial(9), *counts).baselines == {}
    nominal = evaluated(likelihoods.Nominal(3), *names).baselines
    close(nominal["independent histogram"], independent_histogram(names[0] / 2, names[1] / 2, 3))
    parts = {
        (0, 3): likelihoods.Gaussian(),
        (1, 2): likelihoods.Poisson(),
        (4, 5): likelihoods.Nominal(3),
    }
    groups = [(0, 3), (1, 2), (4, 5)]
    train, test = (
        torch.cat([t[0][:, :1], t[1][:, 1:3], t[0][:, 3:4], t[2][:, 4:]], 1)
        for t in zip((TRAIN, TEST), counts, names, strict=True)
    )
    found = evaluated(likelihoods.Mixed(parts), train, test).baselines
    each = [[t[:, g] for t in (train, test)] for g in groups]
    expected = (
        independent_normal(*each[0])
        + independent_negative_binomial(*each[1])
        + independent_histogram(each[2][0] / 2, each[2][1] / 2, 3)
    )
    assert list(found) == ["independent columns"]
    close(found["independent columns"], expected)


def test_counts_with_exposures_are_compared_by_their_rates():
    parts = {(0, 2): likelihoods.Poisson(), (1,): likelihoods.NegativeBinomial()}
    for likelihood in (likelihoods.Poisson(), likelihoods.Mixed(parts)):
        given = Covariates(offset=True)
        vae = VAE((3,), 2, likelihood=likelihood, hidden=(4,), condition=given)
        train, test = (
            data.Dataset(x, {"exposure": e}) for x, e in zip(COUNTS, EXPOSURES, strict=True)
        )
        options = {"reference": train, "importance_samples": 0}
        found = diagnostics.evaluate(vae, guides.BottomUp(vae), test, **options).baselines
        (log_p,) = found.values()
        torch.testing.assert_close(log_p, poissons(COUNTS), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("likelihood", "outputs", "name"),
    [
        (likelihoods.Bernoulli(), 1, "independent Bernoulli"),
        (likelihoods.Categorical(4), 4, "independent histogram"),
        (likelihoods.DiscretizedLogistic(4), 2, "independent histogram"),
        (likelihoods.Gaussian(), 1, "independent normal"),
    ],
)
def test_pixels_in_turn_are_compared_by_their_kind(likelihood, outputs, name):
    grid = 2 if outputs == 1 else 4
    train, test = ((t.sigmoid() * (grid - 1)).round() / (grid - 1) for t in (TRAIN, TEST))
    shape = (1, 2, 3)
    decoder = PixelDecoder(shape, 2, outputs=outputs, width=4, layers=1)
    x = [t.view(-1, *shape) for t in (train, test)]
    found = evaluated(likelihood, *x, decoder=decoder).baselines
    plain = evaluated(likelihood, *x).baselines
    assert next(iter(found)) == name and list(found) == list(plain)
    for each, expected in plain.items():
        close(found[each], expected)


def test_log_normal_data_are_compared_by_their_logarithms():
    m, s = TRAIN.mean(0), TRAIN.std(0)
    plain = evaluated(likelihoods.Gaussian(loc=m, scale=s), TRAIN / 3, TEST / 3).baselines
    raw = likelihoods.LogNormal(loc=m, scale=s)
    found = evaluated(raw, (TRAIN / 3).exp(), (TEST / 3).exp()).baselines
    for name, other in (("normal", "log-normal"), (None, None)):
        before = plain[f"independent {name}" if name else "probabilistic PCA"]
        after = found[f"independent {other}" if name else "probabilistic PCA"]
        torch.testing.assert_close(after, before - TEST.double().sum(1) / 3, rtol=1e-4, atol=1e-4)


def test_as_many_latents_as_all_layers_have():
    found = evaluated(likelihoods.Gaussian(), TRAIN, TEST, latents=(2, 1)).baselines
    close(found["probabilistic PCA"], probabilistic_pca(TRAIN, TEST, 3))


def test_standardised_columns_are_compared_in_the_units_of_the_data():
    factor, moved = torch.tensor([1e4, 1.0, 1e-3, 7.0, 1.0, 50.0]), torch.arange(6.0)
    train, test = TRAIN * factor + moved, TEST * factor + moved
    plain = means(evaluated(likelihoods.Gaussian(), TRAIN, TEST))
    m, s = TRAIN.mean(0), TRAIN.std(0)
    standard = means(evaluated(likelihoods.Gaussian(), (TRAIN - m) / s, (TEST - m) / s))
    raw = likelihoods.Gaussian(loc=train.mean(0), scale=train.std(0))
    found = means(evaluated(raw, train, test))
    change = float(factor.log().sum())
    assert found["independent normal"] == pytest.approx(plain["independent normal"] - change)
    change = float((factor * s).log().sum())
    for name in ("ELBO", "independent normal", "probabilistic PCA"):
        assert found[name] == pytest.approx(standard[name] - change, rel=1e-4)


def test_a_pair_that_is_beaten_is_told_and_one_that_wins_is_not(linear):
    x, train = linear.data(50), linear.data(400)
    won = diagnostics.evaluate(
        linear.vae, linear.guide(), x, reference=train, importance_samples=0
    )
    ahead = won.terms.elbo.double() - won.baselines["independent normal"]
    assert float(ahead.mean()) > 0 and "independent normal by" not in won.remark
    beaten = evaluated(likelihoods.Gaussian(), TRAIN, TEST)
    by = float((beaten.baselines["probabilistic PCA"] - beaten.terms.elbo).mean())
    assert set(beaten.unbeaten) == {"independent normal", "probabilistic PCA"}
    assert beaten.unbeaten["probabilistic PCA"][0] == pytest.approx(by)
    assert f"probabilistic PCA by {by:.2f} +- " in beaten.remark
    assert str(beaten).endswith(beaten.remark) and "does not beat" in beaten.to_html()


def test_without_training_data_the_table_says_so():
    vae = VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(4,))
    found = diagnostics.evaluate(vae, guides.BottomUp(vae), TEST, importance_samples=0)
    assert found.baselines is None and "no baselines without reference=" in str(found)
    assert found.remark == ""


def test_where_nothing_compares():
    def several(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("a", dist.Normal(z, 1.0), obs=x[:, 0])
            pyro.sample("b", dist.Normal(z, 1.0), obs=x[:, 1])

    def counts(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Poisson(z.exp()), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    for model, x in ((several, TEST[:, :2]), (counts, TEST[:, :1].abs().round())):
        found = diagnostics.evaluate(model, guide, x, reference=x, importance_samples=0)
        assert found.baselines == {} and "no baselines for such a pair" in str(found)
    vae = VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(4,))
    point = diagnostics.evaluate(vae, guides.Delta(vae), TEST, reference=TRAIN)
    assert point.baselines == {}


def test_codes_have_no_principal_components():
    x = torch.rand(20, 1, 8, 8)
    vae = VQVAE((1, 8, 8), 8, 4, likelihood=likelihoods.Gaussian())
    found = diagnostics.evaluate(
        vae, guides.NearestCode(vae), x, reference=x, importance_samples=0
    )
    assert list(found.baselines) == ["independent normal"]


def test_a_program_of_the_users_own():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = z.sum(-1, keepdim=True).expand(-1, 6)
            pyro.sample("x", dist.StudentT(3.0, loc, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    found = diagnostics.evaluate(model, guide, TEST, reference=TRAIN, importance_samples=0)
    close(found.baselines["independent normal"], independent_normal(TRAIN, TEST))
    close(found.baselines["probabilistic PCA"], probabilistic_pca(TRAIN, TEST, 2))


def test_dynamic_binarisation_has_one_baseline():
    grey = TRAIN.sigmoid()
    vae = VAE((6,), 2, likelihood=likelihoods.Bernoulli(), hidden=(4,))
    test = data.Dataset((TEST > 2).float())
    found = diagnostics.evaluate(
        vae,
        guides.BottomUp(vae),
        test,
        reference=data.Dataset(grey, binarize="dynamic"),
        importance_samples=0,
    )
    close(found.baselines["independent Bernoulli"], independent_bernoulli(grey, test.x))


def test_a_reference_of_another_shape():
    vae = VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(4,))
    with pytest.raises(ValueError, match=r"reference: .* \(6,\), got \(5,\): pass d.train"):
        diagnostics.evaluate(vae, guides.BottomUp(vae), TEST, reference=TRAIN[:, :5])
