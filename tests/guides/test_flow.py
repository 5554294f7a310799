import math

import pytest
import torch
from chance import excess
from pyro.distributions.transforms import AffineAutoregressive
from torch import nn

from pyro_vae import infer
from pyro_vae.conditionals.flow import AutoregressiveFlow
from pyro_vae.conditionals.normal import DiagonalNormal
from pyro_vae.ground import recorded
from pyro_vae.guides import BottomUp, Flow
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE


class Parabola(nn.Module):
    """E[x|z] = z_2 + z_1^2, so that the posterior is bent along a parabola."""

    def forward(self, z):
        return z[..., 1:] + z[..., :1].square()


class Banana:
    sigma = 0.3

    def __init__(self):
        self.vae = VAE((1,), 2, likelihood=Gaussian(self.sigma), decoder=Parabola(), hidden=(32,))

    def evidence(self, x):
        """log p(x) by quadrature over [-7, 7]^2, (n,)."""
        axis = torch.linspace(-7, 7, 281)
        z = torch.cartesian_prod(axis, axis)
        log_prior = -0.5 * z.square().sum(-1) - math.log(2 * math.pi)
        x_given_z = torch.distributions.Normal(Parabola()(z)[:, 0], self.sigma)
        cell = 2 * math.log(axis[1] - axis[0])
        return torch.stack([(log_prior + x_given_z.log_prob(v)).logsumexp(0) + cell for v in x])


def test_the_bound_is_closer_than_mean_field_on_a_bent_posterior():
    banana = Banana()
    # Larger x have two arms, a question of modes
    x = torch.linspace(-1.5, 0.5, 100)[:, None]
    evidence = banana.evidence(x)
    gaps = {}
    for guide in (BottomUp(banana.vae), Flow(banana.vae, steps=4)):
        for lr, steps in ((0.02, 250), (0.003, 750)):
            svi = infer.SVI(
                banana.vae,
                guide,
                lambda p, lr=lr: torch.optim.Adam(p, lr=lr),
                infer.TraceELBO("mean"),
                engine="graph",
            )
            for _ in range(steps):
                svi.step(x)
        elbo = infer.elbo_terms(banana.vae, guide, x, samples=50).elbo
        gaps[type(guide)] = float((evidence - elbo).mean())
    assert gaps[BottomUp] > 0.2
    assert 0 < gaps[Flow] < 0.3 * gaps[BottomUp]
    base = guide.conditionals["z1"].base
    with torch.no_grad():  # wider than what is left of the gap, so that weights have a variance
        base.raw_scale.bias += 1.0
    estimate = infer.importance(banana.vae, guide, x, samples=2000)
    error = estimate.standard_error.square().sum().sqrt()
    assert excess((estimate.log_likelihood - evidence).sum() / error) < 1


@pytest.mark.parametrize(("additive", "name"), [(True, "_inverse"), (False, "_inverse_stable")])
def test_training_and_importance_sampling_invert_nothing(additive, name, monkeypatch):
    rows = []
    inverse = getattr(AffineAutoregressive, name)

    def counted(self, y):
        rows.append(y[..., 0].numel())
        return inverse(self, y)

    monkeypatch.setattr(AffineAutoregressive, name, counted)
    vae = VAE((6,), (4, 3), likelihood=Gaussian(), hidden=(5,))
    guide, x = Flow(vae, additive=additive), torch.randn(10, 6)
    loss, _ = infer.TraceELBO()(vae, guide, x)
    loss.backward()
    infer.elbo_terms(vae, guide, x)
    assert rows == []
    infer.importance(vae, guide, x, samples=50)
    # Six rows, to see once whether the guide draws many samples from one encoding
    assert all(n <= 6 for n in rows)
    z = guide(x)["z1"]
    guide.conditionals["z1"](x).log_prob(z)
    assert rows[-1] == 10


def test_its_conditional_fits_into_other_guides():
    vae = VAE((6,), (4, 3), likelihood=Gaussian(), hidden=(5,))
    conditional = AutoregressiveFlow(nn.Linear(4, 5), 5, 3, steps=3)
    guide, x = BottomUp(vae, conditionals={"z2": conditional}), torch.randn(10, 6)
    infer.check_pair(vae, guide, x)
    mean = guide.encode(x).mean
    torch.testing.assert_close(mean["z2"], conditional(mean["z1"]).mean)


def test_arguments():
    vae = VAE((6,), (4, 1), likelihood=Gaussian(), hidden=(5,))
    with pytest.raises(ValueError, match=r"of at least two numbers among \('z2',\), got one"):
        Flow(vae, sites=["z2"])
    # An affine map of a normal
    assert isinstance(Flow(vae).conditionals["z2"], DiagonalNormal)
    assert Flow(vae, sites=["z1"]).latents == ("z1",)
    steps = Flow(vae, sites=["z1"], steps=3, step_hidden=(9, 8)).conditionals["z1"].steps
    assert [[m.out_features for m in s.layers] for s in steps] == [[9, 8, 8]] * 3
    with pytest.raises(ValueError, match="hidden: expected at least one width, none below the 4"):
        Flow(vae, sites=["z1"], step_hidden=3)


def test_files_from_before_the_additive_steps_keep_theirs():
    vae = VAE((6,), 3, likelihood=Gaussian(), hidden=(5,))
    for given in ({}, {"additive": True}, {"additive": False}):
        guide = Flow(vae, **given)
        described = recorded.encode(guide, "guide")
        assert described["arguments"]["additive"] is given.get("additive", True)
        assert recorded.decode(described).arguments["additive"] is given.get("additive", True)
    del described["arguments"]["additive"]
    old = recorded.decode(described)
    assert old.arguments["additive"] is False
    old.load_state_dict(guide.state_dict())
    x = torch.randn(5, 6)
    z = old.conditionals["z1"](x).sample()
    q, p = (g.conditionals["z1"](x) for g in (old, guide))
    assert torch.equal(q.log_prob(z), p.log_prob(z))
    with pytest.raises(RuntimeError, match="limit"):
        Flow(vae).load_state_dict(guide.state_dict())
