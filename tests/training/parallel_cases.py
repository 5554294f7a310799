"""Short runs that must not depend on the number of processes, and how torchrun is started."""

import os
import subprocess
import sys
from pathlib import Path

import pyro
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from pyro_vae import Trainer, codebooks, guides, infer, likelihoods, models, ranks
from pyro_vae.training.feeds import Loaded

ROOT = Path(__file__).parents[2]
X = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))


def torchrun(*arguments, cwd, processes=2):
    """Start what torchrun starts, with its output in pipes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, *launcher, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(*arguments, cwd):
    """What torchrun wrote to its output and to its errors, once all is done well."""
    process = torchrun(*arguments, cwd=cwd)
    try:
        out, err = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
        raise
    assert process.returncode == 0, err
    return out, err


# Smooth: a rectifier that sits on its kink makes 1e-4 of a difference of 1e-7
SMALL = {"hidden": (8,), "activation": nn.Tanh}


def vae(sigma, guide=guides.Delta, **options):
    model = models.VAE((6,), (3, 2), likelihood=likelihoods.Gaussian(sigma), **SMALL, **options)
    return model, guide(model)


def quantised(codebook):
    likelihood = likelihoods.Gaussian()
    model = models.VQVAE((6,), likelihood=likelihood, codebook=codebook, grid=(3,), **SMALL)
    return model, guides.NearestCode(model)


class Spoiled(models.VAE):
    """One datum has an infinite density, whose gradient is 0: one process alone sees it."""

    def forward(self, x=None, **kwargs):
        if x is not None:
            with pyro.plate("spoiled_data", len(x)):
                pyro.factor("spoiled", torch.where(x[:, 0] == X[17, 0], torch.inf, 0.0))
        return super().forward(x, **kwargs)


def spoiled():
    model = Spoiled((6,), (3, 2), likelihood=likelihoods.Gaussian(1.0), **SMALL)
    return model, guides.Delta(model)


# Point masses: nothing is drawn, so that the whole batch and its parts give the same numbers
CASES = {
    "mean": lambda: (vae(1.0), {"clip_norm": 0.5}),
    "sum": lambda: (vae(1.0), {"lr": 1e-3, "elbo": infer.TraceELBO()}),
    "learned sigma": lambda: (vae("learned"), {"lr": 1e-3}),
    "per pixel": lambda: (vae("per_pixel"), {"lr": 1e-3}),
    "optimal sigma": lambda: (vae("optimal"), {"lr": 1e-3}),
    # A batch of 11 or a higher rate makes ten times more of a rounding error in these steps
    "BatchNorm": lambda: (vae(1.0, norm=nn.BatchNorm1d), {"batch_size": 15, "lr": 1e-3}),
    "BatchNorm, parts of one": lambda: (
        vae(1.0, norm=nn.BatchNorm1d),
        {"batch_size": 16, "lr": 1e-3},
    ),
    "moving average": lambda: (quantised(codebooks.MovingAverage(4, 2, revive=0.0)), {}),
    "skipped": lambda: (spoiled(), {"on_nonfinite": "skip"}),
    "accumulated": lambda: (vae(1.0), {"accumulate": 3}),
    "accumulated sum": lambda: (
        vae(1.0),
        {"lr": 1e-3, "elbo": infer.TraceELBO(), "accumulate": 7},
    ),
    "codes by gradient": lambda: (quantised(codebooks.Gradient(4, 2)), {}),
}


def loader(x=X, batch_size=11, **options):
    return DataLoader(list(x), batch_size=batch_size, **options)


def seeded(**options):
    return loader(shuffle=True, generator=torch.Generator().manual_seed(5), **options)


def distributed(x=X, batch_size=22, *, shuffle=True):
    """Batches that are together of this size, in every number of processes."""
    sampler = DistributedSampler(x, ranks.size(), ranks.rank(), shuffle=shuffle)
    return loader(x, batch_size // ranks.size(), sampler=sampler)


class Turned(DataLoader):
    """A loader of a person's own, which turns each batch round."""

    def __iter__(self):
        return map(torch.neg, super().__iter__())


# What makes the data and the validation data, of the first of the cases above
LOADERS = {
    "loader": (seeded, lambda: X[:7]),
    "order of the trainer": (lambda: loader(shuffle=True), lambda: loader(X[:7], 3)),
    "workers": (
        lambda: seeded(num_workers=2, persistent_workers=True),
        lambda: loader(X[:7], 3, num_workers=1),
    ),
    "batch sampler": (
        lambda: DataLoader(list(X), batch_sampler=[range(3), (3, 4), list(range(5, 50))]),
        lambda: loader(X[:7], 7),
    ),
    "derived": (lambda: Turned(list(X), batch_size=11), lambda: Turned(list(X[:7]))),
    "DistributedSampler": (distributed, lambda: distributed(X[:6], 4, shuffle=False)),
}
RANDOM = {
    "noise": lambda: (vae(1.0, guides.BottomUp), {"lr": 1e-12}),
    "revival": lambda: (
        quantised(codebooks.MovingAverage(16, 2, initializer=codebooks.KMeans())),
        {"lr": 1e-2},
    ),
}


class Draw:
    """A random number of this process, within the run."""

    def on_epoch_end(self, trainer, **kwargs):
        self.drawn = float(torch.rand(()))


# What a person may do wrong, and is told in every process
WRONG = {
    "epochs: expected the same in all 2 processes, got 1, 2": lambda: {"epochs": 1 + ranks.rank()},
    "data: expected the same in all 2 processes, got '50 data, 5 steps in an epoch', '49 data, ": (
        lambda: {"data": loader(X[: 50 - ranks.rank()])}
    ),
    "validation: expected the same in all 2 processes, got True, False": (
        lambda: {"validation": None if ranks.rank() else X}
    ),
    "data: expected a datum of every batch for 2 processes, got a batch of 1": (
        lambda: {"data": loader(batch_size=7)}
    ),
}


def complaint(options):
    programs, _ = CASES["mean"]()
    trainer = Trainer(*programs)
    try:
        trainer.fit(**{"data": X, "epochs": 1, "batch_size": 10, "progress": False, **options()})
    except ValueError as error:
        return f"after {trainer.step} steps: {error}"
    return "none"


class Noise(Dataset):
    """Other numbers whenever it is read."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.rand(6)


def noise(workers):
    """The numbers that two passes over a loader draw in this process."""
    torch.manual_seed(0)
    ranks.diverge()
    generator = torch.Generator().manual_seed(0)
    batches = DataLoader(Noise(), batch_size=4, num_workers=workers, generator=generator)
    feed = Loaded(batches, torch.device("cpu"), torch.float32)
    return torch.cat([x for _ in range(2) for x, _ in feed])


def run(make, epochs, data=lambda: X, validation=lambda: X[:7]):
    torch.manual_seed(0)
    programs, options = make()
    options = {"lr": 1e-2, "optimizer": torch.optim.SGD, "beta": 0.5, **options}
    batch_size = options.pop("batch_size", 11)
    accumulate = options.pop("accumulate", 1)
    skip = {"on_nonfinite": options.pop("on_nonfinite", "raise")}
    trainer, draw = Trainer(*programs, seed=3, **options), Draw()
    trainer.fit(
        data(),
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        validation=validation(),
        callbacks=[draw],
        progress=False,
        **skip,
    )
    return {
        "state": {
            f"{i}.{name}": tensor
            for i, module in enumerate(trainer.modules())
            for name, tensor in module.state_dict().items()
        },
        "rows": [{k: v for k, v in row.items() if k != "seconds"} for row in trainer.history],
        "drawn": draw.drawn,
    }
