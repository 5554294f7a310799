"""What is said about models, likelihoods, networks and codebooks, and that its advice works."""

import functools

import pyro.distributions as dist
import torch
from advice import Cases
from torch import nn

from pyro_vae import Trainer, callbacks, data, infer, likelihoods
from pyro_vae.codebooks import KMeans, MovingAverage, Unused
from pyro_vae.guides import BottomUp, NearestCode
from pyro_vae.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    OptimalSigma,
    PerPixelSigma,
    PredictedSigma,
)
from pyro_vae.models import VAE, VQVAE, PixelDecoder
from pyro_vae.networks.masked import PixelCNN
from pyro_vae.priors import CodePrior

N, D = 8, 3
X = torch.linspace(0, 1, N * D).view(N, D)
cases = Cases()


def vae(likelihood=None, shape=(D,), latents=2, **options):
    likelihood = Gaussian() if likelihood is None else likelihood
    return VAE(shape, latents, **{"hidden": (4,), "likelihood": likelihood, **options})


def fit(model, x=X, **options):
    return Trainer(model, BottomUp(model)).fit(x, epochs=1, progress=False, **options)


def own(distribution):
    """A likelihood of one's own."""

    class Own(likelihoods.Likelihood):
        def forward(self, features):
            return distribution(features)

    return Own()


@cases
def models(tmp):
    yield lambda: vae(latents=[]), lambda: vae(latents=[1])
    yield lambda: vae(latents=0), lambda: vae(latents=20), lambda: vae(latents=(64, 32))
    yield (
        lambda: vae(condition="ten"),
        lambda: vae(condition=10),
        lambda: vae(condition=0),
    )
    yield lambda: vae("bernoulli"), lambda: vae(likelihoods.Bernoulli())
    codes = functools.partial(VQVAE, (1, 8, 8), likelihood=Bernoulli(), channels=(4, 4), blocks=0)
    yield lambda: codes(16, 4, likelihood="bernoulli"), lambda: codes(16, 4)
    yield lambda: codes(codebook="k-means"), lambda: codes(codebook=MovingAverage(512, 64))
    book = MovingAverage(16, 4)
    yield (
        lambda: codes(8, codebook=book),
        lambda: codes(codebook=book),
        lambda: codes(8, codebook=MovingAverage(8, 4)),
    )
    decoder = nn.Sequential(nn.Flatten(), nn.Linear(36, 64), nn.Unflatten(1, (1, 8, 8)))
    yield (
        lambda: codes(16, 4, grid=(4, 4)),
        lambda: codes(16, 4, grid=(4, 4), channels=(4,)),
        lambda: codes(16, 4, grid=(4, 4), hidden=(8,)),
        lambda: codes(16, 4, grid=(3, 3), decoder=decoder),
    )
    model = codes(16, 4)
    prior = functools.partial(CodePrior, width=4, layers=1)
    larger = codes(8, 4)
    yield lambda: codes(16, 4, prior=prior(larger)), lambda: codes(16, 4, prior=prior(model))
    image = (1, 4, 4)
    yield lambda: PixelDecoder((D,), 2), lambda: vae(decoder=None)

    blocks = own(lambda features: dist.MultivariateNormal(features, torch.eye(4)))
    by_pixel = PixelDecoder(image, 2, width=4, layers=2)
    one = functools.partial(vae, shape=image)
    pixels = torch.ones(N, *image)
    yield (
        lambda: fit(one(blocks, decoder=by_pixel), pixels),
        lambda: fit(one(Bernoulli(), decoder=by_pixel), pixels),
        lambda: fit(one(blocks), pixels),
    )
    heavy = vae(own(lambda features: dist.Cauchy(features, 1.0)))
    guide = BottomUp(heavy)
    usual = vae()
    yield (
        lambda: infer.reconstruct(heavy, guide, X),
        lambda: heavy.decode(guide(X)["z1"]).sample(),
        lambda: heavy.sample(3),
        lambda: infer.reconstruct(usual, BottomUp(usual), X),
    )

    class Heavy(nn.Module):
        def forward(self, x):
            return dist.Cauchy(x[:, :2], 1.0).to_event(1)

    wide = BottomUp(usual, conditionals={"z1": Heavy()})
    yield (
        lambda: wide.encode(X),
        lambda: wide(X)["z1"],
        lambda: usual.decode(wide(X)["z1"]).sample(),
        lambda: BottomUp(usual).encode(X),
    )


