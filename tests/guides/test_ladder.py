import copy
import itertools
import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from stepping import trained
from torch import nn
from torch.distributions import MultivariateNormal

from pyro_vae import Trainer, load
from pyro_vae.conditionals.normal import DiagonalNormal
from pyro_vae.guides import BottomUp, Ladder
from pyro_vae.handlers import scale_latents
from pyro_vae.infer import SVI, AnalyticELBO, TraceELBO, elbo_terms, importance
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import VAE
from pyro_vae.networks import MLP


class Chain:
    """zL ~ N(0, I), z_i|z_{i+1} ~ N(A_i z_{i+1}, s^2), x|z1 ~ N(W z1, sigma^2), orthonormal.

    With orthonormal columns every posterior q(z_i|z_{i+1}, x) is an isotropic normal, so that the
    ladder's factorisation holds the exact posterior.
    """

    sigma, s = 0.6, 0.5

    def __init__(self, latents, d=6):
        self.vae = VAE((d,), latents, likelihood=Gaussian(self.sigma), hidden=())
        self.W = torch.linalg.qr(torch.randn(d, latents[0])).Q
        self.A = [
            torch.linalg.qr(torch.randn(below, above)).Q
            for below, above in itertools.pairwise(latents)
        ]
        with torch.no_grad():
            self.vae.decoder.layers[0].weight.copy_(self.W)
            self.vae.decoder.layers[0].bias.zero_()
            for i, A in enumerate(self.A):
                set_linear(self.vae.conditionals[f"z{i + 1}"], A, self.s)
        covariance = torch.eye(latents[-1])
        self.covariances = []
        for A in reversed(self.A):
            covariance = A @ covariance @ A.T + self.s**2 * torch.eye(len(A))
            self.covariances.insert(0, covariance)
        covariance = self.W @ covariance @ self.W.T + self.sigma**2 * torch.eye(d)
        self.evidence = MultivariateNormal(torch.zeros(d), covariance)

    def mean_field_gap(self):
        """What the best q(z1|x) q(z2|z1) ... of diagonal normals lacks of the evidence.

        Each factor's target has a correlated precision P: 1/2 (sum log P_ii - log det P).
        """
        gap = 0.0
        for i, covariance in enumerate(self.covariances):
            noise = self.s if i else self.sigma
            precision = torch.eye(len(covariance)) / noise**2 + covariance.inverse()
            gap += 0.5 * float(precision.diagonal().log().sum() - precision.logdet())
        return gap

    def exact(self):
        """A ladder whose proposals are the messages p(x|z_i), the top's the posterior."""
        guide = Ladder(self.vae, upward="means")
        variance, top = self.sigma**2, self.vae.latents[0]
        with torch.no_grad():
            for i, site in enumerate(reversed(self.vae.latents)):
                message = self.W.T if i == 0 else self.A[i - 1].T
                variance += self.s**2 if i else 0
                shrink = 1 / (1 + variance) if site == top else 1.0
                set_linear(guide.heads[site], message * shrink, math.sqrt(variance * shrink))
        return guide


def set_linear(conditional, weight, scale):
    conditional.loc.weight.copy_(weight)
    conditional.loc.bias.zero_()
    conditional.raw_scale.weight.zero_()
    conditional.raw_scale.bias.fill_(math.log(math.expm1(scale - conditional.min_scale)))


@pytest.mark.parametrize("latents", [(3,), (4, 2), (4, 3, 2)])
def test_the_ladder_holds_the_exact_posterior_of_a_linear_gaussian_chain(latents):
    chain = Chain(latents)
    x = chain.evidence.sample((200,))
    terms = elbo_terms(chain.vae, chain.exact(), x)
    # Not on average: for the exact posterior log p(x, z) - log q(z|x) is log p(x) at every z
    torch.testing.assert_close(terms.elbo, chain.evidence.log_prob(x), atol=1e-4, rtol=0)


@pytest.mark.parametrize("latents", [(4, 2), (4, 3, 2)])
def test_training_reaches_the_evidence_where_bottom_up_does_not(latents):
    chain = Chain(latents)
    chain.vae.requires_grad_(False)
    x, fresh = chain.evidence.sample((2000,)), chain.evidence.sample((2000,))
    evidence = chain.evidence.log_prob(fresh).mean()
    gaps = {}
    for kind in (Ladder, BottomUp):
        guide = trained(chain.vae, kind(chain.vae), x, steps=500, lr=3e-2, batch_size=100)
        terms = elbo_terms(chain.vae, guide, fresh, samples=50)
        gaps[kind] = float(evidence - terms.elbo.mean())
    assert -0.02 < gaps[Ladder] < 0.05
    expected = chain.mean_field_gap()
    assert expected - 0.02 < gaps[BottomUp] < expected + 0.05
    assert gaps[Ladder] < gaps[BottomUp]


