"""What a program keeps in containers of any kind is as under eager, recorded or told."""

import array
import collections
import itertools
import queue
import threading
import warnings

import pytest
import torch
from torch import nn

from pyro_vae import guides, infer, likelihoods, models

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
STEPS = 13


class Counting(nn.Module):
    """Counts its passes in a container."""

    def __init__(self, held, add):
        super().__init__()
        self.layer, self.held, self.add = nn.Linear(6, 8), held, add

    def forward(self, x):
        if self.training:
            self.add(self.held)
        return self.layer(x)


def first_up(held):
    held[0] += 1


def attribute_up(held):
    held.passes = getattr(held, "passes", 0) + 1


def set_up(held):
    held.add(len(held))


# What holds, what a pass does to it, and what it then shows
CASES = {
    "a long dict": (lambda: dict.fromkeys(range(20_000), 0), first_up, lambda h: h[0]),
    "a long list": (lambda: [0] * 10_001, lambda h: h.append(1), len),
    "a long set": (lambda: set(range(10_001)), set_up, len),
    "a long deque": (lambda: collections.deque([0] * 10_001), lambda h: h.append(1), len),
    "an array": (lambda: array.array("q", [0]), first_up, lambda h: h[0]),
    "a bytearray": (lambda: bytearray(1), first_up, lambda h: h[0]),
    "a user's dict": (lambda: collections.UserDict({0: 0}), first_up, lambda h: h[0]),
    "a user's list": (lambda: collections.UserList([0]), lambda h: h.append(1), len),
    "a queue": (queue.Queue, lambda h: h.put(1), lambda h: h.qsize()),
    "a simple queue": (queue.SimpleQueue, lambda h: h.put(1), lambda h: h.qsize()),
    "what a thread has": (threading.local, attribute_up, lambda h: h.passes),
    "an iterator": (itertools.count, next, next),
    "a generator": (lambda: (i for i in range(1000)), next, next),
}


def run(case, engine):
    make, add, shown = CASES[case]
    torch.manual_seed(0)
    vae = models.VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(8,))
    guide = guides.BottomUp(vae, encoder=Counting(make(), add))
    svi = infer.SVI(vae, guide, engine=engine)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        losses = torch.stack([svi.step(X) for _ in range(STEPS)])
    return losses, shown(guide.conditionals["z1"].network.held), len(caught)


@pytest.mark.parametrize("case", CASES)
def test_contents_are_those_of_eager_steps(case):
    losses, expected, _ = run(case, "eager")
    found, held, notices = run(case, "graph")
    assert torch.equal(found, losses) and held == expected
    assert notices


def test_many_shapes_of_batches_are_told_as_such():
    vae = models.VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(8,))
    guide, graph = guides.BottomUp(vae), infer.Graph(infer.TraceELBO(), after=5)
    x = torch.randn(200, 6)
    with pytest.warns(UserWarning, match="the shapes of its batches change from step to step"):
        for n in range(1, 140):
            graph(vae, guide, x[:n])
