"""Categories, and tables of several kinds of columns."""

import pyro.distributions as dist
import pytest
import torch
from chance import chance_of

from pyro_vae import Trainer, callbacks, guides, handlers, infer, load
from pyro_vae.likelihoods import (
    Bernoulli,
    Gaussian,
    LogNormal,
    Mixed,
    Multinomial,
    NegativeBinomial,
    Nominal,
    Poisson,
    StudentT,
    ZeroInflated,
)
from pyro_vae.models import VAE

NAMES = ("age", "visits", "city", "height", "smoker", "income")
N = 50


def table(n=N):
    numbers = torch.randn(n, 2) * torch.tensor([10.0, 0.1]) + torch.tensor([40.0, 1.7])
    visits, city = torch.poisson(torch.full((n, 1), 3.0)), torch.randint(3, (n, 1)).float()
    smoker, income = torch.randint(2, (n, 1)).float(), torch.randn(n, 1).exp()
    return torch.cat([numbers[:, :1], visits, city, numbers[:, 1:], smoker, income], 1)


def parts():
    return {
        ("age", "height"): Gaussian("per_pixel", loc=[40.0, 1.7], scale=[10.0, 0.1]),
        "visits": NegativeBinomial(),
        "city": Nominal(3),
        "smoker": Bernoulli(),
        "income": LogNormal("learned"),
    }


def model(likelihood=None, **options):
    likelihood = Mixed(parts(), NAMES) if likelihood is None else likelihood
    return VAE((6,), latents=2, likelihood=likelihood, **{"hidden": (8,), **options})


# Categories


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_nominal_is_torchs_categorical_in_the_type_of_the_data(shape):
    logits = 2 * torch.randn(*shape, 5)
    p, exact = Nominal(5)(logits), dist.Categorical(logits=logits)
    for value in range(5):
        x = torch.full(shape, float(value))
        torch.testing.assert_close(p.log_prob(x), exact.log_prob(x))
    assert torch.equal(p.mean, logits.argmax(-1).float())
    x = p.sample((7,))
    assert x.dtype == torch.float32 and x.shape == (7, *shape)
    torch.testing.assert_close(p.expand(torch.Size((7, *shape))).log_prob(x), p.log_prob(x))


def test_nominal_draws_have_its_probabilities():
    logits, draws = torch.tensor([0.0, 1.0, -2.0]), 20_000
    x = Nominal(3)(logits).sample((draws,))
    assert chance_of(torch.bincount(x.long(), minlength=3), draws, logits.softmax(-1)) > 1e-6


@pytest.mark.parametrize("shape", [(3,), (4, 5), (2, 4, 5)])
def test_networks_see_an_indicator_of_each_category(shape):
    nominal, x = Nominal(4), torch.randint(4, (7, *shape)).float()
    seen = nominal.inputs(x)
    assert seen.shape == (7, *nominal.input_shape(shape))
    # Categories in turn: the number of each, from its indicators
    every = seen.reshape(7, 4, *shape)
    assert torch.equal(every.sum(1), torch.ones(7, *shape))
    assert torch.equal(every.argmax(1).float(), x)
    x[0] = torch.nan
    assert nominal.inputs(x)[0].isnan().all() and torch.equal(nominal.inputs(x)[1:], seen[1:])
    x[0] = 0.0
    vae = VAE(shape, latents=2, likelihood=nominal)
    guide = guides.BottomUp(vae)
    assert infer.reconstruct(vae, guide, x).shape == x.shape
    assert guide.encode(x).mean["z1"].shape == (7, 2)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            [0.0, 3.0],
            r"Nominal\(3\) expects categories numbered 0 to 2, got 1 others, the first 3 in",
        ),
        ([0.5, 1.0], "the first 0.5 in datum 0: number them from 0"),
        ([-1.0, 1.0], "for other values use likelihoods.Gaussian"),
    ],
)
def test_what_is_no_category_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        Nominal(3).check(torch.tensor(x)[:, None])


def test_nominal_needs_two_categories():
    with pytest.raises(
        ValueError, match="categories: expected a whole number of at least 2, got 1"
    ):
        Nominal(1)


# Mixed