def build(kind=Ladder, latents=(5, 3, 2), **options):
    torch.manual_seed(0)
    vae = VAE((6,), latents, likelihood=Gaussian(), hidden=(8,), **options)
    return vae, kind(vae)


def test_posteriors_are_products_of_proposal_and_conditional():
    vae, guide = build()
    x = torch.randn(7, 6)
    trace = poutine.trace(guide).get_trace(x)
    z = {s: trace.nodes[s]["value"] for s in vae.latents}
    h, proposals = x, {}
    for site, network in guide.networks.items():
        h = network(h)
        proposals[site] = guide.heads[site](h).base_dist
    for site, above in (("z2", "z3"), ("z1", "z2")):
        q, p = proposals[site], vae.conditionals[site](z[above]).base_dist
        precision = q.variance.double() ** -1 + p.variance.double() ** -1
        mean = (q.mean / q.variance.double() + p.mean / p.variance.double()) / precision
        got = trace.nodes[site]["fn"].base_dist
        torch.testing.assert_close(got.mean.double(), mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got.variance.double(), 1 / precision, rtol=1e-4, atol=0)
    assert torch.equal(trace.nodes["z3"]["fn"].base_dist.mean, proposals["z3"].mean)


def test_a_layer_hands_up_its_activations_or_its_means():
    wide = [(64, 64), (32, 32)]
    vae = VAE((6,), (5, 3), likelihood=Gaussian(), hidden=wide)
    inputs = {
        upward: Ladder(vae, upward=upward).networks["z2"].layers[0].in_features
        for upward in ("activations", "means")
    }
    assert inputs == {"activations": 64, "means": 5}
    with pytest.raises(ValueError, match="upward: expected one of activations, means, got 'x'"):
        Ladder(vae, upward="x")


PAPER = {
    "likelihood": Bernoulli(),
    "hidden": [(w, w) for w in (512, 256, 128, 64, 32)],
    "activation": nn.LeakyReLU,
    "norm": nn.BatchNorm1d,
}


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        (BottomUp, {}, 1_711_560),
        (Ladder, {"upward": "means"}, 1_711_560),
        (Ladder, {}, 1_863_880),
    ],
)
def test_parameter_counts_of_the_papers_five_layers(kind, options, expected):
    vae = VAE((784,), (64, 32, 16, 8, 4), **PAPER)
    guide = kind(vae, **options)
    assert sum(p.numel() for m in (vae, guide) for p in m.parameters()) == expected


def batches(module):
    return {int(m.num_batches_tracked) for m in module.modules() if isinstance(m, nn.BatchNorm1d)}


def stock(vae, guide):
    return pyro.infer.SVI(vae, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())


STEPS = {
    "stock": stock,
    "eager": SVI,
    "graph": lambda vae, guide: SVI(vae, guide, engine="graph"),
}


@pytest.mark.parametrize("engine", STEPS)
@pytest.mark.parametrize("scaled", [False, True])
def test_batch_norm_moves_once_per_step(engine, scaled):
    vae, guide = build(norm=nn.BatchNorm1d)
    pair = (scale_latents(vae, 0.5), scale_latents(guide, 0.5)) if scaled else (vae, guide)
    svi = STEPS[engine](*pair)
    x = torch.randn(20, 6)
    for _ in range(3):
        svi.step(x)
    # Preparing the graph engine and stock Pyro's bookkeeping run nothing else in training mode
    assert batches(vae) == batches(guide) == {3}


def test_each_shared_conditional_runs_once_per_step():
    vae, guide = build(condition=3)
    calls = dict.fromkeys(vae.latents, 0)
    for site, conditional in vae.conditionals.items():
        conditional.register_forward_hook(
            lambda *_, site=site: calls.update({site: calls[site] + 1})
        )
    Trace_ELBO().loss(vae, guide, torch.randn(4, 6), y=torch.arange(4) % 3)
    assert calls == {"z3": 1, "z2": 1, "z1": 1}


