"""Data of another scale are told once, with an advice that cures; others are not."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from sklearn import datasets
from torch.utils.data import DataLoader

from pyro_vae import Trainer, guides, likelihoods
from pyro_vae.data import Dataset, load
from pyro_vae.data.scale import scale_notice
from pyro_vae.models import VAE


def trained(data, likelihood=likelihoods.Gaussian, epochs=1, shape=None):
    vae = VAE(shape or Dataset(data).event_shape, 2, likelihood=likelihood(), hidden=(8,))
    return Trainer(vae, guides.BottomUp(vae), seed=0).fit(data, epochs=epochs, progress=False)


def standardised(x):
    """The advice, word by word."""
    m, s = x.mean(0), x.std(0)
    x = (x - m) / s.where(s > 0, 1)
    return x


@pytest.mark.parametrize("name", ["wine", "breast_cancer", "linnerud"])
def test_tables_whose_columns_differ(name):
    x = torch.from_numpy(getattr(datasets, f"load_{name}")().data).float()
    x = x * torch.logspace(0, 4, 3) if name == "linnerud" else x
    with pytest.warns(
        UserWarning, match=r"data: most values of column \d+ differ by .* Bring all"
    ):
        trained(x)
    assert scale_notice(standardised(x)) is None
    trained(standardised(x))


def test_the_columns_that_are_named():
    x = torch.linspace(0.0, 1.0, 1001)[:, None] * torch.tensor([1.0, 1e6, 10.0])
    assert "column 1 differ by 8e+05, of column 0 by 0.8:" in scale_notice(x)
    constant = torch.cat([x[:, :1], torch.ones(1001, 1)], 1)
    assert scale_notice(constant) is None
    assert standardised(torch.cat([x, torch.ones(1001, 1)], 1)).isfinite().all()


@pytest.mark.parametrize("scale", [65535.0, 255.0, 1e-4])
def test_pictures_far_from_1(scale):
    x = scale * torch.rand(20, 1, 6, 6)
    with pytest.warns(UserWarning, match="data: the values, from .*, are far from 1") as told:
        trained(x)
    assert len(told) == 1 and told[0].filename == __file__
    # The advice
    x = x / x.abs().max()
    trained(x)


def test_it_is_told_once_and_only_where_it_matters():
    x = 1e4 * torch.rand(40, 6)
    with pytest.warns(UserWarning, match="far from 1"):
        trainer = trained(x)
    trainer.fit(x, epochs=1, progress=False)
    with pytest.warns(UserWarning, match="far from 1"):
        trained(DataLoader(x, batch_size=8), shape=(6,))

    class Counts(likelihoods.Likelihood):
        def forward(self, features):
            return dist.Poisson(features.clamp(-5, 5).exp())

    assert trained(x.round(), Counts).step == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: load("digits", binarize=None).train.x,
        lambda: torch.from_numpy(datasets.load_iris().data).float(),
        lambda: torch.randn(200, 6),
        lambda: torch.zeros(10, 6),
        lambda: torch.randn(1, 6),
        lambda: (torch.rand(500, 6) < 0.02).float(),
        lambda: torch.cat([torch.randn(999, 6), torch.full((1, 6), 1e9)]),
        lambda: torch.from_numpy(np.random.default_rng(0).standard_t(3, (500, 6))).float(),
    ],
)
def test_usual_data_are_told_nothing(make):
    assert scale_notice(make()) is None
