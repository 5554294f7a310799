"""Kinds of data and the networks for them on the command line."""

import json

import numpy as np
import pytest
from small import images

from pyro_vae import load
from pyro_vae.cli import building, main

SHORT = ["--epochs", "1", "--latents", "2", "--importance-samples", "2"]


@pytest.fixture
def waves(tmp_path):
    time, phase = np.linspace(0, 6, 16), np.linspace(0, 6, 40)[:, None]
    np.save(tmp_path / "waves.npy", np.stack([np.sin(time + phase), np.cos(time + phase)], 1))
    return str(tmp_path / "waves.npy")


def test_a_kind_is_told_kept_and_found_again(waves, tmp_path, capsys, no_report):
    out = str(tmp_path / "run")
    argv = ["train", "--data", waves, "--kind", "signal", *SHORT, "--out", out]
    assert main(argv) == 0
    told = capsys.readouterr()
    assert "36 + 4 signals of shape (2, 16), values -1 to 1" in told.err
    model = load(tmp_path / "run" / "model.pt").model
    assert model.kind == "signal" and model.maps["dims"] == 1
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["kind"] == "signal"
    assert main(["evaluate", out, "--importance-samples", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == told.out.splitlines()[:-1]
    picture = str(tmp_path / "samples.png")
    assert main(["sample", out, "--out", picture]) == 0


def test_a_guess_is_told(waves, tmp_path, capsys, no_report):
    assert main(["train", "--data", waves, *SHORT, "--out", str(tmp_path / "run")]) == 0
    assert "pictures of shape (2, 16) (a guess: --kind signal for" in capsys.readouterr().err
    assert not load(tmp_path / "run" / "model.pt").model.maps


def test_networks_are_options(tmp_path, no_report):
    images(tmp_path / "images.npz")
    argv = ["train", "--data", str(tmp_path / "images.npz"), *SHORT, "--out", str(tmp_path)]
    assert main([*argv, "--channels", "4,8", "--blocks", "2", "--quiet"]) == 0
    maps = {"dims": 2, "channels": (4, 8), "blocks": 2}
    assert load(tmp_path / "model.pt").model.maps == maps
    assert main([*argv, "--blocks", "0", "--quiet"]) == 0
    assert load(tmp_path / "model.pt").model.maps == maps | {"channels": (32, 64), "blocks": 0}


def test_both_kinds_of_networks_are_refused(tmp_path, capsys):
    images(tmp_path / "images.npz")
    argv = ["train", "--data", str(tmp_path / "images.npz"), "--out", str(tmp_path / "run")]
    assert main([*argv, "--channels", "4", "--hidden", "8"]) == 2
    said = capsys.readouterr().err
    assert "--channels: expected one of dense and convolutional networks" in said
    assert "--hidden (8,)" in said


def test_memory_counts_the_maps_of_a_batch(tmp_path, monkeypatch, capsys, no_report):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 1, 64, 64)))
    argv = ["train", "--data", str(tmp_path / "x.npy"), *SHORT, "--out", str(tmp_path / "run")]
    argv += ["--channels", "4,4,4,4", "--blocks", "0"]
    monkeypatch.setattr(building, "free_memory", lambda device: 2 * 2**20)
    assert main([*argv, "--batch-size", "2"]) == 0
    capsys.readouterr()
    assert main([*argv, "--batch-size", "16"]) == 2
    assert "or lower --hidden or --latents, or --batch-size" in capsys.readouterr().err
    assert main([*argv, "--batch-size", "16", "--accumulate", "8"]) == 0
