"""One small picture of each system of the README's table, trained in minutes on 10,000 digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from .. import (
    data,
    diagnostics,
    guides,
    handlers,
    infer,
    likelihoods,
    models,
    plots,
    priors,
    regularizers,
    schedules,
)
from ..data import Dataset, DataSplits
from ..ground.drawing import new_axes
from ..ground.streams import forked
from ..training.trainer import Trainer
from . import running
from .running import first, parser
from .standing import Standing

NAME = "gallery"
EPOCHS = 30
_WIDTH, _ROWS = 400, 500


@dataclass(frozen=True)
class Bench:
    """What every picture is made from: grey images, and for how long to train."""

    splits: DataSplits
    epochs: int

    def binary(self) -> DataSplits:
        """The same images, binarised anew in each batch."""
        train, test = (
            d.replace(binarize="dynamic") for d in (self.splits.train, self.splits.test)
        )
        return DataSplits(self.splits.name, train, test)

    def vae(self, latents: Any = 16, sigma: Any = None, **options: Any) -> models.VAE:
        """A VAE over these images, Bernoulli unless ``sigma`` is given."""
        likelihood = likelihoods.Bernoulli() if sigma is None else likelihoods.Gaussian(sigma)
        options = {"hidden": (_WIDTH, _WIDTH), **options}
        return models.VAE(self.splits.event_shape, latents, likelihood=likelihood, **options)

    def fit(
        self, model: Any, guide: Any, train: Dataset, *, epochs: int | None = None, **options: Any
    ) -> Trainer:
        """Train the pair."""
        trainer = Trainer(model, guide, seed=0, **options)
        return trainer.fit(train, epochs=epochs or self.epochs, progress=False)

    def trained(self, *, sigma: Any = None, **options: Any) -> Trainer:
        """A VAE with a bottom-up guide after training, on grey images where sigma is given."""
        model = self.vae(sigma=sigma, **options)
        splits = self.binary() if sigma is None else self.splits
        return self.fit(model, guides.BottomUp(model), splits.train)


def autoencoder(bench: Bench) -> Figure:
    """Codes of an autoencoder with two latents."""
    train, test = bench.splits.train, bench.splits.test
    vae = bench.vae(2, sigma=1.0)
    trainer = bench.fit(vae, guides.Delta(vae), train, beta=0.0)
    (ax,) = new_axes(1, 1, (4.5, 4.0))
    return plots.latent_scatter(trainer.guide, test[:2000], labels=test.names, ax=ax).figure


def vae(bench: Bench) -> Figure:
    """Draws from a VAE."""
    return _samples(bench.trained().model)


def beta_vae(bench: Bench) -> Figure:
    """Traversals of a beta-VAE on sprites."""
    sprites = data.load(data.shapes(6000))
    likelihood = likelihoods.Bernoulli()
    model = models.VAE(sprites.event_shape, 6, likelihood=likelihood, hidden=(_WIDTH, _WIDTH))
    trainer = bench.fit(
        model, guides.BottomUp(model), sprites.train, epochs=bench.epochs, beta=8.0
    )
    x = sprites.test.x
    return plots.traversals(model, trainer.guide, x[0], data=x[:_ROWS]).figure


def conditional(bench: Bench) -> Figure:
    """Draws of a conditional VAE, a row per label."""
    model = bench.trained(condition=10).model
    (ax,) = new_axes(1, 1, (5.0, 5.0))
    return plots.conditional(model, ax=ax).figure


def skip(bench: Bench) -> Figure:
    """What the latents carry where every layer of the decoder sees them."""
    trainer = bench.trained(skip=True)
    return diagnostics.collapse(*trainer.modules(), bench.binary().test).plot()


def hierarchy(bench: Bench) -> Figure:
    """KL and active units of each layer over the epochs of a hierarchical VAE."""
    return plots.active_units(_layers(bench, guides.BottomUp).history)


def ladder(bench: Bench) -> Figure:
    """What the layers below the top add, in a Ladder VAE."""
    model = _layers(bench, guides.Ladder).model
    (ax,) = new_axes(1, 1, (5.0, 4.0))
    return plots.layer_samples(model, 2, rows=5, ax=ax).figure


def _layers(bench: Bench, guide: Callable) -> Trainer:
    hidden = [(w, w) for w in (256, 128, 64)]
    model = bench.vae((32, 16, 8), hidden=hidden, norm=nn.BatchNorm1d)
    beta = schedules.WarmUp(epochs=max(1, bench.epochs // 5))
    return bench.fit(model, guide(model), bench.binary().train, beta=beta)


def posteriors(bench: Bench) -> Figure:
    """The gap of several guides over one model."""
    binary, trainer = bench.binary(), bench.trained()
    model = trainer.model
    tried = {"BottomUp": trainer.guide}
    for kind in (guides.FullCovariance, guides.Flow):
        trainer.swap_guide(kind(model), freeze_model=True)
        trainer.fit(binary.train, epochs=bench.epochs, progress=False)
        tried[kind.__name__] = trainer.guide
    tried["SemiAmortized"] = guides.SemiAmortized(tried["BottomUp"])
    figure = infer.compare_guides(model, tried, binary.test[:_ROWS]).plot()
    figure.set_figwidth(12.0)
    return figure


def sigma(bench: Bench) -> Figure:
    """Data, what is decoded from them, and how sure the decoder is of each pixel."""
    trainer = bench.trained(sigma="learned")
    phase = trainer.model.predict_sigma(freeze=trainer.modules())
    trainer.fit(bench.splits.train, epochs=max(1, bench.epochs // 5), progress=False)
    phase.unfreeze()
    return plots.uncertainty(*trainer.modules(), bench.splits.test.x[:8])


def aggregate(bench: Bench) -> Figure:
    """Draws with z from N(0, I) and from a mixture fitted to the aggregate posterior."""
    trainer = bench.trained(sigma="learned")
    model = trainer.model
    mixture = priors.AggregatePosterior(10).fit(*trainer.modules(), bench.splits.train)
    axes = new_axes(1, 2, (8.0, 3.6))
    for ax, name, prior in zip(axes, ("N(0, I)", "mixture"), (None, mixture), strict=True):
        plots.images(model.sample(64, mean=True, prior=prior), columns=8, ax=ax)
        ax.set_title(f"E[x|z], z from {name}")
    return axes[0].figure


def baselines(bench: Bench) -> Figure:
    """Draws of the baselines, z from N(0, I)."""
    axes = new_axes(1, 2, (8.0, 3.6))
    dip = bench.vae(sigma=0.3)
    wae = bench.vae(sigma=10**0.5)
    effect = handlers.regularize
    pairs = {
        "DIP-VAE": (dip, effect(guides.BottomUp(dip), regularizers.DIP()), 1.0),
        "WAE-MMD": (wae, effect(guides.Delta(wae), regularizers.MMD()), 0.0),
    }
    for ax, (name, (model, guide, beta)) in zip(axes, pairs.items(), strict=True):
        bench.fit(model, guide, bench.splits.train, beta=beta)
        _samples(model, ax)
        ax.set_title(name)
    return axes[0].figure


def vector_quantised(bench: Bench) -> Figure:
    """Upper halves completed code by code under a learned prior."""
    binary = bench.binary()
    model = models.VQVAE(bench.splits.event_shape, 64, 32, likelihood=likelihoods.Bernoulli())
    trainer = bench.fit(
        model, guides.NearestCode(model), binary.train, epochs=max(1, bench.epochs // 5)
    )
    prior = priors.CodePrior(model, width=32, layers=5)
    prior.fit(trainer.guide, binary.train, epochs=bench.epochs, progress=False)
    (ax,) = new_axes(1, 1, (5.0, 4.5))
    x = binary.test.x[:6].round()
    return plots.completions(model, trainer.guide, prior, x, ax=ax).figure


def _samples(model: models.VAE, ax: Axes | None = None) -> Figure:
    if ax is None:
        (ax,) = new_axes(1, 1, (4.0, 4.0))
    images: Tensor = model.sample(64, mean=True)
    return plots.images(images, columns=8, ax=ax).figure


PICTURES: dict[str, Callable[[Bench], Figure]] = {
    "autoencoder": autoencoder,
    "vae": vae,
    "beta-vae": beta_vae,
    "conditional-vae": conditional,
    "skip-vae": skip,
    "hierarchical-vae": hierarchy,
    "ladder-vae": ladder,
    "richer-posteriors": posteriors,
    "sigma-vae": sigma,
    "aggregate-posterior": aggregate,
    "dip-vae-and-wae": baselines,
    "vq-vae": vector_quantised,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Train and draw the systems asked for, a PNG each."""
    options = parser(NAME, __doc__, epochs=EPOCHS)
    options.add_argument("--systems", nargs="+", choices=PICTURES, default=list(PICTURES))
    options.small = {"epochs": 1}
    args = options.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    splits = running.splits(args, binarize=None)
    splits = first(splits, 500 if args.quick else 10_000, 2000)
    stands = Standing(quiet=args.quiet)
    for name in stands.over(args.systems, epochs=args.epochs):
        with forked(splits.train.device, args.seeds[0]):
            save(PICTURES[name](Bench(splits, args.epochs)), args.out / f"{name}.png")
    return 0


def save(figure: Figure, path: Path) -> None:
    """Write a figure small enough for a README, and close it."""
    figure.savefig(path, dpi=80, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    print(path)
