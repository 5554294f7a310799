"""Classes that a loader's data do not have are told: before training where that can be known."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pyro_vae import Trainer, guides, likelihoods
from pyro_vae.models import VAE, Covariates

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
ALL = torch.tensor([0, -1, 1, -1, 2, -1] * 2)
LACKING = ALL.where(ALL != 1, -1)


class Targets(Dataset):
    """As torchvision has them."""

    def __init__(self, y):
        self.targets = y.tolist()

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index], self.targets[index]


def trainer(condition=3, **options):
    vae = VAE(
        (4,), 2, likelihood=likelihoods.Gaussian(), condition=condition, hidden=(4,), **options
    )
    elbo = "enumerate" if options else "trace"
    return Trainer(vae, guides.BottomUp(vae), seed=0, elbo=elbo)


def fit(trainer, dataset):
    return trainer.fit(DataLoader(dataset, batch_size=5), epochs=2, progress=False)


HELD = {"tensors": lambda y: TensorDataset(X, y), "targets": Targets}


@pytest.mark.parametrize("held", HELD)
def test_labels_at_hand_are_checked_before_the_first_step(held):
    partial = trainer(labels="partial")
    with pytest.raises(ValueError, match="labels of all 3 classes, or none, got none of class 1"):
        fit(partial, HELD[held](LACKING))
    assert partial.step == 0
    assert fit(partial, HELD[held](ALL)).step == 6
    assert fit(trainer(labels="partial"), HELD[held](torch.full((12,), -1))).step == 6


def test_what_a_first_epoch_lacks_is_told_after_it():
    items = [*zip(X, LACKING, strict=True)]
    with pytest.warns(UserWarning, match="class of 'y' in some batch .* got none of 1 in its"):
        fit(trainer(labels="partial"), items)
    fit(trainer(labels="partial"), [*zip(X, ALL, strict=True)])
    # Without any label it is a mixture
    fit(trainer(labels="partial"), [(x, torch.tensor(-1)) for x in X])


@pytest.mark.parametrize("lacks", [False, True])
def test_covariates_of_a_loader_are_told_alike(lacks):
    site = torch.arange(12) % 3
    site = site.clamp(max=1) if lacks else site
    items = [(x, {"site": k}) for x, k in zip(X, site, strict=True)]
    given = trainer(Covariates({"site": 3}))
    if not lacks:
        fit(given, items)
        return
    with pytest.warns(UserWarning, match="class of 'site' in some batch .* got none of 2 in its"):
        fit(given, items)
