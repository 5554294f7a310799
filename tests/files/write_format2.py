"""Writes format2/ and expected.json with pyro_vae 0.1: run it with that version on the path.

``python write_format2.py FOLDER``. Files of 0.1 have to load for ever, so that neither this
script nor what it wrote is changed: a later format gets files of its own.
"""

import functools
import json
import sys
from pathlib import Path

import numpy as np
import pyro.poutine as poutine
import torch
from pyro.poutine.util import prune_subsample_sites
from torch import nn

from pyro_vae import (
    Trainer,
    callbacks,
    codebooks,
    guides,
    handlers,
    infer,
    likelihoods,
    models,
    priors,
    regularizers,
    save,
    schedules,
)
from pyro_vae.networks import MLP, ConvDecoder, ConvEncoder

ROWS = 2
X = torch.sin(torch.arange(180.0).square()).reshape(30, 6)
Y = torch.arange(30) % 3
# torch.sin(torch.arange(30 * 64.0).square() / 7), whose last bits depend on the processor
IMAGES = torch.from_numpy(np.load(Path(__file__).parent / "images.npy"))


def vae(latents=(3, 2), likelihood=None, **options):
    torch.manual_seed(0)
    likelihood = likelihood or likelihoods.Gaussian(0.5)
    options = {"hidden": (), "activation": nn.Tanh, **options}
    return models.VAE((6,), latents, likelihood=likelihood, **options)


def trained(model, guide, x=X, y=None, **options):
    torch.manual_seed(1)
    t = Trainer(model, guide, **{"seed": 0, "lr": 0.01, **options})
    return t.fit((x, y), epochs=2, batch_size=10, progress=False)


def of(likelihood, x=X):
    model = vae(2, likelihood)
    return trained(model, guides.BottomUp(model), x).guide, x


def with_guide(make, **options):
    model = vae(**options)
    return trained(model, make(model), X, Y if options.get("condition") else None).guide, X


def with_prior(make):
    """A trained guide, and its model under a prior fitted to it."""
    model = vae(2)
    guide = trained(model, guides.BottomUp(model)).guide
    return Trainer(handlers.replace_prior(model, make(model, guide)), guide), X


def two_stage():
    model = vae(2)
    pair = model, trained(model, guides.BottomUp(model)).guide
    prior = priors.TwoStage(2, hidden=(4,)).fit(*pair, X, epochs=1)
    return Trainer(*prior.stack(*pair)), X


def quantised(codebook=None, **options):
    torch.manual_seed(0)
    codebook = {"codes": 8, "code_dim": 2} if codebook is None else {"codebook": codebook}
    options = {"hidden": (4,), "grid": 3, "activation": nn.Tanh, **options}
    return models.VQVAE((1, 8, 8), likelihood=likelihoods.Gaussian(), **codebook, **options)


def with_codes(model):
    return trained(model, guides.NearestCode(model), IMAGES, lr=1e-3).guide, IMAGES


def code_prior():
    guide, x = with_codes(quantised())
    torch.manual_seed(2)
    prior = priors.CodePrior(guide.model, width=4, layers=2)
    prior.fit(guide, x, epochs=1, progress=False)
    return Trainer(handlers.replace_prior(guide.model, prior), guide), x


def convolutional():
    torch.manual_seed(0)
    model = models.VAE(
        (1, 8, 8),
        2,
        likelihood=likelihoods.Gaussian("learned"),
        decoder=ConvDecoder(2, (1, 8, 8), event_dim=3, channels=(2, 3), features=4),
    )
    encoder = ConvEncoder((1, 8, 8), channels=(2, 3), features=4)
    return trained(model, guides.BottomUp(model, encoder=encoder), IMAGES).guide, IMAGES


def pixels():
    torch.manual_seed(0)
    decoder = models.PixelDecoder((1, 8, 8), 2, outputs=1, width=4, layers=2)
    x = IMAGES.gt(0).float()
    model = models.VAE((1, 8, 8), 2, likelihood=likelihoods.Bernoulli(), decoder=decoder)
    return trained(model, guides.BottomUp(model, hidden=(4,)), x).guide, x


def two_layers(model):
    return guides.Composed(
        guides.BottomUp(model, sites=["z1"]),
        guides.Flow(model, steps=1, step_hidden=4, sites=["z2"]),
    )


