import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess
from pathwise_pairs import PAIRS, Single, X, vae
from pyro.distributions.transforms import LowerCholeskyAffine, planar
from pyro.infer.autoguide import AutoNormal, AutoNormalMessenger
from torch import nn
from torch.distributions import kl_divergence

from pyro_vae import Trainer, guides, handlers, infer, load
from pyro_vae.distributions import CholeskyNormal
from pyro_vae.infer import Graph, ImportanceWeightedELBO, TraceELBO

BATCHES, ROWS = 16, 400


def parameters(*programs):
    return list({id(p): p for program in programs for p in program.parameters()}.values())


def gradient(estimator, model, guide, x=X, seed=0):
    """Loss, terms, and the gradient of every parameter."""
    torch.manual_seed(seed)
    loss, terms = estimator(model, guide, x)
    wanted = [p for p in parameters(model, guide) if p.requires_grad]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    pairs = zip(wanted, found, strict=True)
    return loss.detach(), terms, [torch.zeros_like(p) if g is None else g for p, g in pairs]


def moments(estimator, model, guide, first):
    """Mean and standard error of the gradient of every parameter, flat, per datum."""
    seeds, x = range(first, first + BATCHES), X.repeat(ROWS, 1)
    drawn = [gradient(estimator, model, guide, x, seed)[2] for seed in seeds]
    drawn = torch.stack([torch.cat([g.flatten() for g in each]) for each in drawn]).double()
    return drawn.mean(0), drawn.std(0) / BATCHES**0.5


def apart(first, second):
    """By how much two expectations differ, as a share of what chance allows."""
    error = (first[1] ** 2 + second[1] ** 2).sqrt()
    random = error > 0
    assert torch.equal(first[0][~random], second[0][~random])
    return excess((first[0] - second[0])[random] / error[random], BATCHES)


def compared(pair, *estimators):
    return apart(*(moments(e, *pair, BATCHES * i) for i, e in enumerate(estimators)))


def estimators(kind):
    """One for each gradient."""
    if kind == 1:
        return [TraceELBO("mean", gradient) for gradient in TraceELBO.gradients]
    names = ImportanceWeightedELBO.gradients
    return [ImportanceWeightedELBO(kind, "mean", gradient) for gradient in names]


@pytest.mark.parametrize("name", PAIRS)
def test_the_path_has_the_expectation_of_the_total_gradient(name):
    total, path = estimators(1)
    assert compared(PAIRS[name](), total, path) < 1


@pytest.mark.parametrize("name", PAIRS)
def test_the_doubly_reparametrised_gradient_has_that_expectation(name):
    total, _, doubly = estimators(4)
    assert compared(PAIRS[name](), total, doubly) < 1


def test_the_path_of_several_particles_has_another_expectation():
    total, path, _ = estimators(4)
    assert compared(PAIRS["one layer"](), total, path) > 1


def exact(model, guide):
    """The gradient of the bound of a linear pair with one layer, without any draw."""
    q = guide.conditionals["z1"](X)
    loc, scale = q.mean, q.stddev
    steps = torch.cat([torch.zeros(1, 2), torch.eye(2)])
    first, *others = model.likelihood(model.decoder(steps)).mean
    slopes = torch.stack(others) - first
    errors = (X - model.likelihood(model.decoder(loc)).mean).square().sum(-1)
    errors = errors + (scale.square() @ slopes.square()).sum(-1)
    log_x = -errors / (2 * 0.7**2) - 3 / 2 * math.log(2 * math.pi * 0.7**2)
    kl = kl_divergence(q, dist.Normal(torch.zeros(2), 1.0).to_event(1))
    loss = (kl - log_x).mean()
    found = torch.autograd.grad(loss, parameters(model, guide))
    return float(loss.detach()), torch.cat([g.flatten() for g in found]).double()


@pytest.mark.parametrize("estimator", estimators(1))
def test_of_a_linear_pair_the_expectation_is_exact(estimator):
    pair = PAIRS["one layer"]()
    _, expected = exact(*pair)
    assert apart(moments(estimator, *pair, 0), (expected, 0 * expected)) < 1


