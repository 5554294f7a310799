import copy
import gc
import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess, sigmas
from pyro.infer import RenyiELBO
from torch import nn

from pyro_vae import guides, likelihoods, models
from pyro_vae.conditionals.normal import DiagonalNormal
from pyro_vae.handlers import corrupt, scale_latents
from pyro_vae.infer import SVI, Graph, ImportanceWeightedELBO, TraceELBO


def hierarchy(**options):
    vae = models.VAE((6,), (4, 3), likelihood=likelihoods.Gaussian(0.7), hidden=(8,), **options)
    return vae, guides.BottomUp(vae)


def gradients(loss, *programs):
    parameters = [p for program in programs for p in program.parameters()]
    return torch.autograd.grad(loss, parameters)


def test_one_particle_is_the_bound_to_the_last_bit():
    x = torch.randn(5, 6)
    found = []
    for estimator in (ImportanceWeightedELBO(1), TraceELBO()):
        torch.manual_seed(0)
        vae, guide = hierarchy()
        loss, terms = estimator(scale_latents(vae, 0.3), scale_latents(guide, 0.3), x)
        found.append((loss, terms.elbo, *gradients(loss, vae, guide)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("condition", [0, 3])
def test_value_and_gradients_are_those_of_renyi_elbo_on_the_same_noise(condition):
    vae, guide = hierarchy(condition=condition)
    x = torch.randn(5, 6)
    labels = {"y": torch.arange(5) % 3} if condition else {}
    torch.manual_seed(1)
    loss, _ = ImportanceWeightedELBO(7)(vae, guide, x, labels.get("y"))
    found = gradients(loss, vae, guide)
    torch.manual_seed(1)
    renyi = RenyiELBO(alpha=0, num_particles=7, vectorize_particles=True, max_plate_nesting=1)
    expected = renyi.loss_and_grads(vae, guide, x, **labels)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6)
    parameters = [*vae.parameters(), *guide.parameters()]
    for gradient, parameter in zip(found, parameters, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-5, rtol=1e-4)


def test_beta_sits_inside_the_weights():
    vae, guide = hierarchy()
    x, beta = torch.randn(5, 6), {"z1": 0.3, "z2": 1.7}
    torch.manual_seed(1)
    programs = [scale_latents(p, beta) for p in (vae, guide)]
    loss, terms = ImportanceWeightedELBO(7, reduction="mean")(*programs, x)
    torch.manual_seed(1)
    with torch.no_grad():
        # By hand: the same draws, in the order in which the guide makes them
        z1 = guide.conditionals["z1"](x).expand((7, 5))
        q1 = z1.rsample()
        z2 = guide.conditionals["z2"](q1)
        q2 = z2.rsample()
        kl1 = z1.log_prob(q1) - vae.conditionals["z1"](q2).log_prob(q1)
        kl2 = z2.log_prob(q2) - vae.conditionals["z2"]().log_prob(q2)
        log_x = vae.likelihood(vae.decoder(q1)).to_event(1).log_prob(x)
        weights = (log_x - 0.3 * kl1 - 1.7 * kl2).double().exp()
    assert float(-loss.detach()) == pytest.approx(float(weights.mean(0).log().mean()), rel=1e-5)
    torch.testing.assert_close(terms.reconstruction, log_x.mean(0))
    torch.testing.assert_close(terms.kl["z1"], kl1.mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(terms.kl["z2"], kl2.mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(terms.elbo, (log_x - kl1 - kl2).mean(0))


def test_the_bound_rises_with_the_particles_to_the_evidence(linear):
    x, guide = linear.data(1).expand(1000, 6), linear.guide(shift=0.5, widen=1.5)
    evidence = float(linear.evidence().log_prob(x[0]))
    bounds, errors = [], []
    for particles in (1, 2, 5, 20, 100):
        with torch.no_grad():
            estimator = ImportanceWeightedELBO(particles, reduction="mean")
            values = torch.stack([-estimator(linear.vae, guide, x)[0] for _ in range(20)])
        bounds.append(float(values.mean()))
        errors.append(float(values.std() / 20**0.5))
    for i in range(1, 5):
        assert bounds[i] > bounds[i - 1] + 3 * (errors[i] + errors[i - 1])
    assert excess((bounds[0] - float(linear.bound(guide, x)[0])) / errors[0], draws=20) < 1
    assert evidence - 0.02 < bounds[-1] < evidence + sigmas(draws=20) * errors[-1]


def test_with_the_exact_posterior_every_number_of_particles_gives_the_evidence(linear):
    x = linear.data(50)
    for particles in (2, 10):
        loss, _ = ImportanceWeightedELBO(particles)(linear.vae, linear.guide(), x)
        assert float(-loss.detach()) == pytest.approx(
            float(linear.evidence().log_prob(x).sum()), rel=1e-5
        )


def count_rows(module):
    rows = []
    module.register_forward_pre_hook(lambda m, args: rows.append(args[0][..., 0].numel()))
    return rows


def test_the_encoder_runs_once_per_step():
    vae, guide = hierarchy()
    estimator, x = ImportanceWeightedELBO(10), torch.randn(7, 6)
    estimator(vae, guide, x)
    encoder, decoder = count_rows(guide.conditionals["z1"].network), count_rows(vae.decoder)
    estimator(vae, guide, x)
    assert encoder == [7] and decoder == [70]
    assert estimator.vectorised[vae] and estimator.vectorised[guide]


class Network(nn.Sequential):
    def __init__(self, first):
        super().__init__(first, nn.Linear(4, 6))


class Flat(nn.Module):
    """Fixes the number of dimensions, as much code does."""

    def forward(self, z):
        _, _ = z.shape
        return z


class First(nn.Module):
    """Runs under a plate of samples, but takes the first of them for all."""

    def forward(self, z):
        return z if z.dim() == 2 else z[:1].expand_as(z)


@pytest.mark.parametrize("unable", [Flat, First])
def test_a_model_that_cannot_broadcast_gives_the_same_bound_and_gradients(unable):
    options = {"likelihood": likelihoods.Gaussian(0.7), "hidden": (8,)}
    found = []
    for first in (nn.Identity(), unable()):
        torch.manual_seed(0)
        vae = models.VAE((6,), (4, 3), decoder=Network(first), **options)
        guide, x = guides.BottomUp(vae), torch.randn(5, 6)
        estimator, decoder = ImportanceWeightedELBO(7), count_rows(vae.decoder)
        loss, terms = estimator(vae, guide, x)
        assert decoder[-1] == 35 and estimator.vectorised[guide]
        found.append((estimator.vectorised[vae], loss, terms.elbo, gradients(loss, vae, guide)))
    assert [vectorised for vectorised, *_ in found] == [True, False]
    for a, b in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_the_ladder_with_batch_norm_broadcasts():
    vae, _ = hierarchy(norm=nn.BatchNorm1d)
    guide, estimator = guides.Ladder(vae), ImportanceWeightedELBO(10)
    rows, shared = count_rows(guide.networks["z1"]), count_rows(vae.conditionals["z1"])
    estimator.prepare(vae, guide, torch.randn(7, 6))
    del rows[:], shared[:]
    estimator(vae, guide, torch.randn(7, 6))
    # What the guide evaluates of the model is handed over to it
    assert rows == [7] and shared == [70]


def test_a_guide_that_cannot_broadcast_gives_the_same_bound():
    vae, _ = hierarchy()
    flat = guides.BottomUp(vae, conditionals={"z2": DiagonalNormal(Flat(), 4, 3)})
    twin = guides.BottomUp(vae, conditionals={"z2": DiagonalNormal(nn.Identity(), 4, 3)})
    twin.load_state_dict(flat.state_dict())
    found = []
    x = torch.randn(2, 6).repeat(2000, 1)
    for guide in (flat, twin):
        estimator = ImportanceWeightedELBO(5, reduction="mean")
        encoder = count_rows(guide.conditionals["z1"].network)
        _, terms = estimator(vae, guide, x)
        found.append((encoder[-1], estimator, guide))
        assert terms.elbo.shape == (4000,)
    assert [rows for rows, *_ in found] == [20_000, 4000]
    draws = torch.stack(
        [torch.stack([e(vae, g, x)[0] for _ in range(12)]) for _, e, g in found]
    ).detach()
    error = draws.std(1).square().sum().div(12).sqrt()
    assert abs(draws.mean(1).diff()) < 4 * error
    for _, estimator, guide in found:
        assert estimator.vectorised[guide] is (guide is twin)


def test_the_decision_is_made_once_without_a_trace(monkeypatch):
    vae, guide = hierarchy()
    estimator, x = ImportanceWeightedELBO(3), torch.randn(5, 6)
    rows = count_rows(guide.conditionals["z1"].network)
    state = torch.get_rng_state()
    estimator.prepare(vae, guide, x)
    assert torch.equal(torch.get_rng_state(), state) and guide.training
    checked = len(rows)
    estimator(vae, guide, x)
    estimator(vae, guide, x)
    assert checked and len(rows) == checked + 2
    del guide, vae, rows
    gc.collect()
    assert not estimator.vectorised


def test_a_guide_with_noise_of_its_own_draws_it_for_every_particle():
    vae, guide = hierarchy()
    noisy = corrupt(guide, 0.3)
    estimator = ImportanceWeightedELBO(4)
    estimator(vae, noisy, torch.randn(5, 6))
    assert estimator.vectorised[noisy] is False


def batch_norm():
    vae = models.VAE((6,), 3, likelihood=likelihoods.Gaussian(), hidden=(8,))
    encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
    return vae, guides.BottomUp(vae, encoder=encoder)


def flat():
    vae, _ = hierarchy()
    return vae, guides.BottomUp(vae, conditionals={"z2": DiagonalNormal(Flat(), 4, 3)})


def image():
    vae = models.VAE((1, 5, 7), (3, 2), likelihood=likelihoods.ContinuousBernoulli())
    return vae, guides.BottomUp(vae)


def conditional():
    return hierarchy(condition=3)


def ladder():
    vae, _ = hierarchy(norm=nn.BatchNorm1d)
    return vae, guides.Ladder(vae)


@pytest.mark.parametrize("build", [hierarchy, batch_norm, flat, image, conditional, ladder])
def test_the_graph_is_eager_to_the_last_bit(build, graphs):
    pair = build()
    twins = copy.deepcopy(pair)
    shape = pair[0].event_shape
    y = torch.arange(4) % 3 if pair[0].condition else None
    batches = [torch.rand(4, *shape) for _ in range(6)]
    runs = []
    for programs, engine in ((pair, "eager"), (twins, "graph")):
        torch.manual_seed(3)
        svi = SVI(*programs, loss=ImportanceWeightedELBO(5, reduction="mean"), engine=engine)
        losses = [float(svi.step(x, y=y)) for x in batches]
        state = [t for p in programs for t in (*p.parameters(), *p.buffers())]
        runs.append((losses, [svi.terms.elbo, *state]))
    assert graphs[Graph][-1].records
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))


def test_double_precision_and_copies():
    vae, guide = (p.double() for p in hierarchy())
    estimator, x = ImportanceWeightedELBO(5), torch.randn(4, 6).double()
    torch.manual_seed(0)
    loss, terms = estimator(vae, guide, x)
    assert loss.dtype == terms.elbo.dtype == torch.float64
    torch.manual_seed(0)
    again, _ = copy.deepcopy(estimator)(*copy.deepcopy((vae, guide)), x)
    assert torch.equal(again, loss)


def test_a_graph_recorded_at_once_is_eager_to_the_last_bit():
    vae, guide = hierarchy()
    graph, x = Graph(ImportanceWeightedELBO(5)), torch.randn(4, 6)
    torch.manual_seed(0)
    loss, _ = graph(vae, guide, x)
    torch.manual_seed(0)
    assert graph.records == 1
    assert torch.equal(loss, ImportanceWeightedELBO(5)(vae, guide, x)[0])


class Coin(nn.Module):
    """p(z) = 1/2, p(x|z) a normal around z or around 1 - z; q(z = 1) a sigmoid."""

    def __init__(self):
        super().__init__()
        self.logit, self.loc = nn.Parameter(torch.tensor(0.4)), nn.Parameter(torch.tensor(0.3))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.full((len(x),), 0.5)))
            pyro.sample("x", dist.Normal(self.loc + z, 0.8), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=self.logit.expand(len(x))))


