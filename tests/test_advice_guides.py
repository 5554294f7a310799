"""What is said about guides, handlers, regularizers and priors, and that its advice works."""

import functools

import pyro
import pyro.distributions as dist
import torch
from advice import Cases
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyro_vae import Trainer, handlers, infer, priors, regularizers, schedules
from pyro_vae.conditionals import DiagonalNormal, FullNormal, PointMass, StandardNormal
from pyro_vae.conditionals.flow import AutoregressiveFlow
from pyro_vae.conditionals.growing import grow
from pyro_vae.guides import (
    BottomUp,
    Composed,
    Delta,
    Flow,
    FullCovariance,
    Ladder,
    NearestCode,
    PerDatum,
    SemiAmortized,
)
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import VAE, VQVAE

N, D = 8, 3
X = torch.linspace(-1, 1, N * D).view(N, D)
PIXELS = (torch.arange(N * 64).view(N, 1, 8, 8) % 3 > 0).float()
cases = Cases()


def vae(latents=2, shape=(D,), **options):
    return VAE(shape, latents, hidden=(4,), likelihood=Gaussian(), **options)


def bound(model, guide, estimator=None):
    return lambda: (estimator or infer.TraceELBO())(model, guide, X)[0].backward()


def fit(model, guide, **options):
    return lambda: Trainer(model, guide, **options).fit(X, epochs=1, progress=False)


@cases
def building(tmp):
    one, deep = vae(), vae([3, 2])
    yield lambda: BottomUp("vae"), lambda: BottomUp(one)
    image, conv = vae(shape=(1, 4, 4)), nn.Conv2d(1, 2, 3)
    yield (
        lambda: BottomUp(image, encoder=conv),
        lambda: BottomUp(image, encoder=nn.Sequential(conv, nn.Flatten())),
    )
    yield lambda: BottomUp(deep, sites="z1"), lambda: BottomUp(deep, sites=["z1"])
    lower, upper = BottomUp(deep, sites=["z1"]), BottomUp(deep, sites=["z2"])
    yield lambda: upper(X), lambda: Composed(lower, upper)(X)
    yield lambda: Composed(nn.Linear(1, 1)), lambda: Composed(BottomUp(one, sites=["z1"]))
    thin, single = vae([3, 1]), vae(1)
    yield lambda: Flow(single), lambda: BottomUp(single)
    yield (
        lambda: AutoregressiveFlow(nn.Identity(), 4, 1),
        lambda: DiagonalNormal(nn.Identity(), 4, 1),
        lambda: Composed(Flow(thin, sites=["z1"]), BottomUp(thin, sites=["z2"])),
    )
    network = nn.Linear(D, 4)
    yield (
        lambda: BottomUp(deep, sites=["z2"], encoder=network),
        lambda: BottomUp(deep, sites=["z2"]),
        lambda: BottomUp(deep, sites=["z1"], encoder=network),
    )
    codes = VQVAE((1, 8, 8), 16, 4, likelihood=Bernoulli())
    yield lambda: BottomUp(codes), lambda: NearestCode(codes)
    yield lambda: NearestCode(one), lambda: NearestCode(codes), lambda: BottomUp(one)
    yield (
        lambda: SemiAmortized(Flow(one)),
        lambda: SemiAmortized(BottomUp(one)),
        lambda: SemiAmortized(Ladder(deep)),
    )
    yield lambda: SemiAmortized(one), lambda: SemiAmortized(BottomUp(one))
    yield lambda: SemiAmortized(lower), lambda: SemiAmortized(Composed(lower, upper))

    def ladder(kind):
        model = vae([3, 2], top_down={"z1": kind(nn.Linear(2, 4), 4, 3)})
        return bound(model, Ladder(model))

    yield ladder(FullNormal), ladder(DiagonalNormal)


@cases
def conditionals(tmp):
    one = vae()
    yield (
        lambda: BottomUp(one, conditionals={"z1": lambda x: None}),
        lambda: BottomUp(one, conditionals={"z1": DiagonalNormal(nn.Linear(D, 4), 4, 2)}),
    )


@cases
def starting(tmp):
    one, other = vae([3, 2]), vae([3, 2])
    start = BottomUp(one)
    yield (
        lambda: FullCovariance(one, start=Ladder(one)),
        lambda: FullCovariance(one),
        lambda: FullCovariance(one, start=start),
        lambda: FullCovariance(one, start=FullCovariance(one)),
    )
    yield lambda: Delta(one, start=start), lambda: Delta(one)
    yield lambda: Flow(other, start=start), lambda: Flow(start.model, start=start)
    yield lambda: Flow(one, start=start, hidden=(4,)), lambda: Flow(one, start=start)


