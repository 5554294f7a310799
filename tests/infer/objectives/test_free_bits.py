import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

from pyro_vae import Trainer, guides, handlers, infer, likelihoods, load
from pyro_vae.models import VAE

X = torch.randn(30, 6, generator=torch.Generator().manual_seed(1))


def pair(latents=2, scale=1.0):
    vae = VAE((6,), latents, likelihood=likelihoods.Gaussian(), hidden=(8,))
    guide = guides.BottomUp(vae)
    for conditional in guide.conditionals.values():
        nn.init.normal_(conditional.loc.weight, std=scale)
    return vae, guide


def gradients(estimator, model, guide):
    """Loss, terms, and the gradient of every parameter, from the same draws."""
    torch.manual_seed(3)
    loss, terms = estimator(model, guide, X)
    parameters = [*model.parameters(), *guide.parameters()]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    both = zip(parameters, found, strict=True)
    return loss, terms, [torch.zeros_like(p) if g is None else g for p, g in both]


ESTIMATORS = [infer.TraceELBO(), infer.AnalyticELBO(), infer.TraceELBO(reduction="mean")]


def closed_form(guide):
    q = guide.conditionals["z1"](X)
    kl = kl_divergence(q, dist.Normal(torch.zeros(2), 1.0).to_event(1))
    return float(kl.detach().mean())


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_no_free_bits_change_nothing_bit_for_bit(estimator):
    vae, guide = pair()
    expected = gradients(estimator, vae, guide)
    below = 0.5 * closed_form(guide)
    for nats in (0.0, below, {"z1": below}):
        loss, terms, found = gradients(estimator, vae, handlers.free_bits(guide, nats))
        assert torch.equal(loss, expected[0])
        assert all(map(torch.equal, found, expected[2]))
        assert torch.equal(terms.elbo, expected[1].elbo)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_below_the_free_amount_the_kl_is_a_constant_without_gradient(estimator, beta):
    vae, guide = pair()
    nats = closed_form(guide) + 0.5
    scaled = handlers.scale_latents(vae, beta), handlers.scale_latents(guide, beta)
    _, plain, without_kl = gradients(
        estimator, handlers.scale_latents(vae, 0.0), handlers.scale_latents(guide, 0.0)
    )
    for model, program in (
        (handlers.free_bits(scaled[0], nats), scaled[1]),
        (scaled[0], handlers.free_bits(scaled[1], nats)),
        (handlers.free_bits(scaled[0], 0.1), handlers.free_bits(scaled[1], nats)),
    ):
        loss, terms, found = gradients(estimator, model, program)
        n = 1 if estimator.reduction == "mean" else len(X)
        expected = -n * (plain.reconstruction.mean() - beta * nats)
        torch.testing.assert_close(loss.detach(), expected)
        assert all(map(torch.equal, found, without_kl))
        # The bound that is reported is not clamped
        assert torch.equal(terms.elbo, plain.elbo)


def test_free_bits_per_site():
    """z2 below its amount, z1 above: the objective without the KL of z2."""
    vae, guide = pair((3, 2), scale=3.0)
    nn.init.zeros_(guide.conditionals["z2"].loc.weight)
    free = handlers.free_bits(guide, {"z1": 0.1, "z2": 50.0})
    loss, terms, found = gradients(infer.TraceELBO(), vae, free)
    without = {"z1": 1.0, "z2": 0.0}
    _, _, expected = gradients(
        infer.TraceELBO(),
        handlers.scale_latents(vae, without),
        handlers.scale_latents(guide, without),
    )
    assert all(map(torch.equal, found, expected))
    value = terms.reconstruction.sum() - terms.kl["z1"].sum() - 30 * 50.0
    torch.testing.assert_close(-loss.detach(), value)


def test_the_decision_is_by_the_closed_form_not_by_the_draw():
    """A draw of a small batch has a negative log q - log p now and then; the KL has not."""
    vae, guide = pair(scale=0.3)
    amount = closed_form(guide)
    for seed in range(20):
        torch.manual_seed(seed)
        low, _ = infer.TraceELBO()(vae, handlers.free_bits(guide, 0.99 * amount), X)
        torch.manual_seed(seed)
        plain, terms = infer.TraceELBO()(vae, guide, X)
        torch.manual_seed(seed)
        high, _ = infer.TraceELBO()(vae, handlers.free_bits(guide, 1.01 * amount), X)
        assert low == plain
        torch.testing.assert_close(high, -terms.reconstruction.sum() + 30 * 1.01 * amount)


def test_where_there_is_no_closed_form_the_draw_decides():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.StudentT(5.0, x[:, 0], 0.5))

    torch.manual_seed(0)
    plain, terms = infer.TraceELBO()(model, guide, X)
    kl = float(terms.kl["z"].mean())
    for nats, expected in ((0.9 * kl, plain), (2 * kl, -terms.reconstruction.sum() + 60 * kl)):
        torch.manual_seed(0)
        loss, _ = infer.TraceELBO()(model, handlers.free_bits(guide, nats), X)
        torch.testing.assert_close(loss, expected)


