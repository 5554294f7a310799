"""What is said about covariates, and that its advice works."""

import functools
import json
import shutil

import numpy as np
import torch
from advice import Cases
from test_advice_cli import run, train
from torch import nn
from torch.utils.data import DataLoader

from pyro_vae import Trainer, data, diagnostics, guides, likelihoods, plots
from pyro_vae.models import VAE, Covariates

X = torch.ones(6, 4)
Y = {
    "site": torch.tensor([0, 1, 2, 0, 1, 2]),
    "age": torch.tensor([-1.0, 0.5, 0.0, 1.0, -0.5, 0.2]),
    "exposure": torch.tensor([1.0, 2.0, 1.0, 3.0, 0.5, 1.0]),
}
GIVEN = {"classes": {"site": 3}, "numbers": ("age",), "offset": True}
cases = Cases()


def built(given=None, noise=None, **options):
    given = Covariates(**GIVEN) if given is None else given
    noise = noise or likelihoods.Poisson()
    return VAE((4,), 2, likelihood=noise, hidden=(3,), condition=given, **options)


def fit(y=None, given=None):
    vae = built(given)
    trainer = Trainer(vae, guides.BottomUp(vae))
    return lambda: trainer.fit((X, Y if y is None else y), epochs=1, progress=False)


class Joined(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.map = nn.Linear(size, 4)

    def forward(self, *context):
        return self.map(torch.cat(context, -1))


def without(*names):
    return {name: value for name, value in Y.items() if name not in names}


@cases
def construction(tmp):
    good = lambda: Covariates(**GIVEN)  # noqa: E731
    yield lambda: Covariates(**GIVEN, loc=[1.0]), lambda: Covariates(**GIVEN, loc=[1.0, 0.0])
    yield lambda: Covariates(numbers=2, scale=[1.0, 0.0]), lambda: Covariates(numbers=1)
    yield lambda: Covariates.standardized(None), lambda: Covariates.standardized(Y)
    yield (
        lambda: Covariates.standardized(torch.arange(3)),
        lambda: Covariates.standardized({"site": Y["site"], "age": Y["age"]}),
        lambda: built(10),
    )
    yield lambda: Covariates(classes=-1), lambda: Covariates(classes=10)
    yield lambda: Covariates(classes={"site": 0}), lambda: Covariates({"site": 4, "sex": 2})
    yield lambda: Covariates(numbers="age"), lambda: Covariates(numbers=("age", "dose"))
    yield lambda: Covariates(numbers=-1), lambda: Covariates(numbers=3)
    yield lambda: Covariates(), lambda: Covariates(classes=10), lambda: built(0)
    yield lambda: Covariates({"age": 3}, ("age",)), lambda: Covariates({"old": 3}, ("age",))
    yield lambda: Covariates(numbers=("exposure",)), lambda: Covariates(offset=True), good
    for condition in (-1, "ten", 2.5):
        yield lambda c=condition: built(c), lambda: built(10), lambda: built(0), built
    gaussian = likelihoods.Gaussian()
    yield (
        lambda: built(noise=gaussian),
        lambda: built(noise=likelihoods.NegativeBinomial()),
        lambda: built(Covariates({"site": 3}, ("age", "log_exposure")), gaussian),
    )
    sees = Joined(5)
    sees.distribution = lambda likelihood, *context: likelihood(sees(*context))
    adds = Joined(6)
    yield (
        lambda: built(decoder=sees),
        lambda: built(Covariates({"site": 3}), decoder=sees),
        lambda: built(decoder=adds),
    )
    several = Covariates({"site": 4, "sex": 2}, ("age",))
    one = Covariates({"site": 4}, {"age": 1, "sex": 2})
    yield lambda: built(several, labels="partial"), lambda: built(one, labels="partial")


@cases
def labels(tmp):
    yield fit(Y["site"]), fit()
    yield fit(without("age")), fit()
    yield fit(without("exposure")), fit(), fit(without("exposure") | {"offset": X[:, 0]})
    yield fit(Y | {"offset": X[:, 0]}), fit(without("exposure") | {"offset": X[:, 0]}), fit()
    yield fit(Y | {"aeg": Y["age"]}), fit()
    yield (
        fit(Y | {"site": Y["age"]}),
        fit(),
        fit({"site": Y["age"]}, Covariates(numbers=("site",))),
    )
    yield (
        fit(Y | {"site": Y["site"] + 1}),
        fit(),
        fit(Y | {"site": Y["site"] + 1 - (Y["site"] == 2) * 3}, Covariates(**GIVEN)),
    )
    some = Y["site"].clone()
    some[2] = -1
    there = some >= 0
    named = Covariates(**{**GIVEN, "classes": {"site": 4}})
    yield (
        lambda: built()(X, y=Y | {"site": some}),
        lambda: built()(X[there], y={name: value[there] for name, value in Y.items()}),
        lambda: built(named)(X, y=Y | {"site": some.masked_fill(~there, 3)}),
    )
    fewer = Covariates(**{**GIVEN, "classes": {"site": 2}})
    yield (
        fit(Y | {"site": Y["site"].clamp(max=1)}),
        fit(Y | {"site": Y["site"].clamp(max=1)}, fewer),
    )
    gap = Y["age"].clone()
    gap[2] = torch.nan
    seen = ~gap.isnan()
    kept = {name: value[seen] for name, value in Y.items()}
    yield (
        lambda: built()(X, y=Y | {"age": gap}),
        lambda: built()(X[seen], y=kept),
        lambda: built()(X, y=Y | {"age": gap.nan_to_num(float(gap.nanmean()))}),
    )
    none = Y["exposure"].clone()
    none[2] = 0
    yield lambda: built()(X, y=Y | {"exposure": none}), lambda: built()(X[seen], y=kept)
    yield lambda: built()(X, y=Y | {"age": Y["age"][:4]}), lambda: built()(X, y=Y)
    plain = built(3)
    yield (
        lambda: plain.sample(6, y=Y),
        lambda: plain.sample(6, y=Y["site"]),
        lambda: built().sample(6, y=Y),
    )
    far = Y | {"age": 100 * Y["age"] + 2000}
    by_data = Covariates.standardized(data.Dataset(X, far))
    by_hand = Covariates(**GIVEN, loc=[2000.0, 0.0], scale=[100.0, 1.0])
    yield fit(far), fit(far, by_data), fit(far, by_hand)


@cases
def loaders(tmp):
    def load(y, given, rows=6):
        items = [(X[i], {"site": y[i]}) for i in range(rows)]
        vae = built(given, likelihoods.Gaussian())
        trainer = Trainer(vae, guides.BottomUp(vae))
        loader = DataLoader(items, batch_size=2)
        return lambda: trainer.fit(loader, epochs=1, progress=False)

    lacking = Y["site"].clamp(max=1)
    three, two = Covariates({"site": 3}), Covariates({"site": 2})
    yield load(lacking, three), load(Y["site"], three), load(lacking, two)


@cases
def baselines(tmp):
    vae = built()
    measured = functools.partial(
        diagnostics.evaluate, vae, guides.BottomUp(vae), (X, Y), importance_samples=0
    )
    yield lambda: measured(reference=X), lambda: measured(reference=(X, Y))


@cases
def text(tmp):
    d = data.Dataset(X, Y | {"site": ["a", "b", "c"] * 2})
    part = data.Dataset(X[:2], {k: v[:2] for k, v in Y.items()} | {"site": ["c", "b"]})
    named = {k: v[:2] for k, v in Y.items()} | {"site": ["c", "b"]}
    vae = built()
    guide = guides.BottomUp(vae)
    all_names = data.Dataset(X[:2], named, names=d.names)
    yield lambda: guide.encode(part), lambda: guide.encode(all_names)


@cases
def pictures(tmp):
    vae = built(Covariates(numbers=2))
    named = built(Covariates(numbers=("age", "dose")))
    yield lambda: plots.conditional(vae, n=2), lambda: plots.conditional(named, n=2)


@cases
def command_line(tmp):
    rows = [f"{'ab'[i % 2]},{i % 5},{i % 3}" for i in range(20)]
    (tmp / "t.csv").write_text("\n".join(["site,one,two", *rows]))
    np.savez(tmp / "x.npz", x=np.random.default_rng(0).random((20, 3), np.float32))
    table, out, site = tmp / "t.csv", tmp / "out", ("--condition-on", "site")
    yield train(table, out, *site, "--conditional"), train(table, out, *site)
    yield train(table, out, "--condition-on", "site,"), train(table, out, *site)
    yield train(table, out, "--condition-on", "sit"), train(table, out, *site)
    encode = functools.partial(run, "encode", out / "model.pt", "--out", tmp / "z.csv", "--data")
    for text in (
        (tmp / "t.csv").read_text().replace("one", "ones"),
        (tmp / "t.csv").read_text().replace("site", "sight"),
    ):
        (tmp / "other.csv").write_text(text)
        yield functools.partial(encode, tmp / "other.csv"), functools.partial(encode, table)
    yield functools.partial(encode, tmp / "x.npz"), functools.partial(encode, table)
    named = functools.partial(data.load, labels=["site"])
    yield functools.partial(named, tmp / "x.npz"), functools.partial(named, table)
    alone = tmp / "alone"
    alone.mkdir()
    shutil.copy(out / "model.pt", alone)
    moved = functools.partial(run, "encode", alone / "model.pt", "--out", tmp / "z.csv", "--data")

    def copied():
        shutil.copy(out / "run.json", alone)
        return moved(table)

    yield functools.partial(moved, table), copied
    record = alone / "run.json"

    def older(source):
        record.write_text(json.dumps({"data": {**told["data"], "source": source}}))
        return moved(table)

    told = json.loads((out / "run.json").read_text())
    del told["data"]["classes"]
    yield lambda: older("moved.csv"), lambda: older(str(table))
    sample = functools.partial(run, "sample", out / "model.pt", "--out", tmp / "s.png", "-n", 2)
    yield lambda: sample("--given", "site"), lambda: sample("--given", "site=1")
    other = tmp / "other"
    train(tmp / "x.npz", other)()
    plain = functools.partial(run, "sample", other / "model.pt", "--out", tmp / "s.png", "-n", 2)
    yield lambda: plain("--given", "site=1"), plain


test_advice = cases.test()
