"""Networks that read what a recorded graph might not see: state, streams, values.

Each function returns a network (n, 6) -> (n, 8), and what a person does between two steps.
"""

import collections
import dataclasses
import functools
import itertools
import os
import random
import types

import numpy as np
import torch
from torch import nn

SCALE = 1.0
PROGRAMS = {}


def program(function):
    PROGRAMS[function.__name__] = function
    return function


class Between(nn.Module):
    """Two layers with something between them, which sees the hidden units and the input."""

    def __init__(self, between, **held):
        super().__init__()
        self.first, self.second, self.between = nn.Linear(6, 8), nn.Linear(8, 8), between
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.second(self.between(self, self.first(x), x))


def nothing(step):
    pass


def annealed(step):
    """Another number every ten steps; a record is made at step 101 or at the second."""
    return 1.0 + step // 10 / 10


@program
def namespace():
    net = Between(lambda self, h, x: h * self.cfg.t, cfg=types.SimpleNamespace(t=1.0))
    return net, lambda step: setattr(net.cfg, "t", annealed(step))


@dataclasses.dataclass
class Config:
    t: float = 1.0


@dataclasses.dataclass(slots=True)
class Slotted:
    t: float = 1.0


@program
def data_class():
    net = Between(lambda self, h, x: h * self.cfg.t, cfg=Config())
    return net, lambda step: setattr(net.cfg, "t", annealed(step))


@program
def data_class_with_slots():
    net = Between(lambda self, h, x: h * self.cfg.t, cfg=Slotted())
    return net, lambda step: setattr(net.cfg, "t", annealed(step))


@program
def nested_objects():
    cfg = types.SimpleNamespace(inner=[{"a": Config()}])
    net = Between(lambda self, h, x: h * self.cfg.inner[0]["a"].t, cfg=cfg)
    return net, lambda step: setattr(cfg.inner[0]["a"], "t", annealed(step))


@program
def a_set():
    net = Between(lambda self, h, x: h.tanh() if "tanh" in self.used else h, used=set())
    return net, lambda step: net.used.add("tanh") if step == 107 else None


@program
def a_deque():
    net = Between(lambda self, h, x: h * self.last[-1], last=collections.deque([1.0], 3))
    return net, lambda step: net.last.append(annealed(step))


@program
def numpy_array():
    net = Between(lambda self, h, x: h * float(self.t[0]), t=np.ones(2))
    return net, lambda step: net.t.fill(annealed(step))


@program
def numpy_array_as_a_tensor():
    net = Between(lambda self, h, x: h * torch.tensor(self.t, dtype=h.dtype), t=np.ones(8))
    return net, lambda step: net.t.fill(annealed(step))


@program
def numpy_scalar():
    net = Between(lambda self, h, x: h * float(self.t), t=np.float32(1))
    return net, lambda step: setattr(net, "t", np.float32(annealed(step)))


@program
def class_attribute():
    class Net(Between):
        t = 1.0

    net = Net(lambda self, h, x: h * self.t)
    return net, lambda step: setattr(Net, "t", annealed(step))


@program
def method_of_a_class():
    class Net(Between):
        def scale(self):
            return 1.0

    def change(step):
        t = annealed(step)
        Net.scale = lambda self: t

    return Net(lambda self, h, x: h * self.scale()), change


@program
def property_of_a_class():
    held = [1.0]

    class Net(Between):
        @property
        def t(self):
            return held[0]

    return Net(lambda self, h, x: h * self.t), lambda step: held.__setitem__(0, annealed(step))


@program
def module_global():
    def change(step):
        global SCALE
        SCALE = annealed(step)

    change(0)
    return Between(lambda self, h, x: h * SCALE), change


def read_global(h):
    return h * SCALE


@program
def global_of_a_called_function():
    change = module_global()[1]
    return Between(lambda self, h, x: read_global(h)), change


@program
def closure():
    t = 1.0

    def change(step):
        nonlocal t
        t = annealed(step)

    return Between(lambda self, h, x: h * t), change


@program
def partial():
    scaled = functools.partial(lambda self, h, x, t: h * t, t=1.0)
    return Between(scaled), lambda step: scaled.keywords.__setitem__("t", annealed(step))


@program
def default_argument():
    def scaled(self, h, x, t=[1.0]):  # noqa: B006
        return h * t[0]

    return Between(scaled), lambda step: scaled.__defaults__[0].__setitem__(0, annealed(step))


@program
def attribute_of_a_hook():
    class Hook:
        t = 1.0

        def __call__(self, module, args, output):
            return output * self.t

    net, hook = Between(lambda self, h, x: h), Hook()
    net.first.register_forward_hook(hook)
    return net, lambda step: setattr(hook, "t", annealed(step))