def parts_by_hand(vae, guide):
    """log p(x|z) and the KL terms, (7, n), at the next seven draws of a hierarchy; and z1."""
    z1 = guide.conditionals["z1"](X).expand((7, len(X)))
    q1 = z1.rsample()
    z2 = guide.conditionals["z2"](q1)
    q2 = z2.rsample()
    kl = {
        "z1": z1.log_prob(q1) - vae.conditionals["z1"](q2).log_prob(q1),
        "z2": z2.log_prob(q2) - vae.conditionals["z2"]().log_prob(q2),
    }
    return vae.likelihood(vae.decoder(q1)).to_event(1).log_prob(X), kl, q1


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_under_the_importance_weighted_bound(beta):
    """A site below its amount leaves the weights, with a gradient of exactly 0, and is charged."""
    vae, guide = pair((3, 2))
    estimator = infer.ImportanceWeightedELBO(7)
    scaled = handlers.scale_latents(vae, beta), handlers.scale_latents(guide, beta)
    free = handlers.free_bits(scaled[1], {"z1": 0.01, "z2": 50.0})
    estimator(scaled[0], free, X)
    loss, terms, found = gradients(estimator, scaled[0], free)
    without = {"z1": beta, "z2": 0.0}
    _, plain, expected = gradients(
        estimator, handlers.scale_latents(vae, without), handlers.scale_latents(guide, without)
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(terms.elbo, plain.elbo)
    torch.manual_seed(3)
    with torch.no_grad():
        log_x, kl, q1 = parts_by_hand(vae, guide)
        bound = (log_x - beta * kl["z1"]).logsumexp(0) - math.log(7)
    torch.testing.assert_close(-loss.detach(), bound.sum() - 30 * beta * 50.0)
    # The decision is by the mean over data and particles of the closed form, as z2 is on top
    both = guide.conditionals["z2"](q1), vae.conditionals["z2"]().expand((7, 30))
    amount = float(kl_divergence(*both).mean().detach())
    for nats, kept in ((0.999 * amount, True), (1.001 * amount, False)):
        program = handlers.free_bits(guide, {"z2": nats})
        estimator(vae, program, X)
        loss, _, _ = gradients(estimator, vae, program)
        bound = (log_x - sum(kl.values())).logsumexp(0) - math.log(7)
        if not kept:
            bound = (log_x - kl["z1"]).logsumexp(0) - math.log(7) - nats
        torch.testing.assert_close(-loss.detach(), bound.sum())


def test_under_the_importance_weighted_bound_where_nothing_broadcasts():
    """A row per particle decides and charges alike."""

    def model(x):
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=2.0):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[:, :2])

    def guide(x):
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=2.0):
            z = pyro.sample("z", dist.Normal(0.5 * x[:, :2], 0.5).to_event(1))
            _, _ = z.shape  # as much code does

    estimator = infer.ImportanceWeightedELBO(3)
    free = handlers.free_bits(guide, 40.0)
    estimator.prepare(model, free, X)
    assert not estimator.vectorised[free]
    torch.manual_seed(3)
    loss, _ = estimator(model, free, X)
    torch.manual_seed(3)
    z = dist.Normal(0.5 * X[:, :2].repeat(3, 1), 0.5).sample()
    log_x = 2 * dist.Normal(z, 1.0).log_prob(X[:, :2].repeat(3, 1)).sum(-1).reshape(3, 30)
    bound = log_x.logsumexp(0) - math.log(3)
    torch.testing.assert_close(-loss, bound.sum() - 30 * 2 * 40.0)


def test_the_larger_amount_counts_where_a_program_is_wrapped_twice():
    vae, guide = pair()
    high = closed_form(guide) + 3.0
    for first, second in ((1e-3, high), (high, 1e-3), (1e-3, {"z1": high}), ({"z1": high}, 0.0)):
        nested = handlers.free_bits(handlers.free_bits(guide, first), second)
        loss, terms, _ = gradients(infer.AnalyticELBO(), vae, nested)
        expected = -terms.reconstruction.sum() + 30 * high
        torch.testing.assert_close(loss.detach(), expected)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_scale_of_each_datum_weighs_its_share(estimator):
    vae, guide = pair()
    weights, nats = X[:, 0].abs() + 0.5, closed_form(guide) + 0.5

    def scaled(x):
        with pyro.poutine.scale(scale=weights):
            guide(x)

    def model(x):
        with pyro.poutine.scale(scale=weights):
            vae(x)

    loss, terms = estimator(model, handlers.free_bits(scaled, nats), X)
    n = 30 if estimator.reduction == "mean" else 1
    expected = (weights * (nats - terms.reconstruction)).sum()
    torch.testing.assert_close(n * loss.detach(), expected)


