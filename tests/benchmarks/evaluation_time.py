"""Time of evaluations as the programs run them, with all of Pyro's checks, and as they are done.

Run: python tests/benchmarks/evaluation_time.py [one-layer|ladder] [--data 10000] [--samples 100]
    [--threads 1] [--steps 5] [--device cuda] [--json FILE]

Both give the same numbers, which is checked first. Validation is timed as in a later epoch of a
run, when it replays; what recording costs is in the other rows, whose calls record anew. Sampling
is not recorded by the library: its rows tell what a replay would take, and recording it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pyro
import timing
import torch
from pyro import poutine
from systems import SYSTEMS, on
from torch import Tensor

from pyro_vae import diagnostics, infer
from pyro_vae.data import Dataset
from pyro_vae.infer.engine.repeated import CALLS_BEFORE_A_GRAPH, Checked
from pyro_vae.infer.engine.rewriting import recorded
from pyro_vae.infer.posterior import posterior_means
from pyro_vae.infer.terms import dataset_terms
from pyro_vae.programs.running import measuring
from pyro_vae.training.validation import Validation

Run = Callable[[], Any]


@contextlib.contextmanager
def as_it_is() -> Iterator[None]:
    """Have every call run the programs."""
    with mock.patch.object(Checked, "__call__", lambda self, *inputs: self.function(*inputs)):
        yield


def eagerly(run: Run) -> Run:
    """``run`` without any recording."""

    def again() -> Any:
        with as_it_is():
            return run()

    return again


def validation(pair: tuple, data: Dataset) -> dict[str, Run]:
    """After so many epochs that all batches are recorded."""
    both = {
        name: Validation(*pair, data, infer.TraceELBO("mean"), replay=replay)
        for name, replay in (("eager", False), ("pyro_vae", True))
    }
    with mock.patch.object(both["pyro_vae"].graph, "after", 1):
        for _ in range(4):
            both["pyro_vae"]()
    return dict(both)


def means(pair: tuple, data: Dataset) -> dict[str, Run]:
    """Before, what ``encode`` draws was thrown away."""

    def drawn() -> Tensor:
        with measuring(*pair, device=data.device):
            parts = [infer.encode(pair[1], x).mean["z1"] for x, _ in data.batches(1000)]
        return torch.cat(parts)

    return {"eager": drawn, "pyro_vae": lambda: posterior_means(pair[1], data)["z1"]}


def sampling(model: Any, n: int) -> dict[str, Run]:
    """``model.sample(n)`` and what it would be recorded."""

    def draw(_: Tensor) -> Tensor:
        return poutine.trace(model).get_trace(size=n).nodes["x"]["value"]

    nothing = next(model.parameters()).new_zeros(1)
    with measuring(model, device=nothing.device), pyro.validation_enabled(False):
        start = time.perf_counter()
        graph, constants = recorded(draw, (nothing,))
        print(f"recording sample({n}): {time.perf_counter() - start:.2f} s")

    def again() -> Tensor:
        with measuring(model, device=nothing.device):
            return graph.forward(nothing, *constants)

    return {"eager": lambda: model.sample(n), "replayed": again}


def main(argv: list[str] | None = None) -> None:
    """Check that both give the same, then time them."""
    parser = timing.arguments(__doc__.splitlines()[0], rounds=5)
    parser.add_argument("system", choices=SYSTEMS, nargs="?", default="one-layer")
    parser.add_argument("--data", type=int, default=10000)
    parser.add_argument("--samples", type=int, default=100)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    x = SYSTEMS[options.system].data(options.data, options.device)
    pair, data = on(SYSTEMS[options.system].build(), options.device), Dataset(x)

    def terms(n: int, samples: int) -> Tensor:
        return infer.elbo_terms(*pair, x[:n], samples=samples).elbo

    def both(run: Run) -> dict[str, Run]:
        return {"eager": eagerly(run), "pyro_vae": run}

    few, many = options.samples, options.samples * 10
    jobs = {
        f"validation of {len(x)}": validation(pair, data),
        f"elbo_terms of 100, {few} samples": both(lambda: terms(100, few)),
        f"elbo_terms of 100, {many} samples": both(lambda: terms(100, many)),
        f"bound of {len(x)} in batches of 500": both(
            lambda: dataset_terms(*pair, data, batch_size=500).elbo
        ),
        f"posterior means of {len(x)}": means(pair, data),
        "collapse, 1000 data": both(lambda: diagnostics.collapse(*pair, x[:1000]).whole.kl),
        "sample(16)": sampling(pair[0], 16),
        f"sample({len(x)})": sampling(pair[0], len(x)),
    }
    rows = []
    for job, runs in jobs.items():
        results = []
        for run in runs.values():
            with torch.random.fork_rng([x.device] if x.is_cuda else []):
                torch.manual_seed(2)
                results.append(run())
        first, second = results
        same = torch.equal(first, second) if isinstance(first, Tensor) else first == second
        if not same:
            raise SystemExit(f"{job}: the results differ")
        times = timing.alternating(runs, options.steps, options.device)
        for row in timing.compared(times, ["eager"]):
            rows.append({**row, "name": f"{job}: {row['name']}"})
    print(f"recorded after {CALLS_BEFORE_A_GRAPH} calls")
    title = f"Evaluation, {options.system}, {options.steps} rounds"
    timing.report(title, rows, options)


if __name__ == "__main__":
    main()
