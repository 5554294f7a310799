import pytest
import torch
from torch import nn

from pyro_vae import data, guides
from pyro_vae.data import Dataset, DataSplits
from pyro_vae.experiments import ladder_mnist as experiment


@pytest.fixture
def small(monkeypatch):
    """Random images of MNIST's shape in place of the data set."""
    torch.manual_seed(0)
    train, test = ((torch.rand(n, 1, 28, 28) < 0.2).float() for n in (300, 40))
    splits = DataSplits("mnist", Dataset(train), Dataset(test))
    monkeypatch.setattr(data, "load", lambda *args, **kwargs: splits)


def test_quick_run_writes_the_table_and_goes_on_where_it_stopped(small, tmp_path, capsys):
    argv = ["--quick", "--out", str(tmp_path), "--threads", "1"]
    with pytest.warns(UserWarning, match="log p"):
        assert experiment.main([*argv, "--systems", "VAE"]) == 0
    first = (tmp_path / "table.md").read_text()
    assert first.count("\n| VAE |") == 2
    with pytest.warns(UserWarning, match="log p"):
        assert experiment.main([*argv, "--systems", "VAE", "LVAE+BN+WU", "--fine-tune", "1"]) == 0
    text = (tmp_path / "table.md").read_text()
    assert text.count("\n| VAE |") == text.count("\n| VAE+FT |") == 2
    for name in ("LVAE+BN+WU", "LVAE+BN+WU+FT"):
        assert text.count(f"\n| {name} |") == 2
        assert text.count(f"\n| {name}{experiment.RICHER} |") == 2
    names = {p.name for p in (tmp_path / "rows").glob("*.png")}
    assert {"VAE-1-0-units.png", "VAE-2-0-units.png", "LVAE+BN+WU-2-0-layers.png"} <= names
    assert all(line in text for line in first.splitlines() if line.startswith("| VAE"))
    assert "training data 300" in text and "differs from the paper" in text
    assert text in capsys.readouterr().out


@pytest.mark.parametrize("name", experiment.SYSTEMS)
def test_systems(name):
    trainer = experiment.build(experiment.SYSTEMS[name], 5, epochs=2000)
    vae = trainer.model
    assert tuple(vae.latent_sizes[f"z{i}"] for i in range(1, 6)) == (64, 32, 16, 8, 4)
    assert vae.hidden == ((512, 512), (256, 256), (128, 128), (64, 64), (32, 32))
    assert any(isinstance(m, nn.BatchNorm1d) for m in vae.modules()) == ("BN" in name)
    assert isinstance(trainer.guide, guides.Ladder) == name.startswith("L")
    if "WU" in name:
        warm = trainer.beta(0, steps_per_epoch=10), trainer.beta(1000, steps_per_epoch=10)
        assert warm == (0.0, 0.5)
        assert trainer.beta(2000, steps_per_epoch=10) == 1.0
    else:
        assert trainer.constant_beta


def test_the_models_of_all_systems_are_alike():
    torch.manual_seed(5)
    models = [
        experiment.build(experiment.SYSTEMS[s], 2, epochs=10).model
        for s in ("VAE+BN", "LVAE+BN+WU")
    ]
    a, b = (list(m.parameters()) for m in models)
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))
