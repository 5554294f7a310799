"""What is said about programs, data and pairs, and that its advice works."""

import copy

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from advice import Cases
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal, AutoNormalMessenger
from torch.utils.data import TensorDataset

from pyro_vae import Trainer, data, infer
from pyro_vae.guides import BottomUp, FullCovariance, Ladder, PerDatum
from pyro_vae.infer import SVI, check_pair
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

N, D = 5, 3
X = torch.linspace(-1, 1, N * D).view(N, D)
Y = torch.arange(N) % 2
cases = Cases()


def vae(latents=2, *, shape=(D,), **options):
    return VAE(shape, latents, hidden=(4,), likelihood=Gaussian(), **options)


def pair(kind=BottomUp, latents=2, **options):
    model = vae(latents)
    return model, kind(model, **options)


def fitted(model, guide, x=X, **options):
    return Trainer(model, guide, **options).fit(x, epochs=1, progress=False)


# Programs of plain Pyro


def program(loc, site="z", observe=False):
    def run(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample(site, dist.Normal(loc(x), 1.0).to_event(1))
            if observe:
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    return run


@cases
def labels(tmp):
    conditional = vae(condition=2)
    ready = BottomUp(conditional)

    def encoded(y, x=X):
        return lambda: infer.encode(ready, x, y=y)

    names = np.array(["b", "a", "b", "a", "b"])
    numbers = data.Dataset(X, names).y
    one_hot = torch.eye(2)[Y]
    yield encoded(names), encoded(numbers)
    yield encoded(Y + 0.5), encoded(Y)
    yield encoded(one_hot), encoded(one_hot.argmax(1))
    yield encoded(one_hot.long()), encoded(one_hot.argmax(1))
    yield encoded(Y.double()), encoded(Y.double().long())
    yield encoded(Y.double().numpy()), encoded(Y.double().numpy().astype(int))
    floats = Y.double().tolist()
    yield encoded(floats), encoded(torch.as_tensor(floats).long())
    yield encoded(Y[:2]), encoded(Y[: len(X)]), encoded(Y[:2], X[:2])
    plain = vae()
    yield lambda: plain.sample(2, y=1), lambda: plain.sample(2), lambda: conditional.sample(2, y=1)
    missing = lambda y=None: conditional(X, y=y)  # noqa: E731
    yield missing, lambda: missing(Y)


@cases
def tensors(tmp):
    p, q = pair()
    splits = data.load(X, binarize=None)

    def checked(x):
        return lambda: check_pair(p, q, x)

    yield checked(splits), checked(splits.test.x)
    yield checked(splits.train), checked(splits.train.x)
    read = lambda x: lambda: infer.reconstruct(p, q, x)  # noqa: E731
    yield read(TensorDataset(X)), read(TensorDataset(X).tensors[0])
    yield read((X, X[:, :1])), read(X)
    rows = X.tolist()
    yield checked(rows), checked(data.Dataset(rows).x)
    one = X[0].tolist()
    array = torch.from_numpy(np.array(one, dtype="float32"))
    walk = lambda x: infer.traverse(p, q, x, site="z1")  # noqa: E731
    yield lambda: walk(one), lambda: walk(array)
    bad = torch.where(torch.arange(N) == 2, torch.nan, X.T).T
    yield lambda: fitted(p, q, bad), lambda: fitted(p, q, bad[bad.isfinite().all(1)])
    yield lambda: infer.encode(q, bad), lambda: infer.encode(q, bad.nan_to_num())
    yield checked(X[0]), checked(X[0].reshape(1, D))
    wide = X.repeat(1, 2)
    other = vae(shape=wide.shape[1:])
    yield checked(wide), lambda: check_pair(other, BottomUp(other), wide)
    whole = X.double()
    r, t = pair()
    yield (
        checked(whole),
        checked(whole.to(torch.float32)),
        lambda: check_pair(r.to(torch.float64), t.to(torch.float64), whole),
    )
    deep = vae([2, 2])
    z = torch.zeros(3, 2)
    yield lambda: deep.decode(z), lambda: deep.decode({"z2": z})
    yield lambda: walk(X), lambda: walk(X[0])


@cases
def pairs(tmp):
    p, q = pair()
    yield lambda: Trainer(None, q), lambda: Trainer(vae(), BottomUp(p))
    yield lambda: Trainer(p, "guide"), lambda: Trainer(p, BottomUp(p))
    yield lambda: Trainer(p, BottomUp), lambda: Trainer(p, BottomUp(p))
    yield lambda: Trainer(VAE, q), lambda: Trainer(VAE((D,), 2, likelihood=Gaussian()), q)
    wide = vae(3)
    yield lambda: Trainer(wide, q), lambda: Trainer(wide, BottomUp(wide))
    deep, ladder = pair(Ladder, [2, 2])
    new = vae([2, 2])
    yield lambda: Trainer(new, ladder), lambda: Trainer(new, Ladder(new))
    apart = copy.deepcopy(deep), copy.deepcopy(ladder)
    yield lambda: Trainer(*apart), lambda: Trainer(*copy.deepcopy((deep, ladder)))
    trained = fitted(*pair())
    other = fitted(vae(), BottomUp(p)).model
    yield (
        lambda: infer.elbo_terms(other, trained.guide, X),
        lambda: infer.elbo_terms(*copy.deepcopy((trained.model, trained.guide)), X),
        lambda: infer.elbo_terms(other, BottomUp(other), X),
    )
    # Below handlers of Pyro a guide says less about its model
    hidden = poutine.scale(wide, 1.0)
    yield lambda: check_pair(hidden, q, X), lambda: check_pair(hidden, BottomUp(wide), X)

    model, guide = program(torch.zeros_like, "z1", observe=True), program(torch.neg, "z1")
    yield lambda: check_pair(model, q, X), lambda: check_pair(model, guide, X)
    large = vae(shape=(D + 1,))
    yield lambda: check_pair(model, BottomUp(large), X), lambda: check_pair(p, BottomUp(p), X)
    other = program(torch.neg, "latent")
    yield lambda: check_pair(model, other, X), lambda: check_pair(model, guide, X)
    far = program(lambda x: x + torch.inf, "z1")
    yield lambda: check_pair(model, far, X), lambda: check_pair(model, guide, X)
    yield (
        lambda: infer.compare_guides(p, q, X),
        lambda: infer.compare_guides(p, {"bottom-up": q}, X),
    )


@cases
def autoguides(tmp):
    p = vae()
    auto = AutoNormal(p)
    yield lambda: fitted(p, auto), lambda: fitted(p, PerDatum(p, X)), lambda: SVI(p, auto).step(X)
    yield (
        lambda: infer.elbo_terms(p, auto, X[:2]),
        lambda: infer.elbo_terms(p, auto, X),
        lambda: infer.elbo_terms(p, PerDatum(p, X), X[:2]),
        lambda: infer.elbo_terms(p, BottomUp(p), X[:2]),
    )
    messenger = AutoNormalMessenger(p)
    yield (
        lambda: infer.importance(p, messenger, X, samples=3),
        lambda: infer.importance(p, AutoNormal(p), X, samples=3),
        lambda: infer.importance(p, PerDatum(p, X), X, samples=3),
    )
    yield (
        lambda: check_pair(vae(), messenger, X),
        lambda: check_pair(messenger.model, messenger, X),
    )
    joint = AutoMultivariateNormal(p)
    SVI(p, joint).step(X)
    yield (
        lambda: infer.importance(p, joint, X, samples=3),
        lambda: infer.importance(p, auto, X, samples=3),
        lambda: infer.importance(p, PerDatum(p, X), X, samples=3),
        lambda: infer.importance(p, FullCovariance(p), X, samples=3),
    )
    yield (
        lambda: PerDatum(p, X, autoguide=AutoMultivariateNormal),
        lambda: PerDatum(p, X, autoguide=AutoNormal),
        lambda: PerDatum(p, X, autoguide=AutoDelta),
        lambda: FullCovariance(p),
    )
    rows = PerDatum(p, X)
    yield (
        lambda: infer.encode(rows, X + 1),
        lambda: infer.encode(rows, X),
        lambda: infer.encode(BottomUp(p), X + 1),
    )


test_the_advice_works_on_what_provokes_it = cases.test()
