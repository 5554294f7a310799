"""What is said about tables, their columns and their categories, and that its advice works."""

import torch
from advice import Cases

from pyro_vae import Trainer, data, guides, handlers, infer, likelihoods
from pyro_vae.data import Column, Dataset, DataSplits, Rows
from pyro_vae.data.frames import Table
from pyro_vae.models import VAE

COLUMNS = (Column("height", "numeric"), Column("city", "categorical", ("Bonn", "Oslo", "Rome")))
X = torch.stack([torch.linspace(1.5, 1.9, 30), torch.arange(30) % 3], 1)
D = Dataset(Rows.of(X, COLUMNS))
cases = Cases()


def vae(**options):
    return VAE((2,), 2, likelihood=likelihoods.for_columns(D), hidden=(4,), **options)


def fit(model, x):
    return Trainer(model, guides.BottomUp(model)).fit(x, epochs=1, progress=False)


@cases
def columns(tmp):
    plain = likelihoods.Gaussian()
    yield (
        lambda: VAE((2,), 2, likelihood=plain, columns=D.columns[:1]),
        lambda: VAE((2,), 2, likelihood=plain, columns=D.columns),
    )
    model = handlers.missing(VAE((2,), 2, likelihood=plain))
    guide = guides.BottomUp(model)
    named = handlers.missing(vae())
    yield (
        infer.impute(model, guide, X, samples=5).to_frame,
        lambda: infer.impute(model, guide, D, samples=5).columns[0].name,
        lambda: infer.impute(named, guides.BottomUp(named), X, samples=5).columns[0].name,
    )


@cases
def other_columns(tmp):
    model, values = vae(), X[:4].numpy()
    renamed = [Column("hight", "numeric"), COLUMNS[1]]
    yield (
        lambda: fit(model, Dataset(Rows.of(X, renamed))),
        lambda: fit(model, Dataset(Rows.of(X, COLUMNS))),
    )
    fewer = Table(values, ("height", "city"), {1: ("Bonn", "Oslo", "Roma")})
    same = Table(values, ("height", "city"), {1: ("Bonn", "Oslo", "Rome")})
    swapped = Table(values[:, ::-1], ("city", "height"), {0: ("Bonn", "Oslo", "Rome")})
    yield lambda: fit(model, Dataset(fewer)), lambda: Dataset(same, columns=model.columns)
    text = Table(values, ("height", "city"), {0: ("tall",), 1: ("Bonn", "Oslo", "Rome")})
    yield (
        lambda: Dataset(text, columns=model.columns),
        lambda: Dataset(same, columns=model.columns),
    )
    yield (
        lambda: fit(model, Dataset(swapped)),
        lambda: fit(model, Dataset(swapped, columns=model.columns)),
    )


@cases
def nothing_seen(tmp):
    lost = X.clone()
    lost[:, 1] = torch.nan
    yield (
        lambda: likelihoods.for_columns(Dataset(lost)),
        lambda: likelihoods.for_columns(Dataset(lost[:, :1])),
    )


@cases
def unseen(tmp):
    lines = [f"{k},{'Bonn' if k else 'Rome'},s{k % 2}" for k in range(12)]
    (tmp / "t.csv").write_text("\n".join(["height,city,size", *lines]))
    found = next(s for s in range(99) if 0 in data.load(tmp / "t.csv", seed=s).test.x[:, 0])
    split = data.load(tmp / "t.csv", seed=found)
    other = next(s for s in range(99) if 0 in data.load(tmp / "t.csv", seed=s).train.x[:, 0])
    known = DataSplits("t", split.train, split.train)
    yield (
        lambda: likelihoods.for_columns(split),
        lambda: likelihoods.for_columns(data.load(tmp / "t.csv", seed=other)),
        lambda: likelihoods.for_columns(known),
    )


test_the_advice_works_on_what_provokes_it = cases.test()
