"""Pairs, trainers after a fit, and what they have learnt."""

import functools
import math

import torch

from pyro_vae import Trainer, data, guides, likelihoods
from pyro_vae.models import VAE

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
GREY = data.Dataset(X.sigmoid(), binarize="dynamic")
HIERARCHY = (3, 2)
FROZEN = 1e-12  # a learning rate below the resolution of single precision


def pair(latents=2, guide=guides.BottomUp, likelihood=None, **options):
    torch.manual_seed(0)
    likelihood = likelihood or likelihoods.Gaussian()
    vae = VAE((6,), latents, likelihood=likelihood, hidden=(8,), **options)
    return vae, guide(vae)


def fitted(programs=None, data=X, *, epochs=2, batch_size=16, validation=None, callbacks=(), **k):
    trainer = Trainer(*(programs or pair()), **{"seed": 0, "lr": 1e-2, **k})
    return more(trainer, data, epochs, batch_size, validation=validation, callbacks=callbacks)


def more(trainer, data=X, epochs=2, batch_size=16, **options):
    return trainer.fit(data, epochs=epochs, batch_size=batch_size, progress=False, **options)


def rows(trainer, *without):
    return [
        {k: v for k, v in row.items() if k not in ("seconds", *without)} for row in trainer.history
    ]


def values(*programs):
    return {
        f"{i}.{name}": p.detach().clone()
        for i, program in enumerate(programs)
        for name, p in program.named_parameters()
    }


def changed(before, *programs):
    return {name for name, p in values(*programs).items() if not torch.equal(p, before[name])}


class Hook:
    """A callback from keyword functions."""

    def __init__(self, **hooks):
        self.__dict__.update(hooks)


def mean_and_error(numbers):
    numbers = torch.tensor(numbers, dtype=torch.float64)
    return float(numbers.mean()), float(numbers.std() / math.sqrt(len(numbers)))


OPTIMIZERS = [
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.SGD,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, foreach=True),
]


def moments(trainer, program):
    state = trainer.optimizer.state
    return [{k: v.clone() for k, v in state[p].items()} for p in program.parameters()]
