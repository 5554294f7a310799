import copy
import itertools
import math
import pickle

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import Normal

from pyro_vae.conditionals.hand_over import HandOver
from pyro_vae.conditionals.normal import (
    DiagonalNormal,
    FullNormal,
    PointMass,
    StandardNormal,
    precision_weighted,
)
from pyro_vae.distributions import CholeskyNormal


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


def normal(loc, scale):
    return dist.Normal(torch.tensor([loc]), torch.tensor([scale])).to_event(1)


@pytest.mark.parametrize(
    ("first", "second"), list(itertools.product([1e-6, 1e-3, 1.0, 1e3, 1e6], repeat=2))
)
def test_precision_weighted_is_the_exact_product(first, second):
    p, q = normal(0.3, first), normal(-0.8, second)
    for factor in (p, q):
        factor.base_dist.scale.requires_grad_()
        factor.base_dist.loc.requires_grad_()
    product = precision_weighted(p, q).base_dist
    a, b = (f.base_dist.scale.detach().double() ** -2 for f in (p, q))
    m, n = (f.base_dist.loc.detach().double() for f in (p, q))
    torch.testing.assert_close(product.scale.double() ** -2, a + b, rtol=1e-5, atol=0)
    expected = (a * m + b * n) / (a + b)
    torch.testing.assert_close(product.loc.double(), expected, rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(
        product.log_prob(product.loc.detach() + product.scale.detach()).sum(),
        [t for f in (p, q) for t in (f.base_dist.loc, f.base_dist.scale)],
    )
    assert all(g.isfinite().all() for g in gradients)


def test_the_density_of_the_product_is_the_normalised_product_of_densities():
    p, q = normal(0.5, 2.0), normal(-1.0, 0.7)
    z = torch.linspace(-12, 12, 20001)[:, None]
    joint = (p.log_prob(z) + q.log_prob(z)).exp()
    expected = joint / torch.trapezoid(joint, z[:, 0])
    torch.testing.assert_close(precision_weighted(p, q).log_prob(z).exp(), expected)


def test_only_diagonal_normals_have_a_precision_weight():
    with pytest.raises(TypeError, match="expected diagonal normals"):
        precision_weighted(normal(0.0, 1.0), dist.Laplace(torch.zeros(1), 1.0).to_event(1))


def test_what_is_handed_over_is_taken_once_and_only_for_the_same_tensors():
    module, z = DiagonalNormal(nn.Identity(), 2, 3), torch.randn(4, 2)
    result = module(z)
    slots = HandOver()
    slots.give("z1", module, [z], result)
    assert slots.take("z2", module, [z]) is None
    assert slots.take("z1", module, [z]) is result
    assert slots.take("z1", module, [z]) is None
    for inputs in ([z.clone()], [z, z], []):
        slots.give("z1", module, [z], result)
        assert slots.take("z1", module, inputs) is None

    slots.give("z1", module, [z], result)
    module.eval()
    assert slots.take("z1", module, [z]) is None
    slots.give("z1", module, [z], result)
    with torch.no_grad():
        assert slots.take("z1", module, [z]) is None
    slots.give("z1", module, [z], result)
    z.add_(1.0)
    assert slots.take("z1", module, [z]) is None
    with torch.inference_mode():
        z = torch.randn(4, 2)
        slots.give("z1", module, [z], result)
        assert slots.take("z1", module, [z]) is result


def test_copies_and_files_of_a_hand_over_are_empty():
    module, z = DiagonalNormal(nn.Identity(), 2, 3), torch.randn(4, 2)
    slots = HandOver()
    slots.give("z1", module, [z], module(z))
    for twin in (copy.deepcopy(slots), pickle.loads(pickle.dumps(slots))):
        assert twin.take("z1", module, [z]) is None


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm])
def test_heads_are_normalised(norm):
    conditional = DiagonalNormal(nn.Identity(), 4, 3, norm=norm)
    with torch.no_grad():
        conditional.loc[0].bias.fill_(7.0)
    mean = conditional(5 * torch.randn(64, 4)).mean
    dim = 0 if norm is nn.BatchNorm1d else 1
    torch.testing.assert_close(mean.mean(dim), torch.zeros_like(mean.mean(dim)), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        mean.var(dim, unbiased=False), torch.ones_like(mean.mean(dim)), atol=1e-2, rtol=0
    )