def test_the_density_is_the_sum_over_the_columns():
    likelihood = Mixed(parts(), NAMES)
    size = likelihood.feature_shape((6,))
    assert size == (2 + 1 + 3 + 1 + 1,)
    features, x = torch.randn(N, *size), table()
    p = likelihood(features)
    assert (p.batch_shape, p.event_shape) == ((N,), (6,))
    numbers, visits, city, smoker, income = features.split([2, 1, 3, 1, 1], -1)
    scale = torch.tensor([10.0, 0.1])
    normal = dist.Normal(torch.tensor([40.0, 1.7]) + scale * numbers, scale)
    expected = (
        normal.log_prob(x[:, [0, 3]]).sum(-1)
        + dist.NegativeBinomial(1.0, logits=visits[:, 0]).log_prob(x[:, 1])
        + dist.Categorical(logits=city).log_prob(x[:, 2])
        + dist.Bernoulli(logits=smoker[:, 0]).log_prob(x[:, 4])
        + dist.LogNormal(income[:, 0], 1.0).log_prob(x[:, 5])
    )
    torch.testing.assert_close(p.log_prob(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(p.expand(torch.Size((3, N))).log_prob(x)[2], p.log_prob(x))
    mean = likelihood.mean(features)
    torch.testing.assert_close(mean[:, [0, 3]], normal.mean)
    assert torch.equal(mean[:, 2], city.argmax(-1).float())
    torch.testing.assert_close(mean[:, 5], (income[:, 0] + 0.5).exp())
    assert p.sample((4,)).shape == (4, N, 6)
    likelihood.check(p.sample())


@pytest.mark.parametrize(
    "columns",
    [
        [(0, Gaussian()), ((2, 1), Poisson()), (slice(3, None), Gaussian())],
        [(range(3, 6), Gaussian()), ([0], Gaussian()), ((-4, -5), Poisson())],
        [(slice(1, 3), Poisson()), (slice(None, None, 3), Gaussian()), ((5, 4), Gaussian())],
        {0: Gaussian(), (1, 2): Poisson(), range(3, 6): Gaussian()},
    ],
)
def test_columns_may_be_told_in_every_way(columns, tmp_path):
    likelihood = Mixed(columns)
    x = torch.cat([torch.randn(N, 1), torch.poisson(torch.ones(N, 2)), torch.randn(N, 3)], 1)
    vae = model(likelihood)
    assert sorted(c for group in likelihood.columns for c in group) == [*range(6)]
    trainer = Trainer(vae, guides.BottomUp(vae), seed=0).fit(x, epochs=1, progress=False)
    trainer.save(tmp_path / "file.pt")
    again = load(tmp_path / "file.pt").model
    assert again.likelihood.columns == likelihood.columns
    z = torch.randn(N, 2)
    assert torch.equal(again.decode(z).log_prob(x), vae.decode(z).log_prob(x))
    vae.check_data(vae.sample(5))


def test_it_is_a_likelihood_like_any(tmp_path):
    x, vae = table(), model()
    trainer = Trainer(vae, guides.Ladder(vae), seed=0).fit(x, epochs=2, progress=False)
    row = trainer.history[-1]
    assert {"sigma of 'age', 'height'", "dispersion of 'visits'", "sigma of 'income'"} < set(row)
    trainer.save(tmp_path / "file.pt")
    again = load(tmp_path / "file.pt")
    assert again.model.likelihood.names == NAMES
    assert again.model.likelihood.columns == ((0, 3), (1,), (2,), (4,), (5,))
    torch.testing.assert_close(
        infer.reconstruct(again.model, again.guide, x), infer.reconstruct(vae, trainer.guide, x)
    )
    free = handlers.free_bits(vae, 0.1)
    assert infer.check_pair(free, trainer.guide, x).latents == {"z1": (2,)}
    double = model().double()
    bound = infer.elbo_terms(double, guides.BottomUp(double).double(), x.double()).elbo
    assert bound.dtype == torch.float64 and bound.isfinite().all()


def test_networks_see_columns_as_each_likelihood_shows_them():
    likelihood, x = Mixed(parts(), NAMES), table()
    model(likelihood)
    seen = likelihood.inputs(x)
    assert seen.shape == (N, *likelihood.input_shape((6,))) == (N, 8)
    torch.testing.assert_close(seen[:, 0], (x[:, 0] - 40) / 10)
    torch.testing.assert_close(seen[:, 2], x[:, 1].log1p())
    assert torch.equal(seen[:, 3:6].argmax(-1).float(), x[:, 2])
    torch.testing.assert_close(seen[:, 7], x[:, 5].log())


def test_an_offset_is_for_the_counts():
    counts = {(0, 1): Poisson(), (2, 3): ZeroInflated(Poisson()), (4, 5): Gaussian()}
    likelihood = Mixed(counts)
    features = torch.randn(4, *likelihood.feature_shape((6,)))
    exposure = torch.tensor([1.0, 2.0, 5.0, 10.0])
    plain, found = (likelihood.mean(features, offset=o) for o in (None, exposure.log()))
    torch.testing.assert_close(found[:, :4], plain[:, :4] * exposure[:, None])
    assert torch.equal(found[:, 4:], plain[:, 4:])


def test_a_part_may_have_an_event_of_its_own():
    likelihood = Mixed({(0, 1, 2): Multinomial(total=30), (3, 4, 5): StudentT("learned", df=3.0)})
    vae = model(likelihood)
    assert torch.equal(vae.sample(5)[:, :3].sum(-1), torch.full((5,), 30.0))
    x = torch.cat([torch.poisson(torch.full((N, 3), 4.0)), torch.randn(N, 3)], 1)
    guide = guides.BottomUp(vae)
    assert infer.elbo_terms(vae, guide, x).elbo.isfinite().all()


# What is refused


def test_data_are_refused_by_column():
    vae, x = model(), table()
    for column, value, message in (
        (1, 0.5, r"x, column 'visits': NegativeBinomial expects counts.*first 0.5 in datum 7"),
        (2, 3.0, r"x, column 'city': Nominal\(3\) expects"),
        (5, -1.0, r"x, column 'income': LogNormal expects positive"),
    ):
        wrong = x.clone()
        wrong[7, column] = value
        with pytest.raises(ValueError, match=message):
            Trainer(vae, guides.BottomUp(vae)).fit(wrong, epochs=1, progress=False)
    unnamed = Mixed({0: Bernoulli(), range(1, 6): Gaussian()})
    model(unnamed)
    with pytest.raises(ValueError, match="x, column 0: Bernoulli expects only 0 and 1"):
        unnamed.check(x)


def test_columns_that_do_not_fit_are_told():
    one = Gaussian()
    for given, names, message in (
        ({(0, 1): one}, None, r"each of 6 columns once.*got 2, 3, 4, 5 missing"),
        ({range(6): one, 2: one}, None, "got 2 there twice"),
        ({range(6): one, (6, 9): one}, None, "got 6, 9 not in the table"),
        ([(slice(0, 6), one), (slice(6, None), one)], None, "a likelihood without any"),
        ({"agee": one}, NAMES, r"parts: expected one of age.*did you mean 'age'"),
        ({"age": one}, None, "names: expected the names of all columns"),
        ({NAMES[:5]: one}, NAMES, "got 'income' missing"),
        ({0: one, 1: one}, ("a", "a"), "names: expected a name of its own .* got 'a' twice"),
        ({("a", "b"): one}, ("a", "b"), "names: expected one for each of the 6 columns, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            model(Mixed(given, names))
    with pytest.raises(TypeError, match=r"columns as a number.*got 0.5"):
        Mixed({0.5: one})
    with pytest.raises(
        TypeError, match=r"parts: expected a likelihood for each.*'gaussian' for 0"
    ):
        Mixed({0: "gaussian"})
    with pytest.raises(
        ValueError, match=r"event_shape: Mixed expects rows of a table, got \(2, 3\)"
    ):
        VAE((2, 3), latents=1, likelihood=Mixed({0: one}))
    with pytest.raises(
        ValueError, match="Mixed: expected a model that tells the number of columns"
    ):
        Mixed({0: one})(torch.zeros(3, 1))


def test_sigmas_of_a_table_are_not_updated_together():
    vae, x = model(), table()
    with pytest.raises(
        ValueError, match=r"UpdateSigma: expected a Gaussian likelihood.*got Mixed"
    ):
        Trainer(vae, guides.BottomUp(vae)).fit(
            x, epochs=1, callbacks=[callbacks.UpdateSigma(x)], progress=False
        )
