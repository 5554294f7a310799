"""A replaced prior against closed forms, quadrature and the same model built with that prior."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess, widened
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_vae import Trainer, infer, load
from pyro_vae.conditionals.normal import StandardNormal
from pyro_vae.ground.recorded import Recorded
from pyro_vae.guides import BottomUp, Delta, Ladder
from pyro_vae.handlers import replace_prior, scale_latents
from pyro_vae.infer import AnalyticELBO
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE, Model

MEAN, SD = torch.tensor([1.0, -0.5]), torch.tensor([0.6, 1.4])


class Learned(Recorded, nn.Module):
    """N(mean, diag sd^2) with trainable parameters."""

    def __init__(self, size=2):
        super().__init__()
        self.mean = nn.Parameter(MEAN.clone() if size == 2 else torch.zeros(size))
        self.log_sd = nn.Parameter(SD.log().clone() if size == 2 else torch.zeros(size))

    def forward(self):
        return dist.Normal(self.mean, self.log_sd.exp()).to_event(1)


class TwoNormals(Recorded, nn.Module):
    """0.3 N(-2, 0.5^2) + 0.7 N(1, 0.4^2)."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weights", torch.tensor([0.3, 0.7]))
        self.register_buffer("mean", torch.tensor([[-2.0], [1.0]]))
        self.register_buffer("sd", torch.tensor([[0.5], [0.4]]))

    def forward(self):
        parts = dist.Normal(self.mean, self.sd).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(self.weights), parts)


def evidence(linear):
    """The marginal of the linear model under N(MEAN, SD^2)."""
    covariance = (linear.W * SD.square()) @ linear.W.T + linear.sigma**2 * torch.eye(6)
    return MultivariateNormal(linear.b + linear.W @ MEAN, covariance)


def one_dimensional():
    vae = VAE((1,), 1, likelihood=Gaussian(0.5), hidden=(8,))
    return vae, BottomUp(vae)


def grid(low, high, n=4001):
    points = torch.linspace(low, high, n, dtype=torch.float64)
    return points, points[1] - points[0]


def test_importance_sampling_finds_the_exact_evidence(linear):
    model = replace_prior(linear.vae, Learned())
    x = evidence(linear).sample((40,))
    estimate = infer.importance(model, linear.guide(widen=1.3), x, samples=3000)
    difference = estimate.log_likelihood - evidence(linear).log_prob(x)
    error = estimate.standard_error.square().sum().sqrt() / len(x)
    assert error < 0.02
    assert excess(difference.mean() / error) < 1
    own = linear.evidence().log_prob(x)
    assert abs((estimate.log_likelihood - own).mean()) > 50 * error


def test_importance_sampling_finds_the_quadrature_of_a_mixture_prior():
    vae, guide = (program.double() for program in one_dimensional())
    prior = TwoNormals().double()
    model = replace_prior(vae, prior)
    widened(guide, 2.0)
    x = torch.tensor([[-1.0], [0.0], [2.0]], dtype=torch.float64)
    z, dz = grid(-7, 7)
    p_x = vae.decode(z[:, None])
    log_joint = prior().log_prob(z[:, None]) + p_x.log_prob(x[:, None])
    exact = log_joint.logsumexp(1) + dz.log()
    estimate = infer.importance(model, guide, x, samples=20_000)
    error = (estimate.log_likelihood - exact) / estimate.standard_error
    assert estimate.standard_error.max() < 0.05
    assert excess(error) < 1


def test_the_density_of_the_replaced_model_integrates_to_one():
    vae, _ = one_dimensional()
    model = replace_prior(vae.double(), TwoNormals().double())
    z, dz = grid(-7, 7, 1001)
    x, dx = grid(-8, 8, 1001)
    rows = x[:, None].expand(1001, 1001).reshape(-1, 1)
    conditioned = poutine.condition(model, {"z1": z.repeat(1001)[:, None]})
    with torch.no_grad():
        trace = poutine.trace(conditioned).get_trace(rows)
    trace.compute_log_prob()
    joint = trace.nodes["z1"]["log_prob"] + trace.nodes["x"]["log_prob"]
    assert float(joint.exp().sum() * dz * dx) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("latents", [2, (4, 2)])
