import math

import pytest
import torch
from chance import sigmas
from torch import nn

from pyro_vae import infer
from pyro_vae.guides import BottomUp, Composed, Delta, Flow, FullCovariance, Ladder, SemiAmortized
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import VAE


def nonlinear(latents=(4, 3), **kwargs):
    return VAE((6,), latents, **({"likelihood": Gaussian(0.4), "hidden": (16,)} | kwargs))


def data(n, seed=1):
    """Noisy points around a curve in six dimensions."""
    generator = torch.Generator().manual_seed(seed)
    t = 2 * torch.randn(n, 1, generator=generator)
    x = torch.cat([t, t.sin(), t.cos(), t**2 / 4, -t, (2 * t).sin()], 1)
    return x + 0.2 * torch.randn(n, 6, generator=generator)


def test_no_steps_are_the_guide_itself():
    vae = nonlinear()
    guide, x = BottomUp(vae), data(8)
    refined = SemiAmortized(guide, steps=0)
    with torch.random.fork_rng():
        expected = guide(x)
    z = refined(x)
    assert all(torch.equal(z[site], expected[site]) for site in ("z1", "z2"))
    assert refined.latents == ("z1", "z2")


@pytest.mark.parametrize("build", [BottomUp, Ladder])
@pytest.mark.parametrize("latents", [4, (4, 3)])
def test_the_bound_on_held_data_is_never_worse(build, latents):
    """In short steps. Both bounds see the same noise, since refining draws none."""
    vae = nonlinear(latents)
    guide, x, held = build(vae), data(200), data(1000, seed=2)
    svi = infer.SVI(vae, guide, lambda p: torch.optim.Adam(p, lr=0.01), engine="graph")
    gains = {}
    for steps in (0, 20, 300):
        for _ in range(steps):
            svi.step(x)
        for refinements in (5, 20):
            refined = SemiAmortized(guide, steps=refinements, lr=0.05)
            before, after = (
                infer.elbo_terms(vae, g, held, samples=5).elbo for g in (guide, refined)
            )
            gain = (after - before).double()
            gains[steps, refinements] = gain.mean(), gain.std() / math.sqrt(len(held))
    for mean, error in gains.values():
        assert mean > -sigmas() * error
    for steps in (0, 20):
        for refinements in (5, 20):
            mean, error = gains[steps, refinements]
            assert mean > 4 * error
        assert gains[steps, 5][0] < gains[steps, 20][0]


def test_the_exact_posterior_is_found_from_afar(linear):
    x = linear.data(50)
    guide = SemiAmortized(linear.guide(shift=1.0, widen=2.0), steps=60, lr=0.3)
    mean, sd = linear.posterior(x)
    q0 = guide.guide.conditionals["z1"](x)
    shift, log_scale = guide.refine(x)["z1"]
    torch.testing.assert_close(q0.mean + shift, mean, atol=2e-3, rtol=0.0)
    torch.testing.assert_close(q0.stddev * log_scale.exp(), sd.expand(50, 2), atol=2e-3, rtol=0.0)
    elbo = infer.elbo_terms(linear.vae, guide, x).elbo
    torch.testing.assert_close(elbo, linear.evidence().log_prob(x), atol=1e-3, rtol=0.0)


def test_one_step_by_hand(linear):
    x = linear.data(50)
    guide = SemiAmortized(linear.guide(shift=0.2, widen=1.1), steps=1, lr=0.1)
    q = guide.guide.conditionals["z1"](x)
    e = guide.noise_z1[0]
    z = q.mean + q.stddev * e
    mean, sd = linear.posterior(x)
    # d log p(x, z) / dz - d log q(z|x) / dz, with q held fixed
    slope = (mean - z) / sd**2 + e / q.stddev
    shift, log_scale = guide.refine(x)["z1"]
    expected = 0.1 * q.stddev * (q.stddev * slope).clamp(-1, 1)
    torch.testing.assert_close(shift, expected, atol=1e-5, rtol=1e-4)
    expected = 0.1 * (slope * q.stddev * e / 2).clamp(-1, 1)
    torch.testing.assert_close(log_scale, expected, atol=1e-5, rtol=1e-4)
    assert (shift.abs() <= 0.1 * q.stddev + 1e-6).all()


def test_gradients_are_those_with_the_refined_parameters_plugged_in():
    vae = nonlinear(latents=4)
    guide, x = SemiAmortized(BottomUp(vae), steps=3), data(8)
    torch.manual_seed(3)
    loss, _ = infer.TraceELBO()(vae, guide, x)
    parameters = [*vae.parameters(), *guide.parameters()]
    found = torch.autograd.grad(loss, parameters)
    shift, log_scale = guide.refine(x)["z1"]
    q = guide.guide.conditionals["z1"](x)
    loc, scale = q.mean + shift, q.stddev * log_scale.exp()
    torch.manual_seed(3)
    z = loc + scale * torch.randn(8, 4)
    log_joint = (
        torch.distributions.Normal(vae.decoder(z), 0.4).log_prob(x).sum()
        + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum()
    )
    by_hand = torch.distributions.Normal(loc, scale).log_prob(z).sum() - log_joint
    torch.testing.assert_close(loss, by_hand)
    for gradient, expected in zip(found, torch.autograd.grad(by_hand, parameters), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)
    assert not shift.requires_grad
    assert not log_scale.requires_grad


