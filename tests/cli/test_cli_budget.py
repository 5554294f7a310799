"""How long the command line evaluates, what it tells of that, and that a number repeats it."""

import functools
import json
import re
import sys
import warnings

import numpy as np
import pytest
import torch
from small import images

from pyro_vae import data, diagnostics, load
from pyro_vae.cli import groups, main, measuring
from pyro_vae.infer import Budget

SMALL = ["--epochs", "3", "--hidden", "8", "--latents", "2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run without --importance-samples, and what it told."""
    folder = tmp_path_factory.mktemp("budget")
    images(folder / "images.npz")
    argv = ["train", "--data", str(folder / "images.npz"), *SMALL]
    assert main([*argv, "--out", str(folder / "run"), "--quiet"]) == 0
    return folder / "run"


def evaluated(capsys, *argv):
    """What evaluate prints as JSON, and its notes."""
    assert main(["evaluate", *map(str, argv), "--json"]) == 0
    printed = capsys.readouterr()
    return json.loads(printed.out), printed.err


@pytest.fixture
def asked(monkeypatch):
    """The options of each evaluation."""
    found, evaluate = [], diagnostics.evaluate

    def noted(*args, **options):
        found.append(options)
        return evaluate(*args, **options)

    monkeypatch.setattr(diagnostics, "evaluate", noted)
    return found


def test_the_number_of_draws_repeats_the_evaluation_to_the_bit(trained, capsys):
    recorded = json.loads((trained / "run.json").read_text())["evaluation"]
    samples = recorded["importance_samples"]
    assert samples >= 225 and recorded["stopped_by"] in ("error", "samples")
    assert f"{samples} importance samples" in (trained / "report.html").read_text()
    assert 0 < recorded["importance_seconds"] < groups.LEAST_SECONDS + 5
    found, told = evaluated(capsys, trained)
    fixed, silence = evaluated(capsys, trained, "--importance-samples", samples)
    assert found["quantities"] == fixed["quantities"] == recorded["quantities"]
    assert found["importance_samples"] == fixed["importance_samples"] == samples
    assert f"log p(x): {samples} draws per datum in " in told
    assert f"--importance-samples {samples} gives the same numbers" in told
    assert "draws per datum" not in silence and fixed["stopped_by"] == "samples"
    trainer, splits = load(trained / "model.pt"), data.load(trained.parent / "images.npz")
    torch.manual_seed(0)
    options = {"reference": splits.train, "importance_samples": samples}
    with warnings.catch_warnings(action="ignore"):
        ours = diagnostics.evaluate(trainer.model, trainer.guide, splits.test, **options)
    assert ours.to_dict() == found["quantities"]


def test_as_long_as_training_took_and_no_shorter_than_ten_seconds(trained, tmp_path, asked):
    argv = ["evaluate", "MODEL", "--data", str(trained.parent / "images.npz")]
    trainer = load(trained / "model.pt")
    for seconds, expected in (([7.5, 9.0, 8.0], 24.5), ([1.0, 2.0, 3.0], 10.0), ([], 10.0)):
        for row, time in zip(trainer.history, seconds or [None] * 3, strict=True):
            row["seconds"] = time
            if time is None:
                del row["seconds"]
        trainer.save(tmp_path / "model.pt")
        argv[1] = str(tmp_path / "model.pt")
        assert main(argv) == 0
        assert asked.pop()["importance_samples"] == Budget(seconds=expected)


@pytest.mark.parametrize(
    ("least", "limits", "told"),
    [
        (0.0, {}, "25 draws per datum in 0 s, about as long as training took, or 0 s;"),
        (1e6, {"samples": 60}, "60 draws per datum in 0 s, the most there are by default;"),
        (1e6, {"error": 9.0}, "243 draws per datum in 0 s, until their error was below a fifth"),
    ],
    ids=["time", "samples", "error"],
)
def test_what_ended_it_is_told(least, limits, told, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(groups, "LEAST_SECONDS", least)
    monkeypatch.setattr(measuring, "Budget", functools.partial(Budget, **limits))
    trainer = load(trained / "model.pt")
    trainer.history.clear()
    trainer.save(tmp_path / "model.pt")
    source = trained.parent / "images.npz"
    found, notes = evaluated(capsys, tmp_path / "model.pt", "--data", source)
    assert f"pyro-vae: note: log p(x): {told}" in notes
    numbers = re.search(r"; (\S+) \+- (\S+) over the data, Monte Carlo error (\S+);", notes)
    log_p = found["quantities"]["log p(x)"]
    expected = log_p["mean"], log_p["standard_error"]
    assert [*map(float, numbers.groups()[:2])] == pytest.approx(expected, abs=0.006)
    assert 0 < float(numbers[3]) < 1


@pytest.mark.parametrize("quiet", [[], ["--quiet"]], ids=["told", "quiet"])
@pytest.mark.parametrize("samples", [[], ["--importance-samples", "30"]], ids=["default", "30"])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_bar_on_a_terminal(
    quiet, samples, terminal, tmp_path, capsys, monkeypatch, no_report, asked
):
    images(tmp_path / "images.npz")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    argv = ["train", "--data", str(tmp_path / "images.npz"), *SMALL, *quiet, *samples]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().err
    assert ("log p(x): 100%|" in told) == (terminal and not quiet)
    assert ("draws per datum" in told) == (not quiet and not samples)
    assert bool(told) != bool(quiet)


def test_nothing_is_told_where_there_are_no_draws(trained, tmp_path, capsys):
    found, told = evaluated(capsys, trained, "--importance-samples", "0")
    assert found["importance_samples"] == 0 and told == ""
    assert not {"stopped_by", "importance_seconds"} & found.keys()
    argv = ["train", "--data", str(trained.parent / "images.npz"), *SMALL, "--guide", "delta"]
    assert main([*argv, "--beta", "0", "--out", str(tmp_path / "run")]) == 0
    assert "draws per datum" not in capsys.readouterr().err
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())["evaluation"]
    assert recorded["importance_samples"] == 0 and "stopped_by" not in recorded


def test_one_datum_to_evaluate(tmp_path, capsys, monkeypatch, no_report):
    monkeypatch.setattr(groups, "LEAST_SECONDS", 0.0)
    np.savez(tmp_path / "one.npz", x_train=np.eye(6), x_test=np.eye(6)[:1])
    argv = ["train", "--data", str(tmp_path / "one.npz"), *SMALL, "--out", str(tmp_path / "run")]
    assert main(argv) == 0
    assert "over the data, Monte Carlo error" in (told := capsys.readouterr().err)
    assert "nan" not in told
