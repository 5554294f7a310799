"""What is said about several modalities, and that its advice works."""

import pyro
import pyro.distributions as dist
import torch
from advice import Cases
from modalities import N, Pictures, batch, pictures
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyro_vae import Trainer, guides, handlers, infer, likelihoods, models
from pyro_vae.guides import BottomUp, MixtureOfExperts, ProductOfExperts

BOTH, DATA, MODEL = ["image", "label"], pictures(), Pictures()
ALONE = handlers.missing(MODEL)
IMAGE = {"image": DATA["image"]}
cases = Cases()


def product(experts=BOTH, model=MODEL, like=DATA, kind=ProductOfExperts):
    return kind(experts, model=model, like=like, hidden=(4,))


def of_image(model=ALONE, family=BottomUp, **options):
    return family(model, like=IMAGE, hidden=(4,), **{"order": "top-down", **options})


def fit(guide, data=DATA, model=MODEL, **options):
    return Trainer(model, guide, **options).fit(data, epochs=1, progress=False)


@cases
def experts(tmp):
    yield lambda: ProductOfExperts(BOTH), product
    yield (
        lambda: product({"image": of_image(handlers.missing(Pictures()))}),
        lambda: product({"image": of_image()}),
    )
    yield lambda: product([]), product
    yield lambda: product(["imag"]), lambda: product(["image"])
    vae = models.VAE((6,), 2, likelihood=likelihoods.Gaussian())
    yield lambda: ProductOfExperts(["x"], model=vae), lambda: BottomUp(vae)
    yield (
        lambda: product(like=IMAGE),
        product,
        lambda: product(["image"], like=IMAGE),
    )
    gone = {**DATA, "label": torch.full((N,), torch.nan)}
    yield (
        lambda: product(model=ALONE, like=gone),
        lambda: product(model=ALONE),
        lambda: product(["image"], model=ALONE, like=gone),
    )

    class Encoder(nn.Module):
        def forward(self, image):
            return image.exp()

    class Of(nn.Module):
        """A guide whose argument has another name."""

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

    class OfImage(Of):
        def forward(self, image):
            super().forward(image)

    yield lambda: product({"image": Of()}), lambda: product({"image": OfImage()})
    yield (
        lambda: product({"image": torch.exp}),
        lambda: product({"image": Encoder()}),
        lambda: product({"image": None}),
    )


@cases
def latents(tmp):
    def model(image=None, label=None):
        with pyro.plate("data", batch(image, label)):
            above = pyro.sample("above", dist.Normal(0.0, 1.0))
            below = pyro.sample("below", dist.Normal(above, 1.0))
            loc = below.unsqueeze(-1).expand(*below.shape, 6)
            pyro.sample("image", dist.Normal(loc, 1.0).to_event(1), obs=image)
            pyro.sample("label", dist.Categorical(logits=loc[..., :3]), obs=label)

    def expert(name="above", **options):
        alone = handlers.missing(model)
        return BottomUp(alone, like=IMAGE, hidden=(4,), **options)

    yield (
        lambda: product({"image": expert()}, model),
        lambda: product({"image": expert(order="top-down")}, model),
    )

    class Own(nn.Module):
        def __init__(self, *names):
            super().__init__()
            self.names = names

        def forward(self, image=None, label=None):
            with pyro.plate("data", len(image)):
                for name in self.names:
                    pyro.sample(name, dist.Normal(image[:, 0], 1.0))

    yield (
        lambda: product({"image": Own("above", "under")}, model),
        lambda: product({"image": Own("above", "below")}, model),
    )
    full = {"image": of_image(family=guides.FullCovariance)}
    yield (
        lambda: product(full),
        lambda: product(full, kind=MixtureOfExperts),
        lambda: product({"image": of_image()}),
    )


@cases
def nothing_there(tmp):
    guide = product(model=ALONE)
    nan = {"image": torch.full((3, 6), torch.nan)}
    yield (
        lambda: guide(),
        lambda: infer.elbo_terms(ALONE, guide, nan),
        lambda: infer.sample(MODEL, DATA),
    )
    whole, frozen = product(), Pictures()
    frozen.label.requires_grad_(False)
    yield (
        lambda: fit(whole, IMAGE),
        lambda: fit(whole),
        lambda: fit(product(["image"], frozen), IMAGE, frozen),
    )

    def shared(image=None, label=None):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", batch(image, label)):
            z = pyro.sample("z", dist.Normal(w, 1.0))
            loc = z.unsqueeze(-1).expand(*z.shape, 6)
            pyro.sample("image", dist.Normal(loc, 1.0).to_event(1), obs=image)
            pyro.sample("label", dist.Categorical(logits=loc[..., :3]), obs=label)

    part = product(model=shared)
    composed = lambda: guides.Composed(part, globals=AutoNormal, like=DATA, model=shared)  # noqa: E731
    yield lambda: part(**DATA), lambda: composed()(**DATA)


@cases
def objective(tmp):
    guide = product()
    yield (
        lambda: infer.SubsetELBO(of=pyro.infer.Trace_ELBO()),
        lambda: fit(guide, elbo=infer.SubsetELBO(of="trace")),
        lambda: fit(guide, elbo=infer.SubsetELBO(of="enumerate")),
        lambda: fit(guide, elbo=infer.SubsetELBO(of=infer.ImportanceWeightedELBO(10))),
    )
    yield (
        lambda: infer.SubsetELBO(BOTH),
        lambda: fit(guide, elbo=infer.SubsetELBO([("image",), ("label",)])),
    )
    usual = BottomUp(MODEL, like=DATA, hidden=(4,))
    yield (
        lambda: fit(usual, elbo=infer.SubsetELBO()),
        lambda: fit(guide, elbo=infer.SubsetELBO()),
        lambda: fit(usual, elbo="trace"),
    )
    yield (
        lambda: fit(guide, elbo=infer.SubsetELBO([["imag"]])),
        lambda: fit(guide, elbo=infer.SubsetELBO([["image"]])),
    )


class Split(nn.Module):
    """Has a label only where one is there, unless it is to have one in any case."""

    def __init__(self, always):
        super().__init__()
        self.always = always

    def forward(self, image=None, label=None):
        with pyro.plate("data", batch(image, label)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = z.repeat_interleave(3, -1)
            pyro.sample("image", dist.Normal(loc, 1.0).to_event(1), obs=image)
            if self.always or label is not None:
                pyro.sample("label", dist.Categorical(logits=loc[..., :3]), obs=label)


class Own(nn.Module):
    def forward(self, image=None, label=None):
        with pyro.plate("data", len(image)):
            pyro.sample("z", dist.Normal(image[:, :2], 1.0).to_event(1))


@cases
def translations(tmp):
    guide = product()

    def to(site="label", **given):
        return infer.translate(MODEL, guide, to=site, **(given or IMAGE))

    yield (
        lambda: infer.translate(MODEL, guide, to="label"),
        to,
        lambda: infer.sample(MODEL, DATA),
    )
    both = to(("label", "image"))
    label = DATA["label"]
    yield (
        lambda: both.coherence(label),
        lambda: both["label"].coherence(label),
    )
    yield lambda: to().coherence(label[:3]), lambda: to().coherence(label)
    yield (
        lambda: to("image").coherence(label),
        lambda: to("image").coherence(label, lambda x: x[:, :3]),
    )
    yield (
        lambda: infer.translate(Split(False), Own(), to="label", **IMAGE),
        lambda: infer.translate(Split(True), Own(), to="label", **IMAGE),
    )
    yield lambda: to("labl"), to


test_the_advice_works_on_what_provokes_it = cases.test()
