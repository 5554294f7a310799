"""Optimizers and objectives of stock Pyro as arguments of ``infer.SVI`` and ``Trainer``."""

import copy
import functools
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import infer as stock
from torch import nn

from pyro_vae import Trainer
from pyro_vae.guides import BottomUp
from pyro_vae.infer import SVI, TraceELBO
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

LOSSES = [
    lambda: stock.Trace_ELBO(),
    lambda: stock.Trace_ELBO(num_particles=3),
    lambda: stock.Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    lambda: stock.TraceGraph_ELBO(),
    lambda: stock.TraceMeanField_ELBO(),
    lambda: stock.TraceEnum_ELBO(strict_enumeration_warning=False),
    lambda: stock.RenyiELBO(alpha=0, num_particles=4),
    lambda: stock.RenyiELBO(alpha=0.5, num_particles=2),
    lambda: stock.TraceTailAdaptive_ELBO(
        num_particles=4, vectorize_particles=True, max_plate_nesting=1
    ),
    lambda: stock.ReweightedWakeSleep(num_particles=3, vectorize_particles=False),
]  # fmt: skip

OPTIMIZERS = [
    lambda: pyro.optim.Adam({"lr": 1e-2}),
    lambda: pyro.optim.ClippedAdam({"lr": 1e-2, "clip_norm": 1.0, "lrd": 0.9}),
    lambda: pyro.optim.SGD({"lr": 1e-3, "momentum": 0.9}, clip_args={"clip_norm": 0.5}),
    lambda: pyro.optim.Adam(lambda name: {"lr": 1e-2 if name.endswith("weight") else 1e-4}),
    lambda: pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.SGD, "optim_args": {"lr": 1e-3}, "gamma": 0.5}
    ),
]


@pytest.fixture
def pair():
    vae = VAE((6,), 2, likelihood=Gaussian(0.7), hidden=(5,))
    return vae, BottomUp(vae)


def flat(*programs):
    return torch.cat([p.detach().flatten() for m in programs for p in m.parameters()])


def steps(svi, optimizer, x):
    losses = []
    for batch in x:
        loss = svi.step(batch)
        losses.append(torch.as_tensor(loss, dtype=torch.double))
        if isinstance(optimizer, pyro.optim.PyroOptim) and hasattr(optimizer, "step"):
            optimizer.step()
    return torch.stack(losses)


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")
@pytest.mark.parametrize(
    ("loss", "optimizer"),
    [(loss, OPTIMIZERS[0]) for loss in LOSSES] + [(LOSSES[0], other) for other in OPTIMIZERS[1:]],
)
def test_losses_and_steps_are_those_of_stock_svi(pair, loss, optimizer):
    x, twins = torch.randn(4, 10, 6), copy.deepcopy(pair)
    ours, theirs = optimizer(), optimizer()
    svi, state = SVI(*pair, ours, loss()), torch.get_rng_state()
    losses = steps(svi, ours, x)
    torch.set_rng_state(state)
    expected = pyro.infer.SVI(*twins, theirs, loss())
    torch.testing.assert_close(losses, steps(expected, theirs, x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(flat(*pair), flat(*twins), rtol=1e-5, atol=1e-6)
    assert svi.terms is None


def mixture(x):
    """Two normals; the guide leaves the component to be enumerated."""
    locs = pyro.param("locs", torch.tensor([-1.0, 1.0]))
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(locs[k] + z, 1.0), obs=x)


def guide_of_z(x):
    loc = pyro.param("loc", torch.zeros(()))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc.expand(len(x)), 0.5))


def test_enumeration_trains_as_under_stock_svi():
    x, found = torch.randn(3, 8), []
    for kind in (SVI, pyro.infer.SVI):
        pyro.clear_param_store()
        pyro.set_rng_seed(1)
        loss = stock.TraceEnum_ELBO(max_plate_nesting=1)
        svi = kind(mixture, guide_of_z, pyro.optim.Adam({"lr": 0.1}), loss)
        losses = [float(svi.step(batch)) for batch in x]
        found.append((losses, {k: v.detach() for k, v in pyro.get_param_store().items()}))
    torch.testing.assert_close(*found)


def test_a_stock_loss_with_a_torch_optimizer_and_the_reverse(pair):
    x, states = torch.randn(3, 10, 6), []
    kinds = [
        (pyro.optim.Adam({"lr": 1e-2}), stock.Trace_ELBO()),
        (functools.partial(torch.optim.Adam, lr=1e-2), stock.Trace_ELBO()),
        (pyro.optim.Adam({"lr": 1e-2}), TraceELBO()),
    ]
    for optimizer, loss in kinds:
        twins = copy.deepcopy(pair)
        svi = SVI(*twins, optimizer, loss)
        with torch.random.fork_rng():
            losses = torch.stack([svi.step(batch).double() for batch in x])
        states.append((losses, flat(*twins)))
    for state in states[1:]:
        torch.testing.assert_close(state, states[0], rtol=1e-5, atol=1e-6)


