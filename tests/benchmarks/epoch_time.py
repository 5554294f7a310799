"""Time of an epoch of MNIST: this library, and the usual script with a DataLoader and Pyro's SVI.

Run: PYRO_VAE_DATA=... python tests/benchmarks/epoch_time.py [--size 60000] [--threads 4]
     PYRO_VAE_DATA=... python tests/benchmarks/epoch_time.py --epochs 2000 --device cuda

The second form times one ``Trainer.fit`` of so many epochs, of this library alone, with all that
it does once: checks, recording, compiling.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pyro
import timing
import torch
from pyro.infer import Trace_ELBO
from systems import on, one_layer
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import MNIST

from pyro_vae import Trainer, data


def usual(size: int, batch_size: int, device: str) -> Callable[[], None]:
    """As Pyro's own VAE example does it: torchvision, ToTensor, DataLoader, SVI."""
    images = MNIST(os.environ["PYRO_VAE_DATA"], train=True, transform=transforms.ToTensor())
    loader = DataLoader(
        Subset(images, range(size)),
        batch_size=batch_size,
        shuffle=True,
        pin_memory=device != "cpu",
    )
    svi = pyro.infer.SVI(*on(one_layer(), device), pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())

    def epoch() -> None:
        for x, _ in loader:
            x = x.flatten(1).to(device, non_blocking=True)
            svi.step((x > torch.rand_like(x)).float())

    return epoch


def mnist(size: int, device: str) -> data.Dataset:
    """The first images of the training set, flat, on the device."""
    train = data.load("mnist", binarize="dynamic").train[:size]
    return train.replace(x=train.x.flatten(1), kind="vector").to(device)


def ours(size: int, batch_size: int, device: str, engine: str) -> Callable[[], None]:
    """``Trainer.fit``; its graph is recorded in a first epoch, which is not timed."""
    train = mnist(size, device)
    trainer = Trainer(*on(one_layer(), device), engine=engine, device=device)

    def epoch() -> None:
        trainer.fit(train, epochs=1, batch_size=batch_size, progress=False)

    return epoch


def one_run(size: int, batch_size: int, device: str, engine: str, epochs: int) -> dict[str, Any]:
    """One ``Trainer.fit`` from the first step on."""
    train = mnist(size, device)
    trainer = Trainer(*on(one_layer(), device), engine=engine, device=device, seed=0)
    seconds = timing.seconds(
        lambda: trainer.fit(train, epochs=epochs, batch_size=batch_size, progress=False), device
    )
    return {
        "name": f"pyro_vae, {engine}",
        "epochs": epochs,
        "steps": trainer.step,
        "seconds": seconds,
        "ms": 1e3 * seconds / trainer.step,
        "last bound, nats": trainer.history[-1]["elbo"],
    }


def main(argv: list[str] | None = None) -> None:
    """Time both, epoch by epoch in turn, or one long run."""
    parser = timing.arguments(__doc__.splitlines()[0], rounds=3)
    parser.add_argument("--size", type=int, default=60000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--engine", default="graph", help="eager, graph or compile")
    parser.add_argument("--epochs", type=int, help="time one fit of so many epochs instead")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    case = options.size, options.batch_size, options.device
    subject = f"{options.size} MNIST images, batch {options.batch_size}"
    if options.epochs:
        row = one_run(*case, options.engine, options.epochs)
        timing.report(f"{options.epochs} epochs of {subject}", [row], options)
        return
    runs = {
        "DataLoader, stock SVI": usual(*case),
        f"pyro_vae, {options.engine}": ours(*case, options.engine),
    }
    for run in runs.values():
        run()
    times = timing.alternating(runs, options.steps, options.device)
    timing.report(f"An epoch of {subject}", timing.compared(times, [next(iter(runs))]), options)


if __name__ == "__main__":
    main()
