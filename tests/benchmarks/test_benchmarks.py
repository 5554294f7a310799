"""Every benchmark runs and writes its numbers; their values are not judged here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TINY = {
    "step_time": ["one-layer", "--batch-size", "8", "--steps", "3"],
    "importance_time": ["--data", "3", "--samples", "40", "--steps", "1"],
    "evaluation_time": ["--data", "500", "--samples", "11", "--steps", "1"],
    "growth": ["--values", "1", "--steps", "1"],
}


def run(script, arguments, path):
    command = [sys.executable, str(HERE / f"{script}.py"), *arguments, "--threads", "1"]
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


@pytest.mark.parametrize("script", ["step_time", "importance_time", "evaluation_time"])
def test_a_benchmark_prints_a_table_and_writes_its_numbers(script, tmp_path):
    table, numbers = run(script, TINY[script], tmp_path / "numbers.json")
    assert numbers["machine"]["threads"] == 1 and numbers["machine"]["torch"]
    assert all(row["ms"] > 0 for row in numbers["rows"])
    for row in numbers["rows"]:
        assert f"| {row['name']} | " in table


@pytest.mark.slow
def test_growth_is_measured_in_fresh_processes(tmp_path):
    _, numbers = run("growth", TINY["growth"], tmp_path / "numbers.json")
    assert [row["quantity"] for row in numbers["rows"]] == [
        "layers",
        "batch",
        "latents",
        "particles",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("system", ["convolutional", "ladder"])
def test_other_systems(system, tmp_path):
    run("step_time", [system, "--batch-size", "8", "--steps", "2"], tmp_path / "numbers.json")


@pytest.mark.slow
@pytest.mark.skipif("PYRO_VAE_DATA" not in os.environ, reason="needs MNIST at PYRO_VAE_DATA")
def test_an_epoch(tmp_path):
    _, numbers = run("epoch_time", ["--size", "512", "--steps", "1"], tmp_path / "numbers.json")
    assert len(numbers["rows"]) == 2
