"""Time of an epoch of MNIST: this library, and the usual script with a DataLoader and Pyro's SVI.

Run: PYRO_VAE_DATA=... python tests/benchmarks/epoch_time.py [--size 60000] [--threads 4]
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pyro
import timing
import torch
from pyro.infer import Trace_ELBO
from step_time import on, one_layer
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import MNIST

from pyro_vae import Trainer, data


def usual(size: int, batch_size: int, device: str) -> Callable[[], None]:
    """As Pyro's own VAE example does it: torchvision, ToTensor, DataLoader, SVI."""
    images = MNIST(os.environ["PYRO_VAE_DATA"], train=True, transform=transforms.ToTensor())
    loader = DataLoader(Subset(images, range(size)), batch_size=batch_size, shuffle=True)
    svi = pyro.infer.SVI(*on(one_layer(), device), pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())

    def epoch() -> None:
        for x, _ in loader:
            svi.step((x.flatten(1) > torch.rand(len(x), 784)).float().to(device))

    return epoch


def ours(size: int, batch_size: int, device: str, engine: str) -> Callable[[], None]:
    """``Trainer.fit``; its graph is recorded in a first epoch, which is not timed."""
    train = data.load("mnist", binarize="dynamic").train[:size]
    train = train.replace(x=train.x.flatten(1))
    trainer = Trainer(*on(one_layer(), device), engine=engine, device=device)

    def epoch() -> None:
        trainer.fit(train, epochs=1, batch_size=batch_size, progress=False)

    return epoch


def main(argv: list[str] | None = None) -> None:
    """Time both, epoch by epoch in turn."""
    parser = timing.arguments(__doc__.splitlines()[0], rounds=3)
    parser.add_argument("--size", type=int, default=60000)
    parser.add_argument("--batch-size", type=int, default=128)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    size, batch_size, device = options.size, options.batch_size, options.device
    runs = {
        "DataLoader, stock SVI": usual(size, batch_size, device),
        "pyro_vae, graph": ours(size, batch_size, device, "graph"),
    }
    for run in runs.values():
        run()
    times = timing.alternating(runs, options.steps, device)
    title = f"An epoch of {size} MNIST images, batch {batch_size}"
    timing.report(title, timing.compared(times, [next(iter(runs))]), options)


if __name__ == "__main__":
    main()
