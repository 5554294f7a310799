"""What is said about data plates and what is outside of them, and that its advice works."""

import copy

import pyro
import pyro.distributions as dist
import torch
from advice import Cases
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pyro_vae import Trainer, diagnostics, infer
from pyro_vae.guides import Composed
from pyro_vae.infer import ImportanceWeightedELBO, TraceELBO

N, T = 6, 3
X = torch.linspace(-1, 1, N * T).view(N, T)
cases = Cases()


def with_facts(x, **facts):
    x = x.clone()
    vars(x).update(facts)
    return x


def bound(pair, x=X):
    return lambda: TraceELBO()(*pair, x)


class Shared(nn.Module):
    """w for all data, z for each, in plates of any size and name."""

    def __init__(self, observe=True, sizes=None, names=("columns", "data")):
        super().__init__()
        self.loc, self.observe = nn.Parameter(torch.zeros(())), observe
        self.sizes, self.names = sizes, names

    def forward(self, x):
        with pyro.plate(self.names[0], self.sizes or T):
            w = pyro.sample("w", dist.Normal(self.loc, 1.0))
        with pyro.plate(self.names[1], len(x)):
            z = pyro.sample("z", dist.Normal(x[:, 0] * 0 + self.loc, 1.0))
            if self.observe:
                loc = z[:, None] + w.mean()
                pyro.sample("x", dist.Normal(loc.expand(x.shape), 1.0).to_event(1), obs=x)


class Local(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.gain * x[:, 0], 1.0))


def shared(**options):
    return Shared(**options), Shared(observe=False, **options)


def local(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0 * x[:, 0], 1.0))
        pyro.sample("x", dist.Normal(z[:, None].expand(x.shape), 1.0).to_event(1), obs=x)


@cases
def which(tmp):
    def nested(sizes, names=("rows", "columns")):
        def run(x, observe=True):
            with pyro.plate(names[0], sizes[0], dim=-2), pyro.plate(names[1], sizes[1], dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(sizes), 1.0))
                if observe:
                    pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(sizes))

        return run, lambda x: run(x, observe=False)

    rows = with_facts(X, plate="rows")
    for sizes in ((N, N), (2, 4)):
        called = nested(sizes, ("data", "columns"))
        yield bound(nested(sizes)), bound(nested(sizes), rows), bound(called)
    yield (
        bound(shared(sizes=N)),
        bound(shared(sizes=N), with_facts(X, plate="data")),
        # As one site may, where each element belongs to a datum
        bound((local, Local())),
    )

    def columns(x, observe=True):
        with pyro.plate("columns", T):
            z = pyro.sample("z", dist.Normal(torch.zeros(T), 1.0))
            if observe:
                pyro.sample("x", dist.Normal(z, 1.0).expand(x.T.shape[:1]), obs=x.mean(0))

    turned = columns, lambda x: columns(x, observe=False)
    yield bound(turned, with_facts(X[:2], total=N)), bound(turned, with_facts(X, total=N))
    yield (
        lambda: infer.importance(*turned, X, samples=2),
        bound(turned),
        lambda: diagnostics.evaluate(*turned, X, importance_samples=0),
        lambda: infer.importance(local, Local(), X, samples=2),
    )


@cases
def weights(tmp):
    yield (
        lambda: ImportanceWeightedELBO(2)(*shared(), X),
        bound(shared()),
        lambda: diagnostics.evaluate(*shared(), X, importance_samples=0),
        lambda: ImportanceWeightedELBO(2)(local, Local(), X),
    )


@cases
def pictures(tmp):
    model, guide = shared()
    held = poutine.condition(model, data={"w": torch.zeros(T)})
    yield (
        lambda: infer.interpolate(model, guide, X[0], X[1]),
        lambda: infer.interpolate(held, Local(), X[0], X[1]),
    )

    def regression(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w * x[:, 0], 1.0), obs=x[:, 1])

    def its_guide(x):
        pyro.sample("w", dist.Normal(0.0, 1.0))

    known = poutine.condition(regression, data={"w": torch.zeros(())})
    yield (
        lambda: infer.reconstruct(regression, its_guide, X),
        lambda: poutine.trace(known).get_trace(X),
    )


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


class Told(Stream):
    def __len__(self):
        return N


