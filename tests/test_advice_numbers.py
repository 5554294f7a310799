"""What is said about numbers, collapse and processes, and that its advice works."""

import functools
import sys
import warnings
from unittest import mock

import torch
from advice import Cases
from pyro.infer import Trace_ELBO
from test_advice_training import Does, N, X, fit, pair, trainer
from test_codebooks import clips, video_pair
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

from pyro_vae import (
    Trainer,
    callbacks,
    codebooks,
    diagnostics,
    guides,
    handlers,
    infer,
    likelihoods,
    ranks,
    schedules,
)
from pyro_vae.data import Dataset
from pyro_vae.guides import BottomUp, FullCovariance
from pyro_vae.models import VAE
from pyro_vae.training import feeds
from pyro_vae.training.parallel import check_parallel

cases = Cases()
SGD = torch.optim.SGD


@cases
def infinite(tmp):
    def descend(lr=1e9, clip_norm=None, data=X, **options):
        t = trainer(optimizer=SGD, lr=lr, clip_norm=clip_norm)
        return lambda: fit(t, data, batch_size=2, epochs=2, **options)

    def bounded(sigma):
        vae = VAE((3,), 2, hidden=(4,), likelihood=likelihoods.Gaussian(sigma))
        return lambda: fit(Trainer(vae, BottomUp(vae)))

    yield descend(), descend(lr=1e-3), descend(clip_norm=1e-12)
    yield bounded(1e-30), bounded(likelihoods.LearnedSigma(floor=1e-2))
    outlier = torch.where(torch.arange(N) == 5, 1e18, X.T).T
    usual = outlier[outlier.abs().amax(1) < 1e3]

    def by_batch(data, **options):
        t = trainer(optimizer=SGD, lr=1e-3)
        return lambda: fit(t, DataLoader(TensorDataset(data), batch_size=2), **options)

    yield by_batch(outlier), by_batch(usual), by_batch(outlier, on_nonfinite="skip")
    heavy = {"optimizer": SGD, "lr": 1e-3}
    yield (
        lambda: fit(trainer(beta=1e30, **heavy), epochs=3),
        lambda: fit(trainer(beta=schedules.WarmUp(steps=10**33, end=1e30), **heavy), epochs=3),
    )
    late = X.clone()

    def spoil(t):
        if t.step == N:
            late[3] = torch.nan

    loader = DataLoader(TensorDataset(late), batch_size=1)
    yield (
        lambda: fit(data=loader, epochs=2, callbacks=[Does(spoil)]),
        lambda: fit(data=late.nan_to_num(), epochs=2),
        lambda: fit(data=late[late.isfinite().all(1)], epochs=2),
    )

    def sigma(noise="learned", **options):
        vae = VAE((3,), 2, hidden=(4,), likelihood=likelihoods.Gaussian(noise))
        return lambda: fit(Trainer(vae, BottomUp(vae), optimizer=SGD, **options), 100 * X)

    high = 1e31
    yield sigma(lr=high), sigma(lr=1e-6), sigma(lr=high, clip_norm=1e-31), sigma(30.0, lr=high)
    vae = VAE((3,), 2, hidden=(8, 8, 8), likelihood=likelihoods.Gaussian())
    guide = BottomUp(vae, hidden=(8, 8, 8))
    huge = X / X.abs().max() * 3e38
    yield (
        lambda: infer.elbo_terms(vae, guide, huge),
        lambda: infer.elbo_terms(vae, guide, huge / huge.abs().max()),
    )


@cases
def impossible(tmp):
    def bound(min_scale=1e-4):
        vae = VAE((6,), 4, hidden=(5,), likelihood=likelihoods.Gaussian())
        guide = FullCovariance(vae, relative=False)
        with torch.no_grad():
            head = guide.conditionals["z1"]
            head.raw_scale.bias.fill_(-30.0)
            head.lower.bias.fill_(1e5)
            head.min_scale = min_scale
        return lambda: diagnostics.evaluate(vae, guide, torch.randn(50, 6), importance_samples=0)

    yield bound(), bound(min_scale=1e4)

    def run(lr):
        vae = VAE((20,), 8, hidden=(32,), likelihood=likelihoods.Gaussian())
        t = Trainer(vae, FullCovariance(vae, relative=False), lr=lr, seed=0)
        return lambda: fit(t, x, epochs=4, batch_size=50)

    x = torch.randn(200, 5) @ torch.randn(5, 20)
    yield run(1.0), run(1e-3)


