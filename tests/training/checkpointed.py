"""Runs with checkpoints, whole and broken off, and all that they leave."""

import functools
import shutil

import pytest
import torch
from torch import nn

from pyro_vae import Trainer, callbacks, data, guides, likelihoods
from pyro_vae.models import VAE

X = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
GREY = data.Dataset(X.sigmoid(), binarize="dynamic")
TEST = X[:20] + 0.1
STEPS = 7  # per epoch, of 8 data, the last of 2


def vae(latents=2, likelihood=None, **options):
    torch.manual_seed(0)
    likelihood = likelihood or likelihoods.Gaussian("learned")
    return VAE((6,), latents, likelihood=likelihood, **{"hidden": (8,), **options})


def trainer(model=None, guide=guides.BottomUp, **options):
    model = model or vae()
    return Trainer(model, guide(model), **{"seed": 0, "lr": 1e-2, **options})


def fit(t, x=X, **options):
    return t.fit(x, **{"epochs": 3, "batch_size": 8, "progress": False, **options})


def on(t, x=X, **options):
    return t.fit(x, progress=False, **options)


def outcome(t):
    """All that a run leaves: tensors of the pair and of the optimizer, history, random streams."""
    tensors = [v.clone() for module in t.modules() for v in module.state_dict().values()]
    state = t.state_dict()
    moments = [torch.as_tensor(v).clone() for m in state["moments"] for v in (m or {}).values()]
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in t.history]
    frozen = [p.requires_grad for p in t.parameters()]
    return tensors, moments, list(state["random"].values()), rows, t.step, t.lr, frozen


def assert_same(one, other):
    for first, second in zip(one[:3], other[:3], strict=True):
        assert len(first) == len(second)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert one[3:] == other[3:]


ladder = functools.partial(vae, (3, 2), hidden=((8,), (8,)), norm=nn.BatchNorm1d)


def checkpoints(folder):
    return sorted(folder.glob("step-*.pt"))


def copy_of_one(path, folder):
    folder.mkdir()
    shutil.copy(path, folder)
    return folder


class Stop(Exception):
    pass


class Break(callbacks.Callback):
    """Raise at a step."""

    def __init__(self, at, error=Stop):
        self.at, self.error = at, error

    def on_step_end(self, trainer, **kwargs):
        if trainer.step == self.at:
            raise self.error

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def broken(folder, at=12, **options):
    with pytest.raises(Stop):
        fit(trainer(), checkpoint=folder, callbacks=[Break(at)], every=3, **options)
    return [Break(10**9)]
