"""What ArviZ is given, by its own functions."""

import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import data, guides, infer, likelihoods, models
from pyro_vae.infer.weights import pareto_shape

WITH = {"reason": "pip install 'pyro_vae[arviz]'"}


@pytest.fixture
def arviz():
    with pytest.MonkeyPatch.context() as patch:
        # Importing it writes and warns
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)
        return pytest.importorskip("arviz", **WITH)


def pair(**options):
    torch.manual_seed(0)
    options = {"likelihood": likelihoods.Gaussian(), "hidden": (8,), "latents": (3, 2), **options}
    vae = models.VAE((6,), **options)
    return vae, guides.BottomUp(vae)


X = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
GROUPS = {
    *("posterior", "posterior_predictive", "log_likelihood", "sample_stats", "prior"),
    *("prior_predictive", "observed_data"),
}


def test_the_groups_have_the_draws_with_named_dimensions(arviz):
    vae, guide = pair()
    before = torch.random.get_rng_state()
    found = infer.to_inference_data(vae, guide, X, draws=50)
    assert torch.equal(before, torch.random.get_rng_state())
    assert {*found.groups()} == GROUPS
    assert found.posterior["z2"].dims == ("chain", "draw", "datum", "z2_dim_0")
    assert found.posterior["z2"].shape == (1, 50, 4, 2)
    assert found.prior["z1"].shape == (1, 50, 4, 3)
    assert found.posterior_predictive["x"].shape == (1, 50, 4, 6)
    assert found.prior_predictive["x"].shape == (1, 50, 4, 6)
    assert found.log_likelihood["x"].dims == ("chain", "draw", "datum")
    assert found.observed_data["x"].dims[0] == "datum"
    np.testing.assert_array_equal(found.observed_data["x"], X)


def test_densities_are_those_of_the_programs_at_the_draws(arviz):
    vae, guide = pair()
    found = infer.to_inference_data(vae, guide, X, draws=3)
    z = {site: torch.tensor(found.posterior[site].values[0]) for site in vae.latents}
    for draw in range(3):
        at = {site: value[draw] for site, value in z.items()}
        log_p = vae.decode(at).log_prob(X)
        np.testing.assert_allclose(found.log_likelihood["x"][0, draw], log_p, rtol=1e-5)
        log_weight = log_p + vae.conditional("z1", at).log_prob(at["z1"])
        log_weight = log_weight + dist.Normal(0.0, 1.0).expand([2]).to_event(1).log_prob(at["z2"])
        q = pyro.poutine.trace(pyro.poutine.condition(guide.eval(), at)).get_trace(X)
        log_weight = log_weight - q.nodes["z1"]["fn"].log_prob(at["z1"])
        log_weight = log_weight - q.nodes["z2"]["fn"].log_prob(at["z2"])
        got = found.sample_stats["log_weight"][0, draw]
        np.testing.assert_allclose(got, log_weight.detach(), rtol=1e-4)


def test_draws_are_of_the_posterior_and_the_prior(arviz):
    vae, guide = pair(latents=2)
    found = infer.to_inference_data(vae, guide, X, draws=4000)
    mean = guide.encode(X).mean["z1"]
    np.testing.assert_allclose(found.posterior["z1"].mean(("chain", "draw")), mean, atol=0.1)
    np.testing.assert_allclose(found.prior["z1"].std(("chain", "draw")), 1.0, atol=0.1)


def test_arvizs_own_pareto_k_is_ours(arviz):
    vae, guide = pair()
    weights = infer.to_inference_data(vae, guide, X, draws=1000).sample_stats["log_weight"][0]
    _, k = arviz.psislw(weights.values.T.copy())
    ours = pareto_shape(torch.tensor(weights.values))
    np.testing.assert_allclose(k, ours, atol=0.02)


def test_its_summary_is_of_the_named_elements(arviz):
    pandas = pytest.importorskip("pandas")
    names = [f"c{i}" for i in range(6)]
    table = data.Dataset(pandas.DataFrame(X.numpy(), index=[*"abcd"], columns=names))
    vae, guide = pair(columns=table.columns)
    found = infer.to_inference_data(vae, guide, table, draws=20)
    summary = arviz.summary(found, var_names=["z2"], kind="stats")
    assert [*summary.index[:2]] == ["z2[a, 0]", "z2[a, 1]"]
    assert [*found.observed_data["x_dim_0"].values] == names


def test_programs_and_guides_of_ones_own_and_labels(arviz):
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("obs", dist.Normal(z, 0.5), obs=x)

    x = torch.tensor([0.5, -1.0, 2.0])
    guide = guides.BottomUp(model, like=x, hidden=(4,))
    found = infer.to_inference_data(model, guide, x, draws=5)
    assert found.posterior["z"].shape == (1, 5, 3)
    assert found.log_likelihood["obs"].shape == (1, 5, 3)
    vae, guide = pair(condition=2)
    found = infer.to_inference_data(vae, guide, X, y=torch.tensor([0, 1, 0, 1]), draws=5)
    assert found.posterior["z1"].shape == (1, 5, 4, 3)


def test_latents_that_are_summed_out_are_refused(arviz):
    vae, guide = pair(latents=2, condition=2, labels="partial")
    with pytest.raises(ValueError, match=r"without y, summed out: use guides\.Labelled"):
        infer.to_inference_data(vae, guide, X)
    labelled = guides.Labelled(guide)
    found = infer.to_inference_data(vae, labelled, X, draws=5)
    assert found.posterior["y"].shape == (1, 5, 4)


def test_with_arviz_1_it_is_a_tree_of_the_same_groups(arviz, monkeypatch):
    import xarray

    if arviz.__version__.startswith("0."):
        monkeypatch.setattr(arviz, "__version__", "1.0.0")
    found = infer.to_inference_data(*pair(), X, draws=3)
    assert isinstance(found, xarray.DataTree)
    assert {*found.children} == GROUPS
    assert found["posterior"]["z1"].dims == ("chain", "draw", "datum", "z1_dim_0")


def test_without_arviz_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ModuleNotFoundError) as error:
        infer.to_inference_data(*pair(), X)
    told = "to_inference_data needs the package arviz: pip install 'pyro_vae[arviz]'"
    assert str(error.value) == told
