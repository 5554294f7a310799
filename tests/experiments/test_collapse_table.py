import json

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
    options = {"seed": 0, "width": 16, "channels": 6, "event_shape": (1, 8, 8), "device": None}
    cell = {"decoder": "MLP", "latents": 3, "depth": 4}
    counts = []
    for skip in (0, 1):
        trainer = experiment.build({**cell, "skip": skip}, **options)
        assert trainer.model.skip == bool(skip) and len(trainer.model.decoder.layers) == 5
        counts.append(sum(p.numel() for p in trainer.model.parameters()))
    assert counts[1] - counts[0] == 3 * 16 * 3 + 3 * 64
    cell = {"decoder": "PixelCNN", "latents": 3, "depth": 2, "skip": 1}
    decoder = experiment.build(cell, **options).model.decoder
    assert isinstance(decoder, PixelDecoder) and decoder.pixels.arguments["width"] == 6


def test_pooled_pictures_under_the_masked_decoder_alone(small, tmp_path, capsys):
    argv = ["--quick", "--out", str(tmp_path), "--threads", "1", "--seeds", "0", "1"]
    assert experiment.main([*argv, "--decoders", "PixelCNN", "--size", "14"]) == 0
    text = capsys.readouterr().out
    assert "\n- epochs 3 in place of 100\n- the encoder" in text
    assert "data mnist, 14 x 14" in text and not (tmp_path / "curves.png").exists()
    held = json.loads((tmp_path / "results.json").read_text())
    rows = {(row["skip"], row["seed"]): row for row in held["rows"]}
    (found,) = (row for row in held["estimates"] if row["skip"] == 1)
    for entry in ("ELBO", "KL", "MI", "AU"):
        gains = [rows[1, seed][entry] - rows[0, seed][entry] for seed in (0, 1)]
        assert found[f"{entry} - VAE"][0] == pytest.approx(sum(gains) / 2, rel=1e-4, abs=1e-6)
    gain, error = found["ELBO - VAE"]
    assert f"| PixelCNN | 2 | 20 | {gain:.2f} +- {error:.2f} |" in text
    with pytest.raises(ValueError, match=r"--size: expected a divisor of the sides of \(1, 28"):
        experiment.main([*argv, "--size", "13"])
