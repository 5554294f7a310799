"""Options: what they make, how they may be spelt, and what is told of what they chose."""

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import FactorAnalysis
from small import TINY, images, photographs

from pyro_vae import data, guides, likelihoods, load, models, schedules
from pyro_vae.cli import groups, main, options


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


def test_latents_may_be_maps(tmp_path, monkeypatch, no_report):
    monkeypatch.chdir(tmp_path)
    images("images.npz")
    argv = ["train", "--data", "images.npz", "--latents", "2x4x4, 3x2x2,2", "--guide", "ladder"]
    assert main([*argv, "--epochs", "1", "--importance-samples", "2", "--quiet"]) == 0
    model = load("runs/images/model.pt").model
    assert model.latent_shapes == {"z3": (2,), "z2": (3, 2, 2), "z1": (2, 4, 4)}


def test_no_warm_up(tmp_path, no_report):
    images(tmp_path / "images.npz")
    argv = ["train", "--data", str(tmp_path / "images.npz"), *TINY, "--beta", "4"]
    assert main([*argv, "--warm-up", "0", "--out", str(tmp_path)]) == 0
    assert load(tmp_path / "model.pt").beta == 4


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
    public = {g for name in guides.__all__ if isinstance(g := getattr(guides, name), type)}
    # These need more than a model of the command line
    other = {guides.Composed, guides.Labelled, guides.NearestCode, guides.PerDatum}
    other |= {guides.SemiAmortized, guides.ProductOfExperts}
    other |= {guides.MixtureOfExperts, guides.MixtureOfProducts}
    assert set(groups.GUIDES.values()) == {
        g for g in public if issubclass(g, guides.Guide)
    } - other - {guides.Guide}
    for guide in groups.GUIDES.values():
        guide(models.VAE((4,), 2, likelihood=likelihoods.Gaussian(), hidden=(3,)))
    assert groups.GUIDES["bottom-up"] is guides.BottomUp
    assert groups.LIKELIHOODS["continuous-bernoulli"] is likelihoods.ContinuousBernoulli
    assert not any(inspect.isabstract(c) for c in groups.LIKELIHOODS.values())


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


def test_the_best_epoch_is_kept_and_told(tmp_path, capsys, no_report):
    r = np.random.default_rng(0)
    x = r.normal(size=(40, 1)) * np.arange(1, 7) + r.normal(size=(40, 6)) + 5
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
    # Such steps spoil all
    assert main([*argv, *out, "--epochs", "9", "--patience", "2", "--lr", "10"]) == 0
    tried = len(load(tmp_path / "run" / "model.pt").history)
    note = f"pyro-vae: note: kept the start: none of {tried} epochs was better on held-out data"
    assert note in capsys.readouterr().err.splitlines()


def test_a_run_without_a_latent_is_told(tmp_path, capsys, no_report):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(40, 6)) + 5)
    argv = ["train", "--data", str(tmp_path / "a.npy"), *TINY[:-1], "--out", str(tmp_path / "run")]
    beta = "--epochs 60 --beta 20 --warm-up 0 --lr 0.03 --patience 0".split()
    assert main([*argv, *beta]) == 0
    (note,) = [li for li in capsys.readouterr().err.splitlines() if "collapse" in li]
    assert note.startswith("pyro-vae: note: latent variables collapse: KL in nats after epoch 60")
    assert "--guide ladder" in note


@pytest.mark.parametrize("command", ["train", "evaluate", "sample", "interpolate"])
def test_help_of_commands(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: pyro-vae {command}") and "exit status" in text
    assert all(len(line) <= 99 for line in text.splitlines())


@pytest.mark.parametrize("name", ["poisson", "negative-binomial", "student-t", "log-normal"])
def test_likelihoods_of_tables_are_options(name, tmp_path, no_report):
    x = 1.0 + np.arange(30).reshape(10, 3) % 13
    np.save(tmp_path / "table.npy", x)
    argv = ["train", "--data", str(tmp_path / "table.npy"), "--likelihood", name, *TINY]
    assert main([*argv, "--out", str(tmp_path)]) == 0
    likelihood = load(tmp_path / "model.pt").model.likelihood
    assert type(likelihood) is groups.LIKELIHOODS[name]
    if name == "log-normal":
        seen = likelihood.inputs(data.Dataset(x).x)
        assert seen.mean().abs() < 0.3 and 0.7 < float(seen.std()) < 1.3


def test_a_table_of_numbers_begins_as_factor_analysis(tmp_path, no_report, capsys):
    x = np.random.default_rng(0).normal(size=(60, 2)) @ [[1.0, -2, 3, 0.5], [2.0, 1, 0.5, -1]]
    x += np.random.default_rng(1).normal([9, 0, 4, 2], 1, x.shape)
    rows = [",".join(f"{value:.4f}" for value in row) for row in x]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c,d", *rows]))
    argv = ["train", "--data", str(tmp_path / "t.csv"), *TINY, "--out", str(tmp_path)]
    argv += ["--lr", "1e-6", "--latents", "1"]
    assert main([a for a in argv if a != "--quiet"]) == 0
    told = "likelihood gaussian (per-pixel-sigma) of standardised columns; binarised: no; begins "
    assert f"{told}as factor analysis" in capsys.readouterr().err
    trainer = load(tmp_path / "model.pt")
    vae = trainer.model
    assert trainer.beta == 1
    train = data.load(tmp_path / "t.csv").train.x
    rows = vae.likelihood.inputs(train).double().numpy()
    factors = FactorAnalysis(1, svd_method="lapack").fit(rows)
    found = (vae.decoder.linear.weight.squeeze() / vae.likelihood.noise.value).abs().detach()
    expected = np.abs(factors.components_[0]) / np.sqrt(factors.noise_variance_)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-3)


def test_a_table_with_categories_has_a_likelihood_for_each_kind_of_column(
    tmp_path, no_report, capsys
):
    rows = [f"{k % 7}.5,{'abc'[k % 3]},{'xyz'[(k // 2) % 3]}" for k in range(30)]
    (tmp_path / "table.csv").write_text("\n".join(["size,city,kind", *rows]))
    argv = ["train", "--data", str(tmp_path / "table.csv"), *TINY, "--out", str(tmp_path)]
    assert main([a for a in argv if a != "--quiet"]) == 0
    assert "likelihood mixed" in capsys.readouterr().err
    likelihood = load(tmp_path / "model.pt").model.likelihood
    assert likelihood.names == ("size", "city", "kind") and likelihood.columns == ((0,), (1, 2))
    assert main([*argv, "--sigma", "1"]) == 2
    assert "no such option for the likelihood mixed" in capsys.readouterr().err
