"""What every evaluation does first: look at data, guides and pairs, and leave nothing behind."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import data, diagnostics, guides, infer, likelihoods
from pyro_vae.models import VAE
from pyro_vae.programs.examining import examined


def pair(latents=2, likelihood=None):
    vae = VAE((6,), latents, likelihood=likelihood or likelihoods.Gaussian(), hidden=(4,))
    return vae, guides.BottomUp(vae)


def whole(event=6):
    x, y = torch.rand(30, event), torch.arange(30) % 2
    return data.Dataset(x, y, factors=torch.rand(30, 2), factor_names=["a", "b"], names=["c", "d"])


EVALUATIONS = {
    "evaluate": diagnostics.evaluate,
    "collapse": diagnostics.collapse,
    "layers": diagnostics.layers,
    "calibration": diagnostics.calibration,
    "rarity": diagnostics.rarity,
    "rarity of others": lambda m, g, d: diagnostics.rarity(m, g, whole(), reference=d),
    "outliers": lambda m, g, d: diagnostics.outliers(m, g, d, torch.rand(30, 6)),
    "kinds": lambda m, g, d: diagnostics.outliers(m, g, torch.rand(30, 6), {"kind": d}),
    "continuity": diagnostics.continuity,
    "disentanglement": diagnostics.disentanglement,
    "compare_guides": lambda m, g, d: infer.compare_guides(m, {"g": g}, d),
}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_what_does_not_fit_is_refused_in_the_same_words(name):
    evaluate, (vae, guide) = EVALUATIONS[name], pair()
    with pytest.raises(TypeError, match=r"got the class BottomUp: pass BottomUp\(model\)"):
        evaluate(vae, guides.BottomUp, whole())
    with pytest.raises(ValueError, match="guide: it was built for another model"):
        evaluate(vae, pair(3)[1], whole())
    with pytest.raises(ValueError, match=r"site 'x': expected shape \(n, 6\)"):
        evaluate(vae, guide, whole(5))
    binary = pair(likelihood=likelihoods.Bernoulli())
    with pytest.raises(ValueError, match="Bernoulli"):
        evaluate(*binary, whole())
    assert vae.training and guide.training


def test_data_are_drawn_once_and_keep_their_names():
    vae, guide = pair(likelihood=likelihoods.Bernoulli())
    d = whole().replace(binarize="dynamic")
    state = torch.get_rng_state()
    with examined(d, vae, guide, guide) as (drawn, pairs):
        assert not vae.training and not torch.is_grad_enabled()
        assert set(drawn.x.unique().tolist()) == {0.0, 1.0} and drawn.binarize is None
        assert torch.equal(drawn.batch(torch.arange(30))[0], drawn.x)
        assert torch.equal(drawn.factors, d.factors) and torch.equal(drawn.y, d.y)
        assert (drawn.names, drawn.factor_names) == (("c", "d"), ("a", "b"))
        assert [found.latents for found in pairs] == [{"z1": (2,)}] * 2
    assert vae.training and torch.equal(torch.get_rng_state(), state)


def test_data_come_to_the_type_of_the_pair():
    vae, guide = pair()
    vae.double(), guide.double()
    with examined(torch.rand(5, 6), vae, guide) as (drawn, _):
        assert drawn.dtype == torch.float64 and drawn.y is None and drawn.names == ()


def test_of_programs_of_one_size_that_is_told_which_is_wrong_with_all_data():
    def model(x):
        with pyro.plate("data", 30):
            z = pyro.sample("z", dist.Normal(torch.zeros(30), 1.0))
            pyro.sample("x", dist.Poisson(z.exp()), obs=x)

    def guide(x, scale=1.0):
        with pyro.plate("data", 30):
            pyro.sample("z", dist.Normal(x / 10, scale))

    x = torch.ones(30)
    with examined(x, model, guide) as (drawn, _):
        assert len(drawn) == 30
    with pytest.raises(FloatingPointError, match="scale of a Normal"):
        diagnostics.evaluate(model, functools.partial(guide, scale=torch.nan), x)
