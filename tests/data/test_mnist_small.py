"""The part of MNIST that comes with the library."""

import os
from pathlib import Path

import pytest
import torch

from pyro_vae import data
from pyro_vae.data import sources

FILE = Path(sources.__file__).parent / "bundled" / "mnist-small.npz"


def test_it_is_small_and_needs_no_files_of_a_persons_own(tmp_path):
    assert FILE.stat().st_size < 900_000
    assert "Attribution-Share Alike" in (FILE.with_suffix(".md")).read_text()
    d = data.load("mnist-small", root=tmp_path)
    assert (len(d.train), len(d.test)) == (4000, 1000)
    assert (d.event_shape, d.kind, d.train.binarize) == ((1, 28, 28), "image", "dynamic")
    assert d.labels == tuple("0123456789")
    x, y = next(d.train.batches(32))
    assert set(x.unique().tolist()) == {0.0, 1.0} and y.dtype == torch.int64


@pytest.mark.skipif("PYRO_VAE_DATA" not in os.environ, reason="needs MNIST")
def test_it_is_the_beginning_of_mnist():
    small, whole = data.load("mnist-small"), data.load("mnist")
    assert small.labels == whole.labels
    for part in ("train", "test"):
        ours, theirs = getattr(small, part), getattr(whole, part)
        assert torch.equal(ours.replace(binarize=None).x, theirs.x[: len(ours)])
        assert torch.equal(ours.y, theirs.y[: len(ours)])