def separately(vae, guide, x, **arguments):
    """Loss and gradients with the model's conditionals evaluated anew."""
    guide_trace = poutine.trace(guide).get_trace(x, **arguments)
    vae._handed_over = type(vae._handed_over)()
    model_trace = poutine.trace(poutine.replay(vae, trace=guide_trace)).get_trace(x, **arguments)
    loss = guide_trace.log_prob_sum() - model_trace.log_prob_sum()
    parameters = [*vae.parameters(), *guide.parameters()]
    return loss, torch.autograd.grad(loss, parameters)


def test_taking_over_changes_neither_the_loss_nor_its_gradient():
    for condition in (0, 3):
        vae, guide = build(condition=condition)
        arguments = {"y": torch.arange(4) % 3} if condition else {}
        x = torch.randn(4, 6)
        torch.manual_seed(1)
        loss, _ = TraceELBO()(vae, guide, x, arguments.get("y"))
        loss.backward()
        gradients = [p.grad for p in (*vae.parameters(), *guide.parameters())]
        torch.manual_seed(1)
        expected, expected_gradients = separately(vae, guide, x, **arguments)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradients, list(expected_gradients))


def replayed(vae, trace, x, **arguments):
    return poutine.trace(poutine.replay(vae, trace=trace)).get_trace(x, **arguments)


def means(trace):
    return trace.nodes["z1"]["fn"].base_dist.mean


def test_a_result_is_not_taken_over_when_anything_has_changed():
    vae, guide = build(condition=3)
    x, y = torch.randn(4, 6), torch.zeros(4, dtype=torch.long)
    expected = means(replayed(vae, poutine.trace(guide).get_trace(x, y=y), x, y=y + 1))
    trace = poutine.trace(guide).get_trace(x, y=y)
    assert not torch.equal(
        means(replayed(vae, trace, x, y=y + 1)), means(replayed(vae, trace, x, y=y))
    )
    assert expected.requires_grad

    with torch.no_grad():
        trace = poutine.trace(guide).get_trace(x, y=y)
    assert means(replayed(vae, trace, x, y=y)).requires_grad

    trace = poutine.trace(guide).get_trace(x, y=y)
    before = means(trace).detach().clone()
    with torch.no_grad():
        vae.conditionals["z1"].loc.bias.add_(1.0)
    again = means(replayed(vae, trace, x, y=y))
    with torch.no_grad():
        vae.conditionals["z1"].loc.bias.sub_(1.0)
    old = means(replayed(vae, trace, x, y=y))
    torch.testing.assert_close(again, old + 1.0)
    assert before.shape == old.shape

    trace = poutine.trace(guide).get_trace(x, y=y)
    with torch.no_grad():
        trace.nodes["z2"]["value"].add_(1.0)
    fresh = vae.conditionals["z1"](trace.nodes["z2"]["value"], *vae.label_features(y, 4))
    torch.testing.assert_close(means(replayed(vae, trace, x, y=y)), fresh.base_dist.mean)


@pytest.mark.parametrize("layers", range(1, 13))
def test_any_number_of_layers(layers):
    vae, guide = build(latents=tuple(range(layers + 1, 1, -1)), norm=nn.BatchNorm1d)
    trainer = Trainer(vae, guide, seed=0, engine="eager")
    trainer.fit(torch.randn(64, 6), epochs=2, batch_size=32, progress=False)
    assert math.isfinite(trainer.history[-1]["elbo"])
    assert len(trainer.history[-1]["kl"]) == layers


def test_one_layer_is_the_mean_field_guide():
    vae, ladder = build(latents=(3,))
    bottom_up = BottomUp(vae)
    bottom_up.conditionals["z1"].network.load_state_dict(ladder.networks["z1"].state_dict())
    for name in ("loc", "raw_scale"):
        getattr(bottom_up.conditionals["z1"], name).load_state_dict(
            getattr(ladder.heads["z1"], name).state_dict()
        )
    x = torch.randn(5, 6)
    ours, theirs = (elbo_terms(vae, guide, x).elbo for guide in (ladder, bottom_up))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("options", [{}, {"skip": True}, {"condition": 3}])
