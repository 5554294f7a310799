import json
import math

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
    head, _, *lines = text.split("\n\n")[0].splitlines()
    rows = {cells(line)[0]: dict(zip(cells(head), cells(line), strict=True)) for line in lines}
    # No codes are used by a continuous latent
    assert rows["continuous"]["codes used"] == "-" and "-" not in rows["gradient"].values()
    assert int(rows["gradient"]["codes used"]) <= 16
    above = text.split("Above the continuous latent:")[1].splitlines()[4:7]
    assert [cells(line)[0] for line in above] == list(experiment.CODEBOOKS)
    assert (tmp_path / "rows" / "continuous-0.png").stat().st_size > 1000
    assert text in capsys.readouterr().out


def test_the_prior_of_codes_ends_once_held_out_data_are_no_better(small):
    trainer = experiment.build("gradient", event_shape=(1, 8, 8), codes=16)
    # Nothing can be learned from the codes of noise
    noise = Dataset(torch.rand(200, 1, 8, 8))
    prior, epochs = experiment.learned_prior(trainer, noise, epochs=200, seed=0)
    assert len(prior.history) == epochs + experiment.PATIENCE < 200
    best = max(row["validation"] for row in prior.history)
    assert prior.history[epochs - 1]["validation"] == best
    held = trainer.guide.codes(noise.x[9::10])
    assert float(prior.log_prob(held).mean()) == pytest.approx(best)


def test_pooled_pictures_and_fewer_codes(small, tmp_path, capsys):
    argv = ["--quick", "--size", "4", "--codes", "5", "--out", str(tmp_path), "--threads", "1"]
    assert experiment.main([*argv, "--systems", "moving average", "--seeds", "0", "1"]) == 0
    text = capsys.readouterr().out
    assert "data mnist, 4 x 4" in text and "codes 5, epochs of the prior at most 1" in text
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["seed"] for row in rows] == [0, 1] and all(row["codes used"] <= 5 for row in rows)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


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


@pytest.mark.parametrize("system", experiment.QUANTISERS)
def test_quantisers_have_as_many_values_per_position(system, small, tmp_path, capsys):
    argv = ["--quick", "--codes", "16", "--out", str(tmp_path), "--threads", "1"]
    assert experiment.main([*argv, "--systems", system]) == 0
    (row,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert row["codes used"] <= 16 and row["perplexity"] <= row["codes used"] + 1e-6
    model = experiment.build(system, event_shape=(1, 8, 8), codes=16).model
    assert model.codes ** math.prod(model.codebook.stack) == 16