def test_sites_without_reparametrisation_have_the_gradient_of_the_exact_bound():
    coin, k, point = Coin(), 2, torch.tensor(0.9)
    # Over all values of both particles: the bound is a sum, its gradient exact
    exact = torch.zeros(())
    for z in itertools.product((0.0, 1.0), repeat=k):
        z = torch.tensor(z)
        log_q = dist.Bernoulli(logits=coin.logit).log_prob(z)
        log_p = math.log(0.5) + dist.Normal(coin.loc + z, 0.8).log_prob(point)
        exact = exact + log_q.sum().exp() * ((log_p - log_q).logsumexp(0) - math.log(k))
    expected = torch.stack(torch.autograd.grad(exact, (coin.logit, coin.loc)))

    def model(x):
        coin.model(x)

    def guide(x):
        coin.guide(x)

    estimator, x = ImportanceWeightedELBO(k, reduction="mean"), point.expand(4000)
    draws, values = [], []
    for _ in range(25):
        loss, _ = estimator(model, guide, x)
        values.append(-loss.detach())
        draws.append(-torch.stack(torch.autograd.grad(loss, (coin.logit, coin.loc))))
    for found, value in ((torch.stack(draws), expected), (torch.stack(values), exact.detach())):
        assert excess((found.mean(0) - value) / (found.std(0) / 5), draws=25) < 1


@pytest.mark.parametrize("particles", [0, -1, 2.5, True, "10"])
def test_bad_numbers_of_particles_are_errors(particles):
    with pytest.raises(ValueError, match="particles: expected a whole number of at least 1"):
        ImportanceWeightedELBO(particles)


def test_a_point_mass_is_an_error():
    vae, _ = hierarchy()
    with pytest.raises(ValueError, match="site 'z1': the guide is a point mass"):
        ImportanceWeightedELBO(5)(vae, guides.Delta(vae), torch.randn(3, 6))