def test_labels_reach_a_stock_loss():
    vae = VAE((6,), 2, likelihood=Gaussian(), hidden=(), condition=3)
    svi = SVI(vae, BottomUp(vae), loss=stock.Trace_ELBO())
    x, y = torch.randn(5, 6), torch.tensor([0, 1, 2, 0, 1])
    before = flat(vae)
    svi.step(x, y=y)
    assert not torch.equal(flat(vae), before)
    state = torch.get_rng_state()
    assert svi.evaluate_loss(x, y=y) == svi.evaluate_loss(x, y=y)
    assert torch.equal(torch.get_rng_state(), state)


class Plain(nn.Module):
    """Programs that declare nothing to Pyro; stock SVI trains nothing of them."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 2)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(self.net(x), 1.0).to_event(1))


def test_modules_that_declare_nothing_are_trained(pair):
    guide = Plain()
    before = flat(guide)
    SVI(pair[0], guide, pyro.optim.Adam({"lr": 0.1}), stock.Trace_ELBO()).step(torch.randn(5, 6))
    assert (flat(guide) != before).all()


def test_an_engine_that_cannot_record_a_stock_loss_says_so(pair):
    with pytest.warns(UserWarning, match=r"Trace_ELBO runs eagerly.*pass loss=TraceELBO\(\)"):
        svi = SVI(*pair, loss=stock.Trace_ELBO(), engine="graph")
    svi.step(torch.randn(5, 6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": stock.Trace_ELBO}, r"loss: .* the class Trace_ELBO: pass Trace_ELBO\(\)"),
        ({"loss": TraceELBO}, r"loss: .* the class TraceELBO: pass TraceELBO\(\)"),
        (
            {"loss": stock.JitTrace_ELBO()},
            r"loss: JitTrace_ELBO .*pass loss=pyro.infer.Trace_ELBO",
        ),
        ({"loss": stock.EnergyDistance()}, r"loss: expected an estimator.*pass TraceELBO\(\)"),
        ({"loss": "trace"}, r"loss: expected an estimator.*got 'trace': pass TraceELBO\(\)"),
        ({"loss": "enumerate"}, r"got 'enumerate': pass TraceEnumELBO\(\)"),
        ({"optimizer": torch.optim.SGD([torch.ones(1)])}, "got a SGD object: pass a class"),
        ({"optimizer": torch.optim.LBFGS}, "optimizer: LBFGS"),
    ],
)
def test_what_svi_does_not_take_is_refused_in_one_line(pair, arguments, message):
    with pytest.raises(TypeError, match=message) as error:
        SVI(*pair, **arguments)
    assert "\n" not in str(error.value)


def advised(error, name):
    """The arguments that a message tells to pass."""
    text = re.search(rf"pass ({name}=.*?)$", str(error.value))[1]
    names = {"torch": torch, "pyro": pyro, "functools": functools}
    return eval(f"dict({text})", names)  # our own message


@pytest.mark.parametrize(
    "optimizer",
    [
        pyro.optim.Adam({"lr": 0.02}),
        pyro.optim.Adam({"betas": (0.8, 0.99)}),
        pyro.optim.ClippedAdam({"lr": 0.02, "clip_norm": 1.0}),
        pyro.optim.SGD({"lr": 0.02, "momentum": 0.5}),
    ],
)
def test_a_trainer_says_how_to_write_a_stock_optimizer(pair, optimizer):
    with pytest.raises(TypeError, match="optimizer: expected a class of") as error:
        Trainer(*pair, optimizer=optimizer)
    x = torch.randn(20, 6)
    trainer = Trainer(*pair, **advised(error, "optimizer"))
    trainer.fit(x, epochs=1, progress=False)
    (group,) = trainer.optimizer.param_groups
    expected = optimizer.pt_optim_constructor([torch.ones(1)], **optimizer.pt_optim_args).defaults
    for name in ("lr", "betas", "momentum", "clip_norm"):
        assert group.get(name) == expected.get(name)


def test_a_class_is_no_elbo(pair):
    with pytest.raises(TypeError, match=r"elbo: .*got the class TraceELBO: pass TraceELBO\(...\)"):
        Trainer(*pair, elbo=TraceELBO)
