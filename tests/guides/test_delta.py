import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

from pyro_vae.guides import Delta
from pyro_vae.handlers import scale_latents
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE


@pytest.fixture
def deep():
    vae = VAE((6,), (4, 3), likelihood=Gaussian(0.7), hidden=(5,))
    return vae, Delta(vae)


def codes(guide, x):
    z1 = guide.conditionals["z1"].loc(guide.conditionals["z1"].network(x))
    return {"z1": z1, "z2": guide.conditionals["z2"].loc(guide.conditionals["z2"].network(z1))}


def test_mean_and_sample_are_the_code(deep):
    x = torch.randn(5, 6)
    encoding = deep[1].encode(x)
    for site, code in codes(deep[1], x).items():
        assert torch.equal(encoding.mean[site], code)
        assert torch.equal(encoding.sample[site], code)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_the_objective_is_an_autoencoder_with_a_prior_on_the_code(deep, beta):
    vae, guide = deep
    x = torch.randn(5, 6)
    loss = Trace_ELBO().loss(scale_latents(vae, beta), scale_latents(guide, beta), x)
    z = codes(guide, x)
    trace = poutine.trace(poutine.condition(vae, z)).get_trace(x)
    trace.compute_log_prob()
    terms = {s: trace.nodes[s]["log_prob"].sum() for s in ("x", "z1", "z2")}
    expected = terms["x"] + beta * (terms["z1"] + terms["z2"])
    assert loss == pytest.approx(-expected.item(), rel=1e-6)


def test_no_scales_among_the_parameters(deep):
    assert not any("scale" in name for name, _ in deep[1].named_parameters())
