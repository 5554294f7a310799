"""Pairs whose gradients are compared: name -> (model, guide, data), with fresh parameters."""

import contextlib

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import nn

from pyro_vae import guides, handlers, likelihoods, models, regularizers

X = torch.tensor([[0.8, -0.4, 1.1], [-0.3, 0.9, 0.2]])


def vae(latents, **options):
    return models.VAE((3,), latents, likelihood=likelihoods.Gaussian(0.7), hidden=(), **options)


def library(guide, latents):
    def made():
        model = vae(latents)
        return model, guide(model)

    return made


def as_it_is(x):
    return contextlib.nullcontext()


class Written(nn.Module):
    """A model, or a guide, of two latents in plain Pyro, on ``parts`` of the data.

    The first latent, z1, is drawn under the handler that ``given`` makes.
    """

    def __init__(self, guide, given=as_it_is, parts=1):
        super().__init__()
        self.parts = parts
        self.first, self.second = nn.Linear(3, 4), nn.Linear(2, 4)
        self.decoder, self.guide, self.given = nn.Linear(2, 3), guide, given

    def normal(self, parameters):
        loc, raw = parameters.chunk(2, -1)
        return dist.Normal(loc, 0.5 + nn.functional.softplus(raw)).to_event(1)

    def forward(self, x):
        seen = torch.arange(len(x)) if self.parts > 1 else None
        with pyro.plate("data", self.parts * len(x), subsample=seen):
            if self.guide:
                with self.given(x):
                    z1 = pyro.sample("z1", self.normal(self.first(x)))
                pyro.sample("z2", self.normal(self.second(z1)))
            else:
                z2 = pyro.sample("z2", self.normal(x.new_zeros(len(x), 4)))
                with self.given(x):
                    z1 = pyro.sample("z1", self.normal(self.second(z2)))
                pyro.sample("x", dist.Normal(self.decoder(z1), 0.7).to_event(1), obs=x)


def half_hidden(x):
    return poutine.mask(mask=torch.arange(len(x)) % 3 == 0)


def written(**options):
    def made():
        return Written(False, **options), Written(True, **options)

    return made


class Mapped(Written):
    """A guide that draws noise, and maps it by its parameters: the density is one of the map."""

    def forward(self, x):
        loc, raw = self.first(x).chunk(2, -1)
        scale = 0.5 + nn.functional.softplus(raw)
        with pyro.plate("data", len(x)):
            noise = self.normal(self.first(x))
            noise = pyro.sample("z_aux", noise, infer={"is_auxiliary": True})
            z = loc + scale * noise
            pyro.sample("z", dist.Delta(z, log_density=-scale.log().sum(-1), event_dim=1))


class Single(nn.Module):
    """A linear model of one latent, ``z``."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(2, 3)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.7).to_event(1), obs=x)


class Hidden(Written):
    """A guide of ``z``, one of whose two numbers has no density."""

    def forward(self, x):
        loc, raw = self.first(x).chunk(2, -1)
        normal = dist.Normal(loc, 0.5 + nn.functional.softplus(raw))
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal.mask(torch.tensor([True, False])).to_event(1))


class Inside(nn.Module):
    """A model, or a guide, with a plate inside each datum, whose elements count unequally."""

    def __init__(self, guide):
        super().__init__()
        self.net, self.guide = nn.Linear(3, 4), guide
        self.slope = nn.Parameter(torch.tensor(0.8))

    def forward(self, x):
        counts = poutine.scale(scale=torch.tensor([0.4, 1.7]))
        with pyro.plate("data", len(x), dim=-2):
            if self.guide:
                loc, raw = self.net(x).chunk(2, -1)
                with pyro.plate("inside", 2, dim=-1), counts:
                    pyro.sample("z", dist.Normal(loc, 0.5 + nn.functional.softplus(raw)))
                return
            with pyro.plate("inside", 2, dim=-1):
                with counts:
                    z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0))
                pyro.sample("x", dist.Normal(self.slope * z, 0.7), obs=x[:, :2])


def scaled(made, beta):
    return lambda: tuple(handlers.scale_latents(program, beta) for program in made())


def with_penalty():
    model = vae((2, 2))
    return model, handlers.regularize(
        guides.BottomUp(model), regularizers.DIP(3.0, 5.0), site="z2"
    )


def mapped():
    return Single(), Mapped(True)


def hidden():
    return Single(), Hidden(True)


def inside():
    return Inside(False), Inside(True)


PAIRS = {
    "one layer": library(guides.BottomUp, 2),
    "two layers": library(guides.BottomUp, (2, 2)),
    "full covariance": library(guides.FullCovariance, 2),
    "flow": library(guides.Flow, 2),
    "two flows": library(guides.Flow, (2, 2)),
    "ladder": library(guides.Ladder, (2, 2)),
    "written": written(),
    "scaled": scaled(library(guides.Ladder, (2, 2)), {"z1": 0.4, "z2": 2.5}),
    "masked": written(given=half_hidden),
    "hidden": hidden,
    "inside": inside,
    "subsampled": written(parts=3),
    "mapped": mapped,
    "penalty": with_penalty,
}
