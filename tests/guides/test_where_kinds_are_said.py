"""Kinds that are said of what a program is made of, and of data that experts are built for."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import Trainer, data, guides

X = torch.rand(6, 4, 3)


def program(decoder, x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        loc = decoder(z).unflatten(-1, x.shape[1:])
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(x.dim() - 1), obs=x)


class Held:
    """An object that is no module."""

    def __init__(self, kind):
        self.kind = kind

    def model(self, x):
        program(lambda z: z @ torch.ones(2, 12), x)


def partial(decoder):
    def said(decoder, x):
        program(decoder, x)

    said.kind = {"x": "sequence"}
    return functools.partial(said, decoder)


@pytest.mark.parametrize(
    "model",
    [Held("sequence").model, partial(nn.Linear(2, 12)), partial(lambda z: z @ torch.ones(2, 12))],
    ids=["method", "partial with a module", "partial"],
)
def test_methods_and_partials_say_what_they_are_of(model):
    guide = guides.BottomUp(model, like=X)
    assert "x (4, 3) sequence\n" in repr(guide)
    with pytest.raises(ValueError, match="of kind 'array', got a"):
        Trainer(model, guide).fit(data.Dataset(X, kind="array"), epochs=1, progress=False)


@pytest.mark.parametrize("kind", ["signal", "array", "vector"])
def test_dense_networks_that_are_a_guess_read_any_data(kind):
    x = X.flatten(1)
    model = functools.partial(program, nn.Linear(2, 12))
    guide = guides.BottomUp(model, like=x)
    fit = {"epochs": 1, "progress": False}
    assert Trainer(model, guide).fit(data.Dataset(x, kind=kind), **fit).step == 1
    tokens = data.Dataset(x.round(), kind="tokens")
    with pytest.raises(ValueError, match="of kind 'tokens', got a BottomUp with networks"):
        Trainer(model, guide).fit(tokens, **fit)


def labelled(x=None, y=None):
    n = len(y if x is None else x)
    with pyro.plate("data", n):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        loc = (z @ torch.ones(2, 12)).unflatten(-1, (4, 3))
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(2), obs=x)
        pyro.sample("y", dist.Categorical(logits=z[:, :1] * torch.ones(3)), obs=y)


@pytest.mark.parametrize("kind", ["sequence", "array"])
def test_experts_read_data_as_these_say(kind):
    told = data.Dataset(X, torch.arange(6) % 3, kind=kind)
    guide = guides.ProductOfExperts(["x", "y"], model=labelled, like=told)
    assert f"x (4, 3) {kind}\n" in repr(guide) and "guess" not in repr(guide)
    assert not hasattr(told.x, "kind")
    assert Trainer(labelled, guide).fit(told, epochs=1, progress=False).step == 1
    with pytest.raises(ValueError, match=f"of kind 'image', got a .* for '{kind}'"):
        Trainer(labelled, guide).fit(told.replace(kind="image"), epochs=1, progress=False)
