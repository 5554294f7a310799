import copy

import pytest
import torch
from torch import nn

from pyro_vae.conditionals import AutoregressiveFlow, DiagonalNormal, FullNormal, PointMass
from pyro_vae.conditionals.growing import grow

FEATURES = 6
DTYPES = {torch.float32: 1e-5, torch.float64: 1e-10}
PAIRS = [
    (DiagonalNormal, {}, DiagonalNormal, {}),
    (DiagonalNormal, {}, FullNormal, {}),
    (FullNormal, {}, FullNormal, {}),
    (FullNormal, {"relative": False}, FullNormal, {"relative": False}),
    (DiagonalNormal, {}, AutoregressiveFlow, {}),
    (AutoregressiveFlow, {"steps": 1}, AutoregressiveFlow, {"steps": 1}),
    (AutoregressiveFlow, {"steps": 1}, AutoregressiveFlow, {"steps": 4}),
    (AutoregressiveFlow, {"additive": False}, AutoregressiveFlow, {"additive": False}),
]


def network():
    return nn.Sequential(nn.Linear(4, FEATURES), nn.BatchNorm1d(FEATURES), nn.Tanh())


def built(cls, size=3, **options):
    return cls(network(), FEATURES, size, **options)


def trained(conditional, dtype=torch.float32):
    """Away from where it began, running statistics included."""
    conditional.to(dtype)
    with torch.no_grad():
        for parameter in conditional.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for _ in range(3):
            conditional(1 + torch.randn(20, 4, dtype=dtype))
    return conditional


def drawn(conditional, x, seed=0):
    torch.manual_seed(seed)
    q = conditional(x)
    z = q.rsample((7,))
    return z, q.log_prob(z)


