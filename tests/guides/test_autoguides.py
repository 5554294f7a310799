"""Pyro's autoguides over a model of ours, and guides with auxiliary sites of their own."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, autoguide

from pyro_vae import Trainer, diagnostics, handlers, infer, regularizers
from pyro_vae.guides import PerDatum
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE


def parts(vae):
    """One layer by ``AutoNormal``, one by a joint normal."""
    guide = autoguide.AutoGuideList(vae)
    guide.append(autoguide.AutoNormal(poutine.block(vae, hide=["z2"])))
    guide.append(autoguide.AutoDiagonalNormal(poutine.block(vae, hide=["z1"])))
    return guide


PER_SITE = {"AutoNormal": autoguide.AutoNormal}
JOINT = {
    "AutoDiagonalNormal": autoguide.AutoDiagonalNormal,
    "AutoMultivariateNormal": autoguide.AutoMultivariateNormal,
    "AutoLowRankMultivariateNormal": autoguide.AutoLowRankMultivariateNormal,
    "AutoIAFNormal": autoguide.AutoIAFNormal,
    "AutoStructured": autoguide.AutoStructured,
    "AutoGuideList": parts,
}
POINTS = {
    "AutoDelta": autoguide.AutoDelta,
    "AutoLaplaceApproximation": autoguide.AutoLaplaceApproximation,
}
MESSENGERS = {
    "AutoNormalMessenger": autoguide.AutoNormalMessenger,
    "AutoHierarchicalNormalMessenger": autoguide.AutoHierarchicalNormalMessenger,
    "AutoRegressiveMessenger": autoguide.AutoRegressiveMessenger,
}
ALL = PER_SITE | JOINT | POINTS | MESSENGERS


def pair_of(make, n=12):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    vae = VAE((6,), (3, 2), likelihood=Gaussian(), hidden=(5,))
    return vae, make(vae), torch.randn(n, 6)


@pytest.mark.parametrize("name", ALL)
def test_the_loss_is_pyros_and_the_terms_add_up(name):
    vae, guide, x = pair_of(ALL[name])
    guide(x)
    with torch.random.fork_rng():
        stock = Trace_ELBO().differentiable_loss(vae, guide, x)
    loss, terms = infer.TraceELBO()(vae, guide, x)
    torch.testing.assert_close(loss, stock, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(-terms.elbo.sum(), loss.detach(), rtol=1e-5, atol=1e-3)
    assert set(terms.kl) == {"z1", "z2"}
    assert infer.check_pair(vae, guide, x).latents == {"z2": (2,), "z1": (3,)}


@pytest.mark.parametrize("name", ALL)
def test_training_is_that_of_stock_pyro(name):
    """The same seed and steps; the parameters agree to the rounding of ten steps of Adam."""
    found = []
    for loss in (None, infer.TraceELBO(), Trace_ELBO()):
        vae, guide, x = pair_of(ALL[name])
        guide(x)
        if loss is None:
            svi = SVI(vae, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        else:
            svi = infer.SVI(vae, guide, lambda p: torch.optim.Adam(p, lr=1e-2), loss)
        pyro.set_rng_seed(1)
        losses = torch.tensor([float(svi.step(x)) for _ in range(10)])
        weights = [p.detach().flatten() for m in (vae, guide) for p in m.parameters()]
        found.append((losses, torch.cat(weights)))
    stock, *ours = found
    for own in ours:
        torch.testing.assert_close(own, stock, rtol=1e-3, atol=1e-3)


def test_all_data_make_the_autoguide_whoever_is_first():
    for use in (
        lambda *pair: infer.SVI(*pair[:2]).step(pair[2]),
        infer.check_pair,
        infer.elbo_terms,
        lambda *pair: infer.ImportanceWeightedELBO(3)(*pair),
    ):
        vae, guide, x = pair_of(autoguide.AutoNormal)
        use(vae, guide, x)
        assert guide(x)["z1"].shape == (12, 3)
        assert len(list(guide.parameters())) == 4


def test_evaluation():
    vae, guide, x = pair_of(autoguide.AutoNormal)
    guide(x)
    q = {s: guide.median()[s] for s in ("z1", "z2")}
    # Batches are for other guides
    result = diagnostics.evaluate(vae, guide, x, batch_size=5, importance_samples=0)
    torch.testing.assert_close(result.terms.elbo, infer.elbo_terms(vae, guide, x).elbo)
    code = infer.encode(guide, x)
    assert list(code.mean) == ["z2", "z1"]
    for site, value in q.items():
        torch.testing.assert_close(code.mean[site], value)
    assert infer.reconstruct(vae, guide, x).shape == x.shape


def test_log_p_by_an_autoguide_at_the_exact_posterior(linear):
    """All weights are equal, so that a few samples give the evidence to rounding."""
    x = linear.data(9)
    guide = autoguide.AutoNormal(linear.vae)
    guide(x)
    mean, sd = linear.posterior(x)
    with torch.no_grad():
        guide.locs.z1.copy_(mean)
        guide.scales.z1_unconstrained.copy_(sd.expm1().log().expand_as(mean))
    evidence = linear.evidence().log_prob(x)
    found = infer.importance(linear.vae, guide, x, samples=5)
    torch.testing.assert_close(found.log_likelihood, evidence, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        infer.elbo_terms(linear.vae, guide, x).elbo, evidence, rtol=1e-4, atol=1e-4
    )
    loss, _ = infer.ImportanceWeightedELBO(4)(linear.vae, guide, x)
    torch.testing.assert_close(-loss.detach(), evidence.sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", JOINT)
def test_one_draw_for_all_data_has_no_weights_per_datum(name):
    vae, guide, x = pair_of(JOINT[name])
    guide(x)
    with pytest.raises(ValueError, match=r"draws the latents of all data as one.*importance_sam"):
        infer.importance(vae, guide, x, samples=5)
    terms = diagnostics.evaluate(vae, guide, x, importance_samples=0).terms
    assert terms.elbo.shape == (12,)


def test_a_point_mass_stays_one():
    vae, guide, x = pair_of(autoguide.AutoDelta)
    assert infer.check_pair(vae, guide, x).point_masses == ("z2", "z1")
    mixed = autoguide.AutoGuideList(vae)
    mixed.append(autoguide.AutoNormal(poutine.block(vae, hide=["z2"])))
    mixed.append(autoguide.AutoDelta(poutine.block(vae, hide=["z1"])))
    assert infer.check_pair(vae, mixed, x).point_masses == ("z2",)


class TestRefused:
    def test_minibatches(self):
        vae, guide, x = pair_of(autoguide.AutoNormal)
        for use in (
            lambda: Trainer(vae, guide),
            lambda: Trainer(vae, PerDatum(vae, x)).swap_guide(guide),
        ):
            with pytest.raises(ValueError, match=r"guide: AutoNormal .* guides.PerDatum"):
                use()
        Trainer(vae, PerDatum(vae, x)).fit(x, epochs=1, batch_size=5, progress=False)

    def test_other_data(self):
        vae, guide, x = pair_of(autoguide.AutoNormal)
        guide(x)
        for use in (infer.elbo_terms, infer.check_pair, lambda m, g, x: infer.encode(g, x)):
            with pytest.raises(ValueError, match="AutoNormal has parameters for each of 12 data"):
                use(vae, guide, x[:5])

    def test_what_needs_densities_of_the_latents(self):
        vae, guide, x = pair_of(autoguide.AutoNormal)
        guide(x)
        message = r"site 'z2_unconstrained': .* needs densities .* guides.PerDatum"
        with pytest.raises(ValueError, match=message):
            diagnostics.collapse(vae, guide, x)
        with pytest.raises(ValueError, match=message):
            infer.TraceELBO()(vae, handlers.free_bits(guide, 0.1), x)
        with pytest.raises(ValueError, match="no closed-form KL"):
            infer.AnalyticELBO()(vae, guide, x)
        assert diagnostics.collapse(vae, PerDatum(vae, x), x).units

    def test_regularizers(self):
        _, guide, x = pair_of(autoguide.AutoNormal)
        with pytest.raises(ValueError, match="site 'z2_unconstrained': regularize needs"):
            handlers.regularize(guide, regularizers.MMD(), site="z1")(x)

    def test_beta_by_site(self):
        _, guide, x = pair_of(autoguide.AutoNormal)
        with pytest.raises(ValueError, match=r"beta: .* auxiliary site 'z2_unconstrained'"):
            handlers.scale_latents(guide, {"z1": 0.5})(x)

    def test_one_that_runs_the_model(self):
        vae, guide, x = pair_of(autoguide.AutoNormalMessenger)
        for use in (
            infer.importance,
            diagnostics.collapse,
            infer.ImportanceWeightedELBO(2),
            lambda _, guide, x: infer.encode(guide, x),
        ):
            with pytest.raises(ValueError, match="AutoNormalMessenger runs the model itself"):
                use(vae, guide, x)

    def test_one_that_runs_another_model(self):
        vae, guide, x = pair_of(autoguide.AutoNormalMessenger)
        for pair in (
            (copy.deepcopy(vae), guide),
            (handlers.scale_latents(vae, 0.5), guide),
            (vae, handlers.scale_latents(guide, 0.5)),
        ):
            for use in (
                infer.check_pair,
                lambda *given: infer.SVI(*given[:2], loss=Trace_ELBO()).step(given[2]),
            ):
                with pytest.raises(ValueError, match="runs the model that it was made of"):
                    use(*pair, x)

    def test_a_mark_in_the_model(self):
        def model(x):
            with pyro.plate("data", len(x)):
                pyro.sample("u", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
                pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("u", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})

        with pytest.raises(ValueError, match="site 'u' of the model is marked is_auxiliary"):
            infer.check_pair(model, guide, torch.zeros(3))


def test_beta_weighs_an_auxiliary_site_as_its_latent():
    vae, guide, x = pair_of(autoguide.AutoNormal)
    guide(x)
    scaled = (handlers.scale_latents(program, 0.3) for program in (vae, guide))
    with torch.random.fork_rng():
        loss, _ = infer.TraceELBO()(*scaled, x)
    _, terms = infer.TraceELBO()(vae, guide, x)
    expected = terms.reconstruction - 0.3 * sum(terms.kl.values())
    torch.testing.assert_close(-loss.detach(), expected.sum())


class Amortised(torch.nn.Module):
    """z = exp(u), u ~ N(mu(x), s): log q(z) = log q(u) - u, as an auxiliary site and in one."""

    def __init__(self, auxiliary):
        super().__init__()
        self.loc, self.auxiliary = torch.nn.Linear(3, 1), auxiliary

    def forward(self, x):
        normal = dist.Normal(self.loc(x).squeeze(-1), 0.5)
        with pyro.plate("data", len(x)):
            if self.auxiliary:
                u = pyro.sample("u", normal, infer={"is_auxiliary": True})
                pyro.sample("z", dist.Delta(u.exp(), log_density=-u))
            else:
                exponential = dist.transforms.ExpTransform()
                pyro.sample("z", dist.TransformedDistribution(normal, exponential))


def test_an_auxiliary_site_is_another_way_to_write_a_density():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(-1, 3), 1.0).to_event(1), obs=x)

    two, one = Amortised(True), Amortised(False)
    one.load_state_dict(two.state_dict())
    x = torch.randn(7, 3)
    estimates = []
    for guide in (one, two):
        assert infer.check_pair(model, guide, x).point_masses == ()
        terms = infer.elbo_terms(model, guide, x, samples=3)
        weights = infer.importance(model, guide, x, samples=20).log_likelihood
        with torch.random.fork_rng():
            loss, _ = infer.ImportanceWeightedELBO(4)(model, guide, x)
        estimates.append((terms.elbo, terms.kl["z"], weights, loss))
    torch.testing.assert_close(*estimates, rtol=1e-4, atol=1e-4)
