"""What is said about training, and that its advice works."""

import functools

import pyro
import pyro.distributions as dist
import pyro.infer
import pyro.optim
import torch
from advice import Cases
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pyro_vae import Trainer, callbacks, diagnostics, guides, infer, schedules
from pyro_vae.data import Dataset
from pyro_vae.guides import BottomUp, Delta
from pyro_vae.infer import SVI, AnalyticELBO, ImportanceWeightedELBO, TraceELBO
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE
from pyro_vae.training.guard import Skip

N, D = 8, 3
X = torch.linspace(-1, 1, N * D).view(N, D)
Y = torch.arange(N) % 2
cases = Cases()


def pair(**options):
    vae = VAE((D,), 2, hidden=(4,), likelihood=Gaussian(), **options)
    return vae, BottomUp(vae, hidden=(4,))


def trainer(**options):
    return Trainer(*pair(), seed=0, **options)


def fit(t=None, data=X, **options):
    return (t or trainer()).fit(data, **{"epochs": 1, "progress": False, **options})


def step(loss=None, *, pair=None, engine="eager", **options):
    loss = {} if loss is None else {"loss": loss}
    return SVI(*(pair or globals()["pair"]()), engine=engine, **loss, **options).step(X)


class Does(callbacks.Callback):
    """Calls a function of the trainer after each step."""

    def __init__(self, call):
        self.call = call

    def on_step_end(self, trainer, **kwargs):
        self.call(trainer)


@cases
def rates(tmp):
    def annealed(lr=None):
        t = trainer()
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR
        fit(t, epochs=2, callbacks=[callbacks.LRScheduler(cosine, T_max=2)])
        t.swap_guide(BottomUp(t.model))
        if lr is not None:
            t.lr = lr
        return lambda: fit(t)

    yield annealed(), annealed(1e-3)


@cases
def converted(tmp):
    def using(model=None, guide=None, x=X):
        vae, bottom_up = pair()
        return lambda: fit(Trainer(vae.to(model), bottom_up.to(guide), seed=0), x)

    yield using(torch.float16, torch.float16, X.half()), using(torch.float32, torch.float32)
    yield using(guide=torch.bfloat16), using(guide=torch.float32)
    yield using(torch.float64, x=X.double()), using(torch.float64, torch.float64, X.double())


@cases
def estimators(tmp):
    def using(elbo):
        return lambda: fit(trainer(elbo=elbo))

    wake = pyro.infer.ReweightedWakeSleep(num_particles=2, vectorize_particles=False)
    yield using(wake), lambda: step(wake)
    yield (
        using(pyro.infer.JitTrace_ELBO()),
        using(pyro.infer.Trace_ELBO()),
        lambda: fit(trainer(elbo=TraceELBO(), engine="compile")),
    )
    yield using(TraceELBO), using(TraceELBO("mean"))
    yield lambda: step(TraceELBO), lambda: step(TraceELBO())
    yield lambda: step("trace"), lambda: step(TraceELBO())
    yield lambda: step(pyro.infer.Trace_ELBO), lambda: step(pyro.infer.Trace_ELBO())
    yield (
        lambda: step(pyro.infer.JitTrace_ELBO()),
        lambda: step(pyro.infer.Trace_ELBO()),
        lambda: SVI(*pair(), loss=TraceELBO(), engine="compile"),
    )
    yield lambda: step("trace"), lambda: step(TraceELBO())
    yield (
        lambda: step(pyro.infer.Trace_ELBO(), engine="graph"),
        lambda: step(loss=TraceELBO(), engine="graph"),
        lambda: step(pyro.infer.Trace_ELBO()),
    )
    yield (
        lambda: fit(trainer(elbo=pyro.infer.Trace_ELBO(), engine="graph")),
        lambda: fit(trainer(elbo="trace", engine="graph")),
        lambda: fit(trainer(elbo=pyro.infer.Trace_ELBO())),
    )
    yield (
        lambda: step(engine="auto"),
        lambda: step(engine="graph"),
        lambda: SVI(*pair(), engine="compile"),
    )
    svi = SVI(*pair())
    yield svi.update, lambda: (svi.gradient(X), svi.update())
    yield lambda: ImportanceWeightedELBO(2.5), lambda: ImportanceWeightedELBO(10)
    summed = fit(trainer(elbo=TraceELBO()))

    def assign(elbo):
        summed.elbo = elbo

    yield lambda: assign(AnalyticELBO("mean")), lambda: assign(AnalyticELBO(reduction="sum"))
    point = pair()
    yield (
        lambda: infer.log_likelihood(point[0], Delta(point[0]), X),
        lambda: infer.log_likelihood(*point, X, importance_samples=3),
    )
    auto = AutoNormal(point[0])
    yield (
        lambda: diagnostics.collapse(point[0], auto, X),
        lambda: diagnostics.collapse(*point, X),
        lambda: diagnostics.collapse(point[0], guides.PerDatum(point[0], X), X),
    )