def deep_and_normalised():
    model = vae(2, hidden=(4,), norm=nn.BatchNorm1d, skip=True)
    return trained(model, guides.Ladder(model, upward="means")).guide, X


def regularized(model):
    guide = handlers.regularize(guides.BottomUp(model), regularizers.DIP(), site="z1")
    return handlers.regularize(guide, regularizers.MMD(2.0), site="z1")


GREY, BINARY = X.sigmoid(), X.gt(0).float()
LEVELS = (GREY * 3).round() / 3
FILES = {
    # guides
    "BottomUp": lambda: with_guide(guides.BottomUp, hidden=(4,)),
    "BottomUp conditional": lambda: with_guide(guides.BottomUp, condition=3),
    "Delta": lambda: with_guide(guides.Delta),
    "FullCovariance": lambda: with_guide(guides.FullCovariance),
    "Flow": lambda: with_guide(functools.partial(guides.Flow, steps=1, step_hidden=4)),
    "Ladder": lambda: with_guide(guides.Ladder, hidden=(4,)),
    "Ladder BatchNorm": deep_and_normalised,
    "SemiAmortized": lambda: with_guide(
        lambda model: guides.SemiAmortized(guides.BottomUp(model), steps=2)
    ),
    "Composed": lambda: with_guide(two_layers),
    "PerDatum": lambda: with_guide(lambda model: guides.PerDatum(model, X)),
    # likelihoods
    "Bernoulli": lambda: of(likelihoods.Bernoulli(), BINARY),
    "ContinuousBernoulli": lambda: of(likelihoods.ContinuousBernoulli(), GREY),
    "Categorical": lambda: of(likelihoods.Categorical(4), LEVELS),
    "DiscretizedLogistic": lambda: of(likelihoods.DiscretizedLogistic(4), LEVELS),
    "sigma learned": lambda: of(likelihoods.Gaussian("learned")),
    "sigma optimal": lambda: of(likelihoods.Gaussian("optimal")),
    "sigma per pixel": lambda: of(likelihoods.Gaussian("per_pixel")),
    "sigma predicted": lambda: of(likelihoods.Gaussian("predicted")),
    "sigma object": lambda: of(likelihoods.Gaussian(likelihoods.LearnedSigma(0.3, 1e-3))),
    # networks
    "MLP decoder": lambda: with_guide(
        guides.BottomUp, latents=2, decoder=MLP((2,), (4,), (6,), activation=nn.SiLU)
    ),
    "convolutions": convolutional,
    "pixels": pixels,
    # priors
    "AggregatePosterior": lambda: with_prior(
        lambda *pair: priors.AggregatePosterior(2).fit(*pair, X)
    ),
    "FlowPrior": lambda: with_prior(
        lambda *pair: priors.FlowPrior(2, 2, hidden=(4,)).fit(*pair, X, epochs=1)
    ),
    "TwoStage": two_stage,
    "MixturePrior": lambda: with_prior(lambda *pair: priors.MixturePrior(2, 3)),
    "VampPrior": lambda: with_prior(lambda model, guide: priors.VampPrior(guide, 3)),
    "scale_latents": lambda: with_guide(
        lambda model: handlers.scale_latents(guides.BottomUp(model), 3.0)
    ),
    # codes
    "VQ default": lambda: with_codes(quantised()),
    "VQ convolutions": lambda: with_codes(
        quantised(hidden=None, grid=None, channels=(2, 3), blocks=1)
    ),
    "VQ k-means": lambda: with_codes(
        quantised(codebooks.MovingAverage(8, 2, revive=0.2, initializer=codebooks.KMeans()))
    ),
    "VQ gradient": lambda: with_codes(quantised(codebooks.Gradient(8, 2))),
    "CodePrior": code_prior,
}  # fmt: skip


def trainer(model=None, make=guides.BottomUp, **options):
    model = vae(2) if model is None else model
    return Trainer(model, make(model), **{"seed": 0, "lr": 0.01, **options})


def fit(t, x=X, **options):
    return t.fit(x, **{"epochs": 3, "batch_size": 8, "progress": False, **options})


momentum = functools.partial(torch.optim.SGD, momentum=0.9)


def free_bits():
    model = vae(2)
    return Trainer(
        handlers.free_bits(model, 0.5),
        handlers.free_bits(guides.BottomUp(model), 0.5),
        optimizer=torch.optim.SGD,
        seed=0,
    )


