"""What is said about kinds of data and the networks for them, and that its advice works."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from advice import Cases
from test_advice_cli import TINY, run
from torch import nn

from pyro_vae import Trainer, data, guides, likelihoods, models, networks
from pyro_vae.likelihoods import Gaussian

cases = Cases()


def vae(*event_shape, **options):
    return lambda: models.VAE(event_shape, 2, likelihood=Gaussian(), **options)


@cases
def kinds(tmp):
    x = np.zeros((9, 1, 8, 8), "float32")
    yield vae(2, 9, kind="signl"), vae(2, 9, kind="signal")
    yield lambda: data.load(x, kind="picture"), lambda: data.load(x, kind="image")
    yield (
        vae(1, 8, 8, kind="signal"),
        vae(8, 8, kind="signal"),
        *(vae(1, 8, 8, kind=kind) for kind in ("image", "video", "array")),
    )

    def in_turn(kind):
        decoder = models.SequenceDecoder((7, 3), 2, width=8)
        return models.VAE((7, 3), 2, likelihood=Gaussian(), decoder=decoder, kind=kind)

    yield lambda: in_turn("signal"), lambda: in_turn("sequence"), lambda: in_turn(None)
    yield (
        lambda: data.load(x, kind="vector"),
        lambda: data.load(x.reshape(9, 64), kind="vector"),
        *(lambda k=kind: data.load(x, kind=k) for kind in ("image", "video", "array")),
    )


@cases
def convolutions(tmp):
    yield vae(2, 9, kind="signal", channels=(4, -1)), vae(2, 9, kind="signal", channels=(64, 32))
    yield (
        vae(2, 9, kind="signal", channels=(4,) * 5),
        vae(2, 9, kind="signal", channels=(4,) * 4),
        vae(2, 9, kind="signal", hidden=(4,)),
    )
    yield vae(2, 9, kind="signal", channels=()), vae(2, 9, kind="signal", channels=(32,))
    yield (
        lambda: models.VQVAE((2, 2), kind="signal", likelihood=Gaussian()),
        lambda: models.VQVAE((2, 2), kind="signal", likelihood=Gaussian(), channels=(32,)),
        lambda: models.VQVAE((2, 2), kind="signal", likelihood=Gaussian(), hidden=(4,)),
    )
    yield (
        vae(2, 9, channels=(4,), hidden=(4,)),
        vae(2, 9, channels=(4,)),
        vae(2, 9, hidden=(4,)),
    )
    yield vae(9, channels=(4,)), vae(9), vae(9, channels=(4,), kind="signal")
    yield (
        vae(8, 8, 8, 8, blocks=2),
        vae(8, 8, 8, 8),
        vae(8, 8, 8, 8, blocks=2, kind="video"),
    )
    yield vae(2, 9, blocks=-1), vae(2, 9, blocks=1), vae(2, 9, blocks=0)
    for bad in (nn.BatchNorm2d, nn.GroupNorm):
        makers = (nn.BatchNorm1d, nn.LayerNorm, networks.GroupNorm(8), None)
        yield vae(2, 9, norm=bad), *(vae(2, 9, norm=maker) for maker in makers)


@cases
def programs_of_ones_own(tmp):
    x = torch.zeros(9, 5, 3)
    told = data.Dataset(x, kind="sequence")

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = (z @ torch.ones(2, 15)).unflatten(-1, (5, 3))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(2), obs=x)

    def said(x):
        model(x)

    said.kind = {"x": "image"}
    yield (
        lambda: guides.BottomUp(model, like=x),
        lambda: guides.BottomUp(model, like=told),
        lambda: guides.BottomUp(said, like=x),
    )
    of_images = guides.BottomUp(said, like=x)
    fit = {"epochs": 1, "progress": False}
    yield (
        lambda: Trainer(said, of_images).fit(told, **fit),
        lambda: Trainer(said, of_images).fit(told.replace(kind="image"), **fit),
        lambda: Trainer(model, guides.BottomUp(model, like=told)).fit(told, **fit),
    )

    class Text(nn.Module):
        kind = "tokens"

        def forward(self, text):
            with pyro.plate("data", len(text)):
                z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
                logits = z.unsqueeze(1).expand(-1, 4, 3)
                pyro.sample("text", likelihoods.Tokens(3)(logits), obs=text)

    text = Text()
    lines = torch.tensor([[1.0, 2.0, 0.0, 0.0], [2.0, 2.0, 1.0, 0.0]])
    guide = guides.BottomUp(text, like=lines)
    yield lambda: guide(lines + 1), lambda: guide(lines)


@cases
def command_line(tmp):
    path, out = tmp / "x.npy", tmp / "out"
    np.save(path, np.random.default_rng(0).normal(size=(20, 2, 16)))
    argv = ["train", "--data", path, "--out", out, *TINY]
    shallow = ["--latents", "2", "--epochs", "1", "--importance-samples", "0"]
    convolved = ["train", "--data", path, "--out", out, *shallow]
    yield lambda: run(*argv, "--kind", "signl"), lambda: run(*argv, "--kind", "signal")
    yield lambda: run(*argv), lambda: run(*argv, "--kind", "signal")
    yield (
        lambda: run(*argv, "--channels", "4"),
        lambda: run(*argv),
        lambda: run(*convolved, "--channels", "4"),
    )
    yield (
        lambda: run(*convolved, "--channels", "4,x"),
        lambda: run(*convolved, "--channels", "4,8", "--blocks", "0", "--kind", "signal"),
    )


test_the_advice_works_on_what_provokes_it = cases.test()