@cases
def optimizers(tmp):
    def using(optimizer, **options):
        return lambda: fit(trainer(optimizer=optimizer, **options))

    adam = torch.optim.Adam(nn.Linear(1, 1).parameters())
    partial = functools.partial(torch.optim.Adam, betas=(0.8, 0.9))
    yield using(adam), using(torch.optim.Adam), using(partial)
    yield using("adam"), using(torch.optim.Adam)
    yield using(torch.optim.LBFGS), using(torch.optim.Adam)
    stock = pyro.optim.Adam({"lr": 0.01, "betas": (0.8, 0.9)})
    yield (
        using(stock),
        using(optimizer=functools.partial(torch.optim.Adam, betas=(0.8, 0.9)), lr=0.01),
    )


class Loose:
    """Holds a network where no program registers it."""

    def __init__(self):
        self.network = nn.Linear(D, 2)

    def guide(self, x, declared=False):
        if declared:
            pyro.module("network", self.network)
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(self.network(x), 1.0).to_event(1))


class Held(nn.Module):
    def __init__(self, loose):
        super().__init__()
        self.network, self.run = loose.network, loose.guide

    def forward(self, x):
        self.run(x)


@cases
def parameters(tmp):
    vae, guide = pair()
    declared = functools.partial(Loose().guide, declared=True)
    frozen = Loose()

    def freeze():
        frozen.network.requires_grad_(False)
        step(pair=(vae, frozen.guide))

    yield (
        lambda: step(pair=(vae, frozen.guide)),
        lambda: step(pair=(vae, declared)),
        lambda: step(pair=(vae, Held(Loose()))),
        freeze,
    )
    guide.extra = nn.Linear(2, 2)

    def use():
        network = nn.Sequential(nn.Linear(D, 2), nn.Linear(2, 2))
        step(pair=(vae, BottomUp(vae, encoder=network)))

    def rest():
        guide.extra.requires_grad_(False)
        step(pair=(vae, guide))

    yield lambda: step(pair=(vae, guide)), use, rest

    def plain(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, pyro.param("scale", torch.ones(()))), obs=x)

    class Module(nn.Module):
        def forward(self, x):
            plain(x)

    def own(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    def swap(model):
        return lambda: Trainer(model, own).swap_guide(own, freeze_model=True)

    yield swap(plain), swap(Module())

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.Linear(D, D), nn.Linear(D, D)

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x), D), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

        def guide(self, x):
            own(self.encoder(x))

    both = Both()
    methods = Trainer(both.model, both.guide, seed=0)
    frozen = functools.partial(methods.swap_guide, both.guide, freeze_model=True)
    yield frozen, lambda: fit(methods) and frozen()