@pytest.mark.parametrize("estimator", ["trace", infer.ImportanceWeightedELBO(3, "mean")])
def test_eager_and_graph_are_equal(estimator):
    losses = []
    for engine in ("eager", "graph"):
        torch.manual_seed(0)
        vae, guide = pair((3, 2))
        guide = handlers.free_bits(guide, 1.5)
        # As far as the KL of a site passes its amount
        options = {"lr": 1e-2, "seed": 0, "engine": engine}
        trainer = Trainer(vae, guide, beta=2.0, elbo=estimator, **options)
        trainer.fit(X, epochs=12, batch_size=10, progress=False)
        losses.append([row["objective"] for row in trainer.history])
    assert losses[0] == losses[1]


def test_where_the_prior_of_a_site_is_sampled_later_the_draw_decides():
    """Bottom-up, p(z1|z2) moves with the draw of z1: its closed-form KL is not the site's term."""

    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x[:, 0], 0.5))
            pyro.sample("z2", dist.Normal(z1, 0.1))

    torch.manual_seed(0)
    _, terms = infer.TraceELBO()(model, guide, X)
    kl = {site: float(value.mean()) for site, value in terms.kl.items()}
    # E[log q(z1) - log p(z1|z2)] = log 2 - 1/2 + 0.1^2 / 2; the closed form has 1/4 more
    assert kl["z1"] == pytest.approx(math.log(2) - 0.495, abs=0.15)
    for nats, counted in ((kl["z1"] - 0.01, kl["z1"]), (kl["z1"] + 0.01, kl["z1"] + 0.01)):
        torch.manual_seed(0)
        loss, _ = infer.TraceELBO()(model, handlers.free_bits(guide, {"z1": nats}), X)
        expected = -terms.reconstruction.mean() + kl["z2"] + counted
        torch.testing.assert_close(loss / len(X), expected)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("inner", "outer"), [(2.0, 0.5), (0.5, 2.0), ({"z1": 2.0}, 0.5)])
def test_of_free_bits_on_free_bits_the_larger_amount_counts(estimator, inner, outer):
    vae, guide = pair(scale=0.1)
    expected = gradients(estimator, vae, handlers.free_bits(guide, 2.0))
    plain = gradients(estimator, vae, guide)
    assert expected[0] != plain[0]
    nested = handlers.free_bits(handlers.free_bits(guide, inner), outer)
    loss, terms, found = gradients(estimator, vae, nested)
    assert torch.equal(loss, expected[0])
    assert all(map(torch.equal, found, expected[2]))
    assert torch.equal(terms.elbo, plain[1].elbo)


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_training_fills_the_free_amount(engine):
    """Data of pure noise: without free bits the KL goes to 0, with them it stays near there."""
    torch.manual_seed(0)
    vae, guide = pair()
    noise = torch.randn(200, 6)
    finals = {}
    for nats in (0.0, 1.0):
        model, inference = copy.deepcopy((vae, guide))
        inference = handlers.free_bits(inference, nats)
        trainer = Trainer(model, inference, elbo="analytic", lr=3e-2, seed=0, engine=engine)
        trainer.fit(noise, epochs=25, batch_size=50, progress=False)
        finals[nats] = trainer.history[-1]
    assert finals[0.0]["kl"]["z1"] < 0.2
    assert 0.8 < finals[1.0]["kl"]["z1"] < 1.3
    row = finals[1.0]
    assert row["elbo"] == pytest.approx(row["reconstruction"] - row["kl"]["z1"])
    assert row["objective"] == pytest.approx(
        row["reconstruction"] - max(1.0, row["kl"]["z1"]), abs=0.05
    )


def test_saved_and_loaded(tmp_path):
    vae, guide = pair()
    trainer = Trainer(vae, handlers.free_bits(guide, {"z1": 0.7}), seed=0)
    trainer.fit(X, epochs=1, progress=False).save(tmp_path / "pair.pt")
    again = load(tmp_path / "pair.pt")
    trainer.fit(X, epochs=2, progress=False)
    again.fit(X, epochs=2, progress=False)
    assert again.history[-1]["objective"] == trainer.history[-1]["objective"]
    assert "free_bits(nats={'z1': 0.7})" in repr(again.guide)


def test_stock_pyro_is_not_changed():
    vae, guide = pair()
    torch.manual_seed(0)
    expected = pyro.infer.Trace_ELBO().loss(vae, guide, X)
    torch.manual_seed(0)
    assert pyro.infer.Trace_ELBO().loss(vae, handlers.free_bits(guide, 10.0), X) == expected


@pytest.mark.parametrize("nats", [-1.0, math.inf, math.nan, {"z1": -0.1}])
def test_amounts_that_make_no_sense(nats):
    with pytest.raises(ValueError, match=r"nats.*: expected a finite number >= 0"):
        handlers.free_bits(pair()[1], nats)


def test_names_and_types():
    with pytest.raises(TypeError, match="nats: expected a number"):
        handlers.free_bits(pair()[1], "0.5")
    _, guide = pair()
    with pytest.raises(ValueError, match="nats: expected one of z1, got 'z9'"):
        handlers.free_bits(guide, {"z9": 1.0})(X)
