"""What is said about diagnostics, pictures, panels and experiments, and that its advice works."""

import functools
import sys
from types import SimpleNamespace
from unittest import mock

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from advice import Cases
from test_advice_training import fit
from torch import nn

from pyro_vae import Trainer, data, diagnostics, guides, infer, plots
from pyro_vae.data import Dataset
from pyro_vae.experiments.running import Results
from pyro_vae.guides import BottomUp
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import VAE
from pyro_vae.notebook import Panel

N, D = 40, 6
X = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
cases = Cases()


def pair(latents=2, likelihood=None, shape=(D,), **options):
    likelihood = Gaussian() if likelihood is None else likelihood
    vae = VAE(shape, latents, hidden=(4,), likelihood=likelihood, **options)
    return vae, BottomUp(vae)


@cases
def statements(tmp):
    model, guide = pair()
    evaluate = functools.partial(diagnostics.evaluate, model, guide, X, importance_samples=0)
    splits = data.load(X, binarize=None)
    yield lambda: evaluate(reference=X[:, :2]), lambda: evaluate(reference=splits.train)
    without_pandas = mock.patch.dict(sys.modules, {"pandas": None})
    yield without_pandas(evaluate().to_frame), evaluate().to_markdown, evaluate().to_latex
    binary = (X > 0).float()
    yield (
        lambda: diagnostics.calibration(*pair(likelihood=Bernoulli()), binary),
        lambda: diagnostics.calibration(*pair(likelihood=Gaussian(sigma="learned")), binary),
    )
    factors = {"factors": X[:, :2] > 0, "factor_names": ("a", "b")}
    score = functools.partial(diagnostics.disentanglement, model, guide, folds=2)
    shapes = data.shapes(20, size=8)
    flat = Dataset(shapes.x.flatten(1), factors=shapes.factors, factor_names=shapes.factor_names)
    rendered = pair(shape=(64,), likelihood=Bernoulli())
    yield (
        lambda: score(X),
        lambda: diagnostics.disentanglement(*rendered, flat, folds=2),
        lambda: score(Dataset(X, **factors)),
    )
    constant = torch.stack([X[:, 0] > 0, torch.ones(N)], 1)
    yield (
        lambda: score(Dataset(X, factors=constant, factor_names=("a", "b"))),
        lambda: score(Dataset(X, factors=constant[:, :1], factor_names=("a",))),
    )
    blank, _ = pair()
    for parameter in blank.decoder.parameters():
        parameter.data.zero_()

    def trusted(scale, **options):
        # The posterior is the prior, where the decoder does not look at z
        guide = BottomUp(blank, conditionals={"z1": Fixed(scale)})
        return lambda: diagnostics.evaluate(blank, guide, X, importance_samples=100, **options)

    yield trusted(0.1), trusted(1.0), trusted(0.1, method="annealed", temperatures=5)
    yield (
        lambda: diagnostics.outliers(model, guide, X, {"normal": X + 3}),
        lambda: diagnostics.outliers(model, guide, X, {"far": X + 3}),
    )
    sharp = BottomUp(model, conditionals={"z1": Known()})

    def looked_at(n):
        x = torch.linspace(0, 0.3, n)[:, None].expand(n, D)
        return str(diagnostics.collapse(model, sharp, x))

    def more():
        assert "use more data" not in looked_at(400)

    yield lambda: looked_at(10), more


class Known(nn.Module):
    """A posterior that tells the data apart."""

    def forward(self, x):
        return dist.Normal(x[:, :2], 0.01).to_event(1)


