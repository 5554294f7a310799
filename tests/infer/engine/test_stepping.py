"""Steps without bookkeeping against ``optimizer.step()``: the same to the last bit."""

import collections
import copy
import functools

import pytest
import torch
from torch import nn

from pyro_vae.infer.engine.stepping import Stepper

OPTIMIZERS = {
    "Adam": functools.partial(torch.optim.Adam, fused=True),
    "AdamW": functools.partial(torch.optim.AdamW, fused=True, betas=(0.8, 0.99), eps=1e-6),
    "decay": functools.partial(torch.optim.Adam, fused=True, weight_decay=0.1, maximize=True),
    "decoupled": functools.partial(
        torch.optim.Adam, fused=True, weight_decay=0.5, decoupled_weight_decay=True
    ),
    "amsgrad": functools.partial(torch.optim.Adam, fused=True, amsgrad=True),
    "tensor lr": lambda parameters: torch.optim.Adam(
        parameters, lr=torch.tensor(1e-2), fused=True
    ),
    "not fused": torch.optim.Adam,
    "SGD": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True),
    "RMSprop": torch.optim.RMSprop,
}


class Twins:
    """The same parameters twice: one steps by torch, the other by a ``Stepper``."""

    def __init__(self, build, groups=1):
        torch.manual_seed(0)
        self.pair = [nn.ParameterList([torch.randn(3, 4), torch.randn(4), torch.randn(1)])]
        self.pair.append(copy.deepcopy(self.pair[0]))
        self.optimizers = []
        for parameters in map(list, self.pair):
            options = parameters
            if groups == 2:
                options = [{"params": parameters[:2]}, {"params": parameters[2:], "lr": 0.3}]
            self.optimizers.append(build(options))
        self.fast = Stepper(self.optimizers[1])

    def both(self, change):
        for parameters, optimizer in zip(self.pair, self.optimizers, strict=True):
            change(parameters, optimizer)

    def step(self, without=()):
        for i, (a, b) in enumerate(zip(*self.pair, strict=True)):
            gradient = torch.randn_like(a)
            for p in (a, b):
                p.grad = None if i in without else gradient.clone()
        self.optimizers[0].step()
        self.fast()
        self.assert_equal()

    def assert_equal(self):
        for a, b in zip(*self.pair, strict=True):
            assert torch.equal(a, b)
            first, second = (o.state[p] for o, p in zip(self.optimizers, (a, b), strict=True))
            assert first.keys() == second.keys()
            assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_the_optimizer(name, groups):
    twins = Twins(OPTIMIZERS[name], groups)
    for _ in range(5):
        twins.step()
    fast = name in ("Adam", "AdamW", "decay", "decoupled", "tensor lr")
    assert bool(twins.fast._groups) == fast


@pytest.fixture
def twins():
    twins = Twins(OPTIMIZERS["Adam"], groups=2)
    for _ in range(3):
        twins.step()
    assert twins.fast._groups
    return twins


class TestWhatChangesBetweenSteps:
    def test_options(self, twins):
        for name, value in (("lr", 0.7), ("betas", (0.1, 0.2)), ("eps", 1.0), ("maximize", True)):
            twins.both(lambda _, o, n=name, v=value: o.param_groups[1].update({n: v}))
            twins.step()

    def test_a_moment_kept_for_another_rule(self, twins):
        def amsgrad(parameters, optimizer):
            for p in parameters:
                optimizer.state[p]["max_exp_avg_sq"] = torch.zeros_like(p)
            for group in optimizer.param_groups:
                group["amsgrad"] = True

        twins.both(amsgrad)
        twins.step()
        twins.step()

    def test_missing_gradients(self, twins):
        for without in ((0,), (), (0, 1, 2), ()):
            twins.step(without)

    def test_loaded_state(self, twins):
        saved = copy.deepcopy(twins.optimizers[0].state_dict())
        twins.step()
        twins.both(lambda _, o: o.load_state_dict(copy.deepcopy(saved)))
        twins.step()

    def test_another_state(self, twins):
        twins.both(lambda _, o: setattr(o, "state", collections.defaultdict(dict)))
        twins.step()
        twins.step()

    def test_forgotten_state(self, twins):
        twins.both(lambda parameters, o: o.state.pop(parameters[0]))
        twins.step()
        twins.step()

    def test_a_replaced_moment(self, twins):
        def double(parameters, optimizer):
            state = optimizer.state[parameters[0]]
            state["exp_avg"] = 2 * state["exp_avg"]

        twins.both(double)
        twins.step()

    def test_another_group(self, twins):
        def add(parameters, optimizer):
            torch.manual_seed(5)
            parameters.append(nn.Parameter(torch.randn(2)))
            optimizer.add_param_group({"params": [parameters[-1]]})

        twins.both(add)
        twins.step()
        twins.step()

    def test_a_parameter_in_another_group(self, twins):
        def move(_, optimizer):
            first, second = optimizer.param_groups
            second["params"].append(first["params"].pop())

        twins.both(move)
        twins.step()
        twins.step()

    def test_a_hook(self, twins):
        calls = []
        handle = twins.optimizers[1].register_step_post_hook(lambda *_: calls.append(1))
        twins.step()
        handle.remove()
        twins.step()
        assert calls == [1]

    def test_a_scheduler_of_torch(self, twins):
        schedulers = []
        twins.both(lambda _, o: schedulers.append(torch.optim.lr_scheduler.StepLR(o, 1, 0.5)))
        for _ in range(3):
            twins.step()
            for scheduler in schedulers:
                scheduler.step()  # warns where the optimizer was not seen to step
