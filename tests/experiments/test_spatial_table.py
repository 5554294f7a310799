"""The experiment with ladders of maps."""

import json

import pytest
import torch

from pyro_vae import data
from pyro_vae.data import Dataset, DataSplits
from pyro_vae.experiments import spatial as experiment


@pytest.mark.parametrize("grey", [True, False])
def test_quick_run_writes_the_table(monkeypatch, tmp_path, capsys, grey):
    torch.manual_seed(0)
    if grey:
        train = Dataset(torch.rand(40, 1, 8, 8), binarize="dynamic")
        test = Dataset(torch.rand(33, 1, 8, 8).round())
    else:
        shape = (3, 8, 8)
        train, test = (Dataset(torch.randint(256, (n, *shape)) / 255) for n in (40, 33))
    splits = DataSplits("small", train, test)
    monkeypatch.setattr(data, "load", lambda *args, **kwargs: splits)
    monkeypatch.setattr(experiment, "HIDDEN", ((8,),) * 5)
    argv = ["--quick", "--out", str(tmp_path), "--threads", "1", "--batch-size", "20"]
    assert experiment.main([*argv, "--importance-samples", "2"]) == 0
    text = (tmp_path / "table.md").read_text()
    assert text in capsys.readouterr().out
    assert all(f"\n| {name} |" in text for name in experiment.SYSTEMS)
    assert ("bits/dim" in text) is not grey
    (row,) = [json.loads(p.read_text()) for p in (tmp_path / "rows").glob("maps-0.json")]
    assert row["kl"].keys() == {"z1", "z2", "z3"} and row["ms per step"] > 0
    assert (tmp_path / "rows" / "maps-0-kl.png").stat().st_size > 1000


def test_photographs_are_of_other_halves_and_sprites_of_256_levels():
    for make in (experiment.sprites, experiment.photographs):
        splits = make(30, 20)
        assert splits.train.x.shape == (30, 3, 32, 32) and len(splits.test) == 20
        levels = splits.train.x * 255
        torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
        assert splits.train.x.std() > 0.1
        again = make(30, 20)
        assert torch.equal(again.test.x, splits.test.x)
