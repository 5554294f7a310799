import pytest
import torch

from pyro_vae.networks.masked import PixelCNN

SIZES = [(1, 1), (1, 5), (5, 1), (4, 5)]


def dependence(function, x):
    """Whether each output pixel depends on each input pixel: (h w, h w), by the Jacobian."""
    jacobian = torch.autograd.functional.jacobian(function, x)[0, :, :, :, 0]
    pixels = x[0, 0].numel()
    found = jacobian.abs().sum((0, 3)).reshape(pixels, pixels)
    return found > 0


def jittered(network):
    """All parameters away from zero, so that a dependence cannot vanish by chance."""
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return network.double()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel", [3, 5])
def test_a_pixel_sees_every_pixel_before_it_and_no_other(size, kernel):
    network = jittered(PixelCNN(2, 3, width=6, layers=6, kernel=kernel))
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    pixels = size[0] * size[1]
    before = torch.ones(pixels, pixels, dtype=torch.bool).tril(-1)
    # ReLUs of the head may be off for one datum, so look at several
    seen = torch.stack([dependence(network, x + i) for i in range(4)]).any(0)
    assert torch.equal(seen, before)


@pytest.mark.parametrize("pixel", range(20))
def test_changing_a_pixel_leaves_the_features_up_to_it(pixel):
    network = jittered(PixelCNN(1, 2, width=8, layers=6, context=2))
    x, context = torch.randn(9, 1, 4, 5).double(), torch.randn(9, 2, 4, 5).double()
    changed = x.clone().flatten(2)
    changed[..., pixel] += 1
    a = network(x, context).flatten(2)
    b = network(changed.reshape(x.shape), context).flatten(2)
    assert torch.equal(a[..., : pixel + 1], b[..., : pixel + 1])
    assert pixel == 19 or not torch.equal(a[..., pixel + 1 :], b[..., pixel + 1 :])


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_field_grows_by_half_a_kernel_per_layer(layers):
    network = jittered(PixelCNN(1, 1, width=6, layers=layers))
    x = torch.randn(1, 1, 9, 9).double()
    seen = torch.stack([dependence(network, x + i) for i in range(4)]).any(0)
    centre = seen[4 * 9 + 4].reshape(9, 9)
    expected = torch.zeros(9, 9, dtype=torch.bool)
    expected[4 - layers : 4, 4 - layers : 5 + layers] = True
    expected[4, 4 - layers : 4] = True
    assert torch.equal(centre, expected)


@pytest.mark.parametrize("skip_context", [False, True])
def test_context_reaches_its_own_row_and_later_ones(skip_context):
    network = jittered(PixelCNN(1, 2, width=6, layers=6, context=3, skip_context=skip_context))
    x, context = torch.randn(1, 1, 3, 4).double(), torch.randn(1, 3, 3, 4).double()
    seen = torch.stack([dependence(lambda c: network(x, c), context + i) for i in range(4)]).any(0)
    rows = torch.arange(12) // 4
    assert torch.equal(seen, rows[:, None] >= rows)


def test_only_skipping_context_is_seen_past_the_first_layer():
    x, context = torch.randn(1, 1, 3, 3), torch.randn(1, 2, 3, 3)
    for skip_context in (False, True):
        network = PixelCNN(1, 2, width=4, layers=3, context=2, skip_context=skip_context)
        first = network.layers[0]
        with torch.no_grad():
            first.context.weight.zero_()
        same = torch.equal(network(x, context), network(x, -context))
        assert same is not skip_context


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("skip_context", [False, True])
def test_a_walk_that_fills_in_the_pixels_gives_the_features_of_the_filled_image(
    size, kernel, context, skip_context
):
    options = {"kernel": kernel, "context": context, "skip_context": skip_context}
    network = jittered(PixelCNN(2, 3, width=6, layers=4, **options))
    maps = torch.randn(5, 2, *size).double() if context else None
    x = torch.zeros(5, 2, *size, dtype=torch.float64)
    found = torch.zeros(5, 3, *size, dtype=torch.float64)
    for row, column, features in network.walk(x, maps):
        assert not features.requires_grad
        found[..., row, column] = features
        x[..., row, column] = features[:, :2] + torch.randn(5, 2)
    assert x.count_nonzero() == x.numel()
    torch.testing.assert_close(found, network(x, maps).detach())


def test_gradients_are_recorded_between_the_pixels_of_a_walk():
    weight = torch.ones(1, requires_grad=True)
    for _ in PixelCNN(1, 1, width=2, layers=2).walk(torch.zeros(1, 1, 2, 2)):
        assert (2 * weight).requires_grad


def test_every_parameter_gets_a_gradient():
    network = PixelCNN(1, 2, width=4, layers=3, context=2)
    network(torch.randn(2, 1, 4, 4), torch.randn(2, 2, 4, 4)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"channels": 0}, "channels"),
        ({"outputs": 2.0}, "outputs"),
        ({"kernel": 4}, "kernel"),
        ({"kernel": 1}, "kernel"),
        ({"layers": 0}, "layers"),
        ({"width": True}, "width"),
        ({"context": -1}, "context"),
    ],
)
def test_bad_arguments(arguments, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        PixelCNN(**{"channels": 1, "outputs": 1, **arguments})


def test_bad_inputs():
    with pytest.raises(ValueError, match=r"x: expected shape \(n, 1, h, w\), got \(2, 2, 3, 3\)"):
        PixelCNN(1, 1)(torch.zeros(2, 2, 3, 3))
    with pytest.raises(ValueError, match=r"context: expected shape \(2, 4, 3, 3\), got none"):
        PixelCNN(1, 1, context=4)(torch.zeros(2, 1, 3, 3))
    with pytest.raises(ValueError, match="context=4"):
        PixelCNN(1, 1)(torch.zeros(2, 1, 3, 3), torch.zeros(2, 4, 3, 3))
