import copy
import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from torch.distributions import constraints

from pyro_vae.guides import BottomUp
from pyro_vae.handlers import scale_latents
from pyro_vae.infer import SVI, AnalyticELBO, TraceELBO, UntrainedWarning
from pyro_vae.infer.engine.optimizers import fused
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

OPTIMIZERS = [
    (torch.optim.SGD, pyro.optim.SGD, {"lr": 1e-3, "momentum": 0.9}),
    (torch.optim.Adam, pyro.optim.Adam, {"lr": 1e-2}),
    (torch.optim.AdamW, pyro.optim.AdamW, {"lr": 1e-2}),
]


def user_model(x):
    """Factor analysis with named parameters, one of them constrained."""
    weight = pyro.param("weight", torch.tensor([[1.0, -1.0, 0.5]]))
    sigma = pyro.param("sigma", torch.tensor(2.0), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("code", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        pyro.sample("seen", dist.Normal(z @ weight, sigma).to_event(1), obs=x)


def user_guide(x):
    gain = pyro.param("gain", torch.zeros(3, 1))
    width = pyro.param("width", torch.ones(1), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        pyro.sample("code", dist.Normal(x @ gain, width).to_event(1))


def flat(*programs):
    return torch.cat([p.detach().flatten() for m in programs for p in m.parameters()])


@pytest.mark.parametrize(("ours", "stock", "kwargs"), OPTIMIZERS)
def test_losses_and_parameters_equal_stock_pyro(pair, ours, stock, kwargs):
    x = torch.randn(5, 20, 6)
    twins = copy.deepcopy(pair)
    svi = SVI(*pair, functools.partial(ours, **kwargs))
    with torch.random.fork_rng():
        losses = [float(svi.step(batch)) for batch in x]
    reference = pyro.infer.SVI(*twins, stock(dict(kwargs)), Trace_ELBO())
    assert losses == pytest.approx([reference.step(batch) for batch in x], rel=1e-6)
    torch.testing.assert_close(flat(*pair), flat(*twins), rtol=1e-5, atol=1e-7)


def test_plain_functions_equal_stock_pyro():
    x = torch.randn(5, 20, 3)
    svi = SVI(user_model, user_guide, functools.partial(torch.optim.Adam, lr=1e-2))
    with torch.random.fork_rng():
        losses = [float(svi.step(batch)) for batch in x]
    trained = {k: v.detach().clone() for k, v in pyro.get_param_store().items()}
    pyro.clear_param_store()
    reference = pyro.infer.SVI(user_model, user_guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    assert losses == pytest.approx([reference.step(batch) for batch in x], rel=1e-6)
    assert sorted(trained) == ["gain", "sigma", "weight", "width"]
    for name, value in pyro.get_param_store().items():
        torch.testing.assert_close(trained[name], value.detach())


def test_a_module_with_a_function_trains_both():
    vae = VAE((6,), 2, likelihood=Gaussian(), hidden=())

    def guide(x):
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(loc, 1.0).to_event(1))

    svi = SVI(vae, guide)
    before = flat(vae)
    svi.step(torch.randn(5, 6))
    assert (flat(vae) != before).all()
    assert (pyro.get_param_store()["loc"] != 0).all()
    assert sum(p.numel() for p in svi.optimizer.param_groups[0]["params"]) == len(before) + 2


def test_modules_leave_the_param_store_alone(pair):
    svi = SVI(*pair)
    svi.step(torch.randn(5, 6))
    svi.evaluate_loss(torch.randn(5, 6))
    assert not list(pyro.get_param_store().keys())


def test_shared_parameters_are_optimised_once():
    vae = VAE((6,), 2, likelihood=Gaussian(), hidden=())

    class Borrower(BottomUp):
        def __init__(self, vae):
            super().__init__(vae)
            self.borrowed = vae.decoder

    svi = SVI(vae, Borrower(vae))
    parameters = svi.parameters()
    assert len(parameters) == len({id(p) for p in parameters}) == 2 + 4


def test_training_reaches_the_exact_posterior(linear):
    linear.vae.requires_grad_(False)
    x = linear.data(500)
    guide = BottomUp(linear.vae)
    svi = SVI(linear.vae, guide, functools.partial(torch.optim.Adam, lr=3e-2))
    for _ in range(400):
        svi.step(x)
    gap = linear.evidence().log_prob(x) - linear.bound(guide, x)
    assert -1e-4 < gap.min()
    assert gap.mean() < 0.02


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_gradient_and_update_are_a_step(pair, engine):
    twins, x = copy.deepcopy(pair), torch.randn(6, 20, 6)
    whole, halves = (
        SVI(*programs, functools.partial(torch.optim.Adam, lr=1e-2), clip_norm=3.0, engine=engine)
        for programs in (pair, twins)
    )
    with torch.random.fork_rng():
        losses = [whole.step(batch) for batch in x]
    for batch, loss in zip(x, losses, strict=True):
        before = flat(*twins)
        found, terms = halves.gradient(batch)
        assert torch.equal(found, loss)
        assert not found.requires_grad
        assert terms is halves.terms
        assert torch.equal(flat(*twins), before)
        halves.update()
    assert torch.equal(flat(*twins), flat(*pair))


def test_a_gradient_without_update_is_forgotten(pair):
    twins, x = copy.deepcopy(pair), torch.randn(20, 6)
    once, twice = SVI(*pair), SVI(*twins)
    torch.manual_seed(1)
    once.step(x)
    twice.gradient(x)
    torch.manual_seed(1)
    twice.gradient(x)
    twice.update()
    assert torch.equal(flat(*twins), flat(*pair))


def test_an_update_needs_a_gradient(pair):
    with pytest.raises(RuntimeError, match=r"call gradient\(x\) first"):
        SVI(*pair).update()


def test_clipping_bounds_the_total_gradient_norm(pair):
    x = 100 * torch.randn(20, 6)
    before = flat(*pair)
    SVI(*pair, functools.partial(torch.optim.SGD, lr=1.0), clip_norm=0.25).step(x)
    assert (flat(*pair) - before).norm().item() == pytest.approx(0.25, rel=1e-3)


def test_small_gradients_are_not_clipped(pair):
    x = torch.randn(20, 6)
    twins = copy.deepcopy(pair)
    with torch.random.fork_rng():
        SVI(*pair, functools.partial(torch.optim.SGD, lr=1e-6), clip_norm=1e9).step(x)
    SVI(*twins, functools.partial(torch.optim.SGD, lr=1e-6)).step(x)
    assert torch.equal(flat(*pair), flat(*twins))


def test_a_parameter_without_gradient_is_named_once(pair):
    vae, guide = pair
    vae.unused = nn.Linear(2, 2)
    guide.conditionals["z1"].forgotten = nn.Parameter(torch.zeros(1))
    svi, before = SVI(vae, guide), flat(vae.decoder)
    with pytest.warns(UntrainedWarning) as caught:
        svi.step(torch.randn(5, 6))
    assert [warning.filename for warning in caught] == [__file__]
    (message,) = [str(warning.message) for warning in caught]
    assert "model.unused.weight, model.unused.bias, guide.conditionals.z1.forgotten" in message
    assert not torch.equal(flat(vae.decoder), before)
    # Any further warning is an error
    svi.step(torch.randn(5, 6))
    assert "requires_grad_(False)" in message
    vae.unused.requires_grad_(False)
    guide.conditionals["z1"].forgotten.requires_grad_(False)
    SVI(vae, guide).step(torch.randn(5, 6))


def test_a_frozen_pair_is_refused(pair):
    for program in pair:
        program.requires_grad_(False)
    with pytest.raises(ValueError, match="the pair has no trainable parameters"):
        SVI(*pair).step(torch.randn(5, 6))


def test_frozen_parameters_stay_bit_equal(pair):
    vae, guide = pair
    vae.decoder.requires_grad_(False)
    guide.conditionals["z2"].requires_grad_(False)
    frozen = [p for p in [*vae.parameters(), *guide.parameters()] if not p.requires_grad]
    kept = [p.clone() for p in frozen]
    svi = SVI(vae, guide, functools.partial(torch.optim.AdamW, lr=0.1, weight_decay=0.1))
    for _ in range(3):
        svi.step(torch.randn(5, 6))
    assert all(torch.equal(a, b) for a, b in zip(frozen, kept, strict=True))
    assert all(p.grad is None for p in frozen)
    moved = [p for p in [*vae.parameters(), *guide.parameters()] if p.requires_grad]
    assert set(map(id, svi.optimizer.state)) == set(map(id, moved))


def test_terms_are_unannealed_and_those_of_the_step(pair):
    x = torch.randn(5, 6)
    with torch.random.fork_rng():
        expected = TraceELBO()(*pair, x)[1]
    svi = SVI(*(scale_latents(p, 0.5) for p in pair))
    loss = svi.step(x)
    assert torch.equal(svi.terms.elbo, expected.elbo)
    objective = expected.reconstruction - 0.5 * sum(expected.kl.values())
    torch.testing.assert_close(loss, -objective.sum())
    assert not svi.terms.elbo.requires_grad
    assert not loss.requires_grad


def test_evaluate_loss_is_the_loss_without_any_change(linear):
    x, guide = linear.data(7), linear.guide(shift=0.5)
    svi = SVI(linear.vae, guide, loss=AnalyticELBO(reduction="mean"))
    before, random = flat(linear.vae, guide), torch.get_rng_state()
    loss = svi.evaluate_loss(x)
    assert torch.equal(svi.evaluate_loss(x), loss)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(flat(linear.vae, guide), before)
    expected, _ = AnalyticELBO(reduction="mean")(linear.vae, guide, x)
    torch.testing.assert_close(loss, expected.detach())
    assert linear.vae.training


def test_batch_norm_is_updated_once_per_step():
    vae = VAE((6,), 2, likelihood=Gaussian(), hidden=())
    norm = nn.BatchNorm1d(6)
    svi = SVI(vae, BottomUp(vae, encoder=norm))
    for _ in range(3):
        svi.step(torch.randn(5, 6))
    assert norm.num_batches_tracked == 3


def test_labels_reach_both_programs():
    vae = VAE((6,), 2, likelihood=Gaussian(), hidden=(), condition=3)
    svi = SVI(vae, BottomUp(vae))
    x, y = torch.randn(5, 6), torch.tensor([0, 1, 2, 0, 1])
    svi.step(x, y=y)
    svi.evaluate_loss(x, y=y)
    with pytest.raises(ValueError, match="pass y="):
        svi.step(x)


def test_validation_is_as_before_after_each_step(pair):
    svi = SVI(*pair)
    for _ in range(3):
        svi.step(torch.randn(5, 6))
        assert pyro.infer.util.is_validation_enabled()


def test_fused_falls_back_where_torch_has_no_fused_kernel():
    parameters = [nn.Parameter(torch.ones(2))]
    assert fused(torch.optim.Adam, lr=0.5)(parameters).defaults["fused"]
    assert fused(torch.optim.RMSprop, lr=0.5)(parameters).defaults["lr"] == 0.5
