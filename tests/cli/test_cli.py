import inspect
import json
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_wine

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
    save,
    schedules,
)
from pyro_vae.cli import commands, groups, main, options, training
from pyro_vae.infer import SVI
from pyro_vae.report import render

FILES = {"model.pt", "history.json", "run.json", "report.html"}
TINY = ["--epochs", "1", "--hidden", "8", "--latents", "2", "--importance-samples", "2", "--quiet"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "new" / "digits"
    argv = ["train", "--epochs", "2", "--hidden", "16", "--latents", "3", "--batch-size", "256"]
    assert main([*argv, "--importance-samples", "20", "--out", str(out), "--quiet"]) == 0
    return out


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conditional")
    images(folder / "images.npz")
    argv = ["train", "--data", str(folder / "images.npz"), "--conditional", *TINY]
    assert main([*argv, "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def no_report(monkeypatch):
    monkeypatch.setattr(training, "write_report", lambda *args, **kwargs: None)


def images(path, n=40, shift=0, labels=True):
    generator = np.random.default_rng(0)
    x = generator.integers(0, 17, (n, 1, 8, 8)) / 16
    np.savez(path, x=x, **({"y": np.arange(n) % 3 + shift} if labels else {}))


def photographs(folder, n, size):
    """Colour pictures in a folder."""
    generator = np.random.default_rng(0)
    Path(folder).mkdir()
    for i in range(n):
        pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(Path(folder) / f"{i}.png")


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


def everything_below(folder):
    return {p: p.is_file() and p.read_bytes() for p in folder.rglob("*")}


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
    assert expected.to_html() in (run / "report.html").read_text()
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


def test_default_importance_samples_are_fewer_for_more_data(run, capsys, monkeypatch):
    monkeypatch.setattr(groups, "MANY_SAMPLES", 4)
    monkeypatch.setattr(groups, "FEW_SAMPLES", 3)
    for split, expected in (("test", 4), ("train", 3)):
        assert main(["evaluate", str(run / "model.pt"), "--json", "--split", split]) == 0
        assert json.loads(capsys.readouterr().out)["importance_samples"] == expected


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


def test_options_make_the_pair(tmp_path, monkeypatch, capsys, no_report):
    monkeypatch.chdir(tmp_path)
    images("images.npz")
    pair = "--latents 4,2 --hidden linear --skip --conditional --guide delta --beta 0.5".split()
    likelihood = "--likelihood categorical --levels 17".split()
    training = "--data images.npz --epochs 3 --lr 0.01 --warm-up 2 --clip-norm 1 --seed 5".split()
    assert main(["train", *pair, *likelihood, *training, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    trainer = load("runs/images/model.pt")
    model = trainer.model
    assert model.latent_sizes == {"z2": 2, "z1": 4}
    assert model.hidden == ((), ()) and model.skip and model.condition == 3
    assert type(model.likelihood) is likelihoods.Categorical and model.likelihood.levels == 17
    assert type(trainer.guide) is guides.Delta
    assert trainer.beta == schedules.WarmUp(epochs=2, end=0.5)
    assert (trainer.lr, trainer.clip_norm, trainer.seed) == (0.01, 1, 5)
    assert json.loads(Path("runs/images/run.json").read_text())["data"]["binarize"] is None


def test_no_warm_up(tmp_path, no_report):
    images(tmp_path / "images.npz")
    argv = ["train", "--data", str(tmp_path / "images.npz"), *TINY, "--beta", "4"]
    assert main([*argv, "--warm-up", "0", "--out", str(tmp_path)]) == 0
    assert load(tmp_path / "model.pt").beta == 4


def test_a_point_mass_has_no_log_likelihood(tmp_path):
    images(tmp_path / "images.npz")
    argv = ["train", "--data", str(tmp_path / "images.npz"), *TINY, "--guide", "delta"]
    assert main([*argv, "--out", str(tmp_path)]) == 0
    recorded = json.loads((tmp_path / "run.json").read_text())
    assert "log p(x)" not in recorded["evaluation"]["quantities"]
    assert "no bound" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(("guide", "quantity"), [("delta", "log p(x, z)"), ("bottom-up", "bound")])
def test_the_log_says_what_its_numbers_are(guide, quantity, tmp_path, capsys, no_report):
    images(tmp_path / "images.npz")
    argv = ["train", "--data", str(tmp_path / "images.npz"), *TINY[:-1], "--guide", guide]
    assert main([*argv, "--out", str(tmp_path)]) == 0
    (line,) = (li for li in capsys.readouterr().err.splitlines() if li.startswith("epoch 1: "))
    row = load(tmp_path / "model.pt").history[0]
    numbers = row["validation"]["elbo"], row["elbo"]
    expected = "epoch 1: {} {:.2f} on held-out data, {:.2f} in training"
    assert line == expected.format(quantity, *numbers)


@pytest.mark.parametrize("command", ["evaluate", "sample", "interpolate"])
def test_the_folder_of_a_run_stands_for_its_model(command, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([command, str(run)]) == 0
    printed = capsys.readouterr().out
    assert main([command, str(run / "model.pt")]) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("option", "text", "name"),
    [
        ("guide", "BottomUp", "bottom-up"),
        ("guide", "bottom_up", "bottom-up"),
        ("likelihood", "Gaussian", "gaussian"),
        ("likelihood", "continuous_bernoulli", "continuous-bernoulli"),
        ("likelihood", "ContinuousBernoulli", "continuous-bernoulli"),
    ],
)
def test_names_in_any_spelling(option, text, name):
    given, expected = (
        getattr(options.parse(["train", f"--{option}", spelling]), option)
        for spelling in (text, name)
    )
    assert given is expected


def test_every_guide_and_likelihood_is_an_option():
    public = {getattr(guides, name) for name in guides.__all__}
    # These need more than a model of the command line
    other = {guides.Composed, guides.NearestCode, guides.PerDatum, guides.SemiAmortized}
    assert set(groups.GUIDES.values()) == {
        g for g in public if issubclass(g, guides.Guide)
    } - other - {guides.Guide}
    for guide in groups.GUIDES.values():
        guide(models.VAE((4,), 2, likelihood=likelihoods.Gaussian(), hidden=(3,)))
    assert groups.GUIDES["bottom-up"] is guides.BottomUp
    assert groups.LIKELIHOODS["continuous-bernoulli"] is likelihoods.ContinuousBernoulli
    assert not any(inspect.isabstract(c) for c in groups.LIKELIHOODS.values())


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


@pytest.mark.parametrize("sigma", ["0.3", "learned", "optimal", "per_pixel", "predicted"])
def test_every_sigma_is_an_option(sigma, tmp_path, no_report):
    images(tmp_path / "images.npz")
    argv = ["train", "--data", str(tmp_path / "images.npz"), *TINY, "--out", str(tmp_path)]
    assert main([*argv, "--likelihood", "gaussian", "--sigma", sigma]) == 0
    noise = load(tmp_path / "model.pt").model.likelihood.noise
    expected = likelihoods.Gaussian(float(sigma) if sigma == "0.3" else sigma).noise
    assert type(noise) is type(expected)


def test_a_log_in_place_of_a_bar(tmp_path, capsys, no_report):
    images(tmp_path / "images.npz")
    argv = ["train", "--data", str(tmp_path / "images.npz"), *TINY[:-1], "--out", str(tmp_path)]
    assert main([*argv, "--epochs", "25"]) == 0
    output = capsys.readouterr()
    kind, *lines = output.err.splitlines()
    assert kind.startswith("pyro-vae: note: data images.npz: 36 + 4 grey pictures")
    epochs = [line.split(":")[0] for line in lines if not line.startswith("pyro-vae: note: ")]
    assert epochs == [f"epoch {e}" for e in range(3, 26, 3)]
    assert output.out.splitlines()[-1].startswith("wrote ")


@pytest.mark.parametrize(
    ("make", "options", "likelihood", "told"),
    [
        (
            lambda: np.save("a.npy", np.random.default_rng(0).integers(0, 2, (40, 6)) * 1.0),
            [],
            likelihoods.Bernoulli,
            "vectors of shape (6,), values 0 to 1; likelihood bernoulli; binarised: no",
        ),
        (
            lambda: np.save("a.npy", np.random.default_rng(0).random((40, 6))),
            [],
            likelihoods.ContinuousBernoulli,
            "likelihood continuous-bernoulli; binarised: no",
        ),
        (
            lambda: np.save("a.npy", np.random.default_rng(0).random((40, 6))),
            ["--likelihood", "bernoulli"],
            likelihoods.Bernoulli,
            "likelihood bernoulli; binarised: dynamically, afresh in each batch",
        ),
        (
            lambda: np.save("a.npy", np.random.default_rng(0).random((40, 6))),
            ["--binarize", "static"],
            likelihoods.Bernoulli,
            "likelihood bernoulli; binarised: once",
        ),
        (
            lambda: np.save("a.npy", 9 + np.random.default_rng(0).random((40, 6))),
            [],
            likelihoods.Gaussian,
            "likelihood gaussian (learned-sigma) of standardised columns; binarised: no",
        ),
        (
            lambda: np.save("a.npy", 9 + np.random.default_rng(0).random((40, 6))),
            ["--no-standardize", "--sigma", "0.5"],
            likelihoods.Gaussian,
            "likelihood gaussian (fixed-sigma); binarised: no",
        ),
        (
            lambda: photographs("a", 20, (9, 12)),
            ["--size", "6x8"],
            likelihoods.ContinuousBernoulli,
            "18 + 2 colour pictures of shape (3, 6, 8), values",
        ),
        (
            lambda: photographs("a", 20, (9, 12)),
            ["--size", "6", "--grey"],
            likelihoods.ContinuousBernoulli,
            "18 + 2 grey pictures of shape (1, 6, 6), values",
        ),
    ],
    ids=[
        "bits",
        "grey",
        "bernoulli",
        "static",
        "table",
        "raw table",
        "colour",
        "grey photographs",
    ],
)
def test_what_is_trained_is_told_and_fits_the_data(
    make, options, likelihood, told, tmp_path, monkeypatch, capsys, no_report
):
    monkeypatch.chdir(tmp_path)
    make()
    source = "a" if Path("a").is_dir() else "a.npy"
    argv = ["train", "--data", source, *TINY[:-1], "--epochs", "2", *options, "--out", "run"]
    assert main(argv) == 0
    output = capsys.readouterr()
    assert output.err.startswith(f"pyro-vae: note: data {source}: ") and told in output.err
    assert type(load("run/model.pt").model.likelihood) is likelihood
    # The first bound that is printed is that on held-out data, in the units of the data
    recorded = json.loads(Path("run/run.json").read_text())["evaluation"]["quantities"]
    first = re.search(r"ELBO +(-?[\d.e-]+)", output.err + output.out)
    assert float(first[1]) == pytest.approx(recorded["ELBO"]["mean"], rel=0.01, abs=0.01)
    # The other commands find the same data
    assert main(["evaluate", "run", "--importance-samples", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == output.out.splitlines()[:-1]


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


def test_the_best_epoch_is_kept_and_told(tmp_path, capsys, no_report):
    x = np.random.default_rng(0).normal(size=(40, 6)) + 5
    np.save(tmp_path / "a.npy", x)
    argv = [
        "train",
        "--data",
        str(tmp_path / "a.npy"),
        *TINY[:-1],
        "--lr",
        "0.05",
        "--hidden",
        "64",
    ]
    out = ["--out", str(tmp_path / "run"), "--warm-up", "0"]
    assert main([*argv, *out, "--epochs", "300", "--patience", "7", "--checkpoint", "40"]) == 0
    history = load(tmp_path / "run" / "model.pt").history
    (kept,) = [row["epoch"] for row in history if row.get("kept")]
    assert len(history) == kept + 7 < 300
    note = f"pyro-vae: note: kept epoch {kept} of {kept + 7}, the best on held-out data"
    assert note in capsys.readouterr().err.splitlines()
    assert main(["train", "--resume", str(tmp_path / "run"), "--quiet"]) == 0
    again = load(tmp_path / "run" / "model.pt").history
    assert [row.get("kept") for row in again] == [row.get("kept") for row in history]
    assert main([*argv, *out, "--epochs", "9", "--patience", "0"]) == 0
    assert len(load(tmp_path / "run" / "model.pt").history) == 9


def test_a_run_without_a_latent_is_told(tmp_path, capsys, no_report):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(40, 6)) + 5)
    argv = ["train", "--data", str(tmp_path / "a.npy"), *TINY[:-1], "--out", str(tmp_path / "run")]
    beta = "--epochs 60 --beta 20 --warm-up 0 --lr 0.03 --patience 0".split()
    assert main([*argv, *beta]) == 0
    (note,) = [li for li in capsys.readouterr().err.splitlines() if "collapse" in li]
    assert note.startswith("pyro-vae: note: latent variables collapse: KL in nats after epoch 60")
    assert "--guide ladder" in note


BAD_TRAINING = {
    "no command": ([], "required: COMMAND"),
    "unknown command": (["trian"], "invalid choice: 'trian'"),
    "unknown option": (["train", "--latnets", "3"], "did you mean '--latents'?"),
    "negative beta": (["train", "--beta", "-1"], "--beta: expected a finite number of at least 0"),
    "nan beta": (["train", "--beta", "nan"], "got 'nan'"),
    "infinite beta": (["train", "--beta", "inf"], "got 'inf'"),
    "beta beyond single precision": (["train", "--beta", "1e39"], "got '1e39'"),
    "negative infinite beta": (["train", "--beta", "-inf"], "--beta"),
    "no epochs": (["train", "--epochs", "0"], "--epochs: expected a whole number of at least 1"),
    "zero lr": (["train", "--lr", "0"], "--lr: expected a finite number above 0"),
    "latents": (["train", "--latents", "8,x"], "such as 20 or 64,32,16, got '8,x'"),
    "hidden": (["train", "--hidden", "-4"], "--hidden: expected"),
    "guide": (["train", "--guide", "botom-up"], "did you mean 'bottom-up'?"),
    "likelihood": (["train", "--likelihood", "gausian"], "did you mean 'gaussian'?"),
    "sigma": (
        ["train", "--likelihood", "gaussian", "--sigma", "-1"],
        "sigma: expected a positive",
    ),
    "guide that needs more": (["train", "--guide", "per-datum"], "expected one of bottom-up"),
    "patience": (["train", "--patience", "-1"], "--patience: expected a whole number"),
    "standardised bits": (["train", "--standardize"], "--standardize: expected the likelihood"),
    "size": (["train", "--size", "4x5x6"], "--size: expected height and width in pixels"),
    "size of an array": (["train", "--data", "real.npy", "--size", "4"], "--size: expected only"),
    "photographs": (["train", "--data", "photographs"], "with --size 64, or lower --hidden"),
    "widths": (["train", "--hidden", "999999999"], "--size, --hidden: expected networks for"),
    "home of nobody": (
        ["train", "--data", "~nosuchuser/x.npy"],
        "--data: expected a path, got '~nosuchuser/x.npy'",
    ),
    "no UTF-8": (["train", "--out", "\udcff"], "arguments: expected text in UTF-8"),
    "sigma of another": (["train", "--sigma", "1"], "no such option for the likelihood bernoulli"),
    "device": (["train", "--device", "warp"], "--device: expected one that torch can use here"),
    "seed": (["train", "--seed", str(2**64)], "--seed: expected a whole number from 0 to"),
    "analytic": (["train", "--latents", "4,2", "--elbo", "analytic"], "use elbo='trace'"),
    "divergence": (["train", "--lr", "1e30", "--epochs", "1"], "lower --lr, set --clip-norm"),
    "no data set name": (["train", "--data", ""], "--data: expected a name or path, got ''"),
    "data set name": (["train", "--data", "digts"], "did you mean 'digits'?"),
    "missing file": (["train", "--data", "absent.npy"], "absent.npy, which is not there"),
    "absent data set": (["train", "--data", "mnist", "--data-root", "."], "--download"),
    "empty": (["train", "--data", "empty.npy"], "expected at least one datum"),
    "nan": (["train", "--data", "nan.npy"], "1 NaN or infinite, the first at x[2, 1]"),
    "inf": (["train", "--data", "inf.npy"], "1 NaN or infinite, the first at x[2, 1]"),
    "objects": (["train", "--data", "objects.npy"], "expected numeric arrays"),
    "no array": (["train", "--data", "text.npy"], "expected numeric arrays"),
    "out of range": (
        ["train", "--data", "real.npy", "--likelihood", "bernoulli"],
        "or use --likelihood gaussian",
    ),
    "grey": (
        ["train", "--binarize", "none", "--likelihood", "bernoulli"],
        "use --likelihood continuous-bernoulli",
    ),
    "grid": (["train", "--likelihood", "categorical"], "pass the data's own --levels"),
    "labels missing": (
        ["train", "--data", "unlabelled.npz", "--conditional"],
        "--conditional: expected data with labels",
    ),
    "labels negative": (
        ["train", "--data", "negative.npz", "--conditional"],
        "expected labels from 0 on",
    ),
    "labels with gaps": (["train", "--data", "gaps.npz", "--conditional"], "number the classes"),
    "output in a file": (["train", "--out", "real.npy/run"], "--out: expected a folder that can"),
    "output is a file": (["train", "--out", "real.npy"], "--out: expected a folder that can"),
}
BAD_USE = {
    "no model": (["evaluate"], "required: MODEL.pt"),
    "missing model": (["evaluate", "absent.pt"], "absent.pt"),
    "text": (["evaluate", "text.npy"], "not a checkpoint"),
    "nothing": (["sample", "nothing.pt"], "not a checkpoint"),
    "tensors": (["interpolate", "tensors.pt"], "not a checkpoint"),
    "cut": (["evaluate", "cut.pt"], "cut.pt: not a checkpoint"),
    "folder": (["evaluate", "."], "got a folder"),
    "model alone": (["sample", "alone.pt"], "expected the file of a trainer"),
    "wrong shape": (["evaluate", "MODEL", "--data", "vectors.npy"], "expected shape (n, 1, 8, 8)"),
    "wrong range": (["evaluate", "MODEL", "--binarize", "none"], "only 0 and 1"),
    "wrong data": (["evaluate", "MODEL", "--data", "nan.npy"], "NaN or infinite"),
    "no labels": (["evaluate", "CONDITIONAL", "--data", "unlabelled.npz"], "pass y="),
    "labels": (["evaluate", "CONDITIONAL", "--data", "shifted.npz"], "labels from 0 to 2"),
    "samples": (["evaluate", "MODEL", "--importance-samples", "-1"], "of at least 0, got '-1'"),
    "label": (["sample", "CONDITIONAL", "--label", "3"], "--label: expected a class from 0 to 2"),
    "no label": (["sample", "MODEL", "--label", "3"], "--label: expected no label"),
    "n": (["sample", "MODEL", "-n", "0"], "-n: expected a whole number of at least 1"),
    "format": (["sample", "MODEL", "--out", "a.xyz"], "such as picture.png, got 'a.xyz'"),
    "picture folder": (["sample", "MODEL", "--out", "absent/a.png"], "make absent first"),
    "row": (["interpolate", "MODEL", "--from", "360"], "--from: expected a row from 0 to 359"),
    "steps": (["interpolate", "MODEL", "--steps", "1"], "--steps: expected a whole number"),
}


def write_bad_files():
    generator = np.random.default_rng(0)
    real = generator.normal(size=(20, 4))
    np.save("real.npy", real)
    np.save("empty.npy", real[:0])
    np.save("vectors.npy", generator.random((20, 4)))
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        broken = real.copy()
        broken[2, 1] = value
        np.save(f"{name}.npy", broken)
    np.save("objects.npy", np.array([{1: 2}], dtype=object))
    Path("text.npy").write_text("not an array")
    Path("nothing.pt").touch()
    torch.save({"a": torch.zeros(1)}, "tensors.pt")
    images("unlabelled.npz", labels=False)
    photographs("photographs", 2, (427, 640))
    images("negative.npz", shift=-1)
    images("gaps.npz", shift=10**12)
    images("shifted.npz", shift=1)
    vae = models.VAE((4,), 2, likelihood=likelihoods.Gaussian(), hidden=())
    save(vae, "alone.pt")
    content = Path("alone.pt").read_bytes()
    Path("cut.pt").write_bytes(content[: len(content) // 2])


def assert_one_line(argv, message, folder, capsys):
    before = everything_below(folder)
    assert main(argv) == 2
    output = capsys.readouterr()
    assert output.out == ""
    # What is trained is told once training begins
    lines = [li for li in output.err.splitlines() if not li.startswith("pyro-vae: note: data")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("pyro-vae: error: ")
    assert message in lines[0]
    assert everything_below(folder) == before


@pytest.mark.parametrize(("argv", "message"), BAD_TRAINING.values(), ids=BAD_TRAINING.keys())
def test_bad_training_is_one_line(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_bad_files()
    if "--lr" not in argv:
        monkeypatch.setattr(SVI, "step", lambda *args, **kwargs: pytest.fail("training started"))
    assert_one_line(argv, message, tmp_path, capsys)


@pytest.mark.parametrize(("argv", "message"), BAD_USE.values(), ids=BAD_USE.keys())
def test_bad_use_is_one_line(argv, message, run, conditional, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_bad_files()
    paths = {"MODEL": str(run / "model.pt"), "CONDITIONAL": str(conditional / "model.pt")}
    assert_one_line([paths.get(a, a) for a in argv], message, tmp_path, capsys)


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path, capsys):
    images(tmp_path / "images.npz")
    (tmp_path / "run" / "model.pt").mkdir(parents=True)
    argv = ["train", "--data", str(tmp_path / "images.npz"), *TINY]
    assert_one_line([*argv, "--out", str(tmp_path / "run")], "model.pt", tmp_path, capsys)


def test_programming_errors_keep_their_traceback(monkeypatch):
    def broken(args):
        raise KeyError("lost")

    monkeypatch.setitem(commands.COMMANDS, "train", broken)
    with pytest.raises(KeyError, match="lost"):
        main(["train"])


@pytest.mark.parametrize("steps", [3, 0])
def test_interrupted_training_writes_what_there_is(steps, tmp_path, monkeypatch, capsys):
    taken, step = [], SVI.step

    def interrupted(self, *args, **kwargs):
        if len(taken) == steps:
            raise KeyboardInterrupt
        taken.append(1)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(SVI, "step", interrupted)
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


@pytest.mark.parametrize("command", ["train", "evaluate", "sample", "interpolate"])
def test_help_of_commands(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: pyro-vae {command}") and "exit status" in text
    assert all(len(line) <= 99 for line in text.splitlines())


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