@pytest.mark.parametrize("particles", [1, 4])
@pytest.mark.parametrize("name", PAIRS)
def test_loss_and_terms_are_those_of_the_total_gradient(name, particles):
    pair = PAIRS[name]()
    total, *others = (gradient(e, *pair) for e in estimators(particles))
    for loss, terms, _ in others:
        assert torch.equal(loss, total[0])
        assert torch.equal(terms.elbo, total[1].elbo)
        assert terms.kl.keys() == total[1].kl.keys()


@pytest.mark.parametrize("particles", [1, 4])
def test_without_gradients_nothing_is_left_out(particles):
    pair = PAIRS["two flows"]()
    with torch.no_grad():
        found = []
        for estimator in estimators(particles):
            torch.manual_seed(0)
            found.append(estimator(*pair, X)[0])
    assert all(torch.equal(loss, found[0]) for loss in found)


@pytest.mark.parametrize(
    ("name", "particles"),
    [("two layers", 4), ("full covariance", 1), ("flow", 1), ("ladder", 4), ("masked", 4)],
)
def test_the_graph_engine_gives_the_same_bit_for_bit(name, particles):
    pair = PAIRS[name]()
    estimator = estimators(particles)[-1]
    loss, terms, expected = gradient(estimator, *pair)
    for replayed in (Graph.backward, Graph.__call__):
        graph = Graph(estimator)
        for _ in range(3):  # the third is replayed alone
            for parameter in parameters(*pair):
                parameter.grad = None
            torch.manual_seed(0)
            again, its_terms = replayed(graph, *pair, X)
            if again.requires_grad:
                again.backward()
        assert graph.records == 1
        assert torch.equal(again.detach(), loss)
        assert torch.equal(its_terms.elbo, terms.elbo)
        for parameter, value in zip(parameters(*pair), expected, strict=True):
            found = torch.zeros_like(value) if parameter.grad is None else parameter.grad
            assert torch.equal(found, value)


class Chain(nn.Module):
    """z2 -> z1 -> x of one number each, or its exact posterior, from x up."""

    weight, scale, noise = 0.8, 0.5, 0.3

    def __init__(self, guide):
        super().__init__()
        self.guide = guide
        prior = 1 / (self.weight**2 + self.scale**2)
        variances = 1 / (prior + 1 / self.noise**2), 1 / (1 + (self.weight / self.scale) ** 2)
        slopes = variances[0] / self.noise**2, variances[1] * self.weight / self.scale**2
        self.slopes = nn.Parameter(torch.tensor(slopes))
        self.scales = nn.Parameter(torch.tensor(variances).sqrt())

    def forward(self, x):
        with pyro.plate("data", len(x)):
            if self.guide:
                z1 = pyro.sample("z1", dist.Normal(self.slopes[0] * x, self.scales[0]))
                pyro.sample("z2", dist.Normal(self.slopes[1] * z1, self.scales[1]))
            else:
                z2 = pyro.sample("z2", dist.Normal(torch.zeros_like(x), 1.0))
                z1 = pyro.sample("z1", dist.Normal(self.weight * z2, self.scale))
                pyro.sample("x", dist.Normal(z1, self.noise), obs=x)


class Posterior(nn.Module):
    """That of ``Single``, by any distribution N(mu, L L^T) that is made of mu and L."""

    def __init__(self, model, made):
        super().__init__()
        weight = model.decoder.weight.detach()
        covariance = (torch.eye(2) + weight.mT @ weight / 0.7**2).inverse()
        self.tril = nn.Parameter(torch.linalg.cholesky(covariance))
        self.slope = nn.Parameter(covariance @ weight.mT / 0.7**2)
        self.offset = nn.Parameter(-self.slope.detach() @ model.decoder.bias.detach())
        self.made = made

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.made(x @ self.slope.mT + self.offset, self.tril))


