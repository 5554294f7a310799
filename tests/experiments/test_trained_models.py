"""Trained models that lie beside the experiments can be read, are small, and are not installed."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

import pyro_vae
from pyro_vae import Trainer, diagnostics, experiments
from pyro_vae.experiments import ladder_mnist

ROOT = Path(__file__).parents[2]
FOLDER = Path(experiments.__file__).parent / "trained"
LARGEST = 8 * 2**20


def measured(path):
    """The bound of the pair in a file, a trainer's or a guide's with its model, on blank data."""
    assert path.stat().st_size < LARGEST
    found = pyro_vae.load(path)
    model, guide = found.model, found.guide if isinstance(found, Trainer) else found
    x = torch.zeros(3, *model.event_shape)
    return float(diagnostics.evaluate(model, guide, x, importance_samples=0).terms.elbo.mean())


@pytest.mark.parametrize("kind", ["trainer", "guide"])
def test_the_largest_model_of_the_ladder_is_small_enough(kind, tmp_path):
    trainer = ladder_mnist.build(ladder_mnist.SYSTEMS["LVAE+BN+WU"], 5, epochs=1)
    pyro_vae.save(trainer if kind == "trainer" else trainer.guide, tmp_path / "a.pt")
    assert measured(tmp_path / "a.pt") < 0
    # With the optimizer's state, which nobody needs to measure it, it is not
    trainer.fit(torch.zeros(4, 1, 28, 28), epochs=1, progress=False)
    trainer.save(tmp_path / "b.pt")
    assert (tmp_path / "b.pt").stat().st_size > LARGEST


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*")), ids=lambda path: path.name)
def test_trained_models_can_be_read(path):
    assert measured(path) < 0


def test_results_are_in_the_source_and_neither_they_nor_models_in_the_wheel(tmp_path):
    pytest.importorskip("setuptools")
    source = tmp_path / "source"
    for name in ("pyproject.toml", "setup.cfg", "MANIFEST.in", "README.md", "LICENSE"):
        put(source / name, (ROOT / name).read_bytes())
    results = sorted(FOLDER.parent.glob("results/*.json"))
    for path in (FOLDER.parent / "README.md", FOLDER.parent / "__init__.py", *results):
        put(source / path.relative_to(ROOT), path.read_bytes())
    put(source / "pyro_vae" / "__init__.py", b"")
    put(source / "pyro_vae" / "version.py", (ROOT / "pyro_vae" / "version.py").read_bytes())
    put(source / "pyro_vae" / "experiments" / "trained" / "a.pt", b"")
    build = "from setuptools import build_meta as b; b.build_sdist('..'); b.build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    installed = zipfile.ZipFile(wheel).namelist()
    assert "pyro_vae/experiments/__init__.py" in installed
    assert not [name for name in installed if name.endswith((".pt", ".json"))]
    with tarfile.open(sdist) as archive:
        shipped = archive.getnames()
    assert {path.name for path in results} == {
        Path(name).name for name in shipped if name.endswith(".json")
    }
    assert not [name for name in shipped if name.endswith(".pt")]


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
