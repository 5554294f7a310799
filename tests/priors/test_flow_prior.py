"""The flow's density by quadrature and by change of variables, and what fitting reaches."""

import math

import pytest
import torch

from pyro_vae import infer, load, save
from pyro_vae.guides import BottomUp
from pyro_vae.handlers import replace_prior
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE
from pyro_vae.priors import FlowPrior


def bent(n):
    """A normal bent to a parabola: its log-density is known."""
    z = torch.randn(n, 2)
    return torch.stack([z[:, 0], z[:, 0].square() - 1 + 0.5 * z[:, 1]], dim=1)


def log_density(z):
    noise = (z[:, 1] - z[:, 0].square() + 1) / 0.5
    return -0.5 * (z[:, 0].square() + noise.square()) - math.log(2 * math.pi) - math.log(0.5)


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(0)
    with torch.random.fork_rng():
        flow = FlowPrior(2, transforms=2, hidden=(32, 32))
    return flow.fit_samples(bent(4000), epochs=40, lr=5e-3)


def test_the_density_integrates_to_one(fitted):
    axis = torch.linspace(-7, 12, 800)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        total = fitted().log_prob(grid).double().exp().sum() * float(axis[1] - axis[0]) ** 2
    assert float(total) == pytest.approx(1, abs=2e-3)


def test_samples_have_the_density(fitted):
    """The change of variables at the flow's own samples, with the Jacobian by autograd."""
    with torch.no_grad():
        z = fitted().sample((5,))
    for point in z:
        distribution = fitted()

        def to_base(value, steps=distribution.transforms):
            for step in reversed(steps):
                value = step.inv(value)
            return value

        jacobian = torch.autograd.functional.jacobian(to_base, point)
        base = to_base(point)
        expected = -0.5 * base.square().sum() - math.log(2 * math.pi) + jacobian.slogdet()[1]
        torch.testing.assert_close(fitted().log_prob(point), expected)


def test_fitting_reaches_the_density(fitted):
    torch.manual_seed(5)
    z = bent(4000)
    with torch.no_grad():
        lost = (log_density(z) - fitted().log_prob(z)).mean()
        untrained = (log_density(z) - FlowPrior(2)().log_prob(z)).mean()
    assert -0.01 < lost < 0.03
    assert untrained > 1


def test_fit_and_file(tmp_path):
    vae = VAE((6,), (3, 2), likelihood=Gaussian(), hidden=(5,))
    guide, x = BottomUp(vae), torch.randn(100, 6)
    before = torch.get_rng_state()
    prior = FlowPrior(2, transforms=2, hidden=(8,))
    torch.set_rng_state(before)
    prior.fit(vae, guide, x, epochs=2)
    assert torch.equal(torch.get_rng_state(), before)
    model = replace_prior(vae, prior)
    save(model, tmp_path / "file")
    again = load(tmp_path / "file")
    assert repr(again.prior) == "FlowPrior(size=2, transforms=2, fitted on 100 samples)"
    bounds = [infer.elbo_terms(m, guide, x).elbo for m in (model, again)]
    assert torch.equal(*bounds)


def test_its_mean_is_the_image_of_zero(fitted):
    with torch.no_grad():
        value = fitted().mean
        for step in reversed(fitted().transforms):
            value = step.inv(value)
    torch.testing.assert_close(value, torch.zeros(2), atol=1e-5, rtol=0)


def test_layers_below_are_decoded():
    vae = VAE((6,), (3, 2), likelihood=Gaussian(), hidden=(5,))
    z = {"z1": torch.randn(4, 3)}
    model = replace_prior(vae, FlowPrior(2))
    torch.testing.assert_close(model.decode(z).mean, vae.decode(z).mean)


def test_errors():
    for arguments, message in (
        ({"size": 1}, "size: expected a whole number of at least 2, got 1"),
        ({"size": 2, "transforms": 0}, "transforms: expected a whole number of at least 1"),
        ({"size": 9, "hidden": (8,)}, "hidden: expected widths of at least size=9"),
    ):
        with pytest.raises(ValueError, match=message):
            FlowPrior(**arguments)
    with pytest.raises(ValueError, match="expected latents of size 3, got 2"):
        FlowPrior(3).fit_samples(torch.randn(5, 2))
    with pytest.raises(ValueError, match="their latents are NaN or infinite"):
        FlowPrior(2).fit_samples(torch.full((5, 2), math.nan), epochs=1)


def test_one_transform_is_a_density_too():
    prior = FlowPrior(2, transforms=1)
    axis = torch.linspace(-15, 15, 301)
    with torch.no_grad():
        density = prior().log_prob(torch.cartesian_prod(axis, axis)).exp()
    assert float(density.sum() * 0.1**2) == pytest.approx(1, abs=1e-2)