def transformed(loc, tril):
    base = dist.Normal(torch.zeros_like(loc), 1.0).to_event(1)
    return dist.TransformedDistribution(base, [LowerCholeskyAffine(loc, tril)])


def single(made):
    def pair(x):
        model = Single()
        return model, Posterior(model, made), x

    return pair


def chain(x):
    return Chain(False), Chain(True), x[:, 0]


def automatic(x):
    """The mean-field autoguide at the posterior of independent latents."""
    model = Single()
    with torch.no_grad():
        model.decoder.weight.copy_(torch.eye(3, 2) * 0.9)
        model.decoder.bias.zero_()
    guide = AutoNormal(model)
    guide(x)
    precision = 1 + (0.9 / 0.7) ** 2
    guide.locs.z = 0.9 / 0.7**2 / precision * x[:, :2]
    guide.scales.z = torch.full((2, 2), precision**-0.5)
    return model, guide, x


EXACT = {
    "hierarchy": chain,
    "full covariance": single(lambda loc, tril: dist.MultivariateNormal(loc, scale_tril=tril)),
    "Cholesky": single(lambda loc, tril: CholeskyNormal(loc, scale_tril=tril)),
    "flow": single(transformed),
    "autoguide": automatic,
}


@pytest.mark.parametrize("particles", [1, 4])
@pytest.mark.parametrize("name", EXACT)
def test_at_the_posterior_each_draw_has_a_gradient_of_zero(name, particles):
    torch.set_default_dtype(torch.float64)
    try:
        model, guide, x = EXACT[name](X.double())
        model.requires_grad_(False)
        total, *others = (gradient(e, model, guide, x)[2] for e in estimators(particles))
    finally:
        torch.set_default_dtype(torch.float32)
    assert max(float(g.abs().max()) for g in total) > 1e-2
    for found in others:
        assert max(float(g.abs().max()) for g in found) < 1e-12


def test_what_model_and_guide_share_gets_the_gradients_of_both_roles():
    model, guide = PAIRS["ladder"]()
    other = copy.deepcopy(guide)
    shared, lent = model.conditionals["z1"], other.model.conditionals["z1"]
    found = []
    for used, wanted in ((guide, [shared]), (other, [shared, lent])):
        torch.manual_seed(0)
        loss, _ = TraceELBO(gradient="path")(model, used, X)
        wanted = [list(module.parameters()) for module in wanted]
        found += [torch.autograd.grad(loss, each, retain_graph=True) for each in wanted]
    for both, of_model, of_guide in zip(*found, strict=True):
        torch.testing.assert_close(both, of_model + of_guide)


def test_a_site_with_free_bits_keeps_its_total_gradient():
    model, guide = PAIRS["one layer"]()
    for nats in (1e-3, 1e3):
        free = handlers.free_bits(guide, nats)
        for particles in (1, 4):
            found = [gradient(e, model, free)[2] for e in estimators(particles)]
            for total, *others in zip(*found, strict=True):
                for value in others:
                    torch.testing.assert_close(value, total)


def test_free_bits_of_the_model_alone_count_too():
    model, guide = PAIRS["one layer"]()
    for estimator in estimators(1):
        found = gradient(estimator, handlers.free_bits(model, 1e-3), guide)[2]
        total = gradient(estimators(1)[0], model, guide)[2]
        for value, expected in zip(found, total, strict=True):
            torch.testing.assert_close(value, expected)


def test_many_particles_leave_the_doubly_reparametrised_gradient_its_signal():
    wide = lambda loc, tril: dist.MultivariateNormal(loc, scale_tril=1.3 * tril)  # noqa: E731
    model, guide, _ = single(wide)(X)
    (_, total), (_, doubly) = (
        moments(e, model.requires_grad_(False), guide, 0) for e in estimators(64)[::2]
    )
    assert float((doubly / total).max()) < 0.5