def test_images(options):
    vae = VAE((1, 9, 7), (6, 3), likelihood=Bernoulli(), norm=nn.BatchNorm1d, **options)
    guide = Ladder(vae)
    x = torch.randint(2, (12, 1, 9, 7)).float()
    y = torch.arange(12) % 3 if options.get("condition") else None
    Trainer(vae, guide, seed=0).fit((x, y), epochs=2, batch_size=6, progress=False)
    code = guide.encode(x, y=y)
    assert {s: tuple(v.shape) for s, v in code.mean.items()} == {"z2": (12, 3), "z1": (12, 6)}


def test_the_closed_form_kl_is_the_mean_of_the_sampled_one():
    vae, guide = build()
    x = torch.randn(20, 6)
    exact = elbo_terms(vae, guide, x, samples=400, estimator=AnalyticELBO())
    sampled = elbo_terms(vae, guide, x, samples=400)
    for site in vae.latents:
        torch.testing.assert_close(
            exact.kl[site].mean(), sampled.kl[site].mean(), atol=0.02, rtol=0.02
        )


def test_log_p_of_x_does_not_depend_on_the_guide():
    chain = Chain((4, 3, 2))
    x = chain.evidence.sample((20,))
    guides = {
        "exact": chain.exact(),
        "ladder": Ladder(chain.vae),
        "bottom up": BottomUp(chain.vae),
    }
    for name, guide in guides.items():
        if name != "exact":
            fit = Trainer(chain.vae.requires_grad_(False), guide, lr=1e-2, seed=0)
            fit.fit(chain.evidence.sample((1000,)), epochs=10, batch_size=50, progress=False)
        estimate = importance(chain.vae, guide, x, samples=2000)
        error = estimate.standard_error.clamp(min=2e-5)
        assert ((estimate.log_likelihood - chain.evidence.log_prob(x)).abs() < 5 * error).all()


def test_saved_and_copied_pairs_still_share(tmp_path):
    vae, guide = build(norm=nn.BatchNorm1d)
    x = torch.randn(32, 6)
    trainer = Trainer(vae, guide, seed=0).fit(x, epochs=2, batch_size=16, progress=False)
    trainer.save(tmp_path / "ladder.pt")
    again = load(tmp_path / "ladder.pt")
    assert again.guide.model is again.model
    assert torch.equal(
        elbo_terms(again.model, again.guide, x).elbo, elbo_terms(vae, guide, x).elbo
    )
    guide(x)
    twin, twin_guide = copy.deepcopy((vae, guide))
    assert twin_guide.model is twin
    assert torch.equal(elbo_terms(twin, twin_guide, x).elbo, elbo_terms(vae, guide, x).elbo)


class Mixture(nn.Module):
    def forward(self, *context):
        shape = (*context[0].shape[:-1], 3)
        weights = torch.distributions.Categorical(torch.ones(*shape, 2))
        parts = torch.distributions.Normal(torch.zeros(*shape, 2), 1.0)
        return pyro.distributions.MixtureSameFamily(weights, parts).to_event(1)


def test_a_conditional_that_cannot_be_weighed_is_refused():
    vae = VAE((6,), (3, 2), likelihood=Gaussian(), hidden=(8,), top_down={"z1": Mixture()})
    with pytest.raises(TypeError, match="expected diagonal normals to weigh by their precision"):
        Ladder(vae)(torch.zeros(2, 6))


def test_arguments():
    vae, _ = build()
    network = MLP((6,), (7,))
    guide = Ladder(vae, encoder=network)
    assert guide.networks["z1"] is network
    assert guide.networks["z2"].layers[0].in_features == 7
    narrow = Ladder(vae, hidden=[(4,), (3,), (2,)])
    assert [n.out_features for n in narrow.networks.values()] == [4, 3, 2]
    assert all(isinstance(h, DiagonalNormal) for h in guide.heads.values())
    with pytest.raises(TypeError, match="like: expected data for Linear, which has to be run"):
        Ladder(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"hidden: expected widths"):
        Ladder(vae, hidden=[(4,), (3,)])
    with pytest.raises(ValueError, match=r"site 'x': expected shape \(n, 6\)"):
        guide(torch.zeros(2, 5))


def test_print_tells_the_factorisation():
    assert "q(z1, z2, z3|x) = q(z3|x) q(z2|z3,x) q(z1|z2,x)" in repr(build()[1])
    _, skip = build(skip=True, condition=3)
    assert "q(z1, z2, z3|x,y) = q(z3|x,y) q(z2|z3,x,y) q(z1|z2,z3,x,y)" in repr(skip)
