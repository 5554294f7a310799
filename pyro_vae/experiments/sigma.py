"""What learning sigma brings: twelve systems over the same networks, two ways to sample from each.

After "Simple and Effective VAE Training with Calibrated Decoders", Rybkin, Daniilidis, Levine
(2021), and "Balancing Reconstruction Quality and Regularisation in ELBO for VAEs", Lin, Roberts,
Trigoni, Clark (2019), with the baselines of "Variational Inference of Disentangled Latent
Concepts from Unlabeled Observations", Kumar, Sattigeri, Balakrishnan (2018), and "Wasserstein
Auto-Encoders", Tolstikhin, Bousquet, Gelly, Scholkopf (2018).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import (
    callbacks,
    diagnostics,
    guides,
    handlers,
    likelihoods,
    models,
    priors,
    regularizers,
)
from ..data import DataSplits
from ..ground.streams import forked
from ..infer import reconstruct
from ..programs.placing import device_of
from ..training.trainer import Trainer
from . import running
from .pictures import classifier, distances, sheet
from .rates import RATE, Rate
from .running import (
    Results,
    differences,
    first,
    joined,
    keys,
    markdown,
    parser,
    shared,
    told,
)

NAME = "sigma"
EPOCHS, LATENTS, HIDDEN = 100, 16, (400, 400)
COMPONENTS = 10
IMAGES = ("reconstructions", "samples, N(0, I)", "samples, mixture")
KERNEL = tuple(f"KID, {name}" for name in IMAGES)
DISTANCES = (*IMAGES, *KERNEL)
BY = ("system",)
REFERENCES = {name: {"system": name} for name in ("sigma learned", "sigma predicted")}


def _same(guide: guides.Guide) -> guides.Guide:
    return guide


class System(NamedTuple):
    """One line of the comparison: what differs from the VAE with a fixed sigma of 1."""

    sigma: float | str | Callable[[], likelihoods.Sigma] = 1.0
    beta: float = 1.0
    guide: Callable[[models.VAE], guides.Guide] = guides.BottomUp
    effect: Callable[[guides.Guide], guides.Guide] = _same
    # Shares of the epochs, the last ones, with sigma(z) alone and then with everything
    alone: float = 0.0
    slowly: float = 0.0


# A grey level: where pixels hardly vary a smaller sigma only describes their 8 bits, and a single
# test pixel that does vary costs thousands of nats
LEAST = 1 / 255
ONE = functools.partial(likelihoods.LearnedSigma, floor=LEAST)
SYSTEMS = {
    "AE": System(beta=0.0, guide=guides.Delta),
    "VAE, sigma 1": System(),
    "beta-VAE, beta 0.1": System(beta=0.1),
    "DIP-VAE-I": System(effect=lambda g: handlers.regularize(g, regularizers.DIP())),
    "DIP-VAE-II": System(effect=lambda g: handlers.regularize(g, regularizers.DIP2())),
    "WAE-MMD": System(
        sigma=10**0.5,
        beta=0.0,
        guide=guides.Delta,
        effect=lambda g: handlers.regularize(g, regularizers.MMD()),
    ),
    "sigma learned": System("learned"),
    "sigma optimal": System("optimal"),
    "sigma per pixel": System(functools.partial(likelihoods.PerPixelSigma, floor=LEAST)),
    "sigma predicted": System(functools.partial(likelihoods.PredictedSigma, floor=LEAST)),
    "sigma in two phases": System(ONE, alone=0.5),
    "two phases, then everything at a tenth of the rate": System(ONE, alone=0.25, slowly=0.25),
}


def build(
    system: System, *, seed: int = 0, event_shape: Sequence[int] = (1, 28, 28), device: Any = None
) -> Trainer:
    """The trainer of one system: the same networks for all, Adam at 1e-3."""
    with forked(seed=seed):
        sigma = system.sigma() if callable(system.sigma) else system.sigma
        likelihood = likelihoods.Gaussian(sigma)
        vae = models.VAE(event_shape, LATENTS, likelihood=likelihood, hidden=HIDDEN)
        guide = system.effect(system.guide(vae))
    return Trainer(vae, guide, beta=system.beta, lr=RATE, seed=seed, device=device)


def schedule(system: System, epochs: int) -> list[callbacks.Callback]:
    """What happens in a run of so many epochs.

    All together at the full rate again would diverge: where pixels are constant sigma(z) is so
    small that a step of the mean costs thousands of nats.
    """
    if not system.alone:
        return []
    slowly, alone = (round(share * epochs) for share in (system.slowly, system.alone))
    return [
        callbacks.PredictSigma(epochs - alone - slowly, alone=alone),
        Rate(lambda done: RATE if done < epochs - slowly else RATE / 10),
    ]


def measure(
    trainer: Trainer, splits: DataSplits, features: Any, seed: int, picture: Path
) -> dict[str, Any]:
    """The row of a trained system: bound, errors, sigma, and distances of three kinds of images.

    Reconstructions and samples are means of p(x|z). The mixture is fitted to posterior samples of
    the training data; draws from both priors go into ``picture``. A point mass has no bound.
    """
    model, guide, test = trainer.model, trainer.guide, splits.test
    found = diagnostics.evaluate(model, guide, test, importance_samples=0)
    device = device_of(model)
    mixture = priors.AggregatePosterior(COMPONENTS, seed=seed).fit(model, guide, splits.train)
    with forked(device, seed):
        drawn = {
            f"z from {name}": model.sample(32, mean=True, prior=prior)
            for name, prior in {"N(0, I)": None, "mixture": mixture}.items()
        }
    sheet(picture, drawn)
    with forked(device, seed):
        images = [
            reconstruct(model, guide, test.x.to(device)),
            model.sample(len(test), mean=True),
            model.sample(len(test), mean=True, prior=mixture),
        ]
    errors = (images[0].cpu() - test.x.cpu()).square().flatten(1).sum(1)
    bound = None if found.point_masses else found.terms.elbo
    sigma = model.arguments["likelihood"].arguments["sigma"]
    return {
        "ELBO": None if bound is None else float(bound.mean()),
        "squared error": float(errors.mean()),
        "sigma": trainer.history[-1].get("sigma", sigma),
        **distances(features, test, dict(zip(IMAGES, images, strict=True))),
        "per datum": {"squared error": errors} | ({} if bound is None else {"ELBO": bound.cpu()}),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Train and measure the systems asked for, and write the table of all that are there."""
    options = parser(NAME, __doc__, epochs=EPOCHS, batch_size=128)
    options.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    options.small = {"epochs": 4}
    args = options.parse_args(argv)
    torch.set_num_threads(args.threads)
    splits = running.splits(args, binarize=None)
    steps = 50 if args.quick else 2000
    if args.quick:
        splits = first(splits, 1000, 200)
    features, settings = classifier(splits, steps, quiet=args.quiet)
    results = Results(args.out, shared(args, splits) | settings, args.command, quiet=args.quiet)

    def compute(key: dict[str, Any]) -> dict[str, Any]:
        trainer = _train(args, results, splits, key)
        return measure(trainer, splits, features, key["seed"], results.path(key, ".png"))

    asked = keys(system=args.systems, seed=args.seeds)
    results.fill(asked, compute, table, by=BY, references=REFERENCES, entries=DISTANCES)
    return 0


