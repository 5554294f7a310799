"""Networks along one, two and three dimensions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pyro_vae.ground.recorded import decode, encode
from pyro_vae.networks import ConvDecoder, ConvEncoder, GroupNorm, convolutions
from pyro_vae.networks.convolutional import Residual
from pyro_vae.networks.grids import GridDecoder, GridEncoder, grid_shape

SHAPES = st.lists(st.integers(1, 13), min_size=1, max_size=3)
NORMS = [None, nn.BatchNorm1d, nn.LayerNorm, GroupNorm(2)]
NETWORKS = {"channels": (4, 6), "blocks": 1}


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    size=SHAPES,
    channels=st.sampled_from([(), (1,), (3,)]),
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    blocks=st.integers(0, 2),
    skip=st.booleans(),
    numbers=st.sampled_from([(), (2,)]),
    norm=st.sampled_from(NORMS),
)
def test_shapes_of_any_size_along_any_dimensions(
    size, channels, widths, blocks, skip, numbers, norm
):
    event_shape, dims = (*channels, *size), len(size)
    options = {"channels": widths, "blocks": blocks, "norm": norm, "dims": dims}
    encoder = ConvEncoder(event_shape, features=5, extra=2, **options).eval()
    assert encoder(torch.randn(3, *event_shape), torch.randn(3, 2)).shape == (3, 5)
    out_shape = (*event_shape, *numbers)
    common = {"event_dim": len(event_shape), **options}
    decoder = ConvDecoder(4, out_shape, features=5, skip=skip, **common).eval()
    assert decoder(torch.randn(3, 1), torch.randn(3, 3)).shape == (3, *out_shape)
    grid = GridEncoder(event_shape, 2, **options).eval()(torch.randn(3, *event_shape))
    assert grid.shape == (3, *grid_shape(event_shape, len(widths), dims), 2)
    assert GridDecoder(2, out_shape, **common).eval()(grid).shape == (3, *out_shape)


@pytest.mark.parametrize("event_shape", [(2, 9), (7,), (2, 3, 5, 4), (3, 5, 4)])
def test_leading_dimensions_only_arrange_the_data(event_shape):
    dims = 1 if len(event_shape) < 3 else 3
    encoder = ConvEncoder(event_shape, features=5, extra=2, dims=dims, **NETWORKS)
    x, y = torch.randn(2, 3, *event_shape), torch.randn(3, 2)
    close(encoder(x, y), looped(encoder, x, y))
    options = {"event_dim": len(event_shape), "dims": dims, **NETWORKS}
    decoder = ConvDecoder(5, event_shape, skip=True, **options)
    z = torch.randn(2, 3, 3)
    close(decoder(z, y), looped(decoder, z, y))
    grids = GridEncoder(event_shape, 4, dims=dims, **NETWORKS)
    found = grids(x)
    close(found, looped(grids, x))
    back = GridDecoder(4, event_shape, **options)
    close(back(found), looped(back, found))


def looped(network, x, *others):
    rows = ([network(*datum) for datum in zip(row, *others, strict=True)] for row in x)
    return torch.stack([torch.stack(row) for row in rows])


def slices(weight, dims):
    """The middle of a kernel along all dimensions but the last ``dims``, which alone sees data."""
    while weight.dim() > 2 + dims:
        weight = weight[:, :, 1]
    return weight


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize(
    "make",
    [
        lambda shape, dims: ConvEncoder(shape, dims=dims, features=5, **NETWORKS),
        lambda shape, dims: ConvDecoder(
            3, shape, event_dim=len(shape), dims=dims, skip=True, features=5, **NETWORKS
        ),
        lambda shape, dims: GridEncoder(shape, 3, dims=dims, **NETWORKS),
        lambda shape, dims: GridDecoder(3, shape, event_dim=len(shape), dims=dims, **NETWORKS),
    ],
)
def test_networks_of_data_of_length_one_are_those_of_a_dimension_less(make, dims):
    size = (9, 7)[-dims:]
    small, large = make((2, *size), dims), make((2, 1, *size), dims + 1)
    middle = {}
    for name, value in large.state_dict().items():
        # Kernels of width 1 have no middle but themselves
        flat = value.squeeze(2) if value.dim() > 2 and value.shape[2] == 1 else value
        middle[name] = slices(flat, dims)
    small.load_state_dict(middle)
    if isinstance(small, ConvDecoder):
        z = torch.randn(4, 3)
        close(large(z).squeeze(2), small(z))
    elif isinstance(small, GridDecoder):
        z = torch.randn(4, *grid_shape(size, 2, dims), 3)
        close(large(z.unsqueeze(1)).squeeze(2), small(z))
    else:
        x = torch.randn(4, 2, *size)
        close(large(x.unsqueeze(2)).reshape_as(small(x)), small(x))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_maps_move_with_the_data(dims):
    trunk = ConvEncoder((2, *[48] * dims), dims=dims, channels=(3, 3), blocks=1).convolutions
    x = torch.zeros(1, 2, *[48] * dims)
    middle = (slice(None), slice(None), *[slice(20, 28)] * dims)
    x[middle] = torch.randn(x[middle].shape)
    moved = x.roll([4] * dims, [*range(2, 2 + dims)])
    inside = (slice(None), slice(None), *[slice(3, 8)] * dims)
    shifted = (slice(None), slice(None), *[slice(4, 9)] * dims)
    close(trunk(moved)[shifted], trunk(x)[inside])


def numbers(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_parameters_by_hand(dims):
    def conv(a, b, kernel):
        return a * b * kernel**dims + b

    event_shape = (3, *[20] * dims)
    encoder = ConvEncoder(event_shape, channels=(4, 6), blocks=2, features=7, extra=2, dims=dims)

    def block(c):
        return conv(c, c, 3) + conv(c, c, 1)

    assert numbers(Residual(4, dims=dims)) == block(4)
    down = conv(3, 4, 3) + 2 * block(4) + conv(4, 6, 3) + 2 * block(6)
    assert numbers(encoder) == down + (6 * 5**dims + 2) * 7 + 7
    decoder = ConvDecoder(
        5, event_shape, event_dim=1 + dims, channels=(4, 6), blocks=2, features=7, dims=dims
    )
    dense = 5 * 7 + 7 + (7 + 1) * 6 * 5**dims
    assert numbers(decoder) == dense + 2 * block(6) + conv(6, 4, 3) + 2 * block(4) + conv(4, 3, 3)


def test_large_pictures_have_no_large_dense_layer():
    maps = convolutions("image", (3, 64, 64))
    encoder = ConvEncoder((3, 64, 64), **maps)
    block = {c: c * c * 9 + c + c * c + c for c in (32, 64, 128)}
    strided = [a * b * 9 + b for a, b in ((3, 32), (32, 64), (64, 128), (128, 128))]
    blocks = block[32] + block[64] + 2 * block[128]
    assert numbers(encoder) == sum(strided) + blocks + 128 * 4 * 4 * 256 + 256
    assert numbers(encoder) < numbers(ConvEncoder((3, 64, 64))) / 3


@pytest.mark.parametrize(
    ("kind", "event_shape", "expected"),
    [
        ("image", (1, 8, 8), ((32, 64), 0)),
        ("image", (28, 28), ((32, 64), 0)),
        ("image", (3, 32, 32), ((32, 64), 0)),
        ("image", (3, 33, 32), ((32, 64, 128, 128), 1)),
        ("signal", (2, 16000), ((32, 64, *[128] * 8), 1)),
        ("signal", (2, 3), ((32, 64), 1)),
        ("signal", (2,), ((32,), 1)),
        ("video", (1, 16, 64, 64), ((32, 64, 128, 128), 1)),
    ],
)
def test_defaults_by_kind(kind, event_shape, expected):
    maps = convolutions(kind, event_shape)
    assert (maps["channels"], maps["blocks"]) == expected
    small = grid_shape(event_shape, len(maps["channels"]), maps["dims"])
    assert (kind == "image" and not maps["blocks"]) or math.prod(small) <= 16


def test_a_block_alone_is_asked_for():
    assert convolutions("image", (1, 28, 28), blocks=1)["channels"] == (32, 64)
    assert convolutions("image", (1, 28, 28), channels=(8, 16))["blocks"] == 1
    assert convolutions("image", (1, 28, 28), channels=8, blocks=0)["channels"] == (8,)
    assert not convolutions("image", (1, 28, 28), hidden=(4,), blocks=0)
    assert not convolutions("vector", (4,))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_group_normalisation_is_of_each_datum_and_of_maps(dims):
    options = {"dims": dims, "norm": GroupNorm(3), **NETWORKS}
    encoder = ConvEncoder((2, *[8] * dims), features=5, **options)
    assert isinstance(encoder.norm, nn.Identity)
    x = 9 + torch.randn(4, 2, *[8] * dims)
    seen = []
    norms = [m for m in encoder.modules() if isinstance(m, nn.GroupNorm)]
    assert [m.num_groups for m in norms] == [1, 1, 1, 3, 3, 3]
    norms[-1].register_forward_hook(lambda _, inputs, result: seen.append((*inputs, result)))
    close(encoder(x)[1:], encoder(x[1:]))
    maps, result = (v.unflatten(1, (3, 2)).flatten(2) for v in seen[0])
    mean, variance = maps.mean(-1, keepdim=True), maps.var(-1, correction=0, keepdim=True)
    close(result, (maps - mean) / (variance + 1e-5).sqrt())
    again = decode(encode(encoder, "encoder"))
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(x), encoder(x))
