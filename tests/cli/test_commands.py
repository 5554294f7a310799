"""What commands write, print and draw is what the library gives."""

import html
import json
import subprocess
import sys
from importlib.metadata import distribution

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_wine
from small import TINY, images

from pyro_vae import (
    Trainer,
    cli,
    data,
    diagnostics,
    guides,
    likelihoods,
    load,
    models,
    plots,
    schedules,
)
from pyro_vae.cli import commands, main
from pyro_vae.infer import SVI
from pyro_vae.report import render

FILES = {"model.pt", "history.json", "run.json", "report.html"}


def evaluation(out, samples, seed=0, split="test"):
    trainer = load(out / "model.pt")
    splits = data.load("digits", binarize="dynamic")
    torch.manual_seed(seed)
    return diagnostics.evaluate(
        trainer.model,
        trainer.guide,
        getattr(splits, split),
        reference=splits.train,
        importance_samples=samples,
    )


def test_train_writes_these_files_and_no_others(run):
    assert {p.name for p in run.iterdir()} == FILES


def test_training_is_what_a_trainer_with_the_same_settings_does(run):
    splits = data.load("digits")
    torch.manual_seed(0)
    vae = models.VAE((1, 8, 8), latents=3, likelihood=likelihoods.Bernoulli(), hidden=(16,))
    trainer = Trainer(vae, guides.BottomUp(vae), beta=schedules.WarmUp(epochs=1), lr=2e-3, seed=0)
    trainer.fit(splits.train, epochs=2, batch_size=256, progress=False)
    written = load(run / "model.pt")
    for ours, theirs in zip(trainer.modules(), written.modules(), strict=True):
        for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(parameter, other)


def test_history_is_that_of_the_checkpoint(run):
    history = json.loads((run / "history.json").read_text())
    assert history == list(load(run / "model.pt").history)
    assert [row["epoch"] for row in history] == [1, 2]
    assert all("validation" in row for row in history)


def test_run_json_and_report_hold_the_evaluation(run):
    expected = evaluation(run, 20)
    recorded = json.loads((run / "run.json").read_text())
    assert recorded["evaluation"]["quantities"] == expected.to_dict()
    page = (run / "report.html").read_text()
    table, remark = expected.to_html().split("</table>")
    assert table in page and expected.remark in remark
    assert page.count(html.escape(expected.remark)) == 1
    where = {"source": "digits", "root": None, "binarize": "dynamic", "size": None}
    where |= {"grey": False, "stratify": True}
    assert recorded["data"] == where
    assert recorded["command"].startswith("pyro-vae train --epochs 2")


def test_evaluate_prints_the_evaluation_of_the_test_set(run, capsys):
    assert main(["evaluate", str(run / "model.pt"), "--importance-samples", "20"]) == 0
    assert capsys.readouterr().out.strip() == str(evaluation(run, 20))