def _train(args: Any, results: Results, splits: DataSplits, key: dict[str, Any]) -> Trainer:
    system, epochs = SYSTEMS[key["system"]], args.epochs
    hooks = schedule(system, epochs)
    make = functools.partial(
        build, system, seed=key["seed"], event_shape=splits.event_shape, device=args.device
    )
    # What is frozen for a while would stay so in a file
    every = epochs if hooks else 10
    return results.train(key, make, splits.train, args, every=every, callbacks=hooks)


def table(
    rows: Sequence[dict[str, Any]],
    settings: dict[str, Any],
    estimates: Sequence[dict[str, Any]],
) -> str:
    """The comparison as Markdown, and paired differences to the systems of ``REFERENCES``."""
    order = list(SYSTEMS)
    rows = sorted(rows, key=lambda r: (order.index(r["system"]), r["seed"]))
    lines = joined(rows, BY, estimates)
    measured = {"ELBO": 2, "squared error": 2, **dict.fromkeys(IMAGES, 2)}
    measured |= dict.fromkeys(KERNEL, 1)
    shown = [markdown(lines, {"system": 0, "seeds": 0, **measured, "sigma": 4})]
    shown += [
        f"Above {name}:\n\n{differences(lines, 'system', name, measured)}" for name in REFERENCES
    ]
    return (
        "\n\n".join(shown) + "\n\nELBO in nats per datum, squared errors of reconstructions "
        "summed over pixels, both with standard errors over test data and seeds; then Frechet "
        "and kernel distances (KID) to the test data in the features of a classifier trained on "
        "the labels, comparable in this table only, with standard deviations over seeds, and "
        "standard errors over seeds where they are differences; all differences are paired; "
        f"{told(settings)}; sigma is at least a grey level, 1/255, where it differs between "
        "pixels.\n"
    )