def test_a_guide_without_parameters_to_train_leaves_those_of_the_model():
    model, guide = PAIRS["two layers"]()
    guide.requires_grad_(False)
    (_, _, total), (_, _, path) = (gradient(e, model, guide) for e in estimators(1))
    assert all(map(torch.equal, total, path))


@pytest.mark.parametrize("particles", [1, 4])
def test_hooks_on_gradients_are_called_once(particles):
    model, guide = PAIRS["ladder"]()
    estimator = estimators(particles)[-1]
    _, _, expected = gradient(estimator, model, guide)
    for parameter in parameters(model, guide):
        parameter.register_hook(lambda gradient: 2 * gradient)
    _, _, doubled = gradient(estimator, model, guide)
    for value, once in zip(doubled, expected, strict=True):
        torch.testing.assert_close(value, 2 * once)


@pytest.mark.parametrize("gradient", ["path", "doubly-reparametrised"])
def test_it_trains_and_is_kept_in_files(tmp_path, gradient):
    model = vae(2)
    estimator = ImportanceWeightedELBO(3, "mean", gradient)
    trainer = Trainer(model, guides.BottomUp(model), elbo=estimator)
    trainer.fit(torch.randn(20, 3), epochs=2, batch_size=10, progress=False)
    trainer.save(tmp_path / "trainer.pt")
    assert load(tmp_path / "trainer.pt").elbo.gradient == gradient


def test_svi_takes_it():
    model, guide = PAIRS["flow"]()
    svi = infer.SVI(model, guide, loss=TraceELBO(gradient="path"))
    before = [p.detach().clone() for p in parameters(guide)]
    svi.step(X)
    assert not all(map(torch.equal, before, parameters(guide)))


class Made(nn.Module):
    """A guide of ``z`` by any distribution that is made of two numbers."""

    def __init__(self, made):
        super().__init__()
        self.net, self.made = nn.Linear(3, 2), made

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.made(self.net(x)))


@pytest.mark.parametrize("particles", [1, 4])
def test_draws_that_are_not_reparametrised_are_refused_by_name(particles):
    guide = Made(lambda h: dist.Bernoulli(logits=h).to_event(1))
    for estimator in estimators(particles)[1:]:
        name = estimator.gradient
        expected = f"site 'z': gradient='{name}' .* not reparametrised, here Bernoulli"
        with pytest.raises(ValueError, match=expected):
            estimator(Single(), guide, X)
        with torch.no_grad(), pytest.raises(ValueError, match=expected):
            estimator(Single(), guide, X)


def test_a_density_that_is_known_at_the_draw_alone_is_refused_by_name():
    relaxed = dist.RelaxedOneHotCategoricalStraightThrough
    for made in (
        lambda h: relaxed(torch.tensor(0.5), logits=h),
        lambda h: dist.TransformedDistribution(dist.Normal(h, 1.0).to_event(1), [planar(2)]),
    ):
        with pytest.raises(ValueError, match=r"site 'z': .* at its own draw only"):
            TraceELBO(gradient="path")(Single(), Made(made), X)


def test_other_gradients_are_refused():
    with pytest.raises(ValueError, match="gradient: expected one of total, path, got 'doubly"):
        TraceELBO(gradient="doubly-reparametrised")
    with pytest.raises(ValueError, match="did you mean 'doubly-reparametrised'"):
        ImportanceWeightedELBO(3, gradient="doubly-reparameterized")


def test_what_stands_in_files_without_a_gradient_is_the_total_one():
    assert ImportanceWeightedELBO(3).arguments == {"particles": 3}
    assert TraceELBO(**TraceELBO("mean").arguments).gradient == "total"


def test_messengers_of_pyro_have_a_path():
    model = Single()
    guide = AutoNormalMessenger(model)
    TraceELBO()(model, guide, X)  # makes its parameters
    (_, _, total), (_, _, path) = (gradient(e, model, guide) for e in estimators(1))
    count = len(parameters(model))
    assert all(map(torch.equal, total[:count], path[:count]))
    assert not any(map(torch.equal, total[count:], path[count:]))
