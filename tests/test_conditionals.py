import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from pyro_vae.conditionals import DiagonalNormal, PointMass, StandardNormal


def test_standard_normal():
    p = StandardNormal(3)()
    z = torch.randn(5, 3)
    expected = -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
    assert (p.batch_shape, p.event_shape) == ((), (3,))
    torch.testing.assert_close(p.log_prob(z), expected)
    assert StandardNormal(3)(z).sample().shape == (3,)


def test_standard_normal_follows_the_module():
    prior = StandardNormal(3).double()
    assert prior().sample().dtype == torch.float64
    assert not list(prior.parameters())
    assert not prior.state_dict()


def test_diagonal_normal_by_hand():
    conditional = DiagonalNormal(nn.Tanh(), 4, 2, min_scale=0.01)
    context, z = torch.randn(5, 4), torch.randn(5, 2)
    h = context.tanh()
    loc = h @ conditional.loc.weight.T + conditional.loc.bias
    raw = h @ conditional.raw_scale.weight.T + conditional.raw_scale.bias
    scale = (1 + raw.exp()).log() + 0.01
    p = conditional(context)
    assert (p.batch_shape, p.event_shape) == ((5,), (2,))
    torch.testing.assert_close(p.mean, loc)
    torch.testing.assert_close(p.log_prob(z), Normal(loc, scale).log_prob(z).sum(-1))


@pytest.mark.parametrize(("raw", "expected"), [(-1e4, 1e-4), (-100.0, 1e-4), (1e4, 1e4)])
def test_scales_neither_vanish_nor_overflow(raw, expected):
    conditional = DiagonalNormal(nn.Identity(), 1, 1)
    nn.init.constant_(conditional.raw_scale.bias, raw)
    nn.init.zeros_(conditional.raw_scale.weight)
    p = conditional(torch.zeros(1, 1))
    assert p.stddev.item() == pytest.approx(expected)
    p.log_prob(torch.ones(1, 1)).sum().backward()
    assert all(v.grad.isfinite().all() for v in conditional.parameters())


def test_several_contexts_go_to_the_network():
    class Sum(nn.Module):
        def forward(self, a, b):
            return a + b

    conditional = DiagonalNormal(Sum(), 3, 2)
    a, b = torch.randn(5, 3), torch.randn(5, 3)
    torch.testing.assert_close(conditional(a, b).mean, conditional.loc(a + b))


def test_point_mass():
    conditional = PointMass(nn.Identity(), 4, 2)
    context = torch.randn(5, 4)
    p = conditional(context)
    z = conditional.loc(context)
    assert torch.equal(p.sample(), z)
    assert torch.equal(p.mean, z)
    assert torch.equal(p.log_prob(z), torch.zeros(5))
    assert torch.equal(p.log_prob(z + 1), torch.full((5,), -math.inf))