class Fixed(nn.Module):
    """A posterior that is the same for all data."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return dist.Normal(torch.zeros(len(x), 2), self.scale).to_event(1)


@cases
def features(tmp):
    labelled = Dataset(X.repeat(3, 1), torch.arange(3 * N) % 2)
    classify = functools.partial(diagnostics.ClassifierFeatures.fit, size=3, steps=2, cache=False)
    frechet, same = diagnostics.frechet_distance, nn.Identity()
    yield (
        lambda: classify(Dataset(X)),
        lambda: classify(labelled),
        lambda: frechet(X, X + 1, features=same),
    )
    volumes = Dataset(torch.randn(N, 1, 2, 2, 2), torch.arange(N) % 2)
    flat = nn.Flatten()
    yield (
        lambda: classify(volumes),
        lambda: frechet(volumes.x, volumes.x, features=flat),
    )
    yield lambda: frechet(X, X), lambda: frechet(X, X, features=classify(labelled))
    vae, _ = pair(likelihood=Bernoulli())
    zeros = (X > 0).float()
    yield (
        lambda: frechet(zeros, vae.sample(N, mean=True), features=same),
        lambda: frechet(zeros, vae.sample(N), features=same),
        lambda: frechet(X.sigmoid(), vae.sample(N, mean=True), features=same),
    )
    images = torch.rand(N, 2, 3)
    yield (
        lambda: frechet(images, images, features=same),
        lambda: frechet(images, images, features=nn.Sequential(same, nn.Flatten())),
    )
    yield (
        lambda: frechet(X[:5], X, features=same),
        lambda: frechet(X[:20], X, features=same),
        lambda: frechet(X[:5], X, features=lambda x: x[:, :2]),
    )
    kernel = functools.partial(diagnostics.kernel_distance, features=same)
    yield (
        lambda: kernel(X, X[:15]),
        lambda: kernel(X, X[:20]),
        lambda: kernel(X, X[:15], blocks=7),
    )
    # The file itself has 100 MB
    yield lambda: diagnostics.InceptionFeatures(tmp / "inception.pt"), None


def plain(x, y=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z1", dist.Normal(torch.zeros(len(x), D), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


@cases
def pictures(tmp):
    model, guide = pair()
    trainer = Trainer(model, guide)
    yield lambda: plots.history(trainer.history), lambda: plots.history(fit().history)
    yield (
        lambda: plots.traversals(model, guide, X[:2]),
        lambda: plots.traversals(model, guide, X[0]),
    )
    wide, its_guide = pair(3)
    yield (
        lambda: plots.latent_grid(wide, like=X),
        lambda: plots.traversals(wide, its_guide, X[0]),
        lambda: plots.latent_grid(pair(latents=2)[0], like=X, steps=2),
    )
    yield (
        lambda: plots.layer_samples(plain, "z1", rows=1),
        lambda: plots.layer_samples(plain, "z1", rows=1, like=X[:1]),
    )
    yield lambda: plots.images(X[0]), lambda: plots.images(X[0][None])
    yield lambda: plots.samples(plain, 2), lambda: plots.samples(plain, 2, like=X[:1])
    yield (
        lambda: plots.conditional(model),
        lambda: plots.conditional(pair(condition=10)[0], n=1),
        lambda: plots.samples(model, 2),
    )
    k = 2
    yield (
        lambda: plots.conditional(plain, like=X[:1]),
        lambda: plots.conditional(plain, like=X[:1], classes=range(k)),
    )
    thin = pair(1)[1]
    yield (
        lambda: plots.latent_scatter(thin, X),
        lambda: plt.hist(infer.encode(thin, X).mean["z1"].numpy()),
    )
    plt.close("all")


@cases
def panels(tmp):
    model, splits = pair()[0], data.load(X, binarize=None)
    panel = functools.partial(Panel, {"VAE": model}, data=splits)
    yield lambda: panel(BottomUp), lambda: panel({"bottom-up": guides.BottomUp})
    shown = panel({"bottom-up": guides.BottomUp, "delta": guides.Delta})

    def without():
        with mock.patch.dict(sys.modules, {"ipywidgets": None}):
            shown.widgets()

    yield without, lambda: shown.choose(guide="delta").train(1).show()
    each = functools.partial(Panel, {"VAE": model}, {"bottom-up": guides.BottomUp})
    yield lambda: each({"vae": splits}), lambda: each({"VAE": splits})

    def training(act):
        own = each(splits)
        return own.train(2, callbacks=[SimpleNamespace(on_step_end=lambda **_: act(own))])

    yield (
        lambda: training(lambda own: own.choose(beta=2.0)),
        lambda: training(Panel.stop).choose(beta=2.0),
        lambda: training(lambda own: own.choose(lr=1e-4)),
    )
    yield lambda: training(Panel.train), lambda: training(Panel.stop).train(1)
    Results(tmp / "runs", {"epochs": 2})
    yield lambda: Results(tmp / "runs", {"epochs": 3}), lambda: Results(tmp / "new", {"epochs": 3})
    plt.close("all")


test_the_advice_works_on_what_provokes_it = cases.test()
