import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import linear, relu

from pyro_vae.guides import BottomUp
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import VAE
from pyro_vae.networks import (
    MLP,
    ConvDecoder,
    ConvEncoder,
    concatenate,
    decoder,
    encoder,
    hidden_per_layer,
    output_shape,
)

SIZES = [(1, 1), (1, 7), (5, 3), (9, 7), (28, 28), (32, 32)]
IMAGES = [*SIZES, *((1, *size) for size in SIZES), *((3, *size) for size in SIZES)]
small_encoder = partial(ConvEncoder, channels=(3, 4), features=10, activation=nn.SiLU)
small_decoder = partial(ConvDecoder, channels=(3, 4), features=10, activation=nn.SiLU)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def check_rows(network, *shapes):
    """Rows do not see each other, and leading dimensions only arrange them."""
    inputs = [torch.randn(6, *shape) for shape in shapes]
    result = network(*inputs)
    for i in range(len(inputs)):
        changed = [v.clone() for v in inputs]
        changed[i][2] += 1.0
        again = network(*changed)
        others = [0, 1, 3, 4, 5]
        close(again[others], result[others])
        assert not torch.equal(again[2], result[2])
    close(network(*(v.unflatten(0, (2, 3)) for v in inputs)), result.unflatten(0, (2, 3)))
    close(network(*(v[0] for v in inputs)), result[0])
    broadcast = network(inputs[0].unflatten(0, (2, 3)), *(v[:3] for v in inputs[1:]))
    repeated = network(inputs[0], *(v[:3].repeat(2, 1) for v in inputs[1:]))
    close(broadcast, repeated.unflatten(0, (2, 3)))
    return result


@pytest.mark.parametrize("event_shape", IMAGES)
def test_convolutional_encoder_of_any_image(event_shape):
    assert check_rows(small_encoder(event_shape, extra=2), event_shape, (2,)).shape == (6, 10)


@pytest.mark.parametrize("numbers", [(), (4,)])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("event_shape", IMAGES)
def test_convolutional_decoder_to_any_image(event_shape, skip, numbers):
    network = small_decoder(5, (*event_shape, *numbers), event_dim=len(event_shape), skip=skip)
    assert check_rows(network, (3,), (2,)).shape == (6, *event_shape, *numbers)


@pytest.mark.parametrize("hidden", [(), (8,), (8, 7)])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("in_shape", [(5,), (2, 3), (1, 3, 2), (2, 1, 2, 2)])
def test_mlp_of_any_shape(in_shape, skip, hidden):
    network = MLP(in_shape, hidden, (4, 2), extra=2, skip=skip, activation=nn.SiLU)
    assert check_rows(network, in_shape, (2,)).shape == (6, 4, 2)
    features = MLP(in_shape, hidden, extra=2, skip=skip, activation=nn.SiLU)
    assert check_rows(features, in_shape, (2,)).shape == (6, features.out_features)


def test_numbers_of_a_pixel_are_the_last_dimension():
    network = small_decoder(5, (3, 4, 4, 7), event_dim=3)
    z = torch.randn(2, 5)
    flat = network.out_shape
    network.out_shape = (21, 4, 4)  # the same maps, as one image of 3 * 7 channels
    maps = network(z)
    network.out_shape = flat
    for channel in range(3):
        for number in range(7):
            assert torch.equal(network(z)[:, channel, :, :, number], maps[:, 7 * channel + number])


@pytest.mark.parametrize("skip", [False, True])
def test_mlp_by_hand(skip):
    network = MLP((2, 2), (5, 6), (3,), extra=2, skip=skip)
    x, y = torch.randn(4, 2, 2), torch.randn(4, 2)
    (w1, b1), (w2, b2), (w3, b3) = ((m.weight, m.bias) for m in network.layers)
    start = torch.cat([x.reshape(4, 4), y], -1)
    h = relu(linear(start, w1, b1))
    h = relu(linear(torch.cat([h, start], -1) if skip else h, w2, b2))
    expected = linear(torch.cat([h, start], -1) if skip else h, w3, b3)
    assert torch.equal(network(x, y), expected)


def test_mlp_without_layers_is_the_identity():
    x, y = torch.randn(4, 2, 2), torch.randn(4, 2)
    for skip in (False, True):
        network = MLP((2, 2), (), extra=2, skip=skip)
        assert network.out_features == 6
        assert torch.equal(network(x, y), torch.cat([x.flatten(1), y], -1))


class Zero(nn.Module):
    def forward(self, x):
        return x * 0


def layers_that_see(module, inputs, run):
    """For each layer: whether it sees every one of ``inputs`` though all activations are zero."""
    seen = {}

    def record(name, layer, arguments):
        grads = torch.autograd.grad(
            (arguments[0] * torch.randn_like(arguments[0])).sum(),
            inputs,
            retain_graph=True,
            allow_unused=True,
        )
        seen[name] = all(g is not None and bool((g != 0).any(0).all()) for g in grads)

    handles = [
        layer.register_forward_pre_hook(partial(record, name))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.ConvTranspose2d)
    ]
    run()
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(
    "network",
    [
        lambda skip: MLP((3,), (5, 6, 7), (4,), skip=skip, activation=Zero),
        lambda skip: small_decoder(3, (1, 9, 7), event_dim=3, skip=skip, activation=Zero),
        lambda skip: small_decoder(3, (5, 4, 2), event_dim=2, skip=skip, activation=Zero),
    ],
)
def test_with_skip_every_layer_sees_the_latents(network, skip):
    network, z = network(skip), torch.randn(2, 3, requires_grad=True)
    seen = layers_that_see(network, [z], lambda: network(z))
    first, *later = seen.values()
    assert first
    assert len(later) >= 3
    assert all(later) if skip else not any(later)


