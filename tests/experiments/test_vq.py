import pytest
import torch

from pyro_vae import data, diagnostics
from pyro_vae.data import Dataset, DataSplits
from pyro_vae.experiments import vq as experiment


@pytest.fixture
def small(monkeypatch):
    """Random labelled 8-bit images, small, in place of the data set; few codes and features."""
    torch.manual_seed(0)
    train, test = (
        Dataset(torch.randint(256, (n, 1, 8, 8)) / 255, torch.arange(n) % 10) for n in (200, 40)
    )
    splits = DataSplits("mnist", train, test)
    monkeypatch.setattr(data, "load", lambda *args, **kwargs: splits)
    fit = diagnostics.ClassifierFeatures.fit
    monkeypatch.setattr(
        diagnostics.ClassifierFeatures,
        "fit",
        lambda splits, **kwargs: fit(splits, size=8, steps=5, cache=False),
    )
    monkeypatch.setattr(experiment, "CODES", 16)


def test_quick_run_writes_the_table_and_goes_on_where_it_stopped(small, tmp_path, capsys):
    argv = ["--quick", "--out", str(tmp_path), "--threads", "1", "--systems"]
    assert experiment.main([*argv, "gradient"]) == 0
    first = (tmp_path / "table.md").read_text()
    assert experiment.main([*argv, *experiment.SYSTEMS]) == 0
    text = (tmp_path / "table.md").read_text()
    assert all(f"\n| {name} |" in text for name in experiment.SYSTEMS)
    assert all(line in text for line in first.splitlines() if line.startswith("| gradient"))
    rows = {line.split(" | ")[0][2:]: line for line in text.splitlines() if line[:2] == "| "}
    # No codes are used by a continuous latent
    assert rows["continuous"].endswith("| - |") and rows["gradient"].count("| - ") == 0
    assert (tmp_path / "rows" / "continuous-0.png").stat().st_size > 1000
    assert text in capsys.readouterr().out


def test_images_in_colour_and_what_was_asked_for(small, monkeypatch, tmp_path, capsys):
    asked = []
    train, test = (
        Dataset(torch.randint(256, (n, 3, 8, 8)) / 255, torch.arange(n) % 10) for n in (60, 40)
    )
    splits = DataSplits("cifar10", train, test)
    monkeypatch.setattr(data, "load", lambda name, **kwargs: asked.append(name) or splits)
    argv = ["--quick", "--data", "cifar10", "--out", str(tmp_path), "--threads", "1"]
    assert experiment.main([*argv, "--systems", "gradient", "continuous"]) == 0
    assert asked == ["cifar10"] and "data cifar10, epochs 2" in capsys.readouterr().out


def test_the_networks_of_all_systems_are_alike():
    shapes = []
    for system in experiment.SYSTEMS:
        trainer = experiment.build(system)
        network = getattr(trainer.model.decoder, "network", trainer.model.decoder)
        shapes.append([tuple(p.shape) for p in network.parameters()][2:])  # but the first layer
        assert (trainer.model.latents, trainer.constant_beta) == (("z1",), True)
    assert all(s == shapes[0] for s in shapes)