@cases
def within_a_run(tmp):
    def assign(name, value):
        return Does(lambda t: setattr(t, name, value))

    for name, value in (("elbo", "analytic"), ("engine", "eager"), ("precision", "float32")):

        def stop(name=name, value=value):
            t = fit(callbacks=[Does(lambda t: t.stop())])
            setattr(t, name, value)
            fit(t)

        yield lambda name=name, value=value: fit(callbacks=[assign(name, value)]), stop

    def swapped():
        t = fit(callbacks=[Does(lambda t: t.stop())])
        t.swap_guide(BottomUp(t.model))
        fit(t)

    yield lambda: fit(callbacks=[Does(lambda t: t.swap_guide(BottomUp(t.model)))]), swapped
    filled = torch.tensor(1.0)
    yield (
        lambda: fit(callbacks=[assign("beta", 0.5)]),
        lambda: fit(trainer(beta=schedules.WarmUp(epochs=1))),
        lambda: fit(trainer(beta=filled), callbacks=[Does(lambda _: filled.fill_(0.5))]),
    )
    yield lambda: fit(callbacks=[Does(fit)]), lambda: fit(epochs=2)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


class Counted(Stream):
    def __len__(self):
        return N


class Dicts(torch.utils.data.Dataset):
    def __len__(self):
        return N

    def __getitem__(self, i):
        return {"x": X[i], "y": Y[i]}


@cases
def loaders(tmp):
    yield (
        lambda: fit(data=DataLoader(Stream(), batch_size=4)),
        lambda: fit(data=DataLoader(Counted(), batch_size=4)),
    )

    def collate(items):
        return torch.stack([item["x"] for item in items])

    yield (
        lambda: fit(data=DataLoader(Dicts(), batch_size=4)),
        lambda: fit(data=DataLoader(Dicts(), batch_size=4, collate_fn=collate)),
        lambda: fit(data=DataLoader(TensorDataset(X, Y), batch_size=4)),
    )
    bad = torch.where(torch.arange(N) == 6, torch.inf, X.T).T
    batches = DataLoader(TensorDataset(bad), batch_size=2)
    found = bad[bad.isfinite().all(1)]
    yield (
        lambda: fit(data=batches),
        lambda: fit(data=DataLoader(TensorDataset(found), batch_size=2)),
        lambda: fit(data=DataLoader(TensorDataset(bad.nan_to_num(0, 0, 0)), batch_size=2)),
    )


@cases
def arguments(tmp):
    does_nothing = Does(lambda trainer: None)
    held_out = X[:4]
    yield lambda: fit(patience=2), lambda: fit(patience=2, validation=held_out), fit
    yield lambda: fit(on_interrupt="stop"), fit, lambda: fit(on_interrupt="return")
    yield lambda: fit(threads=0), fit
    yield lambda: fit(on_nonfinite="drop"), lambda: fit(on_nonfinite=Skip(3))
    yield lambda: trainer(device="gpu"), lambda: trainer(device="cpu")

    def double(convert, **options):
        parts = pair()
        for part in parts:
            convert(part.double())
        return lambda: fit(Trainer(*parts, **options))

    same, single = lambda part: part, lambda part: part.float()
    yield double(same, precision="bf16"), double(single, precision="bf16"), double(same)
    vae, guide = pair(condition=2)
    words = ["a", "b"] * (N // 2)
    other = Dataset(X, words[1:] + words[:1], names=("b", "a"))
    same = Dataset(X, words[1:] + words[:1], names=("a", "b"))

    def validated(validation):
        return lambda: fit(Trainer(vae, guide), Dataset(X, words), validation=validation)

    yield validated(other), validated(same)
    yield lambda: Trainer(vae, guide, seed=0.5), lambda: Trainer(vae, guide, seed=0)
    yield lambda: fit(callbacks=does_nothing), lambda: fit(callbacks=[does_nothing])
    yield (
        lambda: fit(callbacks=[callbacks.KeepBest]),
        lambda: fit(callbacks=[callbacks.KeepBest()], validation=held_out),
    )
    yield lambda: fit(callbacks=[print]), lambda: fit(callbacks=[does_nothing])
    best = callbacks.KeepBest
    yield (
        lambda: fit(callbacks=[best()]),
        lambda: fit(callbacks=[best()], validation=held_out),
        lambda: fit(callbacks=[best("elbo")]),
    )


test_the_advice_works_on_what_provokes_it = cases.test()