@cases
def collapse(tmp):
    d = torch.randn(200, 2).repeat_interleave(3, 1)

    def run(beta, kind=BottomUp, wrap=lambda guide: guide, latents=2, sigma=0.5, **options):
        likelihood = likelihoods.Gaussian(sigma)
        vae = VAE((6,), latents, hidden=(8,), likelihood=likelihood, **options)
        t = Trainer(vae, wrap(kind(vae)), beta=beta, lr=1e-2, seed=0)
        return fit(t, d, epochs=18, batch_size=50, callbacks=[callbacks.CollapseWarning(18)])

    strong = functools.partial(run, 300.0)
    with warnings.catch_warnings(action="ignore"):
        lost = strong()

    def looked_at():
        return str(diagnostics.collapse(lost.model, lost.guide, d))

    yield (
        strong,
        looked_at,
        lambda: run(schedules.WarmUp(epochs=10**5, end=300.0)),
        lambda: run(0.5),
        lambda: strong(wrap=lambda guide: handlers.free_bits(guide, 0.5)),
        lambda: run(0.5, guides.Ladder, latents=[2, 2], skip=True),
    )
    yield looked_at, lambda: strong(sigma=0.005)
    x = clips(16)

    def quantise(**how):
        codebook = codebooks.MovingAverage(32, 16, **how)
        if how["revive"] == 0:
            # All but one of the codes are far from the data
            codebook.weight[1:] += 1e3
            codebook.sums.copy_(codebook.weight)
        return fit(Trainer(*video_pair(codebook, width=4)), x, epochs=4, batch_size=8)

    yield (
        lambda: quantise(initializer=None, revive=0),
        lambda: quantise(initializer=codebooks.KMeans(), revive=codebooks.Unused()),
        lambda: print(diagnostics.codebook(*video_pair(codebooks.MovingAverage(32, 16)), x)),
    )


@cases
def callbacks_and_engines(tmp):
    def update(likelihood):
        vae = VAE((3,), 2, hidden=(4,), likelihood=likelihood)
        held = callbacks.UpdateSigma(X)
        return lambda: fit(Trainer(vae, BottomUp(vae)), (X > 0).float(), callbacks=[held])

    yield update(likelihoods.Bernoulli()), update(likelihoods.Gaussian(sigma="learned"))
    without = mock.patch.dict(sys.modules, {"torch.utils.tensorboard": None})
    board = functools.partial(callbacks.TensorBoard, tmp)
    yield without(board), lambda: fit(callbacks=[board()])

    def steps(engine, n=3, in_place=False):
        svi = infer.SVI(*pair(), engine=engine)
        if in_place:
            svi.model.decoder.compile(backend="eager")
            # Of torch's compiler about itself
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
        for _ in range(n):
            svi.step(X)

    yield (
        lambda: steps("graph", in_place=True),
        lambda: steps("graph"),
        lambda: steps("compile", 1),
    )
    model = VAE((3,), 2, hidden=(4,), likelihood=likelihoods.Gaussian())
    norm = BottomUp(model, encoder=nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    batches = functools.partial(DataLoader, TensorDataset(X), batch_size=N - 1)
    t = Trainer(model, norm)
    yield (
        lambda: fit(t, batch_size=N - 1),
        lambda: fit(t, batch_size=N),
        lambda: fit(t, batches(drop_last=True)),
    )
    yield lambda: fit(t, X[:1]), lambda: fit(t, X[:2])
    # One is left over by 2, 3, 4, 5 and 6
    many = torch.randn(61, 3)
    yield lambda: fit(t, many, batch_size=2), lambda: fit(t, many, batch_size=7)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)

    def __len__(self):
        return N


@cases
def processes(tmp):
    """In the second of three, without the others."""
    third = ranks.World(1, 3, torch.device("cpu"))
    alone = mock.patch.object(ranks, "_world", third)
    vae, guide = pair()

    def source(data, name="data"):
        def parallel():
            with alone:
                feed = feeds.source(data, name, vae, guide, device=None)
                feed = feed if isinstance(feed, feeds.Loaded) else feeds.Resident(feed, 3)
                check_parallel(feed, vae, guide)
                return feed

        return parallel

    def shared(*programs, n=N, batch_size=4, estimator=None):
        feed = feeds.Resident(Dataset(X[:n]), batch_size)
        return alone(lambda: check_parallel(feed, *programs, estimator=estimator))

    def function(x):
        return vae(x)

    class Module(nn.Module):
        def forward(self, x):
            return function(x)

    yield shared(function, guide), shared(Module(), guide)
    yield (
        shared(vae, guide, estimator=Trainer(vae, guide, elbo=Trace_ELBO()).elbo),
        shared(vae, guide, estimator=Trainer(vae, guide, elbo="trace").elbo),
    )
    yield (
        shared(vae, guide, batch_size=7),
        shared(vae, guide, batch_size=4),
        shared(vae, guide, n=7, batch_size=7),
    )
    yield (
        source(DataLoader(Stream(), batch_size=4)),
        source(DataLoader(TensorDataset(X), batch_size=4)),
        lambda: fit(data=DataLoader(Stream(), batch_size=4)),
    )
    yield source(DataLoader(X, batch_size=None)), source(DataLoader(X, batch_size=4))
    yield (
        source(DataLoader(X, sampler=DistributedSampler(X, 3, rank=0))),
        source(DataLoader(X, sampler=DistributedSampler(X, 3, rank=1))),
    )

    def parts(batch_size, **options):
        loader = DataLoader(X, batch_size=batch_size, **options)
        return alone(lambda: feeds.parts(list(loader.batch_sampler)))

    yield parts(7), parts(4), parts(7, drop_last=True)

    def alike(*epochs):
        told = mock.patch.object(ranks, "each", lambda facts: [{"epochs": e} for e in epochs])
        return alone(told(lambda: ranks.check_alike({"epochs": 1})))

    yield alike(1, 1, 2), alike(1, 1, 1)


test_the_advice_works_on_what_provokes_it = cases.test()
