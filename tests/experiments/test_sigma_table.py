import itertools
import json

import pytest
import torch

from pyro_vae import callbacks, data, diagnostics, guides
from pyro_vae.data import Dataset, DataSplits
from pyro_vae.experiments import sigma as experiment

PHASES = ["sigma in two phases", "two phases, then everything at a tenth of the rate"]


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
    systems = ["AE", "VAE, sigma 1", "sigma learned", "sigma optimal", *PHASES]
    out = tmp_path / "out"
    argv = ["--quick", "--out", str(out), "--threads", "1", "--systems", *systems]
    assert experiment.main([*argv, "--seeds", "0", "1"]) == 0
    text = (out / "table.md").read_text()
    head, _, *lines = text.splitlines()
    shown = [dict(zip(cells(head), cells(line), strict=True)) for line in lines[: len(systems)]]
    assert [(row["system"], row["seeds"]) for row in shown] == [(name, "2") for name in systems]
    assert shown[0]["ELBO"] == "-" and shown[1]["ELBO"].startswith("-7")
    assert all(" +- " in row["KID, samples, mixture"] for row in shown)
    assert len(list((out / "rows").glob("*.png"))) == 2 * len(systems)
    assert text in capsys.readouterr().out
    assert "50 steps from seed 0, accuracy 0." in text
    # Every other system is compared with one learned sigma, seed by seed
    held = json.loads((out / "results.json").read_text())
    by_seed = {(row["system"], row["seed"]): row for row in held["rows"]}
    (found,) = (row for row in held["estimates"] if row["system"] == PHASES[1])
    for entry in ("ELBO", "squared error", "samples, mixture", "KID, reconstructions"):
        gains = [by_seed[PHASES[1], s][entry] - by_seed["sigma learned", s][entry] for s in (0, 1)]
        mean, error = found[f"{entry} - sigma learned"]
        assert mean == pytest.approx(sum(gains) / 2, rel=1e-4)
        assert error > 0
    above = text.split("Above sigma learned:")[1].splitlines()[4:]
    assert [cells(line)[0] for line in above[: len(systems) - 1]] == [
        name for name in systems if name != "sigma learned"
    ]


def test_data_without_labels_have_no_distances(small, monkeypatch, tmp_path, capsys):
    splits = DataSplits("mine", *(Dataset(torch.rand(n, 1, 8, 8)) for n in (100, 60)))
    monkeypatch.setattr(data, "load", lambda *args, **kwargs: splits)
    argv = ["--quick", "--out", str(tmp_path / "out"), "--systems", "sigma learned"]
    assert experiment.main([*argv, "--threads", "1"]) == 0
    head, _, line, *_ = capsys.readouterr().out.splitlines()
    row = dict(zip(cells(head), cells(line), strict=True))
    assert {row[name] for name in experiment.DISTANCES} == {"-"}
    assert float(row["squared error"].split(" +- ")[0]) > 0


def test_the_mean_trains_again_in_the_end_at_a_tenth_of_the_rate():
    rates, means = [], []

    class Watch(callbacks.Callback):
        def on_epoch_end(self, trainer, row, **kwargs):
            rates.append(row["lr"])
            decoder = trainer.model.decoder
            mean = getattr(decoder, "mean", decoder)
            means.append([p.detach().clone() for p in mean.parameters()])

    x = torch.rand(64, 1, 8, 8)
    moved = {}
    for name in PHASES:
        rates.clear(), means.clear()
        system = experiment.SYSTEMS[name]
        trainer = experiment.build(system, event_shape=(1, 8, 8))
        hooks = [*experiment.schedule(system, 8), Watch()]
        trainer.fit(x, epochs=8, batch_size=32, callbacks=hooks, progress=False)
        moved[name] = [not all(map(torch.equal, *pair)) for pair in itertools.pairwise(means)]
        last = 1e-3 if name == PHASES[0] else 1e-4
        assert rates == pytest.approx([1e-3] * 6 + [last] * 2)
    # Between the ends of epochs 1 and 2, and so on
    assert moved == {
        PHASES[0]: [True] * 3 + [False] * 4,
        PHASES[1]: [True] * 3 + [False] * 2 + [True] * 2,
    }
    assert experiment.schedule(experiment.SYSTEMS["sigma learned"], 8) == []


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("name", experiment.SYSTEMS)
def test_systems_share_their_networks(name):
    trainer = experiment.build(experiment.SYSTEMS[name], event_shape=(1, 8, 8))
    vae = trainer.model
    assert vae.latent_sizes == {"z1": experiment.LATENTS}
    assert vae.hidden == (experiment.HIDDEN,)
    point = isinstance(getattr(trainer.guide, "program", trainer.guide), guides.Delta)
    assert (trainer.beta == 0) == point == (name in ("AE", "WAE-MMD"))
