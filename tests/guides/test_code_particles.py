"""Several draws of codes, which are all the same: any objective is then the bound itself."""

import copy

import pyro.infer
import pytest
import torch

from pyro_vae import Trainer, codebooks, likelihoods
from pyro_vae.guides import NearestCode
from pyro_vae.infer import ImportanceWeightedELBO, TraceELBO
from pyro_vae.models import VQVAE

LIKELIHOOD = likelihoods.Bernoulli()
PICTURES = {
    "plain": {"codes": 6, "code_dim": 3},
    "gradient": {"codebook": codebooks.Gradient(6, 3)},
    "residual": {"codebook": codebooks.Residual(2, codebooks.MovingAverage(6, 3))},
    "finite scalar": {"codebook": codebooks.FiniteScalar((3, 3))},
    "lookup-free": {"codebook": codebooks.LookupFree(3)},
    "two levels": {"codes": 6, "code_dim": 3, "levels": 2},
    "classes": {"codes": 6, "code_dim": 3, "condition": 3},
    "two levels, classes": {"codes": 6, "code_dim": 3, "levels": 2, "condition": 3},
    "dense": {"codes": 6, "code_dim": 3, "hidden": (8,), "grid": 2},
    "dense, classes": {"codes": 6, "code_dim": 3, "hidden": (8,), "grid": 2, "condition": 3},
}


def pair(name):
    torch.manual_seed(0)
    options = copy.deepcopy(PICTURES[name])
    vqvae = VQVAE((1, 8, 8), likelihood=LIKELIHOOD, channels=(4,), blocks=1, **options)
    return vqvae, NearestCode(vqvae)


def batch(name):
    x = torch.randint(2, (5, 1, 8, 8), generator=torch.Generator().manual_seed(1)).float()
    return (x, torch.arange(5) % 3) if "classes" in name else (x, None)


def stock(cls):
    def build(particles):
        return cls(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)

    return build


@pytest.mark.parametrize("name", PICTURES)
def test_loss_and_gradient_are_those_of_the_bound(name):
    x, y = batch(name)
    losses, gradients = [], []
    for objective in (TraceELBO(), ImportanceWeightedELBO(3)):
        vqvae, guide = pair(name)
        vqvae(x, y=y), guide(x, y=y)  # a codebook starts at the first outputs
        loss, _ = objective(vqvae, guide, x, y)
        loss.backward()
        losses.append(loss.detach())
        parameters = [*vqvae.parameters(), *guide.parameters()]
        gradients.append([p.grad for p in parameters if p.grad is not None])
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "objective",
    [
        ImportanceWeightedELBO,
        stock(pyro.infer.Trace_ELBO),
        stock(pyro.infer.TraceMeanField_ELBO),
        lambda k: pyro.infer.RenyiELBO(num_particles=k, vectorize_particles=True),
    ],
    ids=["weighted", "stock", "stock, closed form", "stock Renyi, guessed plates"],
)
@pytest.mark.parametrize("name", PICTURES)
def test_a_pair_is_trained_by_several_draws(name, objective):
    trainer = Trainer(*pair(name), elbo=objective(2), seed=0)
    trainer.fit(batch(name), epochs=1, batch_size=5, progress=False)
    assert torch.isfinite(torch.tensor(trainer.history[-1]["objective"]))