@cases
def networks(tmp):
    yield lambda: vae(hidden=("4",)), lambda: vae(hidden=20), lambda: vae(hidden=(64, 32))
    yield (
        lambda: vae(hidden=((4,), (4,))),
        lambda: vae(hidden=(400, 400)),
        lambda: vae(hidden=((4,), (4,)), latents=(2, 2)),
    )
    yield lambda: vae(activation=nn.ReLU()), lambda: vae(activation=nn.ReLU)
    yield lambda: vae(activation="relu"), lambda: vae(activation=nn.ReLU)
    function = torch.sin

    class Sine(nn.Module):
        def forward(self, z):
            return function(z).sum(1, keepdim=True).expand(-1, D)

    yield lambda: vae(decoder=nn.Linear), lambda: vae(decoder=nn.Linear(2, D))
    yield lambda: vae(decoder=function), lambda: vae(decoder=Sine())
    yield lambda: vae(decoder=nn.Linear(5, D)), lambda: vae(decoder=nn.Linear(2, D))

    class Pair(nn.Module):
        def forward(self, z):
            return z, z

    yield lambda: vae(decoder=Pair()), lambda: vae(decoder=Sine())
    yield (
        lambda: vae(norm="batch"),
        lambda: vae(norm=nn.BatchNorm1d),
        lambda: vae(norm=nn.LayerNorm),
        lambda: vae(norm=None),
    )
    normed = vae(norm=nn.BatchNorm1d, hidden=(4, 4))

    def steps(batch_size):
        svi = infer.SVI(normed, BottomUp(normed))
        for part in X.split(batch_size):
            normed.train()
            svi.step(part)

    yield lambda: steps(N - 1), lambda: steps(N // 2)
    x, context = torch.zeros(2, 1, 4, 4), torch.zeros(2, 2, 4, 4)
    net = functools.partial(PixelCNN, 1, 1, width=4, layers=1)
    yield lambda: net(context=None), lambda: net(context=0)
    yield lambda: net(context=2)(x), lambda: net(context=2)(x, context=context)
    yield lambda: net()(x, context=context), lambda: net(context=2)(x, context=context)


@cases
def supports(tmp):
    grey, real = X, 3 * X
    pixels = functools.partial(data.Dataset, binarize="dynamic")
    yield (
        lambda: fit(vae(Bernoulli()), grey),
        lambda: fit(vae(ContinuousBernoulli()), grey),
        lambda: fit(vae(Bernoulli()), data.load(grey, binarize="dynamic").train),
        lambda: fit(vae(Bernoulli()), pixels(grey)),
    )
    yield lambda: fit(vae(Bernoulli()), real), lambda: fit(vae(Gaussian()), real)
    bits = (255 * X).round()
    yield (
        lambda: fit(vae(ContinuousBernoulli()), bits),
        lambda: fit(vae(ContinuousBernoulli()), bits / 255),
    )
    yield lambda: fit(vae(ContinuousBernoulli()), real), lambda: fit(vae(Gaussian()), real)
    yield lambda: Categorical(1), lambda: Categorical(levels=256)
    levels = (X > 0.3).float() / 2 + (X > 0.6).float() / 2
    binary = data.load(bits.byte(), binarize=None).train
    yield (
        lambda: fit(vae(DiscretizedLogistic()), levels),
        lambda: fit(vae(DiscretizedLogistic(levels=3)), levels),
    )
    yield (
        lambda: fit(vae(DiscretizedLogistic()), X),
        lambda: fit(vae(DiscretizedLogistic()), binary),
    )
    counts = own(lambda features: dist.Poisson(features.exp()))
    parts = torch.where(torch.arange(N) == 6, 1.6, (5 * X.T).round()).T
    yield (
        lambda: fit(vae(counts), parts),
        lambda: fit(vae(counts), parts.round()),
        lambda: fit(vae(counts), parts[(parts == parts.round()).all(1)]),
        lambda: fit(vae(), parts),
    )
    negative = parts.round() - 1
    yield lambda: fit(vae(counts), negative), lambda: fit(vae(counts), negative.clip(0))


@cases
def sigmas(tmp):
    constant = torch.cat([X, torch.ones(N, 1)], 1)
    deviation = constant.std(0)
    standard = functools.partial(Gaussian, loc=constant.mean(0))
    yield (
        lambda: standard(scale=deviation),
        lambda: standard(scale=deviation.where(deviation > 0, 1)),
    )
    yield (
        lambda: vae(Gaussian(loc=[0.0, 1.0])),
        lambda: vae(Gaussian(loc=X.mean(0), scale=X.std(0))),
    )
    initial = likelihoods.LearnedSigma(initial=0.5)
    yield lambda: Gaussian("learnt"), lambda: Gaussian("learned"), lambda: Gaussian(initial)
    loose, model = Gaussian("learned"), vae(Gaussian("learned"))
    yield lambda: loose.predict_sigma(), lambda: model.predict_sigma()
    binary = vae(Bernoulli())
    yield binary.predict_sigma, lambda: vae(Gaussian(sigma="learned")).predict_sigma()
    grid, predicted = (1, 2, 2), Gaussian(sigma="predicted")
    pixels = functools.partial(PixelDecoder, grid, 2, width=2, layers=1)
    yield (
        lambda: vae(Gaussian("learned"), grid, decoder=pixels()).predict_sigma(),
        lambda: vae(predicted, grid, decoder=pixels(outputs=2)),
    )
    switch = {"callbacks": [callbacks.PredictSigma(1)]}
    codes = VQVAE((1, 8, 8), 16, 4, likelihood=Gaussian(), channels=(4, 4), blocks=0)
    images = torch.rand(N, 1, 8, 8)
    yield (
        lambda: Trainer(codes, NearestCode(codes)).fit(images, epochs=1, progress=False, **switch),
        lambda: fit(vae(Gaussian("learned")), **switch),
    )
    square = torch.ones(D)
    fixed = Gaussian(0.5).noise
    yield (
        lambda: fixed.maximise(square),
        *(
            lambda kind=kind: vae(Gaussian(sigma=kind)).likelihood.noise.maximise(square)
            for kind in ("learned", "optimal", "per_pixel")
        ),
    )
    for kind, shape in ((PerPixelSigma, (2, D)), (PredictedSigma, (2, D, 2))):
        yield (
            lambda kind=kind, shape=shape: Gaussian(kind())(torch.zeros(shape)),
            lambda kind=kind: vae(Gaussian(kind())).decode(torch.zeros(2, 2)),
        )
    shared = Gaussian("per_pixel")
    vae(shared)
    yield lambda: vae(shared, shape=(2,)), lambda: vae(Gaussian("per_pixel"), shape=(2,))

    def exact(x, likelihood=None):
        """Train where the decoder gives zeros."""
        model = vae(likelihood or Gaussian("optimal"), hidden=())
        for parameter in model.decoder.parameters():
            parameter.data.zero_()
        t = Trainer(model, BottomUp(model), lr=1e-6)
        return lambda: t.fit(x, epochs=1, progress=False)

    zeros, noise = torch.zeros(N, D), torch.randn(N, D)
    yield (
        exact(zeros),
        exact(zeros + 0.1 * noise),
        exact(noise),
        exact(zeros, DiscretizedLogistic()),
        exact(zeros, Gaussian(OptimalSigma(floor=0.1))),
    )


@cases
def codebooks(tmp):
    start = functools.partial(MovingAverage, 4, 2)
    yield lambda: start(initializer="k-means"), lambda: start(initializer=KMeans())
    yield lambda: MovingAverage(4, 2, decay=1.0), lambda: MovingAverage(4, 2, decay=0.99)
    yield lambda: MovingAverage(4, 2, eps=0), lambda: MovingAverage(4, 2, eps=1e-5)
    yield (
        lambda: MovingAverage(4, 2, revive=2.0),
        lambda: MovingAverage(4, 2, revive=Unused(10)),
        lambda: MovingAverage(4, 2, revive=0),
    )


test_the_advice_works_on_what_provokes_it = cases.test()
