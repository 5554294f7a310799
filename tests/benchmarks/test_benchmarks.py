"""Every benchmark runs and writes its numbers; their values are not judged here."""

import json
import math
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import alone
import calls
import contestants
import gpu
import importance_time
import pytest
import torch
from peaks import peaks
from systems import SYSTEMS
from torch.utils.flop_counter import FlopCounterMode

from pyro_vae import ranks

HERE = Path(__file__).parent
TINY = {
    "evaluation_time": ["--data", "500", "--samples", "11", "--steps", "1"],
    "step_time": ["--batch-size", "8", "--steps", "3"],
    "importance_time": ["--data", "3", "--samples", "400", "--steps", "1"],
    "fit_overhead": ["--batches", "2", "--steps", "2"],
    "gradients": ["--particles", "1", "--draws", "3", "--steps", "1"],
    "growth": ["--values", "1", "--steps", "1"],
    "epoch_time": ["--size", "512", "--steps", "1"],
    "calls": [],
    "start_time": ["--steps", "1"],
    "time_to_bound": ["--steps", "1", "--bound", "-1000"],
    "old_and_new": [str(HERE.parents[1]), "--engine", "eager", "--steps", "2"],
}
needs_mnist = pytest.mark.skipif(
    "PYRO_VAE_DATA" not in os.environ, reason="needs MNIST at PYRO_VAE_DATA"
)


