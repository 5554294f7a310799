"""All that a GPU changes, on one device: tests, step times, precisions, memory, NCCL.

Run: PYRO_VAE_DATA=... python tests/benchmarks/gpu.py [--json FILE]

One JSON is printed: of each part its rows, or why it has none, and its seconds. It takes less than
8 minutes: what has not begun by then is told. Without a device all parts run on the CPU in small,
so that none is broken once a device is there, and their numbers are not kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import memory
import timing
import torch
import torch.distributed as dist
from contestants import exact
from pyro import poutine
from systems import SYSTEMS, on

from pyro_vae import Trainer, infer
from pyro_vae.data import Dataset

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LIMIT = 8 * 60.0
Rows = list[dict[str, Any]]


def benchmark(script: str, *arguments: str) -> Callable[[str, bool], Rows]:
    """The rows of another program of this folder; in small with the tests' own arguments."""

    def rows(device: str, small: bool) -> Rows:
        given = [*arguments, *(SMALL[script] if small else ())]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "rows.json")
            command = [sys.executable, str(HERE / f"{script}.py"), *given, "--device", device]
            run([*command, "--threads", str(torch.get_num_threads()), "--json", str(file)])
            return json.loads(file.read_text())["rows"]

    return rows


SMALL = {
    "step_time": ["--batch-size", "8", "--steps", "2"],
    "evaluation_time": ["--data", "100", "--samples", "3", "--steps", "1"],
    "epoch_time": ["--size", "256", "--steps", "1"],
}


def run(command: list[str]) -> str:
    """What a program prints; ``RuntimeError`` with its last lines where it fails."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    found = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    if found.returncode:
        raise RuntimeError("\n".join((found.stdout + found.stderr).splitlines()[-20:]))
    return found.stdout


def tests(device: str, small: bool) -> Rows:
    """Those that need a GPU; without one they are collected, and skipped."""
    files = [str(f) for f in sorted(ROOT.glob("tests/**/test_*.py")) if "cuda" in f.read_text()]
    options = ["-q", "-p", "no:cacheprovider", "-m", "slow or not slow", "-k", "cuda or gpu"]
    printed = run([sys.executable, "-m", "pytest", *options, *files])
    return [{"name": "tests", "outcome": printed.splitlines()[-1].strip("= ")}]


def fit(device: str, data: Dataset, precision: str = "float32", *, epochs: int = 1) -> Trainer:
    """The five-layer ladder on some data."""
    pair = on(SYSTEMS["ladder"].build(), device)
    trainer = Trainer(*pair, seed=0, device=device, precision=precision)
    return trainer.fit(data, epochs=epochs, batch_size=256, progress=False)


def images(device: str, size: int) -> Dataset:
    """Random binary data of MNIST's shape."""
    return Dataset(SYSTEMS["ladder"].data(size, device))


def precisions(device: str, small: bool) -> Rows:
    """An epoch in single precision, with TF32 units, and under autocast to bfloat16."""
    few, many = images(device, 512), images(device, 512 if small else 60_000)
    rows = []
    for precision in ("float32", "tf32", "bf16"):
        fit(device, few, precision)
        peak = memory.Peak(device)
        start = time.perf_counter()
        trainer = fit(device, many, precision)
        ms = 1e3 * (time.perf_counter() - start) / trainer.step
        bound = trainer.history[-1]["elbo"]
        rows.append({"name": precision, "ms": ms, "MB": peak.megabytes(), "bound, nats": bound})
    return rows


def many_epochs(device: str, small: bool) -> Rows:
    """100 epochs of 60,000 images, and what 2000 would take."""
    epochs, data = (2, images(device, 512)) if small else (100, images(device, 60_000))
    seconds = timing.seconds(lambda: fit(device, data, epochs=epochs), device)
    minutes = seconds / epochs * 2000 / 60
    return [{"name": "ladder", "epochs": epochs, "s": seconds, "2000 epochs, minutes": minutes}]


