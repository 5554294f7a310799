"""``VAETransformer``: the contract of scikit-learn, and the numbers behind it."""

import functools
import io
import pickle

import joblib
import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine
from sklearn.decomposition import FactorAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from pyro_vae import estimators, guides, infer, likelihoods, schedules

X = load_iris().data[::3]
small = functools.partial(
    estimators.VAETransformer,
    latents=2,
    hidden=(4,),
    epochs=2,
    importance_samples=5,
    random_state=0,
)
VARIANTS = {
    "layers": lambda: small(latents=(3, 2), guide=guides.Ladder, beta=schedules.WarmUp(epochs=2)),
    "missing": lambda: small(missing=True, guide=guides.FullCovariance),
    "heavy": lambda: small(likelihood=likelihoods.StudentT(), patience=1, validation_fraction=0.5),
}


@parametrize_with_checks([small()])
def test_the_contract_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([make() for make in VARIANTS.values()])
def test_the_contract_under_other_arguments(estimator, check):
    check(estimator)


# Numbers


def exact(vae, x):
    """log p(x) of a linear model with normal noise."""
    layer = vae.decoder.layers[-1]
    noise = vae.likelihood(layer.bias.detach()[None]).stddev[0]
    cov = layer.weight @ layer.weight.T + noise.square().diag()
    normal = torch.distributions.MultivariateNormal(layer.bias, cov)
    return normal.log_prob(torch.tensor(x)).detach().numpy()


def test_scores_are_log_densities():
    linear = small(
        hidden=(), likelihood=likelihoods.Gaussian(0.5), epochs=150, lr=0.02, importance_samples=20
    )
    x = StandardScaler().fit_transform(X)
    linear.fit(x)
    few = linear.score_samples(x)
    linear.set_params(importance_samples=20_000)
    many = linear.score_samples(x[:8])
    expected = exact(linear.model_, x)
    np.testing.assert_allclose(many, expected[:8], atol=0.05)
    # A bound on average
    assert few.mean() < expected.mean() + 0.2
    assert linear.score(x[:8]) == pytest.approx(many.mean())


def test_by_default_a_fit_begins_as_factor_analysis():
    x = StandardScaler().fit_transform(load_wine().data)
    still = small(epochs=1, lr=1e-12).fit(x)
    expected = FactorAnalysis(2, svd_method="lapack").fit(x)
    np.testing.assert_allclose(still.score_samples(x), expected.score_samples(x), atol=0.05)


def test_a_datum_alone_has_its_own_score():
    t = small(latents=(3, 2)).fit(X)
    alone = [t.score_samples(x[None])[0] for x in X[:4]]
    np.testing.assert_allclose(t.score_samples(X)[:4], alone, rtol=1e-10)
    estimate = infer.log_likelihood(t.model_, t.guide_, torch.tensor(X), importance_samples=2000)
    t.set_params(importance_samples=2000)
    np.testing.assert_allclose(t.score_samples(X), estimate, atol=1.0)
    # In parts of three
    t.set_params(importance_samples=5000)
    alone = [t.score_samples(x[None])[0] for x in X[:7]]
    np.testing.assert_allclose(t.score_samples(X[:7]), alone, rtol=1e-10)


class Looking(likelihoods.Gaussian):
    """One that no vmap runs."""

    def forward(self, features):
        assert float(features.detach().sum()) < 1e9
        return super().forward(features)


def test_programs_that_look_at_values_have_the_same_scores():
    first, second = (small(likelihood=cls(0.5)).fit(X) for cls in (likelihoods.Gaussian, Looking))
    np.testing.assert_allclose(first.score_samples(X[:9]), second.score_samples(X[:9]), rtol=1e-10)


def test_latents_are_the_means_of_the_guide_from_z1_on():
    t = small(latents=(3, 2)).fit(X)
    mean = t.guide_.encode(torch.tensor(X)).mean
    expected = torch.cat([mean["z1"], mean["z2"]], 1).numpy()
    np.testing.assert_array_equal(t.transform(X), expected)
    assert [*t.get_feature_names_out()] == ["z1_0", "z1_1", "z1_2", "z2_0", "z2_1"]


def test_data_are_the_means_of_the_model():
    t = small(latents=(3, 2)).fit(X)
    z = t.transform(X)
    expected = t.model_.decode({"z1": torch.tensor(z[:, :3])}).mean
    np.testing.assert_allclose(t.inverse_transform(z), expected.numpy())


def test_the_defaults_learn_a_table():
    x = StandardScaler().fit_transform(X)
    t = small(latents=2, hidden=(32,), epochs=150, lr=1e-2, importance_samples=50).fit(x)
    back = t.inverse_transform(t.transform(x))
    assert np.square(back - x).mean() < 0.3
    assert t.score(x) > -4.5  # of independent normals it is -5.68


def test_any_scale_of_the_columns_is_served():
    scaled = X * [1.0, 1e-3, 1e3, 10.0] + [0.0, 5.0, -100.0, 1.0]
    one, other = (small(epochs=20).fit(x) for x in (X, scaled))
    np.testing.assert_allclose(one.transform(X), other.transform(scaled), atol=1e-4)
    change = np.log([1.0, 1e-3, 1e3, 10.0]).sum()
    np.testing.assert_allclose(
        one.score_samples(X), other.score_samples(scaled) + change, atol=1e-2
    )