@cases
def training(tmp):
    def fit(stream):
        class Loader(DataLoader):
            """It tells its batches, and not the data."""

            def __len__(self):
                return 3

        loader = Loader(stream, batch_size=2)
        return lambda: Trainer(*shared()).fit(loader, epochs=1, progress=False)

    yield fit(Stream()), fit(Told())

    def alone(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0).expand(x.shape).to_event(1), obs=x)

    def loaded(before):
        guide = AutoNormal(alone)
        if before:
            guide(X)
        loader = DataLoader(TensorDataset(X), batch_size=2)
        return Trainer(alone, guide).fit(loader, epochs=1, progress=False)

    yield lambda: loaded(before=False), lambda: loaded(before=True)


@cases
def guides(tmp):
    model = Shared()

    def made(*parts, **options):
        return lambda: Composed(*parts, **{"globals": AutoNormal, **options})

    right = made(Local(), model=model, like=X)
    yield made(lambda x: None, model=model, like=X), right
    yield made(Local(), like=X), right
    yield made(Local(), model=model), right
    yield made(Local(), model=local, like=X), lambda: copy.deepcopy(Local())(X)


class Fixed(nn.Module):
    """A pair of as many data as X has; of any number where not ``fixed``."""

    def __init__(self, fixed):
        super().__init__()
        self.loc, self.fixed = nn.Parameter(torch.zeros(())), fixed

    def model(self, x):
        with pyro.plate("data", N if self.fixed else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z[:, None], 1.0).expand(x.shape).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", N if self.fixed else len(x)):
            pyro.sample("z", dist.Normal(self.loc.expand(len(x)), 1.0))


@cases
def wholes(tmp):
    fixed, free = Fixed(fixed=True), Fixed(fixed=False)

    def evaluate(pair, samples=5):
        return lambda: diagnostics.evaluate(
            pair.model, pair.guide, X, importance_samples=samples
        ).table()

    yield evaluate(fixed), evaluate(free), evaluate(fixed, 0)
    yield (
        lambda: diagnostics.collapse(fixed.model, fixed.guide, X),
        lambda: diagnostics.collapse(free.model, free.guide, X),
        lambda: infer.elbo_terms(fixed.model, fixed.guide, X).kl["z"],
    )

    def fit(elbo, batch_size):
        trainer = Trainer(*shared(), elbo=elbo)
        return lambda: trainer.fit(X, epochs=1, batch_size=batch_size, progress=False)

    yield fit(Trace_ELBO(), 4), fit(Trace_ELBO(), N), fit("trace", 4)


class Steps(nn.Module):
    """As many latents as the longest of some sequences has steps, or T."""

    def __init__(self, steps=None, guide=False):
        super().__init__()
        self.loc, self.steps, self.guide = nn.Parameter(torch.zeros(())), steps, guide

    def forward(self, x, lengths):
        with pyro.plate("data", len(x)):
            for t in range(self.steps or int(lengths.max())):
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z{t}", dist.Normal(self.loc.expand(len(x)), 1.0))
                    if not self.guide:
                        pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x[:, t])


@cases
def batches(tmp):
    def collapse(data, steps=None):
        pair = Steps(steps), Steps(steps, guide=True)
        return lambda: diagnostics.collapse(*pair, data, batch_size=2)

    unequal, equal = torch.tensor([1, 1, 3, 3, 3, 3]), torch.full((N,), T)
    yield collapse((X, unequal)), collapse((X, unequal), steps=T), collapse((X, equal))


@cases
def summed(tmp):
    @config_enumerate
    def mixture(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            k = pyro.sample("k", dist.Categorical(torch.ones(2)))
            pyro.sample("x", dist.Normal(z + k, 1.0), obs=x[:, 0])

    def fit(beta):
        pair, elbo = Fixed(fixed=False), TraceEnum_ELBO(max_plate_nesting=1)
        trainer = Trainer(mixture, pair.guide, elbo=elbo, beta=beta, engine="eager")
        return lambda: trainer.fit(X, epochs=1, progress=False)

    yield fit(0.5), fit({"z": 0.5})
    yield fit({"k": 0.5}), fit({"z": 0.5})


test_the_advice_works_on_what_provokes_it = cases.test()
