"""Plain scripts with stock Pyro: what trains, what stays frozen, what the param store holds."""

import copy
import json
import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from pyro_vae.conditionals.normal import DiagonalNormal
from pyro_vae.guides import BottomUp, Delta
from pyro_vae.handlers import corrupt, scale_latents
from pyro_vae.likelihoods import Gaussian, Likelihood
from pyro_vae.models import VAE


def svi_steps(model, guide, x, steps=2):
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(steps):
        svi.step(x)


def torch_steps(model, guide, x, steps=2):
    elbo = Trace_ELBO()(model, guide)
    optimizer = torch.optim.Adam([p for p in elbo.parameters() if p.requires_grad], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        elbo(x).backward()
        optimizer.step()


ROUTES = pytest.mark.parametrize("train", [svi_steps, torch_steps])


@pytest.fixture
def x():
    return torch.randn(20, 6)


@pytest.fixture
def vae():
    return VAE((6,), (4, 3), likelihood=Gaussian(0.7), hidden=(5,), activation=nn.Tanh)


def parameters(*programs):
    return [p for program in programs for p in program.parameters()]


def moved(programs, run):
    """Names of the parameters that ``run`` changed, and of those that it did not."""
    named = {f"{i}.{k}": p for i, m in enumerate(programs) for k, p in m.named_parameters()}
    before = {k: p.detach().clone() for k, p in named.items()}
    run()
    changed = {k for k, p in named.items() if not torch.equal(p, before[k])}
    return changed, set(named) - changed


@ROUTES
@pytest.mark.parametrize("widths", [((5,), (5,)), ((5,), (7, 6))])
def test_guides_a_b_a(vae, x, train, widths):
    a, b = (BottomUp(vae, hidden=w) for w in widths)
    for guide, idle in ((a, b), (b, a), (a, b)):
        _, still = moved([vae, guide], lambda guide=guide: train(vae, guide, x))
        assert still == set()
        changed, _ = moved([idle], lambda guide=guide: train(vae, guide, x))
        assert changed == set()


@ROUTES
def test_guides_of_different_kinds(vae, x, train):
    for guide in (BottomUp(vae), Delta(vae), corrupt(BottomUp(vae), 0.1)):
        _, still = moved([vae, guide], lambda guide=guide: train(vae, guide, x))
        assert still == set()


@ROUTES
def test_the_same_cell_twice(x, train):
    for _ in range(2):
        vae = VAE((6,), (4, 3), likelihood=Gaussian(0.7), hidden=(5,), activation=nn.Tanh)
        guide = BottomUp(vae)
        _, still = moved([vae, guide], lambda pair=(vae, guide): train(*pair, x))
        assert still == set()


def test_one_optimizer_object_for_two_guides(vae, x):
    optimizer = pyro.optim.Adam({"lr": 0.1})
    for guide in (BottomUp(vae), BottomUp(vae)):
        svi = SVI(vae, guide, optimizer, Trace_ELBO())
        _, still = moved([vae, guide], lambda svi=svi: svi.step(x))
        assert still == set()


@ROUTES
def test_frozen_stays_frozen_and_trains_again_when_thawed(vae, x, train):
    guide = BottomUp(vae)
    parts = [vae.decoder, guide.conditionals["z2"]]
    for frozen in (False, True, False, True):
        for part in parts:
            part.requires_grad_(not frozen)
        expected = {
            f"{i}.{k}"
            for i, m in enumerate((vae, guide))
            for k, p in m.named_parameters()
            if not p.requires_grad
        }
        _, still = moved([vae, guide], lambda: train(vae, guide, x))
        assert still == expected
        assert bool(expected) == frozen


def test_frozen_and_thawed_under_one_svi(vae, x):
    guide = BottomUp(vae)
    svi = SVI(vae, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for frozen in (False, True, False):
        vae.requires_grad_(not frozen)
        changed, still = moved([vae, guide], lambda: svi.step(x))
        assert {k[0] for k in changed} == ({"1"} if frozen else {"0", "1"})
        assert {k[0] for k in still} == ({"0"} if frozen else set())


@ROUTES
def test_other_models_are_left_alone(vae, x, train):
    guide = BottomUp(vae)
    others = [VAE((6,), (4, 3), likelihood=Gaussian(0.7), hidden=(5,)) for _ in range(2)]
    for other in others:
        svi_steps(other, BottomUp(other), x)
    kept = {k: v.detach().clone() for k, v in pyro.get_param_store().items()}
    changed, _ = moved(others, lambda: train(vae, guide, x))
    assert changed == set()
    store = pyro.get_param_store()
    assert all(torch.equal(store[k], v) for k, v in kept.items() if k in store)


def test_clearing_the_param_store_in_between_is_harmless(vae, x):
    guide = BottomUp(vae)
    twins = copy.deepcopy((vae, guide))
    for clear, (model, inference) in ((True, (vae, guide)), (False, twins)):
        with torch.random.fork_rng():
            svi = SVI(model, inference, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
            for _ in range(4):
                svi.step(x)
                if clear:
                    pyro.clear_param_store()
    for p, q in zip(parameters(vae, guide), parameters(*twins), strict=True):
        assert torch.equal(p, q)


def test_entries_go_with_their_instance(vae, x):
    sizes = []
    for _ in range(50):
        guide = BottomUp(vae)
        svi_steps(vae, guide, x, steps=1)
        del guide
        sizes.append(len(pyro.get_param_store()))
    assert set(sizes) == {len(list(vae.parameters()))}


@ROUTES
def test_a_replaced_part_trains(vae, x, train):
    guide = BottomUp(vae)
    train(vae, guide, x)
    vae.decoder = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 6))
    guide.conditionals["z1"] = DiagonalNormal(nn.Linear(6, 5), 5, 4)
    _, still = moved([vae, guide], lambda: train(vae, guide, x))
    assert still == set()


def test_a_replaced_part_trains_under_the_same_svi(vae, x):
    guide = BottomUp(vae)
    svi = SVI(vae, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    svi.step(x)
    vae.decoder = copy.deepcopy(vae.decoder)
    _, still = moved([vae, guide], lambda: svi.step(x))
    assert still == set()


class LearnedScale(Likelihood):
    def __init__(self):
        super().__init__()
        self.log_sigma = nn.Parameter(torch.zeros(()))

    def forward(self, features):
        return dist.Normal(features, self.log_sigma.exp())


@ROUTES
def test_two_models_with_one_likelihood(x, train):
    likelihood = LearnedScale()
    models = [VAE((6,), 2, likelihood=likelihood, hidden=()) for _ in range(2)]
    guides = [BottomUp(model) for model in models]
    for i in (0, 1, 0):
        changed, still = moved([models[i], guides[i]], lambda i=i: train(models[i], guides[i], x))
        assert still == set()
        assert any(k.endswith("log_sigma") for k in changed)
    del models[0], guides[0]
    _, still = moved([models[0], guides[0]], lambda: train(models[0], guides[0], x))
    assert still == set()


class Borrower(BottomUp):
    """A guide that uses a conditional of its model, as the ladder does."""

    def __init__(self, vae):
        super().__init__(vae)
        self.borrowed = vae.conditionals["z1"]


def test_a_guide_that_borrows_parts_of_its_model_comes_and_goes(vae, x):
    for _ in range(2):
        guide = Borrower(vae)
        _, still = moved([vae, guide], lambda guide=guide: svi_steps(vae, guide, x))
        assert still == set()
        del guide
        other = BottomUp(vae)
        _, still = moved([vae, other], lambda guide=other: svi_steps(vae, guide, x))
        assert still == set()
    store = pyro.get_param_store()
    names = [store.param_name(p) for p in vae.parameters()]
    assert len(set(names)) == len(names)
    assert None not in names


def test_parameters_that_are_not_contiguous_train(vae, x):
    for layer in vae.decoder.layers:
        layer.weight = nn.Parameter(layer.weight.detach().T.contiguous().T)
    guide = BottomUp(vae)
    _, still = moved([vae, guide], lambda: svi_steps(vae, guide, x))
    assert still == set()


@ROUTES
def test_wrapped_programs_train_the_same_parameters(vae, x, train):
    guide = BottomUp(vae)
    pair = scale_latents(vae, 0.5), scale_latents(guide, 0.5)
    _, still = moved([vae, guide], lambda: train(*pair, x))
    assert still == set()
    changed, _ = moved([vae], lambda: train(vae, BottomUp(vae), x))
    assert changed


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_both_routes_are_the_same_steps(x, elbo):
    vae = VAE((6,), 3, likelihood=Gaussian(0.7), hidden=(5,))
    pair = vae, BottomUp(vae)
    twins = copy.deepcopy(pair)
    svi = SVI(*pair, pyro.optim.Adam({"lr": 0.1}), elbo())
    with torch.random.fork_rng():
        losses = [svi.step(x) for _ in range(3)]
    loss = elbo()(*twins)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    for expected in losses:
        optimizer.zero_grad()
        value = loss(x)
        assert value.item() == pytest.approx(expected, rel=1e-6)
        value.backward()
        optimizer.step()
    for p, q in zip(parameters(*pair), parameters(*twins), strict=True):
        torch.testing.assert_close(p, q)


def test_training_improves_the_bound_to_the_evidence(linear):
    x, guide = linear.data(500), BottomUp(linear.vae)
    linear.vae.requires_grad_(False)
    svi = SVI(linear.vae, guide, pyro.optim.Adam({"lr": 0.03}), Trace_ELBO())
    for _ in range(300):
        svi.step(x)
    gap = linear.evidence().log_prob(x) - linear.bound(guide, x)
    assert -1e-4 < gap.min()
    assert gap.mean() < 0.02


IMPORT = """
import json, logging, random, sys, warnings
import matplotlib, numpy, pyro, torch, torchvision, sklearn, tqdm.auto, matplotlib.pyplot
import torch.distributions as td

def state():
    return {
        "pyro.settings": {k: repr(v) for k, v in pyro.settings.get().items()},
        "dtype": str(torch.get_default_dtype()),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch rng": torch.get_rng_state().tolist(),
        "numpy rng": repr(numpy.random.get_state()),
        "python rng": hash(random.getstate()),
        "validation": td.Distribution._Distribution__validate_args
        if hasattr(td.Distribution, "_Distribution__validate_args")
        else td.Distribution._validate_args,
        "pyro validation": pyro.infer.util.is_validation_enabled(),
        "params": list(pyro.get_param_store().keys()),
        "log handlers": {
            name: [repr(h) for h in logging.getLogger(name).handlers]
            for name in ("", "pyro", "torch", "pyro_vae", "matplotlib")
        },
        "log levels": {n: logging.getLogger(n).level for n in ("", "pyro", "torch")},
        "warnings": [repr(f) for f in warnings.filters],
        "backend": matplotlib.get_backend(),
        "rcParams": repr(sorted(matplotlib.rcParams.items())),
        "excepthook": repr(sys.excepthook),
    }

before = state()
import pyro_vae
after = state()
print(json.dumps([k for k in before if before[k] != after[k]]))
"""


def test_importing_the_package_changes_no_global_setting():
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", IMPORT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == []
