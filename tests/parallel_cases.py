"""Short runs that must not depend on the number of processes; ``test_distributed`` starts them.

Run by torchrun: each process writes what it has trained to FOLDER/RANK.pt.
"""

import sys
from pathlib import Path

import torch
from torch import nn

from pyro_vae import Trainer, codebooks, guides, infer, likelihoods, models, ranks

X = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))


def vae(sigma, guide=guides.Delta, **options):
    model = models.VAE(
        (6,), (3, 2), likelihood=likelihoods.Gaussian(sigma), hidden=(8,), **options
    )
    return model, guide(model)


def quantised(codebook):
    model = models.VQVAE(
        (6,), likelihood=likelihoods.Gaussian(), codebook=codebook, hidden=(8,), grid=(3,)
    )
    return model, guides.NearestCode(model)


# Point masses: nothing is drawn, so that the whole batch and its parts give the same numbers
CASES = {
    "mean": lambda: (vae(1.0), {"clip_norm": 0.5}),
    "sum": lambda: (vae(1.0), {"lr": 1e-3, "elbo": infer.TraceELBO()}),
    "learned sigma": lambda: (vae("learned"), {"lr": 1e-3}),
    "per pixel": lambda: (vae("per_pixel"), {"lr": 1e-3}),
    "optimal sigma": lambda: (vae("optimal"), {"lr": 1e-3}),
    "BatchNorm": lambda: (vae(1.0, norm=nn.BatchNorm1d), {}),
    "moving average": lambda: (quantised(codebooks.MovingAverage(4, 2, revive=0.0)), {}),
    "codes by gradient": lambda: (quantised(codebooks.Gradient(4, 2)), {}),
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


def run(make, epochs):
    torch.manual_seed(0)
    programs, options = make()
    options = {"lr": 1e-2, "optimizer": torch.optim.SGD, "beta": 0.5, **options}
    trainer, draw = Trainer(*programs, seed=3, **options), Draw()
    trainer.fit(
        X, epochs=epochs, batch_size=11, validation=X[:7], callbacks=[draw], progress=False
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


def main(folder):
    torch.set_num_threads(1)
    with ranks.joined() as world:
        results = {name: run(make, 3) for name, make in CASES.items()}
        results |= {name: run(make, 40) for name, make in RANDOM.items()}
    torch.save(results, Path(folder) / f"{world.rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
