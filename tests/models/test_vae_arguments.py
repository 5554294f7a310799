"""Constructor arguments: what people pass, and errors that name the fix."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE


def build(event_shape=(64,), latents=3, **kwargs):
    return VAE(event_shape, latents, **({"likelihood": Gaussian(), "hidden": (5,)} | kwargs))


def shapes(vae):
    return {name: tuple(p.shape) for name, p in vae.named_parameters()}


@pytest.mark.parametrize("latents", [3, (4, 3)])
def test_one_width_is_one_hidden_layer(latents):
    assert shapes(build(latents=latents, hidden=16)) == shapes(
        build(latents=latents, hidden=(16,))
    )


def test_integers_of_numpy_are_integers():
    vae = build((np.int64(64),), np.int64(3), hidden=np.array([5]), condition=np.int32(2))
    assert shapes(vae) == shapes(build(condition=2))
    values = (*vae.event_shape, *vae.latent_sizes.values(), *vae.hidden[0], vae.condition)
    assert [type(value) for value in values] == [int] * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": (-4,)}, r"hidden: expected positive integers, got \(-4,\)"),
        ({"hidden": (4.0,)}, r"hidden: expected positive integers, got \(4.0,\)"),
        ({"hidden": 0}, "hidden: expected positive integers, got 0"),
        ({"hidden": (True,)}, r"hidden: expected positive integers, got \(True,\)"),
        ({"hidden": ((4,), (4.0,)), "latents": (3, 2)}, r"hidden\[1\]: expected positive int"),
        ({"latents": True}, "latents: expected positive integers, got True"),
        ({"latents": 2.5}, "latents: expected positive integers, got 2.5"),
        ({"latents": None}, "latents: expected positive integers, got None"),
        ({"event_shape": (True,)}, "event_shape: expected positive integers"),
        ({"condition": 2.5}, "condition: expected the number of classes, got 2.5: pass an int"),
        ({"condition": True}, "condition: expected the number of classes, got True"),
        ({"condition": -1}, "condition: expected the number of classes, got -1"),
        ({"condition": None}, "condition: expected the number of classes, got None"),
    ],
)
def test_sizes_that_are_none(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        (nn.ReLU(), r"got the instance ReLU\(\): pass the class, torch.nn.ReLU$"),
        (nn.Tanh(), r"pass the class, torch.nn.Tanh$"),
        ("relu", "got 'relu': pass the class, such as torch.nn.ReLU$"),
        (torch.relu, "relu.*: pass the class, such as torch.nn.ReLU$"),
        (None, "got None: pass the class, such as torch.nn.ReLU$"),
    ],
)
def test_activations_that_make_no_module(activation, message):
    with pytest.raises(TypeError, match="activation: expected a class or function .*" + message):
        build(activation=activation)


def test_a_function_that_makes_a_module_is_an_activation():
    vae = build(activation=partial(nn.LeakyReLU, 0.2))
    assert math.isclose(vae.decoder.activation.negative_slope, 0.2)


def test_a_decoder_of_other_inputs_is_one_error():
    with pytest.raises(ValueError) as raised:
        build(decoder=nn.Linear(5, 64))
    message = str(raised.value)
    assert message.startswith("decoder: expected a network that maps tensors of shape (n, 3) to")
    assert "(1x3 and 5x64)" in message and "got a Linear" in message and "\n" not in message
    assert isinstance(raised.value.__cause__, RuntimeError)
    with pytest.raises(ValueError, match=r"decoder: .* of shape \(n, 3\), \(n, 4\) to a tensor"):
        build(decoder=nn.Linear(3, 64), condition=4)


@pytest.mark.parametrize("decoder", [nn.Linear, "mlp", torch.relu])
def test_a_decoder_is_a_module(decoder):
    with pytest.raises(TypeError, match=r"decoder: expected an instance of torch\.nn\.Module"):
        build(decoder=decoder)