def run(script, path, *more):
    command = [sys.executable, str(HERE / f"{script}.py"), *TINY[script], "--threads", "1", *more]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent.parent)}
    result = subprocess.run(
        [*command, "--json", str(path)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, json.loads(path.read_text())


@pytest.mark.parametrize(
    "script",
    [
        "step_time",
        pytest.param("importance_time", marks=pytest.mark.slow),
        pytest.param("evaluation_time", marks=pytest.mark.slow),
        pytest.param("gradients", marks=pytest.mark.slow),
        pytest.param("fit_overhead", marks=pytest.mark.slow),
        pytest.param("old_and_new", marks=pytest.mark.slow),
    ],
)
def test_a_benchmark_prints_a_table_and_writes_its_numbers(script, tmp_path):
    check(*run(script, tmp_path / "numbers.json"))


def check(table, numbers):
    assert numbers["machine"]["threads"] == 1 and numbers["machine"]["torch"]
    assert all(row["ms"] > 0 for row in numbers["rows"])
    for row in numbers["rows"]:
        assert f"| {row['name']} | " in table


def test_a_benchmark_runs_in_a_process_that_has_imported_all(tmp_path, capsys):
    path = tmp_path / "numbers.json"
    importance_time.main([*TINY["importance_time"], "--threads", "1", "--json", str(path)])
    check(capsys.readouterr().out, json.loads(path.read_text()))


def test_calls_are_those_of_the_package_alone():
    assert calls.of(lambda: (ranks.rank(), ranks.rank())).files["ranks.py"] >= 2
    assert not calls.of(lambda: torch.nn.Linear(2, 2)(torch.ones(2))).files
    assert not calls.of(int).files


@pytest.mark.slow
def test_calls_are_few(tmp_path):
    _, numbers = run("calls", tmp_path / "numbers.json")
    for row in numbers["rows"]:
        assert 0 < row["calls"] <= (row["at most"] or math.inf), row
        assert 0 < row["files"] <= (row["files, at most"] or math.inf), row


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_contestants_take_the_same_steps_and_others_are_found_out(system):
    with contestants.exact():
        x = system.data(8)
        contestants.check_equal(contestants.contestants(system), x)
        for wrong in ({"lr": 1.001e-3}, {"compile": lambda loss: lambda x: 1.000001 * loss(x)}):
            steps = {
                contestants.STOCK: contestants.contestants(system)[contestants.STOCK],
                "wrong": contestants.hand_written(system, **wrong),
            }
            with pytest.raises(AssertionError, match="wrong"):
                contestants.check_equal(steps, x)
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("name", [name for name, system in SYSTEMS.items() if system.linear])
def test_the_arithmetic_is_that_of_the_step(name):
    system, flops = SYSTEMS[name], []
    x = system.data(8)
    for make in (contestants.hand_written, contestants.arithmetic):
        step = make(system)
        step(x)
        with FlopCounterMode(display=False) as counter:
            step(x)
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1] > 8 * 1e6


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_contestants_take_the_same_steps_on_a_gpu(system):
    with contestants.exact():
        steps = contestants.contestants(system, "cuda", compiled=True)
        contestants.check_equal(steps, system.data(8, "cuda"))


def test_a_peak_is_that_of_the_work_and_not_an_earlier_one():
    # In a process of its own, whose allocator holds nothing from other tests
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        first, second, _ = pool.apply(peaks)
    if first is None:
        pytest.skip("a process may not reset its peak here")
    assert first == pytest.approx(64, abs=4)
    assert second < 4


@pytest.mark.parametrize(
    "parts",
    [
        ["equality with the CPU", "nccl, one process", "two streams"],
        pytest.param([], marks=[pytest.mark.slow, needs_mnist]),
    ],
    ids=["quick", "all"],
)
def test_what_a_gpu_changes_has_a_twin_on_the_cpu(parts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = tmp_path / "gpu.json"
    assert gpu.main([*(["--only", *parts] if parts else []), "--json", str(path)]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert found == json.loads(path.read_text()) and found["in small"] is True
    assert list(found["parts"]) == (parts or list(gpu.PARTS))
    assert all(part["rows"] for part in found["parts"].values())
    assert "no GPU" in told.err


def test_a_part_that_fails_is_told_and_the_others_run(monkeypatch, capsys):
    def fails(device, small):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(gpu, "PARTS", {"a": fails, "b": lambda device, small: [{"name": "b"}]})
    assert gpu.main([]) == 1
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert parts["a"]["failed"] == "no such kernel" and parts["b"]["rows"] == [{"name": "b"}]
    monkeypatch.setattr(gpu, "LIMIT", -1.0)
    assert gpu.main([]) == 0
    assert "not begun" in json.loads(capsys.readouterr().out)["parts"]["b"]["left out"]


@pytest.mark.slow
def test_growth_is_measured_in_fresh_processes(tmp_path):
    _, numbers = run("growth", tmp_path / "numbers.json")
    assert [row["quantity"] for row in numbers["rows"]] == [
        "layers",
        "batch",
        "latents",
        "particles",
        "samples of log p(x)",
        "length",
        "layers, recomputed",
        "guides compared",
        "rows of a file",
        "processes",
    ]
    # Weights, gradients and two moments of 784-200-2-200-784
    assert all(row["peak MB"] > 4 * 4 * 318_000 / 2**20 for row in numbers["rows"][:4])


@pytest.mark.slow
@pytest.mark.parametrize("system", ["convolutional", "ladder", "gru", "transformer"])
def test_other_systems(system, tmp_path):
    run("step_time", tmp_path / "numbers.json", system)


@pytest.mark.slow
def test_compiled_contestants(tmp_path):
    run("step_time", tmp_path / "numbers.json", "--compile")


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", ["start_time", pytest.param("time_to_bound", marks=needs_mnist)]
)
def test_scripts_have_processes_of_their_own(script, tmp_path):
    table, numbers = run(script, tmp_path / "numbers.json")
    assert [row["name"] for row in numbers["rows"]] == alone.here()
    for row in numbers["rows"]:
        assert 0 < row["processor s"] and f"| {row['name']} | " in table
        assert row.get("bound", 0) > -1000


@pytest.mark.parametrize("script", [alone.OURS, alone.BY_HAND, alone.SCRIPT])
def test_scripts_take_a_step_of_the_same_bound(script):
    # Of untrained networks that see 0 and 1 at random it is near 784 log 0.5
    (bound,) = alone.SCRIPTS[script]("-", 0.0, 0)
    assert bound == pytest.approx(784 * math.log(0.5), abs=10)


@pytest.mark.slow
@needs_mnist
def test_an_epoch(tmp_path):
    _, numbers = run("epoch_time", tmp_path / "numbers.json")
    assert len(numbers["rows"]) == 2


@pytest.mark.slow
@needs_mnist
def test_one_run_of_many_epochs(tmp_path):
    _, numbers = run("epoch_time", tmp_path / "numbers.json", "--epochs", "3")
    (row,) = numbers["rows"]
    assert row["steps"] == 3 * 4
    assert row["ms"] == pytest.approx(1e3 * row["seconds"] / 12)
