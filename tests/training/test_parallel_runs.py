"""Two processes that are interrupted go on as if they had not been."""

import json
import os
import signal
import time

import parallel_cases
import parallel_runs
import pytest
import torch

from pyro_vae import Trainer

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="needs torch.distributed"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    parallel_cases.finished(parallel_runs.__file__, folder, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def processes(folder):
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def assert_same(one, other):
    assert len(one["tensors"]) == len(other["tensors"])
    assert all(torch.equal(a, b) for a, b in zip(one["tensors"], other["tensors"], strict=True))
    assert one["rows"] == other["rows"] and one["step"] == other["step"]


def test_a_run_goes_on_to_the_last_bit_from_every_checkpoint(processes):
    """Random data and latents, in the middle of epochs; each process with its own numbers."""
    steps = parallel_runs.EPOCHS * parallel_runs.STEPS
    for results in processes:
        assert results["plain"]["step"] == steps
        assert_same(results["written"], results["plain"])
        assert len(results["again"]) == len(range(0, steps, parallel_runs.EVERY))
        for again in (*results["again"], results["read before"]):
            assert_same(again, results["plain"])
    streams = [results["plain"]["tensors"][-1] for results in processes]
    assert not torch.equal(*streams)


def test_a_finished_run_goes_on_with_more_epochs(processes):
    for results in processes:
        assert_same(results["more"], results["longer"])


@pytest.mark.parametrize(("name", "status"), [("SIGINT", None), ("SIGTERM", 143)])
def test_a_signal_to_one_process_ends_all_after_the_same_step(processes, name, status):
    left = [results[name][0] for results in processes]
    for results in processes:
        assert results[name][0]["step"] == 7 and results[name][0]["status"] == status
        assert_same(results[name][1], results["plain"])
    first, second = ({k: v for k, v in each["last"].items() if k != "seconds"} for each in left)
    assert first["interrupted"] and first == second


def test_a_disk_that_fills_up_is_an_error_in_all(processes):
    (first, _), (second, _) = (results["full"] for results in processes)
    assert first[1] == second[1] and "step-000000004.pt is still good" in first[1]
    assert first[0] == second[0] and first[2] == second[2] == 2 * parallel_runs.EVERY
    assert (first[3], second[3]) == (3, 0), "process 0 alone writes"
    for results in processes:
        assert_same(results["full"][1], results["plain"])


def test_what_is_wrong_with_a_folder_is_told_in_all(processes):
    first, second = (results["complaints"] for results in processes)
    assert first == second
    assert "holds the run of another trainer" in first[0]
    assert "checkpoint: expected the same in all 2 processes, got '" in first[1]


def test_another_number_of_processes_is_an_error(folder):
    t = Trainer.resume(folder / "full")
    with pytest.raises(ValueError, match=r"processes: expected 2, .* got 1: start 2, or read"):
        t.fit(parallel_runs.GREY, progress=False)


def newest(folder):
    return max((int(p.stem[5:]) for p in folder.glob("step-*.pt")), default=0)


def ended(process, checkpoints, kill):
    """Wait for some checkpoints and end the run."""
    end = time.monotonic() + 120
    while newest(checkpoints) < 40:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    kill(process, checkpoints)
    process.communicate(timeout=120)
    assert process.returncode != 0 and 40 <= newest(checkpoints) < 360


WAYS = {
    "SIGTERM to torchrun": lambda process, folder: process.terminate(),
    "SIGKILL to process 0": lambda process, folder: os.kill(
        int((folder / "lock").read_text()), signal.SIGKILL
    ),
}


@pytest.mark.slow
def test_torchrun_goes_on_with_a_run_that_was_ended(tmp_path):
    options = ["train", "--epochs", "30", "--hidden", "8", "--latents", "2", "--checkpoint", "20"]
    options += ["--importance-samples", "0", "--quiet"]
    parallel_cases.finished("-m", "pyro_vae", *options, "--out", "plain", cwd=tmp_path)

    def rows(name):
        found = json.loads((tmp_path / name / "history.json").read_text())
        return [{k: v for k, v in row.items() if k != "seconds"} for row in found]

    for name, kill in WAYS.items():
        process = parallel_cases.torchrun("-m", "pyro_vae", *options, "--out", name, cwd=tmp_path)
        try:
            ended(process, tmp_path / name / "checkpoints", kill)
        finally:
            process.terminate()
            process.wait()
        parallel_cases.finished("-m", "pyro_vae", "train", "--resume", name, cwd=tmp_path)
        assert rows(name) == rows("plain")