# What is handed in, and what comes out


@pytest.mark.parametrize(
    "options",
    [
        {"likelihood": likelihoods.Gaussian("learned")},
        {"likelihood": likelihoods.Gaussian.standardized},
        {"likelihood": likelihoods.StudentT(), "guide": guides.Flow},
        {"beta": schedules.WarmUp(epochs=2)},
        {"latents": (3, 2), "guide": functools.partial(guides.BottomUp, hidden=(5,))},
    ],
    ids=repr,
)
def test_clones_are_trained_alike_and_nothing_handed_in_is_trained(options):
    t = small(**options)
    likelihood = t.likelihood
    modules = isinstance(likelihood, torch.nn.Module)
    before = [p.clone() for p in likelihood.parameters()] if modules else []
    z = t.fit(X).transform(X)
    copied = clone(t)
    with pytest.raises(NotFittedError):
        copied.transform(X)
    assert copied.get_params().keys() == t.get_params().keys()
    np.testing.assert_array_equal(copied.fit(X).transform(X), z)
    assert t.likelihood is likelihood
    after = likelihood.parameters() if modules else []
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_networks_that_are_handed_to_a_guide_are_copied():
    encoder = torch.nn.Linear(4, 3)
    before = encoder.weight.clone()
    t = small(guide=functools.partial(guides.BottomUp, encoder=encoder)).fit(X)
    assert torch.equal(encoder.weight, before)
    alike = [p for p in t.guide_.parameters() if p.shape == before.shape]
    assert alike and not any(torch.equal(p, before.double()) for p in alike)


def refined(model):
    return guides.SemiAmortized(guides.BottomUp(model), steps=1)


def test_a_guide_that_takes_steps_for_each_row():
    t = small(guide=refined).fit(X)
    alone = [t.score_samples(x[None])[0] for x in X[:3]]
    np.testing.assert_allclose(t.score_samples(X[:3]), alone, rtol=1e-8)
    np.testing.assert_allclose(t.transform(X[:3]), [t.transform(x[None])[0] for x in X[:3]])


def test_random_state_decides_all():
    state = torch.get_rng_state()
    first, again, other = (small(random_state=s).fit(X) for s in (1, 1, 2))
    for method in ("transform", "score_samples"):
        a, b, c = (getattr(t, method)(X) for t in (first, again, other))
        np.testing.assert_array_equal(a, b)
        assert not np.allclose(a, c)
    np.testing.assert_array_equal(first.sample(3), again.sample(3))
    assert not np.allclose(first.sample(3), first.sample(3, random_state=5))
    stream = small(random_state=np.random.RandomState(1))
    assert not np.allclose(stream.fit(X).transform(X), stream.fit(X).transform(X))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dump", [pickle, joblib], ids=["pickle", "joblib"])
def test_a_fitted_estimator_goes_through_a_file(dump):
    t = small(latents=(3, 2), guide=guides.Ladder).fit(X)
    buffer = io.BytesIO()
    dump.dump(t, buffer)
    buffer.seek(0)
    again = dump.load(buffer)
    for method in ("transform", "score_samples"):
        np.testing.assert_array_equal(getattr(again, method)(X), getattr(t, method)(X))
    assert again.guide_.model is again.model_


def test_pipelines_and_grids():
    pipeline = make_pipeline(StandardScaler(), small())
    grid = {
        "vaetransformer__latents": [1, (2, 1)],
        "vaetransformer__likelihood": [None, likelihoods.Gaussian(0.7)],
    }
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_score_ == max(search.cv_results_["mean_test_score"])
    assert search.inverse_transform(search.transform(X)).shape == X.shape


def test_tables_go_in_and_out_with_their_names():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b", "c", "d"], index=range(100, 150))
    t = small().set_output(transform="pandas").fit(frame)
    assert [*t.feature_names_in_] == ["a", "b", "c", "d"]
    z = t.transform(frame)
    assert [*z.columns] == ["z1_0", "z1_1"] and z.index.equals(frame.index)
    with pytest.raises(ValueError, match="feature names"):
        t.transform(frame[["b", "a", "c", "d"]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_have_the_precision_of_the_data(dtype):
    x = X.astype(dtype)
    t = small().fit(x)
    z = t.transform(x)
    results = (z, t.inverse_transform(z), t.score_samples(x), t.sample(2))
    assert {result.dtype for result in results} == {np.dtype(dtype)}


def test_sparse_and_missing_values_are_refused():
    with pytest.raises(TypeError, match="Sparse data was passed"):
        small().fit(csr_array(X))
    holes = np.where(np.random.RandomState(0).rand(*X.shape) < 0.2, np.nan, X)
    with pytest.raises(ValueError, match="contains NaN"):
        small().fit(holes)
    t = small(missing=True).fit(holes)
    for result in (t.transform(holes), t.score_samples(holes), t.sample(3)):
        assert np.isfinite(result).all()
    seen = np.full((1, 4), np.nan)
    seen[0, 1] = 3.0
    # Of one number the density is that of its column
    assert t.score_samples(seen)[0] > t.score_samples(X[:1])[0] - 5


def test_patience_holds_rows_out():
    t = small(patience=1, epochs=60, lr=0.5, validation_fraction=0.2).fit(X)
    assert t.n_iter_ == len(t.history_) < 60
    assert "validation" in t.history_[0]
    assert "validation" not in small().fit(X).history_[0]