def two_streams(device: str, small: bool) -> Rows:
    """Steps of two pairs, one after the other and each in a stream of its own."""
    system = SYSTEMS["one-layer"]
    x = system.data(None, device)
    steps = 2 if small else 200
    pairs = [infer.SVI(*on(system.build(), device), engine="graph") for _ in range(2)]
    streams = [contextlib.nullcontext()] * 2
    if device != "cpu":
        streams = [torch.cuda.stream(torch.cuda.Stream(device)) for _ in pairs]

    def together() -> None:
        for _ in range(steps):
            for svi, stream in zip(pairs, streams, strict=True):
                with stream:
                    svi.step(x)

    def in_turn() -> None:
        for svi in pairs:
            for _ in range(steps):
                svi.step(x)

    runs = {"in turn": in_turn, "two streams": together}
    timing.alternating(runs, 1, device)
    return timing.compared(timing.alternating(runs, 3, device), ["in turn"])


def one_process(device: str, small: bool) -> Rows:
    """What processes tell each other arrives, in a group of one."""
    backend = "gloo" if device == "cpu" else "nccl"
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(
            backend, init_method=f"file://{folder}/group", rank=0, world_size=1
        )
        try:
            given = torch.arange(3.0, device=device)
            value, gathered = given.clone(), [torch.empty_like(given)]
            dist.all_reduce(value)
            dist.broadcast(value, 0)
            dist.all_gather(gathered, value)
        finally:
            dist.destroy_process_group()
    if not (torch.equal(value, given) and torch.equal(gathered[0], given)):
        raise RuntimeError(f"{backend}: sent {given.tolist()}, arrived {gathered[0].tolist()}")
    return [{"name": backend, "arrived": gathered[0].tolist()}]


def equality(device: str, small: bool) -> Rows:
    """Posterior means and log joint densities are those of the CPU, in double precision."""
    rows = []
    for name, system in SYSTEMS.items():
        with exact(), torch.no_grad():
            torch.manual_seed(1)
            x, found = system.data(16), []
            for place in ("cpu", device):
                model, guide = on(system.build(), place)
                z = infer.encode(guide, x.to(place)).mean
                trace = poutine.trace(poutine.condition(model, data=z)).get_trace(x.to(place))
                trace.compute_log_prob()
                found.append([*z.values(), trace.nodes["x"]["log_prob"]])
        apart = max(float((a - b.cpu()).abs().max()) for a, b in zip(*found, strict=True))
        if not apart <= 1e-8:
            raise RuntimeError(f"{name}: the device differs by {apart}")
        rows.append({"name": name, "largest difference": apart})
    return rows


PARTS: dict[str, Callable[[str, bool], Rows]] = {
    "tests": tests,
    "equality with the CPU": equality,
    "nccl, one process": one_process,
    "ladder, step": benchmark("step_time", "ladder", "--compile", "--steps", "100"),
    "one layer, step": benchmark("step_time", "one-layer", "--compile", "--steps", "100"),
    "convolutional, step": benchmark("step_time", "convolutional", "--steps", "50"),
    "precision and memory": precisions,
    "two streams": two_streams,
    "evaluation": benchmark("evaluation_time", "--steps", "3"),
    "100 epochs": many_epochs,
    "an epoch of MNIST": benchmark("epoch_time", "--steps", "3"),
}


def main(argv: list[str] | None = None) -> int:
    """Run all parts, print their rows as JSON, and tell which failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--json", type=Path, help="write the JSON to this file, too")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS), metavar="PART")
    options = parser.parse_args(argv)
    there = torch.cuda.is_available()
    device = "cuda" if there else "cpu"
    if not there:
        print("no GPU: all parts run on the CPU, in small", file=sys.stderr)
    start, found = time.perf_counter(), {}
    for name in options.only:
        began = time.perf_counter()
        if began - start > LIMIT:
            found[name] = {"left out": f"it had not begun after {LIMIT:.0f} s"}
            continue
        try:
            found[name] = {"rows": PARTS[name](device, not there)}
        except Exception as error:
            found[name] = {"failed": str(error) or type(error).__name__}
        found[name]["seconds"] = round(time.perf_counter() - began, 1)
        print(f"{name}: {found[name]['seconds']} s", file=sys.stderr)
    machine = timing.machine(torch.get_num_threads(), device)
    text = json.dumps({"machine": machine, "in small": not there, "parts": found}, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text)
    return int(any("failed" in part for part in found.values()))


if __name__ == "__main__":
    sys.exit(main())
