"""Learned mixtures against mixtures written by hand, and what learning them gains."""

import copy
import math

import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from torch.nn.functional import softplus

from pyro_vae import Trainer, infer, load
from pyro_vae.guides import BottomUp, Delta
from pyro_vae.handlers import replace_prior
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import VAE
from pyro_vae.priors import AggregatePosterior, FlowPrior, MixturePrior, VampPrior


def normal(z, mean, sd):
    """Log-density of N(mean, diag sd^2), written out."""
    square = ((z - mean) / sd).square().sum(-1)
    return -0.5 * square - sd.log().sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)


def pair(size=2):
    vae = VAE((6,), size, likelihood=Gaussian(0.3), hidden=(16,))
    return vae, BottomUp(vae)


def clusters(n):
    """Three tight groups of points on a plane in six dimensions."""
    generator = torch.Generator().manual_seed(3)
    plane = torch.randn(2, 6, generator=generator)
    centres = 3 * torch.tensor([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]])
    points = centres[torch.arange(n) % 3] + 0.1 * torch.randn(n, 2, generator=generator)
    return points @ plane + 0.3 * torch.randn(n, 6, generator=generator)


def test_mixture_prior_is_the_mixture_by_hand():
    prior, z = MixturePrior(2, components=3), torch.randn(7, 2)
    nn.init.normal_(prior.logits)
    nn.init.normal_(prior.raw_scale)
    by_hand = torch.stack(
        [
            normal(z, m, softplus(r) + 1e-3)
            for m, r in zip(prior.means, prior.raw_scale, strict=True)
        ]
    )
    expected = (prior.logits.log_softmax(0)[:, None] + by_hand).logsumexp(0)
    torch.testing.assert_close(prior().log_prob(z), expected)


def test_vamp_prior_is_the_mixture_of_posteriors_by_hand():
    _, guide = pair()
    prior, z = VampPrior(guide, components=4), torch.randn(7, 2)
    parts = [guide.conditionals["z1"](u[None]) for u in prior.inputs]
    by_hand = torch.stack([normal(z, q.mean, q.stddev) for q in parts])
    torch.testing.assert_close(prior().log_prob(z), by_hand.logsumexp(0) - math.log(4))


def test_vamp_prior_at_the_data_is_the_aggregate_posterior(linear):
    """For the exact posterior and data of the model, q(z) is N(0, I)."""
    x = linear.data(5000)
    prior = VampPrior(linear.guide(), components=5000).start_from(x)
    z = torch.randn(200, 2)
    with torch.no_grad():
        difference = prior().log_prob(z) - normal(z, torch.zeros(2), torch.ones(2))
    assert difference.abs().mean() < 0.1


def test_vamp_prior_activation():
    _, guide = pair()
    prior = VampPrior(guide, components=2, activation=nn.Sigmoid)
    q = guide.conditionals["z1"](prior.inputs.sigmoid())
    torch.testing.assert_close(prior().component_distribution.mean, q.mean)


def test_vamp_prior_shares_the_encoder(tmp_path):
    vae, guide = pair()
    model = replace_prior(vae, VampPrior(guide, components=4))
    assert model.prior.conditional is guide.conditionals["z1"]
    trainer = Trainer(model, guide, seed=0)
    trainer.fit(clusters(60), epochs=2, progress=False)
    held = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    expected = {*map(id, vae.parameters()), *map(id, guide.parameters()), id(model.prior.inputs)}
    assert {id(p) for p in held} == expected and len(held) == len(expected)
    trainer.save(tmp_path / "file")
    again = load(tmp_path / "file")
    assert again.model.prior.conditional is again.guide.conditionals["z1"]
    for t in (trainer, again):
        t.fit(clusters(60), epochs=1, progress=False)
    assert torch.equal(again.model.prior.inputs, model.prior.inputs)


PRIORS = {
    "mixture": lambda guide: MixturePrior(2, components=4),
    "vamp": lambda guide: VampPrior(guide, components=4),
    "flow": lambda guide: FlowPrior(2, transforms=2, hidden=(8,)),
}


FITTED = {"aggregate": lambda guide: AggregatePosterior(2).fit_samples(torch.randn(50, 2))}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", [*PRIORS, *FITTED])
def test_the_graph_is_eager_to_the_last_bit(name):
    vae, guide = pair()
    programs = replace_prior(vae, (PRIORS | FITTED)[name](guide)), guide
    runs = []
    for engine in ("eager", "graph"):
        twins = copy.deepcopy(programs)
        svi = infer.SVI(*twins, engine=engine)
        with torch.random.fork_rng():
            losses = [float(svi.step(torch.randn(4, 6))) for _ in range(10)]
        runs.append((losses, [p.detach().clone() for p in twins[0].parameters()]))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))


@pytest.mark.parametrize("name", PRIORS)
def test_a_learned_prior_raises_the_bound(name):
    """A standard normal cannot have three modes, and the learned priors start no better."""
    torch.manual_seed(1)
    x, bounds = clusters(300), []
    for learned in (False, True):
        torch.manual_seed(4)
        vae, guide = pair()
        model = replace_prior(vae, PRIORS[name](guide)) if learned else vae
        trainer = Trainer(model, guide, lr=1e-2, seed=0)
        trainer.fit(x, epochs=60, batch_size=100, progress=False)
        bounds.append(infer.elbo_terms(model, guide, x, samples=20).elbo.mean())
    assert bounds[1] > bounds[0] + 0.3


@pytest.mark.parametrize("name", [*PRIORS, *FITTED])
def test_stock_pyro_and_the_library_find_one_bound(name):
    vae, guide = pair()
    model, x = replace_prior(vae, (PRIORS | FITTED)[name](guide)), clusters(9)
    with torch.random.fork_rng():
        bound = infer.elbo_terms(model, guide, x).elbo.sum()
    with torch.random.fork_rng():
        assert Trace_ELBO().loss(model, guide, x) == pytest.approx(-float(bound), rel=1e-5)
    one = infer.log_likelihood(model, guide, x, importance_samples=300)
    assert (one > infer.elbo_terms(model, guide, x, samples=100).elbo - 0.5).all()


def test_errors():
    vae, guide = pair()
    with pytest.raises(ValueError, match=r"components: .* whole number of at least 1, got 0"):
        VampPrior(guide, components=0)
    with pytest.raises(ValueError, match="size: expected a whole number of at least 1, got 0"):
        MixturePrior(0)
    with pytest.raises(TypeError, match=r"guide: expected one with conditionals, such as guides"):
        VampPrior(vae.decoder)
    deep = VAE((6,), (3, 2), likelihood=Gaussian())
    with pytest.raises(ValueError, match=r"without labels, got latents \('z2', 'z1'\)"):
        VampPrior(BottomUp(deep))
    labelled = VAE((6,), 2, likelihood=Bernoulli(), condition=3)
    with pytest.raises(ValueError, match="without labels"):
        VampPrior(BottomUp(labelled))
    with pytest.raises(ValueError, match="prior: a Delta cannot be mixed"):
        replace_prior(vae, VampPrior(Delta(vae)))
    with pytest.raises(ValueError, match=r"x: expected shape \(4, 6\), got \(3, 6\)"):
        VampPrior(guide, components=4).start_from(torch.zeros(3, 6))