@program
def hooks_replaced():
    net, handles = Between(lambda self, h, x: h), []

    def change(step):
        if step % 10 == 0:
            for handle in handles:
                handle.remove()
            t = annealed(step)
            handles[:] = [net.first.register_forward_hook(lambda module, given, out: out * t)]

    return net, change


@program
def bound_method():
    class Scaler:
        def __init__(self):
            self.t = 1.0

        def __call__(self, net, h, x):
            return h * self.t

    scaler = Scaler()
    return Between(scaler.__call__), lambda step: setattr(scaler, "t", annealed(step))


class Holder:
    def __init__(self, *held):
        self.held = held


@program
def network_held_by_a_plain_object():
    holder = Holder(nn.Linear(8, 8))
    net = Between(lambda self, h, x: holder.held[0](h), holder=holder)

    def change(step):
        if step % 10 == 0:
            holder.held = (nn.Linear(8, 8),)

    return net, change


@program
def dropout_held_by_a_plain_object():
    holder = Holder(nn.Dropout(0.5))
    net = Between(lambda self, h, x: self.holder.held[0](h), holder=holder)
    return net, lambda step: holder.held[0].train(step < 107)


@program
def python_random():
    return Between(lambda self, h, x: h * random.random()), nothing


@program
def numpy_random():
    return Between(lambda self, h, x: h * float(np.random.rand())), nothing


@program
def own_python_random():
    net = Between(lambda self, h, x: h * self.random.random(), random=random.Random(1))
    return net, nothing


@program
def own_numpy_generator():
    net = Between(
        lambda self, h, x: h * float(self.random.random()), random=np.random.default_rng(1)
    )
    return net, nothing


@program
def own_torch_generator():
    generator = torch.Generator().manual_seed(1)
    net = Between(
        lambda self, h, x: h + torch.randn(h.shape, generator=self.generator), generator=generator
    )
    return net, nothing


class Counting(Between):
    def __init__(self, between):
        super().__init__(between)
        self.calls, self.mean = 0, torch.zeros(8)
        self.history = []

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


@program
def counter():
    return Counting(lambda self, h, x: h * (1 + self.calls % 3)), nothing


@program
def counter_that_nothing_reads_with_a_branch():
    return Counting(lambda self, h, x: h if h.sum().item() > 0 else 2 * h), nothing


@program
def hidden_units_kept():
    def keep(self, h, x):
        self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        return h - self.mean

    return Counting(keep), nothing


@program
def plain_tensor_moved_in_place():
    def move(self, h, x):
        self.mean.mul_(0.9).add_(0.1 * h.detach().mean(0))
        return h - self.mean

    net = Between(move)
    net.mean = torch.zeros(8)
    return net, nothing


@program
def plain_tensor_replaced():
    net = Between(lambda self, h, x: h * self.t, t=torch.ones(8))
    return net, lambda step: setattr(net, "t", torch.full((8,), annealed(step)))


@program
def plain_tensor_read_by_item():
    net = Between(lambda self, h, x: h * self.t.item(), t=torch.ones(()))
    return net, lambda step: net.t.fill_(annealed(step))


@program
def buffer_assigned():
    def move(self, h, x):
        self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        return h - self.mean

    net = Between(move)
    net.register_buffer("mean", torch.zeros(8))
    return net, nothing


@program
def list_that_grows():
    counts = []
    return Between(lambda self, h, x: counts.append(1) or h * (1 + len(counts) % 3)), nothing


@program
def forward_of_an_instance():
    net = Between(lambda self, h, x: h)

    def change(step):
        if step == 107:
            net.first.forward = lambda x: x @ net.first.weight.t()

    return net, change


@program
def cache_filled_at_the_first_call():
    def cached(self, h, x):
        if self.mask is None:
            self.mask = torch.ones(8).cumsum(0)
        return h * self.mask

    return Between(cached, mask=None), nothing


# What no record can watch: results may differ between two comparisons, which is told


@program
def environment():
    os.environ["PYRO_VAE_TEST"] = "1"
    net = Between(lambda self, h, x: h * float(os.environ["PYRO_VAE_TEST"]))
    return net, lambda step: os.environ.__setitem__("PYRO_VAE_TEST", str(annealed(step)))


@program
def attribute_of_a_library():
    random.adversarial = 1.0
    net = Between(lambda self, h, x: h * random.adversarial)
    return net, lambda step: setattr(random, "adversarial", annealed(step))


@program
def long_list():
    held = [1.0] * 20_000
    net = Between(lambda self, h, x: h * self.held[0], held=held)
    return net, lambda step: held.__setitem__(0, annealed(step))


@program
def iterator():
    ones = itertools.chain([1.0] * 107, itertools.repeat(2.0))
    return Between(lambda self, h, x: h * next(ones)), nothing


UNWATCHED = ("environment", "attribute_of_a_library", "long_list", "iterator")
