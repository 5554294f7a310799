"""Trainers, and what of them a file has to bring back."""

import hashlib

import torch

from pyro_vae import Trainer, data, guides, infer, likelihoods, load, save
from pyro_vae.models import VAE

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(40) % 3
GREY = data.Dataset(X.sigmoid(), Y, binarize="dynamic")
PAIR = data.Dataset(X, Y)


def vae(latents=2, likelihood=None, hidden=(8,), **options):
    torch.manual_seed(0)
    likelihood = likelihood or likelihoods.Gaussian(0.5)
    return VAE((6,), latents, likelihood=likelihood, hidden=hidden, **options)


def trainer(model=None, guide=guides.BottomUp, **options):
    model = model or vae()
    return Trainer(model, guide(model), **{"seed": 0, "lr": 1e-2, **options})


def fit(t, training=PAIR, epochs=2, **options):
    return t.fit(training, epochs=epochs, batch_size=16, progress=False, **options)


def through_file(obj, folder, **options):
    save(obj, folder / "file.pt")
    return load(folder / "file.pt", **options)


def tensors(*modules):
    return [v for module in modules for v in module.state_dict().values()]


def digest(*modules):
    joined = b"".join(v.numpy().tobytes() for v in tensors(*modules))
    return hashlib.sha256(joined).hexdigest()


def rows(t):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in t.history]


def bound(t, x=X):
    torch.manual_seed(0)
    return infer.elbo_terms(t.model, t.guide, x, y=Y).elbo
