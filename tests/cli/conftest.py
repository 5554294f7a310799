"""Runs that the tests of commands share."""

import pytest
from small import TINY, images

from pyro_vae.cli import main, training


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "new" / "digits"
    argv = ["train", "--epochs", "2", "--hidden", "16", "--latents", "3", "--batch-size", "256"]
    assert main([*argv, "--importance-samples", "20", "--out", str(out), "--quiet"]) == 0
    return out


@pytest.fixture(scope="session")
def conditional(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conditional")
    images(folder / "images.npz")
    argv = ["train", "--data", str(folder / "images.npz"), "--conditional", *TINY]
    assert main([*argv, "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def no_report(monkeypatch):
    monkeypatch.setattr(training, "write_report", lambda *args, **kwargs: None)