def test_it_is_the_model_built_with_that_prior(latents):
    top = "z1" if latents == 2 else "z2"
    vae = VAE((6,), latents, likelihood=Gaussian(0.7), hidden=(5,))
    built = VAE((6,), latents, likelihood=Gaussian(0.7), hidden=(5,), top_down={top: Learned()})
    built.load_state_dict(
        {**vae.state_dict(), **built.conditionals[top].state_dict(prefix=f"conditionals.{top}.")}
    )
    guide, other, x = BottomUp(vae), BottomUp(built), torch.randn(9, 6)
    other.load_state_dict(guide.state_dict())
    replaced = replace_prior(vae, Learned())
    for estimate in (
        lambda m, q: m.sample(5),
        lambda m, q: m(size=4),
        lambda m, q: infer.elbo_terms(m, q, x).elbo,
        lambda m, q: infer.log_likelihood(m, q, x, importance_samples=7),
        lambda m, q: torch.tensor(Trace_ELBO().loss(m, q, x)),
        lambda m, q: m.decode({top: torch.ones(3, 2)}).mean,
    ):
        results = []
        for pair in ((built, other), (replaced, guide)):
            with torch.random.fork_rng():
                results.append(estimate(*pair))
        assert torch.equal(*results)
    assert infer.check_pair(replaced, guide, x) == infer.check_pair(built, guide, x)
    assert isinstance(replaced, Model) and replaced.latents == vae.latents


def test_a_ladder_merges_below_the_top_alone():
    """So that its bound is that of the model built with the prior and the same conditionals."""
    vae = VAE((6,), (4, 2), likelihood=Gaussian(0.7), hidden=(5,))
    guide, prior, x = Ladder(vae), Learned(), torch.randn(9, 6)
    built = VAE(
        (6,),
        (4, 2),
        likelihood=vae.likelihood,
        decoder=vae.decoder,
        top_down={"z2": prior, "z1": vae.conditionals["z1"]},
    )
    replaced = replace_prior(vae, prior)
    with pytest.warns(UserWarning, match="belongs to another VAE than it is evaluated with"):
        terms = [infer.elbo_terms(m, guide, x) for m in (built, replaced, vae)]
    assert torch.equal(terms[0].elbo, terms[1].elbo)
    assert torch.equal(terms[1].kl["z1"], terms[2].kl["z1"])
    assert not torch.equal(terms[1].kl["z2"], terms[2].kl["z2"])
    closed = infer.elbo_terms(replaced, guide, x, estimator=AnalyticELBO(), samples=1)
    with torch.no_grad(), torch.random.fork_rng():
        q = poutine.trace(guide).get_trace(x).nodes["z2"]["fn"]
    torch.testing.assert_close(closed.kl["z2"], kl_divergence(q, prior().expand((9,))).detach())


def test_samples_come_from_the_new_prior(linear):
    n, exact = 20_000, evidence(linear)
    for x in (
        replace_prior(linear.vae, Learned()).sample(n),
        linear.vae.sample(n, prior=Learned()),
        replace_prior(linear.vae, StandardNormal(2)).sample(n, prior=Learned()),
    ):
        error = (exact.variance / n).sqrt()
        assert excess((x.mean(0) - exact.mean) / error) < 1
        spread = torch.cov(x.T) - exact.covariance_matrix
        assert excess(spread / (exact.variance.max() * (2 / n) ** 0.5)) < 1
        assert ((x.mean(0) - linear.b) / error).abs().max() > 20
    means = linear.vae.sample(n, prior=Learned(), mean=True)
    assert float(means.var(0).sum()) == pytest.approx(
        float(((linear.W * SD).square()).sum()), rel=0.05
    )


@pytest.mark.parametrize("beta", [0.0, 0.3, 4.0, {"z1": 0.25}])
@pytest.mark.parametrize("outside", [True, False])
def test_beta_scales_the_replaced_site(linear, beta, outside):
    x, guide, prior = linear.data(7), linear.guide(shift=0.3, widen=1.4), Learned()
    if outside:
        model = scale_latents(replace_prior(linear.vae, prior), beta)
    else:
        model = replace_prior(scale_latents(linear.vae, beta), prior)
    q = guide.conditionals["z1"](x)
    with torch.random.fork_rng():
        z = q.rsample()
    kl = q.log_prob(z) - prior().log_prob(z)
    log_p = dist.Normal(linear.vae.decoder(z), linear.sigma).log_prob(x).sum(-1)
    number = beta["z1"] if isinstance(beta, dict) else beta
    loss = Trace_ELBO().loss(model, scale_latents(guide, beta), x)
    assert loss == pytest.approx(-(log_p - number * kl).sum().item(), rel=1e-5)


def test_only_the_top_of_many_layers_changes():
    vae = VAE((6,), (4, 2), likelihood=Gaussian(), hidden=(5,))
    trace = poutine.trace(replace_prior(vae, Learned())).get_trace(torch.zeros(3, 6))
    assert torch.equal(trace.nodes["z2"]["fn"].mean, MEAN.expand(3, 2))
    expected = vae.conditionals["z1"](trace.nodes["z2"]["value"])
    assert torch.equal(trace.nodes["z1"]["fn"].mean, expected.mean)
    with pytest.raises(ValueError, match="site: expected 'z2', the top latent of VAE, got 'z1'"):
        replace_prior(vae, Learned(4), site="z1")


