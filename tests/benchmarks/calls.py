"""Calls of the library's functions, and its files that a step passes: what its layers cost.

Run: python tests/benchmarks/calls.py [--files] [--json FILE]
     PYTHONPATH=OLD python tests/benchmarks/calls.py, for another checkout

A call is what ``sys.setprofile`` tells as one: a Python frame that is entered, whose code lies in
the package. Comprehensions and each value that a generator gives are calls; those of torch and
Pyro are not. The pair has two layers, z1 with two hidden layers and z2 with one; its data are 64
of 6 binary values, a ``Dataset`` that takes one step. All was done once before it is counted.

- fit: all of a first ``Trainer.fit`` of one step, with its checks; no checkpoints, no validation.
- checkpoint: what one more makes of that ``fit``, written after the step (``every=1``).
- save: ``Trainer.save`` of a trainer after that ``fit``.
- resume: ``Trainer.resume`` of that folder, up to the trainer; not the ``fit`` that goes on.
- step of fit: from the end of a step to the end of the next one, the graph being recorded.
- bare step: ``infer.SVI.step``, likewise.

A step that looks beside its record passes other files: the usual one is told.
"""

from __future__ import annotations

import collections
import contextlib
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import timing
import torch

import pyro_vae
from pyro_vae import Trainer, data, guides, infer, likelihoods, models

PACKAGE = str(Path(pyro_vae.__file__).parent)
STEPS, COUNTED = 300, 50  # of a run whose graph is recorded, and its last ones
MOST = {"fit": 900, "checkpoint": 161, "save": 161, "resume": 1128}
MOST_FILES = {"step of fit": 10, "bare step": 6}


class Calls:
    """Files of the package, and how many of their frames were entered."""

    def __init__(self) -> None:
        self.files: collections.Counter[str] = collections.Counter()

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        """What ``sys.setprofile`` asks for."""
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(PACKAGE):
            self.files[path.removeprefix(PACKAGE).lstrip("/")] += 1


@contextlib.contextmanager
def counted() -> Iterator[Calls]:
    """Count until the end of the block, in this thread and in those that start meanwhile."""
    calls = Calls()
    threading.setprofile(calls)
    sys.setprofile(calls)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def of(run: Callable[[], object]) -> Calls:
    """The calls of one call."""
    with counted() as calls:
        run()
    return calls


class EachStep:
    """A callback that keeps the calls of each of the last steps."""

    def __init__(self) -> None:
        self.steps: list[Calls] = []
        self._open = contextlib.ExitStack()

    def on_step_end(self, trainer: Trainer, **kwargs: Any) -> None:
        """A step ends, and the next one begins."""
        self._open.close()
        if STEPS - COUNTED <= trainer.step < STEPS:
            self.steps.append(self._open.enter_context(counted()))


def pair() -> tuple[models.VAE, guides.Guide]:
    """The same each time."""
    torch.manual_seed(0)
    vae = models.VAE(
        (6,), latents=(4, 2), hidden=[(8, 8), (8,)], likelihood=likelihoods.Bernoulli()
    )
    return vae, guides.BottomUp(vae)


def binary(size: int) -> data.Dataset:
    """Random data."""
    return data.Dataset((torch.rand(size, 6) < 0.3).float())


def of_runs(folder: Path) -> dict[str, Calls]:
    """The calls of whole runs of one step, and of their files."""

    def fit(**arguments: Any) -> tuple[Trainer, Calls]:
        trainer = Trainer(*pair(), seed=0)
        return trainer, of(lambda: trainer.fit(x, epochs=1, progress=False, **arguments))

    x = binary(64)
    trainer, calls = fit()
    _, more = fit(checkpoint=folder / "more", every=1)
    _, fewer = fit(checkpoint=folder / "fewer", every=2)
    checkpoint = Calls()
    checkpoint.files = more.files - fewer.files
    return {
        "fit": calls,
        "checkpoint": checkpoint,
        "save": of(lambda: trainer.save(folder / "trainer.pt")),
        "resume": of(lambda: Trainer.resume(folder / "more")),
    }


def of_steps() -> dict[str, Calls]:
    """The calls of a usual step under a recorded graph."""
    each, x = EachStep(), binary(STEPS * 8)
    trainer = Trainer(*pair(), seed=0, engine="graph")
    trainer.fit(x, epochs=1, batch_size=8, callbacks=[each], progress=False)
    svi = infer.SVI(*pair(), engine="graph")
    batch = x.x[:8]
    bare = [of(lambda: svi.step(batch)) for _ in range(STEPS)]
    return {"step of fit": usual(each.steps), "bare step": usual(bare[-COUNTED:])}


def usual(steps: list[Calls]) -> Calls:
    """The first of the most frequent kind."""
    kind = statistics.mode(frozenset(step.files) for step in steps)
    return next(step for step in steps if step.files.keys() == kind)


def main(argv: list[str] | None = None) -> None:
    """Count each."""
    parser = timing.arguments(__doc__.splitlines()[0], rounds=1)
    parser.add_argument("--files", action="store_true", help="tell the calls of each file")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    for _ in range(2):  # what is imported or cached at the first time is not of interest
        with tempfile.TemporaryDirectory() as folder:
            found = of_runs(Path(folder))
    found |= of_steps()
    rows = [
        {
            "name": name,
            "calls": calls.files.total(),
            "at most": MOST.get(name),
            "files": len(calls.files),
            "files, at most": MOST_FILES.get(name),
        }
        for name, calls in found.items()
    ]
    timing.report(f"Calls of functions in {PACKAGE}", rows, options)
    if options.files:
        for name, calls in found.items():
            told = (f"{file} {count}" for file, count in calls.files.most_common())
            print(f"\n{name}: " + ", ".join(told))


if __name__ == "__main__":
    main()
