"""Pairs that are converted to another floating type between two calls of ``fit``."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import Trainer, codebooks, load
from pyro_vae.guides import BottomUp, NearestCode
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE, VQVAE

X = torch.linspace(-1, 1, 40).view(8, 5)
OPTIMIZERS = {
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "SGD": functools.partial(torch.optim.SGD, momentum=0.9),
    "RMSprop": torch.optim.RMSprop,
}


def certain():
    """A pair that draws nothing, so that both types take the same steps."""
    torch.manual_seed(0)
    options = {"hidden": (8,), "grid": 2, "codebook": codebooks.Gradient(3, 4, initializer=None)}
    vqvae = VQVAE((5,), likelihood=Gaussian(0.3), **options)
    return vqvae, NearestCode(vqvae, commitment=0.1)


def fit(trainer, x=X, **options):
    return trainer.fit(x, **{"epochs": 3, "batch_size": 4, "progress": False, **options})


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_a_converted_pair_goes_on_as_it_would_have(engine, optimizer):
    found = []
    for dtype in (torch.float32, torch.float64):
        pair = certain()
        options = {"engine": engine, "optimizer": OPTIMIZERS[optimizer]}
        trainer = fit(Trainer(*pair, lr=1e-2, seed=0, **options))
        for program in pair:
            program.to(dtype)
        fit(trainer, X.to(dtype))
        assert {p.dtype for p in trainer.parameters()} == {dtype}
        found.append([p.detach().float() for p in trainer.parameters()])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


class OneSigma(nn.Module):
    """A program with a parameter that is a single number."""

    def __init__(self):
        super().__init__()
        self.layer, self.log_sigma = nn.Linear(2, 5), nn.Parameter(torch.zeros(()))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.layer(z), self.log_sigma.exp()).to_event(1), obs=x)


@pytest.mark.parametrize("optimizer", ["Adam", "Adagrad", "NAdam", "Rprop", "ASGD"])
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_a_parameter_of_one_number_goes_on(engine, optimizer):
    torch.manual_seed(0)
    model = OneSigma()
    options = {"engine": engine, "optimizer": getattr(torch.optim, optimizer), "seed": 0}
    trainer = fit(Trainer(model, guide := BottomUp(model, like=X), **options))
    for dtype in (torch.float64, torch.float32):
        model.to(dtype), guide.to(dtype)
        before = model.log_sigma.item()
        fit(trainer, X.to(dtype))
        moments = trainer.state.moments[model.log_sigma]
        assert {v.dtype for name, v in moments.items() if name != "step"} == {dtype}
        assert model.log_sigma.item() != before


def test_a_converted_pair_is_saved_and_goes_back(tmp_path):
    torch.manual_seed(0)
    vae = VAE((5,), 2, hidden=(4,), likelihood=Gaussian())
    trainer = fit(Trainer(vae, guide := BottomUp(vae), seed=0))
    vae.double(), guide.double()
    fit(trainer, X.double())
    trainer.save(tmp_path / "pair.pt")
    again = load(tmp_path / "pair.pt")
    assert {p.dtype for p in again.parameters()} == {torch.float64}
    fit(again, X.double())
    again.model.float(), again.guide.float()
    fit(again)
    assert len(again.history) == 12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused_before_training(dtype):
    vae = VAE((5,), 2, hidden=(4,), likelihood=Gaussian())
    trainer = fit(Trainer(vae, guide := BottomUp(vae), seed=0))
    vae.to(dtype), guide.to(dtype)
    before = trainer.state.step
    for x in (X, X.to(dtype)):
        with pytest.raises(ValueError, match="model: expected parameters"):
            fit(trainer, x)
    assert trainer.state.step == before


def test_a_pair_of_two_types_is_refused_before_training():
    vae = VAE((5,), 2, hidden=(4,), likelihood=Gaussian())
    trainer = fit(Trainer(vae, BottomUp(vae), seed=0))
    vae.double()
    with pytest.raises(ValueError, match="guide: expected parameters"):
        fit(trainer, X.double())
