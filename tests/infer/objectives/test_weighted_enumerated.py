"""Importance-weighted bounds whose discrete latents are summed out."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from test_enumerated import PAIRS, Labelled, Mixture, numbers

from pyro_vae import Trainer, guides, handlers, likelihoods, models
from pyro_vae.infer import ImportanceWeightedELBO, TraceEnumELBO

GRADIENTS = ("total", "path", "doubly-reparametrised")
PARTICLES = 4


def by_hand(pair):
    """The mixture with k summed by hand."""

    def model(x):
        with pyro.plate("data", x.shape[-1]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).mask(False)).unsqueeze(-1)
            seen = pair.means if pair.direct else torch.zeros(())
            each = dist.Normal(pair.means, 0.7).log_prob(z)
            each = each + dist.Normal(z + seen, 0.5).log_prob(x.unsqueeze(-1))
            log_p = (each + pair.logits.log_softmax(0)).logsumexp(-1)
            pyro.factor("x", log_p)

    return model


def loss_and_gradient(objective, model, guide, x, parameters):
    torch.manual_seed(3)
    loss, terms = objective(model, guide, x)
    return loss, torch.autograd.grad(loss, parameters), terms


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("direct", [False, True])
def test_bound_and_gradient_are_those_of_a_sum_by_hand(direct, gradient):
    pair, x = Mixture(direct=direct), numbers()
    sides = []
    for model in (pair.model, by_hand(pair)):
        objective = ImportanceWeightedELBO(PARTICLES, gradient=gradient)
        parameters = [*pair.parameters()]
        sides.append(loss_and_gradient(objective, model, pair.guide, x, parameters))
    (loss, gradients, terms), (expected, by_sum, _) = sides
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients, by_sum)
    assert bool(-loss.detach() > terms.elbo.sum())


@pytest.mark.parametrize("name", ["mixture", "mixture, seen", "chain", "words"])
def test_weights_are_the_bounds_of_one_draw_each(name):
    make, data = PAIRS[name]
    pair, x = make(), data()
    torch.manual_seed(3)
    loss, terms = ImportanceWeightedELBO(PARTICLES)(pair.model, pair.guide, x)
    torch.manual_seed(3)
    rows = x.repeat(PARTICLES, *(1,) * (x.dim() - 1))
    _, each = TraceEnumELBO()(pair.model, pair.guide, rows)
    log_w = each.elbo.reshape(PARTICLES, len(x))
    torch.testing.assert_close(-loss, (log_w.logsumexp(0) - math.log(PARTICLES)).sum())
    torch.testing.assert_close(terms.elbo, log_w.mean(0))
    assert [*terms.kl] == [*each.kl]
    for site, kl in each.kl.items():
        torch.testing.assert_close(terms.kl[site], kl.reshape(PARTICLES, -1).mean(0))


def test_beta_weighs_inside_the_weights():
    pair, x, beta = Mixture(), numbers(), {"z": 0.3}
    model, guide = (handlers.scale_latents(f, beta) for f in (pair.model, pair.guide))
    torch.manual_seed(3)
    loss, _ = ImportanceWeightedELBO(PARTICLES)(model, guide, x)
    torch.manual_seed(3)
    _, each = TraceEnumELBO()(pair.model, pair.guide, x.repeat(PARTICLES))
    log_w = (each.reconstruction - 0.3 * each.kl["z"]).reshape(PARTICLES, -1)
    torch.testing.assert_close(-loss, (log_w.logsumexp(0) - math.log(PARTICLES)).sum())


Y = torch.tensor([2, -1, 0, -1, 1, -1])
GUIDES = {
    "bottom-up": guides.BottomUp,
    "full covariance": guides.FullCovariance,
    "flow": guides.Flow,
}


def labelled(guide):
    torch.manual_seed(0)
    labels = {"condition": 3, "labels": "partial"}
    vae = models.VAE((4,), (3, 2), likelihood=likelihoods.Bernoulli(), hidden=(5,), **labels)
    x = (torch.rand(len(Y), 4, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    return vae, GUIDES[guide](vae), x


@pytest.mark.parametrize("guide", GUIDES)
def test_labels_that_are_missing_are_summed_out(guide):
    """A sum of weights over all labels put in by hand."""
    vae, guide, x = labelled(guide)
    loss, _ = torch.manual_seed(3) and ImportanceWeightedELBO(PARTICLES)(vae, guide, x, Y)
    torch.manual_seed(3)
    rows, labels = x.repeat(PARTICLES, 1), Y.repeat(PARTICLES)
    q = poutine.trace(guide).get_trace(rows, y=labels)
    log_q = sum(q.nodes[s]["fn"].log_prob(q.nodes[s]["value"]) for s in ("z1", "z2"))
    each = []
    for k in range(3):
        given = torch.where(labels < 0, k, labels)
        p = poutine.trace(poutine.replay(vae, trace=q)).get_trace(rows, y=given)
        p.compute_log_prob()
        sites = [p.nodes[s]["log_prob"] for s in ("x", "z1", "z2")]
        each.append(sum(sites) - math.log(3))
    log_p = torch.where(labels < 0, torch.stack(each).logsumexp(0), each[0])
    expected = (log_p - log_q).reshape(PARTICLES, -1).logsumexp(0) - math.log(PARTICLES)
    torch.testing.assert_close(-loss, expected.sum())


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_recorded_step_is_the_eager_one(gradient):
    states = []
    for engine in ("eager", "graph"):
        vae, guide, x = labelled("bottom-up")
        objective = ImportanceWeightedELBO(PARTICLES, "mean", gradient)
        trainer = Trainer(vae, guide, elbo=objective, engine=engine, seed=0)
        trainer.fit((x, Y), epochs=3, batch_size=3, progress=False)
        states.append((vae.state_dict(), trainer.history[-1]["objective"]))
    (eager, bound), (graph, again) = states
    assert bound == again
    for name, value in eager.items():
        assert torch.equal(value, graph[name]), name


def test_swapped_guides_that_draw_the_latent_or_not():
    """What is summed out is what the guide at hand lacks."""
    objective, x = ImportanceWeightedELBO(PARTICLES), numbers()
    lacking, drawing = Mixture(), Labelled()
    model = lacking.model
    first, _ = torch.manual_seed(3) and objective(model, lacking.guide, x)
    with pytest.warns(UserWarning, match="they are drawn"):
        _, terms = objective(model, drawing.guide, x)
    assert {*terms.kl} == {"k", "z"}
    again, _ = torch.manual_seed(3) and objective(model, lacking.guide, x)
    assert torch.equal(first, again)


def test_free_bits_are_refused():
    pair = Mixture()
    model = handlers.free_bits(pair.model, 0.5)
    with pytest.raises(ValueError, match="free_bits where discrete latents are summed out"):
        ImportanceWeightedELBO(PARTICLES)(model, pair.guide, numbers())
