"""What is said about parameters in Pyro's store, and that its advice works."""

import contextlib
import pickle

import pyro
import pyro.distributions as dist
import torch
from advice import Cases
from pyro.distributions import constraints
from test_advice_files import During
from torch import nn

from pyro_vae import Trainer, load, save
from pyro_vae.infer.engine.trainable import Sites
from pyro_vae.infer.objectives.elbo import TraceELBO
from pyro_vae.infer.stock import run_pair
from pyro_vae.programs.program import Guide
from pyro_vae.training.parallel import Parallel

cases = Cases()
X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 1)

    def model(self, x):
        return model(x)

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(self.net(x)[:, 0], 1.0))


def model(x):
    scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[:, None].expand(-1, 3), scale).to_event(1), obs=x)


def guide(x, constraint=constraints.real):
    loc = pyro.param("loc", torch.ones(2), constraint=constraint)
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(loc.sum(), 1.0))


def stacked(x):
    guide(x, constraints.stack([constraints.real, constraints.positive], 0))


def positive(x):
    guide(x, constraints.positive)


class Built(Guide):
    def forward(self, x):
        guide(x)


def fit(guide=guide, model=model, **options):
    pyro.clear_param_store()
    return Trainer(model, guide).fit(X, epochs=2, batch_size=4, progress=False, **options)


@cases
def constrained(tmp):
    path = tmp / "a.pt"
    yield (
        lambda: fit(stacked).save(path),
        lambda: fit(positive).save(path),
        lambda: fit(stacked),
    )
    yield (
        lambda: fit(stacked, checkpoint=tmp / "run"),
        lambda: fit(positive, checkpoint=tmp / "run2"),
        lambda: fit(stacked),
    )


@cases
def networks(tmp):
    pair = Pair()

    def declared(x):
        pyro.module("net", pair.net)
        return pair.guide(x)

    yield (
        lambda: fit(declared, checkpoint=tmp / "run"),
        lambda: fit(pair.guide, checkpoint=tmp / "run2"),
    )


@cases
def given(tmp):
    path = tmp / "a.pt"
    fit().save(path)
    pair = Pair()
    yield lambda: load(path, guide=guide), lambda: load(path, guide=guide, model=model)
    yield lambda: load(path, model=model), lambda: load(path, guide=guide, model=model)
    yield (
        lambda: load(path, model=pair.model, guide=guide),
        lambda: load(path, model=model, guide=guide),
    )
    mixed = tmp / "b.pt"
    fit(pair.guide).save(mixed, arguments=False)
    yield (
        lambda: load(mixed, model=model, guide=guide),
        lambda: load(mixed, model=model, guide=Pair().guide),
    )
    built = Built(model)
    yield (
        lambda: save(built, path),
        lambda: save(Trainer(model, built), path, arguments=False),
    )


@cases
def copied(tmp):
    t = fit()

    def through_file():
        save(t, tmp / "a.pt")
        pyro.clear_param_store()
        load(tmp / "a.pt", model=model, guide=guide)

    yield lambda: pickle.dumps(t), through_file


class Held(Pair):
    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def model(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            x_of = dist.Normal(z[:, None].expand(-1, 3), self.log_scale.exp())
            pyro.sample("x", x_of.to_event(1), obs=x)


class Guided(Pair):
    def forward(self, x):
        return self.guide(x)


@cases
def frozen(tmp):
    class Stored(nn.Module):
        def forward(self, x):
            return model(x)

    class Scaled(Held):
        def __init__(self):
            super().__init__()
            del self.net

        def forward(self, x):
            return self.model(x)

    def swapped(kind):
        pyro.clear_param_store()
        guides = [Guided() for _ in range(2)]
        t = Trainer(kind(), guides[0]).fit(X, epochs=1, progress=False)
        t.swap_guide(guides[1], freeze_model=True).fit(X, epochs=1, progress=False)

    yield lambda: swapped(Stored), lambda: swapped(Scaled)


@cases
def shared(tmp):
    def checked(pair):
        with Sites() as sites:
            run_pair(pair.model, pair.guide, X)
        Parallel(TraceELBO()).check(sites.of_no(pair.parameters()))

    yield lambda: checked(Pair()), lambda: checked(Held())


@cases
def cleared(tmp):
    def stop():
        raise KeyError

    def resumed(folder, *, clear):
        with contextlib.suppress(KeyError):
            fit(checkpoint=folder, every=1, callbacks=[During(stop)])
        pyro.clear_param_store()
        t = Trainer.resume(folder, model=model, guide=guide)
        if clear:
            pyro.clear_param_store()
        t.fit(X, progress=False, callbacks=[During(lambda: None)])

    yield lambda: resumed(tmp / "a", clear=True), lambda: resumed(tmp / "b", clear=False)


test_the_advice_works_on_what_provokes_it = cases.test()