def test_a_second_prior_takes_the_place_of_the_first(linear):
    first, second = Learned(), Learned()
    nn.init.constant_(second.mean, 5.0)
    once = replace_prior(linear.vae, first)
    for twice in (replace_prior(once, second), replace_prior(scale_latents(once, 0.5), second)):
        trace = poutine.trace(twice).get_trace(linear.data(2))
        assert torch.equal(trace.nodes["z1"]["fn"].mean, torch.full((2, 2), 5.0))
        held = {id(p) for p in twice.parameters()}
        assert id(second.mean) in held and id(first.mean) not in held
    assert trace.nodes["z1"]["scale"] == 0.5
    assert once.prior is first


def test_stock_pyro_trains_the_prior_with_the_rest(linear):
    """To the closed form: with the exact posterior as guide the best mean is that of the data."""
    prior = Learned()
    linear.vae.requires_grad_(False)
    model, guide = replace_prior(linear.vae, prior), linear.guide()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.03}), Trace_ELBO())
    target = torch.tensor([2.0, -2.0])
    x = MultivariateNormal(
        linear.b + linear.W @ target,
        linear.W @ linear.W.T * 0.25 + linear.sigma**2 * torch.eye(6),
    ).sample((500,))
    before = infer.elbo_terms(model, guide, x, samples=20).elbo.mean()
    for _ in range(300):
        svi.step(x)
    after = infer.elbo_terms(model, guide, x, samples=20).elbo.mean()
    assert (prior.mean - target).abs().max() < 0.25
    assert prior.log_sd.exp().max() < 0.8
    assert after > before + 0.5
    names = [n for n in pyro.get_param_store().keys() if n.startswith("Learned")]
    assert len(names) == 2


def test_torch_optimisers_find_the_prior(linear):
    prior = Learned()
    model = replace_prior(linear.vae, prior)
    bound = Trace_ELBO()(model, linear.guide())
    bound(linear.data(4)).backward()
    assert any(p is prior.mean for p in bound.parameters())
    assert prior.mean.grad.abs().min() > 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", [BottomUp, Delta])
def test_the_graph_is_eager_to_the_last_bit(make):
    runs = []
    vae = VAE((6,), (3, 2), likelihood=Gaussian(), hidden=(8,))
    pair = replace_prior(vae, Learned()), make(vae)
    for engine in ("eager", "graph"):
        twins = copy.deepcopy(pair)
        svi = infer.SVI(*twins, engine=engine)
        with torch.random.fork_rng():
            losses = [float(svi.step(torch.randn(4, 6))) for _ in range(10)]
        runs.append((losses, [p.detach().clone() for p in twins[0].parameters()]))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))
    assert not torch.equal(runs[0][1][-1], [*pair[0].parameters()][-1])


def test_trainer_and_file(tmp_path):
    vae = VAE((6,), 2, likelihood=Gaussian(), hidden=(5,))
    prior, x = Learned(), torch.randn(40, 6) + 1
    model, guide = replace_prior(vae, prior), BottomUp(vae)
    trainer = Trainer(model, guide, beta=0.5, lr=1e-2, seed=0)
    trainer.fit(x, epochs=3, batch_size=20, progress=False)
    assert not torch.equal(prior.mean, MEAN)
    trainer.save(tmp_path / "file.pt")
    again = load(tmp_path / "file.pt")
    assert repr(again) == repr(trainer)
    assert torch.equal(again.model.prior.mean, prior.mean)
    terms = [infer.elbo_terms(t.model, t.guide, x).elbo for t in (trainer, again)]
    assert torch.equal(*terms)
    for t in (trainer, again):
        t.fit(x, epochs=1, batch_size=20, progress=False)
    assert torch.equal(again.model.prior.mean, prior.mean)


def test_labels_and_precision():
    vae = VAE((6,), 2, likelihood=Gaussian(), condition=3).double()
    model, y = replace_prior(vae, Learned().double()), torch.tensor([0, 2])
    assert model.sample(2, y=y).dtype == torch.float64
    x = torch.randn(2, 6, dtype=torch.float64)
    assert infer.elbo_terms(model, BottomUp(vae).double(), x, y=y).elbo.isfinite().all()


def test_construction_leaves_no_trace(linear):
    before = torch.get_rng_state()
    replaced = replace_prior(linear.vae, Learned())
    assert torch.equal(torch.get_rng_state(), before)
    assert linear.vae.training and replaced.training
    assert repr(replaced) == f"replace_prior(Learned(), site='z1') on\n{linear.vae!r}"
    assert list(pyro.get_param_store().keys()) == []