def test_evaluate_as_json_with_another_seed_and_split(run, capsys):
    argv = ["evaluate", str(run / "model.pt"), "--json", "--importance-samples", "0"]
    assert main([*argv, "--seed", "7", "--split", "train"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["quantities"] == evaluation(run, 0, seed=7, split="train").to_dict()
    assert (printed["data"], printed["importance_samples"]) == (1437, 0)


def test_unreliable_importance_sampling_is_one_note(run, capsys, monkeypatch):
    monkeypatch.setattr(diagnostics.evaluation.Evaluation, "untrusted", 0.5)
    assert main(["evaluate", str(run / "model.pt"), "--importance-samples", "20"]) == 0
    note = capsys.readouterr().err.splitlines()
    assert len(note) == 1 and note[0].startswith("pyro-vae: note: log p(x) cannot be trusted")


def test_sample_draws_the_picture_of_plots(run, tmp_path):
    path = tmp_path / "samples.png"
    assert (
        main(["sample", str(run / "model.pt"), "-n", "6", "--seed", "3", "--out", str(path)]) == 0
    )
    torch.manual_seed(3)
    ax = plots.samples(load(run / "model.pt").model, 6)
    size = tuple(int(s * 144) for s in ax.figure.get_size_inches())
    assert path.read_bytes() == render(ax)
    with Image.open(path) as picture:
        assert picture.size == size


def test_sample_draws_pixels(run, tmp_path):
    path = tmp_path / "samples.png"
    assert main(["sample", str(run / "model.pt"), "-n", "4", "--draw", "--out", str(path)]) == 0
    torch.manual_seed(0)
    assert path.read_bytes() == render(plots.samples(load(run / "model.pt").model, 4, mean=False))


@pytest.mark.parametrize(
    ("argv", "y"), [(["--label", "2"], 2), ([], torch.tensor([0, 1, 2, 0, 1]))], ids=["one", "all"]
)
def test_sample_by_label(conditional, tmp_path, argv, y):
    path = tmp_path / "samples.png"
    model = conditional / "model.pt"
    assert main(["sample", str(model), "-n", "5", *argv, "--out", str(path)]) == 0
    torch.manual_seed(0)
    assert path.read_bytes() == render(plots.samples(load(model).model, 5, y=y))


def test_interpolate_between_two_rows(run, tmp_path):
    path = tmp_path / "way.png"
    argv = ["interpolate", str(run / "model.pt"), "--from", "3", "--to", "7", "--steps", "4"]
    assert main([*argv, "--out", str(path)]) == 0
    trainer, x = load(run / "model.pt"), data.load("digits").test.x
    ax = plots.interpolation(trainer.model, trainer.guide, x[3], x[7], steps=4)
    assert path.read_bytes() == render(ax)


def test_interpolate_gives_the_labels(conditional, tmp_path):
    path = tmp_path / "way.png"
    assert main(["interpolate", str(conditional / "model.pt"), "--out", str(path)]) == 0
    trainer = load(conditional / "model.pt")
    rows = data.load(conditional.parent / "images.npz").test[:2]
    ax = plots.interpolation(trainer.model, trainer.guide, *rows.x, y=rows.y)
    assert path.read_bytes() == render(ax)


def test_a_point_mass_has_no_log_likelihood(tmp_path):
    images(tmp_path / "images.npz")
    argv = ["train", "--data", str(tmp_path / "images.npz"), *TINY, "--guide", "delta"]
    assert main([*argv, "--out", str(tmp_path)]) == 0
    recorded = json.loads((tmp_path / "run.json").read_text())
    assert "log p(x)" not in recorded["evaluation"]["quantities"]
    assert "no bound" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("command", ["evaluate", "sample", "interpolate"])
def test_the_folder_of_a_run_stands_for_its_model(command, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([command, str(run)]) == 0
    printed = capsys.readouterr().out
    assert main([command, str(run / "model.pt")]) == 0
    assert capsys.readouterr().out == printed


def test_the_data_of_the_run_are_found_from_elsewhere(tmp_path, monkeypatch, capsys, no_report):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    images("images.npz")
    assert main(["train", "--data", "images.npz", *TINY, "--out", "run"]) == 0
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())
    monkeypatch.chdir(tmp_path / "elsewhere")
    argv = ["evaluate", "../run/model.pt", "--importance-samples", "2", "--json"]
    assert main(argv) == 0
    assert (
        json.loads(capsys.readouterr().out)["quantities"] == recorded["evaluation"]["quantities"]
    )


def test_without_record_the_data_must_be_named(run, tmp_path, capsys):
    model = tmp_path / "model.pt"
    model.write_bytes((run / "model.pt").read_bytes())
    assert main(["evaluate", str(model)]) == 2
    assert "name them with --data" in capsys.readouterr().err
    assert main(["evaluate", str(model), "--data", "digits", "--importance-samples", "0"]) == 0
    assert capsys.readouterr().out.strip() == str(evaluation(run, 0))


def test_a_small_raw_table_ends_above_its_columns(tmp_path, capsys, no_report):
    """Wine: 160 data of 13 columns, of scales from 0.1 to 300."""
    np.save(tmp_path / "wine.npy", load_wine().data)
    argv = ["train", "--data", str(tmp_path / "wine.npy"), "--latents", "4", "--epochs", "150"]
    out = tmp_path / "run"
    assert main([*argv, "--hidden", "64", "--quiet", "--out", str(out)]) == 0
    splits = data.load(tmp_path / "wine.npy")
    normal = torch.distributions.Normal(splits.train.x.mean(0), splits.train.x.std(0))
    columns = float(normal.log_prob(splits.test.x).sum(-1).mean())
    found = json.loads((out / "run.json").read_text())["evaluation"]["quantities"]
    assert found["independent normal"]["mean"] == pytest.approx(columns, rel=1e-4)
    assert found["ELBO"]["mean"] > columns + 1
    drawn = load(out / "model.pt").model.sample(500)
    distance = (drawn.mean(0) - splits.train.x.mean(0)) / splits.train.x.std(0)
    assert float(distance.abs().max()) < 0.5


@pytest.mark.parametrize("steps", [3, 0])
def test_interrupted_training_writes_what_there_is(steps, tmp_path, monkeypatch, capsys):
    taken, gradient = [], SVI.gradient

    def interrupted(self, *args, **kwargs):
        if len(taken) == steps:
            raise KeyboardInterrupt
        taken.append(1)
        return gradient(self, *args, **kwargs)

    monkeypatch.setattr(SVI, "gradient", interrupted)
    images(tmp_path / "images.npz")
    argv = ["train", "--data", str(tmp_path / "images.npz"), *TINY, "--out", str(tmp_path / "run")]
    assert main([*argv, "--epochs", "5", "--batch-size", "18"]) == 130
    assert {p.name for p in (tmp_path / "run").iterdir()} == FILES
    trainer = load(tmp_path / "run" / "model.pt")
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert trainer.step == steps and history == list(trainer.history)
    page = (tmp_path / "run" / "report.html").read_text()
    if steps:
        assert history[-1]["interrupted"] and history[-1]["step"] == 3
        assert "Training was interrupted in epoch 2." in page
    else:
        assert "Not trained" in page
    assert "data:image/png;base64," in page


def test_interrupted_evaluation_keeps_the_model(tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(diagnostics, "evaluate", interrupted)
    images(tmp_path / "images.npz")
    argv = ["train", "--data", str(tmp_path / "images.npz"), *TINY, "--out", str(tmp_path / "run")]
    assert main(argv) == 130
    assert {p.name for p in (tmp_path / "run").iterdir()} == FILES - {"report.html"}
    assert load(tmp_path / "run" / "model.pt").step == 1
    assert capsys.readouterr().err == "pyro-vae: interrupted\n"


def test_as_a_program():
    program = [sys.executable, "-m", "pyro_vae"]
    run = [
        subprocess.Popen([*program, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for argv in (["--help"], ["train", "--beta", "-1"])
    ]
    (text, _), (_, complaint) = (process.communicate() for process in run)
    assert [process.returncode for process in run] == [0, 2]
    for command in commands.COMMANDS:
        assert f"pyro-vae {command}".encode() in text
    assert complaint.startswith(b"pyro-vae: error:") and complaint.count(b"\n") == 1


def test_the_entry_point_is_main():
    (entry,) = (e for e in distribution("pyro_vae").entry_points if e.name == "pyro-vae")
    assert entry.load() is cli.main


def test_columns_of_a_table_are_what_a_model_is_told(tmp_path):
    rows = [f"{'ab'[i % 2]},{20 + i},{10 + i % 7},{i % 3},{i % 5}" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["site,age,total,one,two", *rows]))
    run = tmp_path / "run"
    columns = "--condition-on site --condition-on-numbers age --exposure total".split()
    argv = ["train", "--data", str(tmp_path / "t.csv"), "--out", str(run), *columns, *TINY]
    assert main(argv) == 0
    model = load(run / "model.pt").model
    assert repr(model.condition) == "Covariates(site: one of 2, age, exposure)"
    assert type(model.likelihood).__name__ == "Poisson" and model.event_shape == (2,)
    where = json.loads((run / "run.json").read_text())["data"]
    assert (where["labels"], where["numbers"], where["exposure"]) == (["site"], ["age"], "total")
    out = str(tmp_path / "s.png")
    assert main(["evaluate", str(run), "--importance-samples", "0"]) == 0
    assert main(["interpolate", str(run), "--out", out]) == 0
    sample = ["sample", str(run), "-n", "2", "--out", out, "--given"]
    assert main([*sample, "age=30,exposure=9"]) == 0
    assert main([*sample, "agee=30"]) == 2
