import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_vae import guides, likelihoods, models
from pyro_vae.infer.objectives.kl import check_order, closed_form, sampled_later
from pyro_vae.programs.running import trace_pair


def traces(q, p, **kwargs):
    def program(distribution):
        with pyro.plate("data", 3):
            pyro.sample("z", distribution, **kwargs)

    return (poutine.trace(program).get_trace(distribution) for distribution in (p, q))


def test_of_normals():
    loc, scale = torch.randn(3, 2), torch.rand(3, 2) + 0.5
    q, p = dist.Normal(loc, scale).to_event(1), dist.Normal(0.0, 1.0).expand([3, 2]).to_event(1)
    expected = 0.5 * (loc**2 + scale**2 - 2 * scale.log() - 1).sum(-1)
    torch.testing.assert_close(closed_form("z", *traces(q, p)), expected)


NORMAL = dist.Normal(torch.zeros(3), 1.0)


@pytest.mark.parametrize(
    ("q", "reason"),
    [
        (NORMAL.mask(torch.tensor([True, False, True])), "knows no masks"),
        (dist.Delta(torch.zeros(3)), "no closed-form KL between Delta and Normal"),
        (dist.StudentT(torch.full((3,), 3.0)), "no closed-form KL between StudentT and Normal"),
    ],
)
def test_where_there_is_none_it_says_why(q, reason):
    with pytest.raises(NotImplementedError, match=reason):
        closed_form("z", *traces(q, NORMAL))


def test_a_prior_whose_parents_are_drawn_later():
    vae = models.VAE((6,), latents=(4, 3, 2), likelihood=likelihoods.Gaussian())
    upwards, downwards = (
        trace_pair(vae, guide, torch.zeros(5, 6))
        for guide in (guides.BottomUp(vae), guides.Ladder(vae))
    )
    assert [sampled_later(s, *upwards) for s in ("z1", "z2", "z3")] == [["z3", "z2"], ["z3"], []]
    assert [sampled_later(s, *downwards) for s in ("z1", "z2", "z3")] == [[], [], []]
    check_order(*downwards)
    with pytest.raises(ValueError, match="samples 'z3', which the prior of 'z2' may depend on"):
        check_order(*upwards)
