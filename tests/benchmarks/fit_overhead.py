"""What ``Trainer.fit`` costs over bare ``SVI.step`` on batches that lie ready.

Run: python tests/benchmarks/fit_overhead.py [--engine graph] [--threads 4] [--epochs 15]

The 784-400-400-20 Bernoulli VAE at batch 128. After each epoch of ``fit`` the same number of bare
steps is taken and timed, so that the machine's other work touches both alike. ``fit`` shuffles,
gathers, divides by 255, binarises, and adds up the terms of the bound; the last column has bare
steps with the same feed, which tells what the loop alone costs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from pyro_vae import Trainer, data, guides, infer, likelihoods, models

BATCH = 128


def pair() -> tuple[models.VAE, guides.Guide]:
    """The same weights each time."""
    torch.manual_seed(0)
    vae = models.VAE((784,), latents=20, hidden=(400, 400), likelihood=likelihoods.Bernoulli())
    return vae, guides.BottomUp(vae)


class Bare:
    """Takes as many bare steps after each epoch, and times both."""

    def __init__(self, dataset: data.Dataset, engine: str) -> None:
        self.dataset = dataset
        self.svi = infer.SVI(*pair(), loss=infer.TraceELBO("mean"), engine=engine)
        self.ready = [x for x, _ in dataset.batches(BATCH)]
        self.times: list[tuple[float, float, float]] = []

    def _time(self, batches: Iterable[Tensor]) -> float:
        start = time.perf_counter()
        for x in batches:
            self.svi.step(x)
        return time.perf_counter() - start

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any], **kwargs: Any) -> None:
        """Time the bare steps."""
        fed = (x for x, _ in self.dataset.batches(BATCH, shuffle=True))
        self.times.append((row["seconds"], self._time(self.ready), self._time(fed)))


def main() -> None:
    """Print medians of ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default="graph")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--steps", type=int, default=60, help="per epoch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pixels = torch.randint(256, (arguments.steps * BATCH, 784), dtype=torch.uint8)
    dataset = data.Dataset(pixels, binarize="dynamic")
    bare = Bare(dataset, arguments.engine)
    trainer = Trainer(*pair(), engine=arguments.engine, seed=0)
    trainer.fit(
        dataset,
        epochs=arguments.epochs + 3,
        batch_size=BATCH,
        callbacks=[bare],
        progress=False,
    )
    times = bare.times[3:]  # warm, and recorded
    fit, ready, fed = (
        1e3 * statistics.median(t) / arguments.steps for t in zip(*times, strict=True)
    )
    print(
        f"{arguments.engine}, {arguments.threads} threads, ms per step: fit {fit:.2f}, "
        f"bare steps {ready:.2f}, with the same feed {fed:.2f}"
    )
    over = [statistics.median(t[0] / t[i] for t in times) - 1 for i in (1, 2)]
    print(f"fit over bare steps {over[0]:+.1%}, over bare steps with the same feed {over[1]:+.1%}")


if __name__ == "__main__":
    main()