def equal(new, start, x):
    rtol = DTYPES[x.dtype]
    for found, expected in zip(drawn(new, x), drawn(start, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol)
    z = drawn(start, x, seed=1)[0]
    torch.testing.assert_close(new(x).log_prob(z), start(x).log_prob(z), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", [None, nn.BatchNorm1d])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("size", "old", "before", "cls", "after"),
    # No flow over one latent
    [
        (n, *pair)
        for n in (1, 2, 5)
        for pair in PAIRS
        if n > 1 or pair[2] is not AutoregressiveFlow
    ],
)
def test_it_begins_as_what_it_grows_from(size, old, before, cls, after, training, norm, dtype):
    start = trained(built(old, size, norm=norm, **before), dtype).train(training)
    new = grow(trained(built(cls, size, norm=norm, **after)), start)
    assert {m.training for m in new.modules()} == {training}
    assert {p.dtype for p in new.parameters()} == {dtype}
    equal(new, start, torch.randn(10, 4, dtype=dtype))
    # ... and as it would without ``start``, has all that it was built with
    assert set(new.state_dict()) == set(built(cls, size, norm=norm, **after).state_dict())


@pytest.mark.parametrize("cls", [FullNormal, AutoregressiveFlow])
def test_a_richer_family_begins_at_its_mean_field_member(cls):
    new, x = built(cls), torch.randn(10, 4)
    diagonal = built(DiagonalNormal)
    base = getattr(new, "base", new)
    diagonal.network, diagonal.loc, diagonal.raw_scale = new.network, base.loc, base.raw_scale
    z, log_q = drawn(diagonal, x)
    found, density = drawn(new, x)
    assert torch.equal(found, z)
    torch.testing.assert_close(density, log_q)
    if cls is FullNormal:
        assert torch.equal(new(x).scale_tril, diagonal(x).stddev.diag_embed())
    else:
        assert torch.equal(new(x).transforms[0].log_abs_det_jacobian(z, z), torch.zeros(7, 10))


@pytest.mark.parametrize(
    ("cls", "option"), [(FullNormal, "relative"), (AutoregressiveFlow, "additive")]
)
def test_the_other_random_numbers_are_those_of_before(cls, option):
    after = []
    for value in (True, False):
        torch.manual_seed(0)
        after.append((built(cls, **{option: value}), torch.rand(())))
    (new, one), (old, other) = after
    assert one == other
    new, old = new.state_dict(), old.state_dict()
    assert all(torch.equal(new[k], old[k]) for k in new if k in old and new[k].any())


@pytest.mark.parametrize("cls", [FullNormal, AutoregressiveFlow])
def test_what_is_new_trains_from_the_first_step(cls):
    start = trained(built(DiagonalNormal)).requires_grad_(False)
    new, x = grow(built(cls), start), torch.randn(10, 4)
    before = copy.deepcopy(start.state_dict())
    optimizer = torch.optim.Adam(new.parameters(), lr=0.1)

    def gradients():
        optimizer.zero_grad()
        z = new(x).rsample()
        (new(x).log_prob(z.detach()).sum() + z.prod(-1).square().sum()).backward()
        return [p.grad.abs().max() > 0 for p in new.parameters()]

    last = [new.relative] if cls is FullNormal else [s.layers[-1] for s in new.steps]
    gradients()
    # Not the first latent's row, which has no latent before it and all of the context
    assert all((p.grad != 0).any() for layer in last for p in layer.parameters())
    optimizer.step()
    assert all(gradients())
    assert all(torch.equal(start.state_dict()[k], v) for k, v in before.items())
    assert not any(p.requires_grad for p in start.parameters())


def test_shared_modules_stay_shared():
    shared = network()
    first, second = (DiagonalNormal(shared, FEATURES, 2) for _ in range(2))
    memo = {}
    new = [grow(FullNormal(network(), FEATURES, 2), c, memo) for c in (first, second)]
    assert new[0].network is new[1].network is not shared
    assert new[0].loc is not new[1].loc
    # The network with which a conditional was built belongs to others, too
    other = network().eval()
    grow(FullNormal(other, FEATURES, 2), first.double())
    assert not other.training
    assert other[0].weight.dtype == torch.float32


def test_it_can_be_its_own_start():
    flow, x = trained(built(AutoregressiveFlow)).eval(), torch.randn(10, 4)
    twin = copy.deepcopy(flow)
    equal(grow(flow, flow), twin, x)


@pytest.mark.parametrize(
    ("old", "before", "cls", "after", "error", "message"),
    [
        (FullNormal, {}, DiagonalNormal, {}, TypeError, "start: expected DiagonalNormal, from"),
        (FullNormal, {}, AutoregressiveFlow, {}, TypeError, "DiagonalNormal or Autoregressive"),
        (PointMass, {}, FullNormal, {}, TypeError, "can grow, got PointMass: start from one of"),
        (DiagonalNormal, {}, PointMass, {}, TypeError, "new: expected one of DiagonalNormal or"),
        (FullNormal, {"relative": False}, FullNormal, {}, ValueError, "with relative=False"),
        (DiagonalNormal, {}, FullNormal, {"relative": False}, ValueError, "with relative=True"),
        (
            AutoregressiveFlow,
            {"additive": False},
            AutoregressiveFlow,
            {},
            ValueError,
            "with additive=False",
        ),
        (
            DiagonalNormal,
            {},
            AutoregressiveFlow,
            {"additive": False},
            ValueError,
            "with additive=True",
        ),
        (DiagonalNormal, {"min_scale": 0.1}, FullNormal, {}, ValueError, "with min_scale=0.1"),
        (
            AutoregressiveFlow,
            {"steps": 3},
            AutoregressiveFlow,
            {},
            ValueError,
            "with steps=3 or more",
        ),
        (
            AutoregressiveFlow,
            {"hidden": 9},
            AutoregressiveFlow,
            {},
            ValueError,
            r"steps.0: expected .* of start, with layers.0.weight of shape \(9, 9\)",
        ),
        (DiagonalNormal, {"norm": nn.LayerNorm}, FullNormal, {}, ValueError, "loc: .*Sequential"),
        (DiagonalNormal, {"size": 2}, FullNormal, {}, ValueError, r"loc: .*\(2, 6\), got weight"),
    ],
)
def test_what_would_not_be_equal_is_refused(old, before, cls, after, error, message):
    start, new = built(old, **before), built(cls, **after)
    kept = copy.deepcopy(new.state_dict())
    with pytest.raises(error, match=message):
        grow(new, start)
    assert all(torch.equal(new.state_dict()[k], v) for k, v in kept.items())


def test_another_network_is_refused():
    start = DiagonalNormal(nn.Linear(4, FEATURES), FEATURES, 3)
    with pytest.raises(
        ValueError, match=r"network: expected .* start, with Linear, got Sequential"
    ):
        grow(built(FullNormal), start)
