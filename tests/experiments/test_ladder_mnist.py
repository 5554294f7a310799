import json

import numpy as np
import pytest
import torch
from torch import nn

from pyro_vae import data, guides, load
from pyro_vae.data import Dataset, DataSplits
from pyro_vae.experiments import ladder_mnist as experiment
from pyro_vae.experiments import rates
from pyro_vae.experiments.pairing import estimate


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
    tuned = load(tmp_path / "rows" / "VAE+FT-1-0.pt")
    assert len(tuned.history) == 4 and tuned.elbo.particles == experiment.PARTICLES
    assert "training data 300" in text and "differs from the paper" in text
    assert text in capsys.readouterr().out


def table(text):
    head, _, *lines = (line for line in text.splitlines() if line.startswith("|"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, *lines)]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]


@pytest.mark.filterwarnings("ignore:log p")
def test_systems_are_compared_datum_by_datum_and_annealed(small, tmp_path):
    argv = ["--epochs", "2", "--layers", "1", "--seeds", "0", "1", "--importance-samples", "5"]
    argv += ["--annealed", "3", "--temperatures", "4", "--rate", "cosine", "--engine", "eager"]
    argv += ["--systems", "VAE", "LVAE+BN+WU", "--threads", "1", "--out", str(tmp_path)]
    assert experiment.main(argv) == 0
    text = (tmp_path / "table.md").read_text()
    first, second, richer = table(text)
    assert first["seeds"] == second["seeds"] == "2" and first["epochs"] == "2"
    assert first["log p(x) - VAE"] == "-" and richer["annealed"] == "-"

    def arrays(system, entry):
        files = (tmp_path / "rows" / f"{system}-1-{seed}.npz" for seed in (0, 1))
        return np.stack([np.load(file)[entry] for file in files])

    d = arrays("LVAE+BN+WU", "log p(x)") - arrays("VAE", "log p(x)")
    assert d.shape == (2, 40)
    found = estimate(d)
    assert second["log p(x) - VAE"] == f"{found.mean:.2f} +- {found.standard_error:.2f}"
    gain = arrays("VAE", "annealed") - arrays("VAE", "log p(x)")[:, :3]
    assert gain.shape == (2, 3)
    assert first["annealed - importance"].startswith(f"{gain.mean():.2f} +- ")
    for said in ("2 epochs in place of 2000", "along a cosine", "IWAE -82.9", "annealed data 3"):
        assert said in text
    held = json.loads((tmp_path / "results.json").read_text())
    assert held["command"].endswith("--annealed 3 --temperatures 4")
    assert [row["seeds"] for row in held["estimates"]] == [2, 2, 2]
    trainer = load(tmp_path / "rows" / "VAE-1-0.pt")
    assert [row["lr"] for row in trainer.history] == pytest.approx([1e-3, 0.5e-3])
    assert trainer.objective.optimizer.options == {"eps": 1e-4} and trainer.engine == "eager"


def test_published_numbers_stand_beside_their_rows():
    key = {"layers": 5, "seed": 0, "epochs": 3, "ELBO": 1.0, "log p(x)": 1.0}
    key |= {"kl": {"z1": 1.0}, "active units": {"z1": 1}, "active by KL": {"z1": 1}}
    rows = [{**key, "system": system} for system in ("LVAE+BN+WU", "VAE")]
    settings = {"epochs": 2000, "rate": "constant", "annealed data": 0}
    for name, number in (("mnist", "-81.74"), ("omniglot", "-102.10")):
        plain, ladder = table(experiment.table(rows, {**settings, "data": name}))
        assert ladder["published"] == number and plain["published"] == "-"
    assert "ublished" not in experiment.table(rows, {**settings, "data": "digits"})


def test_rates_are_functions_of_the_epochs_done():
    rate = rates.cosine(4).rate
    assert [rate(done) / rates.RATE for done in (0, 2)] == pytest.approx([1, 0.5])
    assert 0 < rate(3) == rate(4)
    rate = rates.steps(100, 20).rate
    found = [rate(done) / rates.RATE for done in (100, 101, 102, 119, 120)]
    assert found == pytest.approx([1, 1, 0.75, 0.75**9, 0.75**10])


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
