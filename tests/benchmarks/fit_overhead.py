"""What ``Trainer.fit`` costs over bare ``SVI.step``, on batches that lie ready and on its feed.

Run: python tests/benchmarks/fit_overhead.py [--engine graph] [--threads 4] [--batches 60]

The 784-400-400-20 Bernoulli VAE at batch 128. After each epoch of ``fit`` the same number of bare
steps is taken and timed, so that the machine's other work touches both alike. ``fit`` shuffles,
gathers, divides by 255, binarises, and adds up the terms of the bound; bare steps with the same
feed tell what the loop alone costs. Another run, of 1,000 steps, tells what of a step goes into
comparisons of the record with the programs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock

import timing
import torch
from systems import SYSTEMS, on, one_layer
from torch import Tensor

from pyro_vae import Trainer, data, infer

BATCH = SYSTEMS["one-layer"].batch_size
FIT, READY, FED = "Trainer.fit", "bare steps, batches ready", "bare steps, same feed"
COMPARED = "comparisons, in a run of 1,000 steps"
WARM = 3  # epochs, of which one records
RUN = 1_000


class Bare:
    """Takes as many bare steps after each epoch, and keeps the seconds per step of all."""

    def __init__(self, dataset: data.Dataset, engine: str, device: str) -> None:
        self.dataset, self.device = dataset, device
        self.svi = infer.SVI(*on(one_layer(), device), loss=infer.TraceELBO("mean"), engine=engine)
        self.ready = [x for x, _ in dataset.batches(BATCH)]
        self.times: dict[str, list[float]] = {FIT: [], READY: [], FED: []}

    def _steps(self, batches: Iterable[Tensor]) -> float:
        def run() -> None:
            for x in batches:
                self.svi.step(x)

        return timing.seconds(run, self.device) / len(self.ready)

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any], **kwargs: Any) -> None:
        """Time the bare steps; ``row`` was timed once the epoch's last step was done."""
        self.times[FIT].append(row["seconds"] / len(self.ready))
        self.times[READY].append(self._steps(self.ready))
        fed = (x for x, _ in self.dataset.batches(BATCH, shuffle=True))
        self.times[FED].append(self._steps(fed))


def comparing(dataset: data.Dataset, engine: str, device: str) -> float:
    """Seconds that comparisons add to a step, as a mean over a run."""
    times: dict[str, list[float]] = {"_step": [], "_beside": []}

    def timed(name: str) -> Callable:
        method = getattr(infer.Graph, name)

        def run(*args: Any) -> Any:
            found: list[Any] = []
            times[name].append(timing.seconds(lambda: found.append(method(*args)), device))
            return found[0]

        return run

    trainer = Trainer(*on(one_layer(), device), engine=engine, device=device, seed=0)
    epochs = -(-RUN // (len(dataset) // BATCH))
    with mock.patch.multiple(infer.Graph, **{name: timed(name) for name in times}):
        trainer.fit(dataset, epochs=epochs, batch_size=BATCH, progress=False)
    usual = statistics.median(times["_step"]) if times["_step"] else 0.0
    return sum(seconds - usual for seconds in times["_beside"]) / trainer.step


def main(argv: list[str] | None = None) -> None:
    """Time epochs of both in turn."""
    parser = timing.arguments(__doc__.splitlines()[0], rounds=15)
    parser.add_argument("--engine", default="graph", choices=("eager", "graph", "compile"))
    parser.add_argument("--batches", type=int, default=60, help="steps per epoch")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    device = options.device
    pixels = torch.randint(256, (options.batches * BATCH, 784), dtype=torch.uint8)
    dataset = data.Dataset(pixels, binarize="dynamic").to(device)
    bare = Bare(dataset, options.engine, device)
    trainer = Trainer(*on(one_layer(), device), engine=options.engine, device=device, seed=0)
    epochs = options.steps + WARM
    trainer.fit(dataset, epochs=epochs, batch_size=BATCH, callbacks=[bare], progress=False)
    times = {name: seconds[WARM:] for name, seconds in bare.times.items()}
    title = f"A step of fit, engine {options.engine}, {options.batches} steps per epoch"
    rows = timing.compared(times, [READY, FED])
    added = 1e3 * comparing(dataset, options.engine, device)
    per_base = {f"/ {row['name']}": added / row["ms"] for row in rows if row["name"] != FIT}
    timing.report(title, [*rows, {"name": COMPARED, "ms": added, **per_base}], options)


if __name__ == "__main__":
    main()
