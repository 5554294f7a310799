import pyro.distributions as dist
import pytest
import torch
from chance import excess
from pyro.nn import ConditionalAutoRegressiveNN
from torch import nn
from torch.autograd.functional import jacobian

from pyro_vae.conditionals.flow import AutoregressiveFlow, FlowDistribution
from pyro_vae.conditionals.normal import DiagonalNormal


def flow(size=4, **kwargs):
    conditional = AutoregressiveFlow(nn.Tanh(), 3, size, **kwargs).double()
    for parameter in conditional.steps.parameters():
        # Far from the identity, which they are at or near at first
        nn.init.normal_(parameter, std=0.3)
    return conditional, torch.randn(6, 3, dtype=torch.float64)


def pushed(q, e):
    for transform in q.transforms:
        e = transform(e)
    return e


BOTH = pytest.mark.parametrize("additive", [True, False])


@BOTH
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_density_at_samples_by_the_jacobian_and_by_inversion(steps, additive):
    conditional, context = flow(steps=steps, additive=additive)
    e = torch.randn(6, 4, dtype=torch.float64)
    for i in range(6):
        q = conditional(context[i])
        slopes = jacobian(lambda e, q=q: pushed(q, e), e[i])
        assert slopes.tril(-1).abs().max() > 0.01 or steps == 1
        expected = q.base_dist.log_prob(e[i]) - slopes.det().abs().log()
        z = pushed(q, e[i])
        torch.testing.assert_close(q.log_prob(z), expected)
        # No transform has seen a copy: its density takes the sequential inversion
        torch.testing.assert_close(conditional(context[i]).log_prob(z.clone()), expected)
    z = conditional(context).sample((5,))
    fresh = conditional(context)
    rows = torch.stack([conditional(context).log_prob(row) for row in z])
    torch.testing.assert_close(fresh.log_prob(z), rows)


@BOTH
def test_one_step_by_hand(additive):
    conditional, context = flow(size=2, steps=1, additive=additive)
    q = conditional(context)
    h = context.tanh()
    e = q.base_dist.mean
    torch.testing.assert_close(e, h @ conditional.base.loc.weight.T + conditional.base.loc.bias)
    m, a = ConditionalAutoRegressiveNN.forward(conditional.steps[0], e, context=h)
    s = 2 * torch.sigmoid(a) if additive else torch.sigmoid(a + 2)
    torch.testing.assert_close(q.mean, s * e + (m if additive else (1 - s) * m))
    # The first latent depends on the context alone, the second on the first too
    slopes = jacobian(lambda e: conditional.steps[0](e, context=h[0])[0], e[0])
    assert (slopes != 0).tolist() == [[False, False], [True, False]]


@BOTH
@torch.no_grad()
def test_it_integrates_to_one(additive):
    conditional, context = flow(size=2, additive=additive)
    q = conditional(context[:1])
    spread = q.sample((2000,))[:, 0]
    low, high = spread.min(0).values - 3, spread.max(0).values + 3
    axes = [torch.linspace(a, b, 500, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    grid = torch.cartesian_prod(*axes)
    density = conditional(context[:1]).log_prob(grid).exp()
    area = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    assert float(density.sum() * area) == pytest.approx(1, abs=1e-3)
    # ... and samples what it scores
    mean = (density[:, None] * grid).sum(0) * area
    error = spread.std(0) / len(spread) ** 0.5
    assert excess((spread.mean(0) - mean) / error) < 1


def test_mean_is_the_image_of_the_mean_and_no_sample_stays_behind():
    conditional, context = flow()
    torch.testing.assert_close(
        conditional(context).mean,
        pushed(conditional(context), conditional(context).base_dist.mean),
    )
    base = dist.Normal(torch.ones(2), torch.ones(2)).to_event(1)
    affine = FlowDistribution(base, [dist.transforms.AffineTransform(1.0, 3.0, 1)])
    assert affine.mean.tolist() == [4.0, 4.0]

    def held():
        plain = [v for m in conditional.modules() for v in vars(m).values()]
        return [id(t) for t in (*plain, *conditional.buffers()) if isinstance(t, torch.Tensor)]

    before = held()
    conditional(context).rsample()
    assert held() == before


def test_leading_dimensions_and_expansion():
    conditional, context = flow()
    q = conditional(context).expand((7, 6))
    z = q.rsample()
    assert (z.shape, q.mean.shape) == ((7, 6, 4), (7, 6, 4))
    torch.testing.assert_close(q.log_prob(z), conditional(context).log_prob(z.clone()))


@BOTH
def test_steps_without_influence_leave_a_normal(additive):
    conditional, context = flow(steps=2, additive=additive)
    for step in conditional.steps:
        for parameter in step.parameters():
            nn.init.zeros_(parameter)
    z = torch.randn(6, 4, dtype=torch.float64)
    s = 1.0 if additive else torch.sigmoid(torch.tensor(2.0, dtype=torch.float64)) ** 2
    base = conditional.base(context.tanh()).base_dist
    expected = torch.distributions.Normal(base.loc * s, base.scale * s).log_prob(z).sum(-1)
    torch.testing.assert_close(conditional(context).log_prob(z), expected)
    assert isinstance(conditional.base, DiagonalNormal)


@pytest.mark.parametrize(
    ("size", "kwargs", "message"),
    [
        (1, {}, "size: an autoregressive flow over one latent is affine"),
        (3, {"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
        (3, {"steps": 1.5}, "steps: expected a whole number of at least 1"),
        (3, {"hidden": (2,)}, "hidden: expected at least one width, none below the 3 latents"),
        (3, {"hidden": ()}, "hidden: expected at least one width"),
    ],
)
def test_arguments(size, kwargs, message):
    with pytest.raises(ValueError, match=message):
        AutoregressiveFlow(nn.Identity(), 3, size, **kwargs)


@BOTH
def test_density_of_one_value_under_many_contexts(additive):
    conditional, context = flow(additive=additive)
    z = torch.randn(4, dtype=torch.float64)
    found = conditional(context.unsqueeze(1)).log_prob(z.expand(1, -1))
    expected = conditional(context).log_prob(z.repeat(6, 1))
    torch.testing.assert_close(found[:, 0], expected)