@cases
def growing(tmp):
    def made(cls, **options):
        return cls(nn.Identity(), 4, 3, **options)

    def grown(cls, start, **options):
        return lambda: grow(made(cls, **options), start)

    diagonal, flow = made(DiagonalNormal), made(AutoregressiveFlow, steps=3, hidden=9)
    yield grown(PointMass, diagonal), *map(grown, (DiagonalNormal, FullNormal), [diagonal] * 2)
    yield grown(FullNormal, flow), grown(FullNormal, diagonal)
    yield grown(FullNormal, diagonal, relative=False), grown(FullNormal, diagonal, relative=True)
    before = made(FullNormal, relative=False)
    yield grown(FullNormal, before), grown(FullNormal, before, relative=False)
    far = made(DiagonalNormal, min_scale=0.1)
    yield grown(FullNormal, far), grown(FullNormal, far, min_scale=0.1)
    yield (
        grown(AutoregressiveFlow, flow, hidden=9),
        grown(AutoregressiveFlow, flow, hidden=9, steps=3),
        grown(AutoregressiveFlow, flow, hidden=9, steps=4),
    )
    yield (
        grown(AutoregressiveFlow, flow, steps=3),
        grown(AutoregressiveFlow, flow, steps=3, hidden=9),
    )


def walk(prior):
    """x ~ N(z, 1), z ~ prior(w), w ~ N(0, 1)."""

    def model(x):
        with pyro.plate("data", len(x)):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            z = pyro.sample("z", prior(w))
            pyro.sample("x", dist.Normal(z[:, None], 1.0).expand([len(x), D]).to_event(1), obs=x)

    return model


@cases
def ladders(tmp):
    def mixture(w):
        return dist.MaskedMixture(w > 0, dist.Normal(w, 1.0), dist.Normal(-w, 0.1))

    unseen = walk(mixture)
    yield lambda: Ladder(unseen, like=X), bound(unseen, BottomUp(unseen, like=X))

    def switching(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(c, 1.0))
            loc = z[..., None].expand(*z.shape, D)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    yield (
        lambda: Ladder(switching, like=X),
        fit(switching, BottomUp(switching, like=X), elbo=TraceEnum_ELBO()),
    )

    def shared(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(w, 1.0))
            pyro.sample("x", dist.Normal(z[:, None], 1.0).expand([len(x), D]).to_event(1), obs=x)

    part = Ladder(shared, like=X)
    yield (
        lambda: part(X),
        bound(shared, Composed(part, globals=AutoNormal, like=X, model=shared)),
    )


class Of(nn.Module):
    """A conditional that is a function of its context."""

    def __init__(self, function):
        super().__init__()
        self.function, self.layer = function, nn.Linear(D, 2)

    def forward(self, x):
        return self.function(self.layer(x))


@cases
def distributions(tmp):
    model = vae()

    def run(function):
        return bound(model, BottomUp(model, conditionals={"z1": Of(function)}))

    yield run(lambda h: h), run(lambda h: dist.Normal(h, 1.0))
    yield (
        run(lambda h: dist.Normal(h[:, :1], 1.0).to_event(1)),
        run(lambda h: dist.Normal(h, 1.0).to_event(1)),
    )


class NotReparametrised(dist.Normal):
    has_rsample = False


def sampled(loc, *, plate=True, reparametrised=True, helper=None):
    """A guide of one latent, z1."""

    def run(x):
        around = pyro.plate("data", len(x)) if plate else poutine.block(hide=[])
        with around:
            if helper:
                pyro.sample("help", dist.Normal(torch.zeros(len(x)), 1.0), infer=helper)
            kind = dist.Normal if reparametrised else NotReparametrised
            pyro.sample("z1", kind(loc(x), 1.0).to_event(1))

    return run


@cases
def wrapping(tmp):
    model = vae()
    guide = BottomUp(model)
    scale = handlers.scale_latents
    yield lambda: scale(model, {"z": 0.5})(X), lambda: scale(model, {"z1": 0.5})(X)
    helped = sampled(lambda x: x[:, :2], helper={"is_auxiliary": True})
    yield (
        fit(model, helped, beta={"z1": 0.5}),
        fit(model, helped, beta=0.5),
        fit(model, helped, beta=schedules.WarmUp(epochs=1)),
    )
    regularize, dip = handlers.regularize, regularizers.DIP()
    auto = AutoNormal(model)
    yield (
        lambda: infer.SVI(model, regularize(auto, dip)).step(X),
        lambda: infer.SVI(model, regularize(PerDatum(model, X), dip)).step(X),
        lambda: infer.SVI(model, regularize(guide, dip)).step(X),
    )
    yield (
        bound(model, regularize(sampled(lambda x: torch.zeros(2), plate=False), dip)),
        lambda: poutine.trace(regularize(sampled(lambda x: x[:, :2]), dip)).get_trace(X),
    )

    class Spread(regularizers.Regularizer):
        def forward(self, q, z):
            return q.mean.square().mean((-2, -1))

    def under_samples(penalty):
        def run():
            with pyro.plate("samples", 4, dim=-2):
                poutine.trace(regularize(guide, penalty)).get_trace(X)

        return run

    yield under_samples(lambda q, z: q.mean.square().mean()), under_samples(Spread())
    flow = Flow(model)
    yield (
        bound(model, regularize(flow, dip)),
        bound(model, regularize(guide, dip)),
        bound(model, regularize(flow, regularizers.MMD())),
    )
    mmd, fixed = regularizers.MMD(), sampled(lambda x: x[:, :2], reparametrised=False)
    yield (
        bound(model, regularize(fixed, mmd)),
        bound(model, regularize(guide, mmd)),
        bound(model, regularize(Delta(model), mmd)),
        bound(model, regularize(fixed, dip)),
    )


