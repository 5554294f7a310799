import pytest
import torch

from pyro_vae import data
from pyro_vae.data import Dataset, DataSplits
from pyro_vae.experiments import NAMES
from pyro_vae.experiments import collapse as experiment
from pyro_vae.models import PixelDecoder


@pytest.fixture
def small(monkeypatch):
    torch.manual_seed(0)
    train, test = ((torch.rand(n, 1, 28, 28) < 0.2).float() for n in (100, 40))
    splits = DataSplits("mnist", Dataset(train), Dataset(test))
    monkeypatch.setattr(data, "load", lambda *args, **kwargs: splits)


def test_quick_run_writes_table_and_curves_and_goes_on_where_it_stopped(small, tmp_path, capsys):
    argv = ["--quick", "--out", str(tmp_path), "--threads", "1"]
    assert experiment.main([*argv, "--decoders", "MLP"]) == 0
    first = (tmp_path / "table.md").read_text()
    assert experiment.main(argv) == 0
    text = (tmp_path / "table.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith(("| VAE", "| Skip-VAE"))]
    # Sizes 2 and 20 at depth 2, depths 1 and 3 at size 20, the PixelCNN; each twice
    assert len(rows) == 10 and sum("PixelCNN" in row for row in rows) == 2
    assert all(line in text for line in first.splitlines() if line.startswith("| VAE"))
    assert "log N = 3.69" in text and "differs from the paper" in text
    assert text in capsys.readouterr().out
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert "collapse" in NAMES


def test_systems_differ_in_what_they_say():
    options = {"seed": 0, "width": 16, "event_shape": (1, 8, 8), "device": None}
    cell = {"decoder": "MLP", "latents": 3, "depth": 4}
    counts = []
    for skip in (0, 1):
        trainer = experiment.build({**cell, "skip": skip}, **options)
        assert trainer.model.skip == bool(skip) and len(trainer.model.decoder.layers) == 5
        counts.append(sum(p.numel() for p in trainer.model.parameters()))
    assert counts[1] - counts[0] == 3 * 16 * 3 + 3 * 64
    cell = {"decoder": "PixelCNN", "latents": 3, "depth": 2, "skip": 1}
    assert isinstance(experiment.build(cell, **options).model.decoder, PixelDecoder)