def test_straight_through_to_the_initial_mean_and_log_sigma():
    vae = nonlinear(latents=4)
    guide, x = SemiAmortized(BottomUp(vae), steps=3), data(8)
    shift, log_scale = guide.refine(x)["z1"]
    initial = guide.guide.conditionals["z1"](x).base_dist
    refined = [(initial.loc + shift).detach(), (initial.scale * log_scale.exp()).log().detach()]
    leaves = [t.requires_grad_() for t in refined]
    with torch.random.fork_rng():
        eps = torch.randn(8, 4)
    z = leaves[0] + leaves[1].exp() * eps
    log_joint = (
        torch.distributions.Normal(vae.decoder(z), 0.4).log_prob(x).sum()
        + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum()
    )
    loss = torch.distributions.Normal(leaves[0], leaves[1].exp()).log_prob(z).sum() - log_joint
    at_refined = torch.autograd.grad(loss, leaves)
    own = list(guide.parameters())
    expected = torch.autograd.grad([initial.loc, initial.scale.log()], own, at_refined)
    found = torch.autograd.grad(infer.TraceELBO()(vae, guide, x)[0], own)
    for gradient, value in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("build", [BottomUp, Ladder])
def test_refining_leaves_no_trace(build):
    vae = nonlinear(norm=nn.BatchNorm1d)
    guide, x = SemiAmortized(build(vae), steps=3), data(8)
    for parameter in (*vae.parameters(), *guide.parameters()):
        parameter.grad = torch.full_like(parameter, 7.0)
    tensors = [*vae.state_dict().values(), *guide.state_dict().values()]
    before, rng = [t.clone() for t in tensors], torch.get_rng_state()
    with torch.no_grad():
        first = guide.refine(x)
    second = guide.refine(x)
    for site in ("z1", "z2"):
        assert all(map(torch.equal, first[site], second[site]))
        assert first[site][0].abs().sum() > 0
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(map(torch.equal, tensors, before))
    assert all((p.grad == 7).all() for p in (*vae.parameters(), *guide.parameters()))
    assert vae.training
    assert guide.guide.training


def test_each_datum_is_refined_for_itself():
    vae = nonlinear(norm=nn.BatchNorm1d)
    guide, x = SemiAmortized(BottomUp(vae)), data(8)
    alone = [guide.refine(row[None]) for row in x]
    together = guide.refine(x)
    for site in ("z1", "z2"):
        for i in range(2):
            rows = torch.cat([r[site][i] for r in alone])
            torch.testing.assert_close(rows, together[site][i], rtol=1e-4, atol=1e-5)


def test_importance_sampling_refines_each_datum_once(monkeypatch):
    vae = nonlinear()
    guide, x = SemiAmortized(BottomUp(vae)), data(8)
    sizes = []
    step = SemiAmortized._step

    def counted(self, number, offsets, x):
        sizes.append(len(x.args[0]))
        return step(self, number, offsets, x)

    infer.check_pair(vae, guide, x)
    monkeypatch.setattr(SemiAmortized, "_step", counted)
    infer.importance(vae, guide, x, samples=100)
    assert sizes.count(8) == guide.steps
    # The others are the library's checks with two data
    assert all(n in (2, 6) for n in sizes if n != 8)


def test_the_analytic_kl_is_that_of_the_refined_normals():
    vae = nonlinear(latents=4)
    guide, x = SemiAmortized(BottomUp(vae)), data(8)
    terms = infer.elbo_terms(vae, guide, x, estimator=infer.AnalyticELBO())
    shift, log_scale = guide.refine(x)["z1"]
    # Evaluation mode and training mode are the same without BatchNorm
    q = guide.guide.conditionals["z1"](x)
    loc, scale = q.mean + shift, q.stddev * log_scale.exp()
    expected = 0.5 * (loc.square() + scale.square() - 2 * scale.log() - 1).sum(-1)
    torch.testing.assert_close(terms.kl["z1"], expected.detach())


def test_labels():
    vae = nonlinear(condition=3, likelihood=Bernoulli())
    guide, x, y = (
        SemiAmortized(BottomUp(vae)),
        torch.randint(2, (8, 6)).float(),
        torch.arange(8) % 3,
    )
    offsets = guide.refine(x, y=y), guide.refine(x, y=(y + 1) % 3)
    assert not torch.equal(offsets[0]["z1"][0], offsets[1]["z1"][0])
    infer.elbo_terms(vae, guide, x, y=y)


def test_arguments():
    vae = nonlinear()
    guide = BottomUp(vae)
    with pytest.raises(TypeError, match=r"guide: expected a guide such as BottomUp.*got VAE"):
        SemiAmortized(vae)
    with pytest.raises(ValueError, match="steps: expected a whole number of at least 0, got -1"):
        SemiAmortized(guide, steps=-1)
    for lr in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"lr: expected a number in \(0, 1\]"):
            SemiAmortized(guide, lr=lr)
    for other in (FullCovariance(vae), Flow(vae), Delta(vae)):
        with pytest.raises(TypeError, match="site 'z1': expected a diagonal normal to refine"):
            SemiAmortized(other)
    with pytest.raises(ValueError, match=r"guide: .* leaves out \['z2'\]: join the parts"):
        SemiAmortized(BottomUp(vae, sites=["z1"]))
    parts = Composed(BottomUp(vae, sites=["z1"]), BottomUp(vae, sites=["z2"]))
    assert SemiAmortized(parts).refine(data(3))["z2"][0].shape == (3, 3)
    assert repr(SemiAmortized(guide)).startswith("SemiAmortized(steps=5, lr=0.2) of\nBottomUp\n")