@cases
def replacing(tmp):
    model = vae()
    guide = BottomUp(model)
    aggregate = functools.partial(priors.AggregatePosterior, 2, initializations=1)
    fitted = aggregate().fit(model, guide, X)
    yield lambda: model.sample(2, prior="wide"), lambda: model.sample(2, prior=fitted)
    wide = StandardNormal(3)
    yield (
        lambda: model.sample(2, prior=wide),
        lambda: model.sample(2, prior=StandardNormal(2)),
        lambda: model.sample(2, prior=fitted),
    )
    double = StandardNormal(2).double()
    yield (
        lambda: handlers.replace_prior(model, double),
        lambda: handlers.replace_prior(model, double.to("cpu", torch.float32)),
    )
    deep = vae([3, 2])
    yield (
        lambda: handlers.replace_prior(deep, StandardNormal(3), site="z1"),
        lambda: handlers.replace_prior(deep, StandardNormal(2), site="z2"),
    )


@cases
def fitting_priors(tmp):
    model = vae()
    guide = BottomUp(model)
    aggregate = functools.partial(priors.AggregatePosterior, initializations=1)
    yield (
        lambda: aggregate(20).fit(model, guide, X),
        lambda: aggregate(20).fit(model, guide, torch.randn(40, D)),
        lambda: aggregate(2).fit(model, guide, X),
    )
    for new in (aggregate(2), priors.TwoStage(2, hidden=(4,))):
        quick = {} if isinstance(new, priors.AggregatePosterior) else {"epochs": 1}
        yield (
            lambda new=new: model.sample(2, prior=new),
            lambda new=new, quick=quick: model.sample(2, prior=new.fit(model, guide, X, **quick)),
        )
    stage = priors.TwoStage(2, hidden=(4,)).fit(model, guide, X, epochs=1)
    yield (
        bound(handlers.replace_prior(model, stage), guide),
        bound(*stage.stack(model, guide)),
    )
    yield lambda: priors.FlowPrior(1), lambda: priors.MixturePrior(1)
    yield lambda: priors.VampPrior(AutoNormal(model)), lambda: priors.VampPrior(guide)
    deep = vae([3, 2])
    yield (
        lambda: priors.VampPrior(BottomUp(deep)),
        lambda: handlers.replace_prior(deep, priors.MixturePrior(2)),
    )
    vamp = priors.VampPrior(guide, 4)
    yield lambda: vamp.start_from(X), lambda: vamp.start_from(X[:4])
    yield lambda: priors.VampPrior(Flow(model))(), lambda: priors.VampPrior(guide)()
    broken = BottomUp(model)
    broken.conditionals["z1"].loc.bias.data[0] = torch.inf
    yield lambda: aggregate(2).fit(model, broken, X), lambda: aggregate(2).fit(model, guide, X)

    def flow(lr):
        return lambda: priors.FlowPrior(2, 1).fit(model, guide, X, epochs=3, lr=lr)

    yield flow(1e30), flow(1e-3)


@cases
def code_priors(tmp):
    codes = VQVAE((1, 8, 8), 16, 4, likelihood=Bernoulli(), channels=(4, 4), blocks=0)
    guide = NearestCode(codes)
    small = functools.partial(priors.CodePrior, width=4, layers=1)
    new = small(codes)

    def fitted():
        return small(codes).fit(guide, PIXELS, epochs=20, progress=False)

    yield (
        lambda: codes.sample(2),
        lambda: codes.sample(2, prior=fitted()),
        lambda: codes.sample(2, prior="uniform"),
    )
    yield lambda: codes.sample(2, prior=new), lambda: codes.sample(2, prior=fitted())
    model = vae()
    yield lambda: priors.CodePrior(model), lambda: priors.MixturePrior(2)
    patient = {"epochs": 2, "patience": 1, "progress": False}
    yield (
        lambda: small(codes).fit(guide, PIXELS, **patient),
        lambda: small(codes).fit(guide, PIXELS, validation=PIXELS, **patient),
    )
    large = VQVAE((1, 16, 16), 16, 4, likelihood=Bernoulli(), channels=(4, 4), blocks=0)
    pixels = torch.ones(4, 1, 16, 16)
    fit = {"epochs": 1, "progress": False}
    yield (
        lambda: small(codes).fit(NearestCode(large), pixels, **fit),
        lambda: small(large).fit(NearestCode(large), pixels, **fit),
    )
    prior = fitted()
    yield lambda: prior.log_prob(PIXELS), lambda: prior.log_prob(guide.codes(PIXELS))


test_the_advice_works_on_what_provokes_it = cases.test()