@pytest.mark.parametrize("relative", [True, False])
def test_full_normal_by_hand(relative):
    conditional = FullNormal(nn.Tanh(), 4, 3, min_scale=0.01, relative=relative)
    if relative:
        # Away from 0, where it begins
        nn.init.normal_(conditional.relative.weight)
    context, z = torch.randn(5, 4), torch.randn(5, 3)
    h = context.tanh()
    diagonal = (1 + conditional.raw_scale(h).exp()).log() + 0.01
    if relative:
        lower = conditional.relative(h) / math.sqrt(3) * diagonal[:, [1, 2, 2]]
    else:
        lower = conditional.lower(h)
    p = conditional(context)
    assert (p.batch_shape, p.event_shape) == ((5,), (3,))
    for i in range(5):
        a, b, c = lower[i]
        factor = torch.stack(
            [
                torch.stack([diagonal[i, 0], torch.zeros(()), torch.zeros(())]),
                torch.stack([a, diagonal[i, 1], torch.zeros(())]),
                torch.stack([b, c, diagonal[i, 2]]),
            ]
        )
        covariance = factor @ factor.T
        torch.testing.assert_close(p.covariance_matrix[i], covariance)
        difference = z[i] - conditional.loc(h[i])
        expected = -0.5 * (
            difference @ covariance.inverse() @ difference
            + covariance.logdet()
            + 3 * math.log(2 * math.pi)
        )
        torch.testing.assert_close(p.log_prob(z)[i], expected, rtol=1e-4, atol=1e-4)


def test_full_normal_of_one_latent_and_with_leading_dimensions():
    one = FullNormal(nn.Identity(), 4, 1)
    diagonal = DiagonalNormal(nn.Identity(), 4, 1)
    diagonal.load_state_dict(one.state_dict())
    context, z = torch.randn(7, 5, 4), torch.randn(7, 5, 1)
    torch.testing.assert_close(one(context).log_prob(z), diagonal(context).log_prob(z))
    many = FullNormal(nn.Identity(), 4, 3)
    p = many(context)
    assert p.rsample().shape == (7, 5, 3)
    torch.testing.assert_close(many(context[2]).covariance_matrix, p.covariance_matrix[2])


def test_the_factor_of_a_full_normal_stays_positive():
    conditional = FullNormal(nn.Identity(), 1, 2, min_scale=1e-3)
    for head in (conditional.raw_scale, conditional.relative):
        nn.init.constant_(head.bias, -100.0)
        nn.init.zeros_(head.weight)
    p = conditional(torch.zeros(1, 1))
    assert p.scale_tril[0].tolist() == [
        [pytest.approx(1e-3), 0],
        [pytest.approx(-0.1 / math.sqrt(2)), pytest.approx(1e-3)],
    ]
    p.log_prob(p.mean + 1e-3).sum().backward()
    assert all(v.grad.isfinite().all() for v in conditional.parameters())


class TestTheDensityAtItsOwnDraw:
    def normal(self, dtype=torch.float32):
        """Nearly singular: 1,000 times the scale below a diagonal of 1e-4."""
        factor = torch.tensor([[1.0, 0.0], [1e3, 1e-4]], dtype=dtype).requires_grad_()
        return CholeskyNormal(torch.tensor([3.0, -2.0], dtype=dtype), scale_tril=factor)

    def test_it_is_exact_where_solving_is_not(self):
        p = self.normal()
        with torch.no_grad():
            z = p.rsample((500,))
            own, solved = p.log_prob(z), super(CholeskyNormal, p).log_prob(z)
        # E[log q] of a normal is minus its entropy, the variance of log q is d / 2
        expected = -float(self.normal(torch.float64).entropy().detach())
        assert float(own.mean()) == pytest.approx(expected, abs=5 / 500**0.5)
        assert float((solved - own).abs().max()) > 0.1

    def test_the_gradient_is_the_one_through_the_draw(self):
        p = self.normal(torch.float64)
        (own,) = torch.autograd.grad(p.log_prob(p.rsample((50,))).sum(), p.scale_tril)
        expected = torch.diag(-50 / p.scale_tril.diagonal())
        torch.testing.assert_close(own.tril(), expected.tril())

    def test_other_values_and_draws_without_gradient_are_solved_for(self):
        factor = torch.eye(2).requires_grad_()
        p = CholeskyNormal(torch.zeros(2), scale_tril=factor)
        z, other = p.rsample((5,)), torch.randn(5, 2)
        exact = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
        torch.testing.assert_close(p.log_prob(other), exact.log_prob(other))
        torch.testing.assert_close(p.log_prob(z), exact.log_prob(z.detach()))
        fixed = p.sample((5,))
        (score,) = torch.autograd.grad(p.log_prob(fixed).sum(), factor)
        torch.testing.assert_close(score.diagonal(), (fixed.square() - 1).sum(0))
        wide = p.expand((3,))
        assert wide.log_prob(wide.rsample()).shape == (3,)