def swapped():
    t = trainer(vae(2), guides.Ladder, optimizer=momentum)
    return fit(t, epochs=1).swap_guide(guides.BottomUp(t.model), freeze_model=True)


plain_descent = functools.partial(trainer, optimizer=torch.optim.SGD, lr=1e-3)
TRAINERS = {
    "Adam": trainer,
    "schedule": lambda: plain_descent(vae(), beta={"z1": schedules.WarmUp(epochs=4), "z2": 0.5}),
    "momentum": lambda: trainer(
        optimizer=momentum, clip_norm=0.5, engine="graph", elbo="analytic"
    ),
    "importance weighted": lambda: plain_descent(elbo=infer.ImportanceWeightedELBO(3, "mean")),
    "free bits": free_bits,
    "corrupted": lambda: plain_descent(
        make=lambda model: handlers.corrupt(guides.BottomUp(model), 0.3)
    ),
    "regularized": lambda: plain_descent(make=regularized),
}
RUNS = {
    "in mid-epoch": (trainer, X, list),
    "in mid-epoch codes": (
        lambda: trainer(quantised(codebooks.MovingAverage(8, 2)), guides.NearestCode, lr=1e-3),
        IMAGES,
        list,
    ),
    "after a swap": (swapped, X, list),
    "with callbacks": (
        lambda: trainer(vae(2, likelihoods.Gaussian("learned"))),
        X,
        lambda: [callbacks.EarlyStopping("elbo", patience=9), callbacks.PredictSigma(1, alone=1)],
    ),
}


def integrand(model, guide, x, y, z):
    """log p(x, z) - log q(z|x) per datum, by Pyro alone, at latents that are given."""
    labels = {} if y is None else {"y": y}
    given = poutine.Trace()
    for site, value in z.items():
        given.add_node(site, type="sample", is_observed=False, value=value, infer={}, args=())
    run = poutine.trace(poutine.replay(guide, trace=given))
    q = run.get_trace(x, **labels)
    p = poutine.trace(poutine.replay(model, trace=q)).get_trace(x, **labels)
    total = torch.zeros(len(x))
    for sign, trace in ((1, p), (-1, q)):
        trace = prune_subsample_sites(trace)
        trace.compute_log_prob()
        for node in trace.nodes.values():
            if node["type"] == "sample":
                total = total + sign * node["log_prob"]
    return total


def expected(model, guide, x, y=None):
    x, y = x[:ROWS], None if y is None else y[:ROWS]
    for program in (model, guide):
        program.eval()
    torch.manual_seed(3)
    with torch.no_grad():
        z = guide(x) if y is None else guide(x, y=y)
        if infer.check_pair(model, guide, x, y=y).point_masses:
            z = {}  # the guide finds its own again; one that is rounded otherwise has no mass
        bound = integrand(model, guide, x, y, z)
    return {
        "x": _written(x),
        "y": None if y is None else y.tolist(),
        "z": {site: _written(value) for site, value in z.items()},
        "bound": _written(bound),
    }


def _written(values):
    # Nine digits tell any two numbers of single precision apart
    if isinstance(values, torch.Tensor):
        values = values.tolist()
    return [_written(v) for v in values] if isinstance(values, list) else float(f"{values:.9g}")


def _file(name):
    return name.replace(" ", "-")


def write(folder):
    found = {}
    for name, make in FILES.items():
        obj, x = make()
        pair = (obj.model, obj.guide) if isinstance(obj, Trainer) else (obj.model, obj)
        y = Y if getattr(pair[0], "condition", 0) else None
        found[name] = expected(*pair, x, y)
        save(obj, folder / f"{_file(name)}.pt")
    for name, make in TRAINERS.items():
        t = fit(make(), epochs=1)
        t.save(folder / f"trainer-{_file(name)}.pt")
        found[f"trainer {name}"] = {"elbo": fit(t, epochs=2).history.column("elbo")}
    for name, (make, x, hooks) in RUNS.items():
        run = folder / f"run-{_file(name)}"
        t = fit(make(), x, callbacks=hooks(), checkpoint=run, every=3, keep=99)
        found[f"run {name}"] = {"elbo": t.history.column("elbo"), "step": t.step}
        middle = run / "step-000000009.pt"
        for path in set(run.iterdir()) - {middle}:
            path.unlink()
    (folder / "expected.json").write_text(json.dumps(found))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
