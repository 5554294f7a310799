import pytest
import torch

from pyro_vae import data, diagnostics, guides
from pyro_vae.data import Dataset, DataSplits
from pyro_vae.experiments import sigma as experiment


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Random labelled images of MNIST's shape in place of the data set, no cache."""
    torch.manual_seed(0)
    train, test = (Dataset(torch.rand(n, 1, 28, 28), torch.arange(n) % 10) for n in (300, 100))
    splits = DataSplits("mnist", train, test)
    monkeypatch.setattr(data, "load", lambda *args, **kwargs: splits)
    fit = diagnostics.ClassifierFeatures.fit
    monkeypatch.setattr(
        diagnostics.ClassifierFeatures,
        "fit",
        lambda splits, **kwargs: fit(splits, size=8, steps=5, cache=tmp_path),
    )


def test_quick_run_writes_table_and_sheets(small, tmp_path, capsys):
    systems = ["AE", "VAE, sigma 1", "sigma optimal", "sigma in two phases"]
    out = tmp_path / "out"
    argv = ["--quick", "--out", str(out), "--threads", "1", "--systems", *systems]
    assert experiment.main([*argv, "--seeds", "0", "1"]) == 0
    text = (out / "table.md").read_text()
    assert [line.split(" | ")[:2] for line in text.splitlines()[2:6]] == [
        [f"| {name}", "2"] for name in systems
    ]
    assert "| AE | 2 | - |" in text and "| VAE, sigma 1 | 2 | -7" in text
    assert len(list((out / "rows").glob("*.png"))) == 8
    assert text in capsys.readouterr().out


@pytest.mark.parametrize("name", experiment.SYSTEMS)
def test_systems_share_their_networks(name):
    trainer = experiment.build(experiment.SYSTEMS[name], event_shape=(1, 8, 8))
    vae = trainer.model
    assert vae.latent_sizes == {"z1": experiment.LATENTS}
    assert vae.hidden == (experiment.HIDDEN,)
    point = isinstance(getattr(trainer.guide, "program", trainer.guide), guides.Delta)
    assert (trainer.beta == 0) == point == (name in ("AE", "WAE-MMD"))
