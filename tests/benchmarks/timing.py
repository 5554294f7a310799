"""What the benchmarks share: alternating measurements, the machine, a table, a JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch


def machine(threads: int, device: str = "cpu") -> dict[str, Any]:
    """What the numbers were measured on."""
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "gpu": None if device == "cpu" else torch.cuda.get_device_name(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
    }


def arguments(description: str, *, rounds: int) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--steps", type=int, default=rounds, help="alternating repetitions")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    return parser


def synchronize(device: str) -> None:
    """Wait until a GPU has done all that it was told to."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: str = "cpu") -> float:
    """Of one call, until the device is done."""
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def alternating(
    contestants: dict[str, Callable[[], object]], rounds: int, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of each call, one contestant after the other, so that load touches all alike."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            times[name].append(seconds(run, device))
    return times


def compared(times: dict[str, list[float]], bases: Sequence[str]) -> list[dict[str, Any]]:
    """A row per contestant: median seconds, and median ratio to each base of the same round."""
    rows = []
    for name, values in times.items():
        row: dict[str, Any] = {"name": name, "ms": 1e3 * statistics.median(values)}
        for base in bases:
            ratios = (a / b for a, b in zip(values, times[base], strict=True))
            row[f"/ {base}"] = statistics.median(ratios)
        rows.append(row)
    return rows


def report(title: str, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """A Markdown table on standard output, and the JSON file that was asked for."""
    on = machine(options.threads, options.device)
    print(f"{title}\n\n" + ", ".join(f"{k} {v}" for k, v in on.items() if v is not None) + "\n")
    columns = list(rows[0])
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        filled = ("" if v is None else v for v in row.values())
        cells = (f"{v:.2f}" if isinstance(v, float) else str(v) for v in filled)
        print("| " + " | ".join(cells) + " |")
    if options.json:
        options.json.write_text(
            json.dumps({"title": title, "machine": on, "rows": rows}, indent=1)
        )