@pytest.mark.parametrize("event_shape", [(6,), (1, 5, 4)])
def test_in_a_skip_vae_every_layer_of_every_conditional_sees_all_latents_above(event_shape):
    hidden = None if len(event_shape) > 1 else (5, 4)
    vae = VAE(
        event_shape, (4, 3, 2), likelihood=Gaussian(), skip=True, activation=Zero, hidden=hidden
    )
    z = {s: torch.randn(2, k, requires_grad=True) for s, k in vae.latent_sizes.items()}
    for conditional, sites in [
        (vae.decoder, ["z1", "z2", "z3"]),
        (vae.conditionals["z1"], ["z2", "z3"]),
        (vae.conditionals["z2"], ["z3"]),
    ]:
        inputs = [z[s] for s in sites]
        seen = layers_that_see(conditional, inputs, lambda c=conditional, i=inputs: c(*i))
        assert len(seen) >= 3
        assert all(seen.values()), seen


def dense(*widths):
    return sum((a + 1) * b for a, b in pairwise(widths))


def test_number_of_parameters_of_the_five_layer_hierarchy():
    latents = (64, 32, 16, 8, 4)
    hidden = ((512, 512), (256, 256), (128, 128), (64, 64), (32, 32))
    vae = VAE((784,), latents, hidden=hidden, likelihood=Bernoulli())
    guide = BottomUp(vae)
    decode = dense(64, 512, 512, 784)
    top_down = sum(
        dense(latents[i], *hidden[i]) + 2 * dense(hidden[i][-1], latents[i - 1])
        for i in range(1, 5)
    )
    below = (784, *latents)
    bottom_up = sum(
        dense(below[i], *hidden[i]) + 2 * dense(hidden[i][-1], latents[i]) for i in range(5)
    )
    assert sum(p.numel() for p in vae.parameters()) == decode + top_down
    assert sum(p.numel() for p in guide.parameters()) == bottom_up
    # The published count has a batch norm, 2 numbers a unit, on each hidden layer and head
    units = sum(h[-1] + h[-1] for h in hidden) * 2 + 2 * sum(latents) + 2 * sum(latents[:-1])
    assert decode + top_down + bottom_up + 2 * units == 1_711_560


def test_defaults_follow_the_shape_of_the_data():
    assert isinstance(encoder((3, 4), None), ConvEncoder)
    assert isinstance(encoder((2, 3, 4), None), ConvEncoder)
    assert isinstance(encoder((3, 4), (5,)), MLP)
    for event_shape in [(5,), (2, 2, 2, 2)]:
        assert [m.out_features for m in encoder(event_shape, None).layers] == [256, 256]
    assert isinstance(decoder(2, (3, 4), (3, 4), None), ConvDecoder)
    assert [m.out_features for m in decoder(2, (3, 4), (3, 4), (7, 5)).layers] == [5, 7, 12]


def test_concatenate_broadcasts_leading_dimensions():
    a, b = torch.randn(4, 1, 3), torch.randn(5, 2)
    got = concatenate([a, b])
    assert got.shape == (4, 5, 5)
    assert torch.equal(got[2, 3], torch.cat([a[2, 0], b[3]]))
    assert concatenate([a]) is a


def test_widths_per_layer():
    assert hidden_per_layer(None, 2) == (None, None)
    assert hidden_per_layer((), 2) == ((), ())
    assert hidden_per_layer([8, 4], 2) == ((8, 4), (8, 4))
    assert hidden_per_layer([[8], []], 2) == ((8,), ())
    with pytest.raises(ValueError, match=r"one tuple per latent layer \(3\), got \(\(8,\), "):
        hidden_per_layer(((8,), (4,)), 3)
    assert hidden_per_layer(8, 2) == ((8,), (8,))
    assert hidden_per_layer((8, (4, 2)), 2) == ((8,), (4, 2))
    for bad in (-8, (8, 0), (8.0,), True, "8"):
        with pytest.raises(ValueError, match="hidden"):
            hidden_per_layer(bad, 2)


def test_output_shape_leaves_no_trace():
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout())
    before = {k: v.clone() for k, v in network.state_dict().items()}
    state = torch.get_rng_state()
    assert output_shape(network, (2, 3)) == (4,)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(m.training for m in network.modules())
    assert output_shape(nn.Identity(), (math.prod((2, 3)),)) == (6,)


def test_output_shape_names_the_network_that_fails():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    class Silent(nn.Module):
        def forward(self, x):
            raise RuntimeError

    network = nn.Linear(5, 2).train()
    with pytest.raises(ValueError, match=r"head: .* \(n, 3\) to a tensor, got a Linear .*1x3 and"):
        output_shape(network, (3,), argument="head")
    assert network.training
    with pytest.raises(ValueError, match=r"with n = 1: RuntimeError\. Build"):
        output_shape(Silent(), (3,))
    with pytest.raises(ValueError, match="got a Pair that returns a tuple: return one tensor"):
        output_shape(Pair(), (3,))
    with pytest.raises(TypeError, match=r"network: expected an instance of torch\.nn\.Module"):
        output_shape(nn.Linear, (3,))
