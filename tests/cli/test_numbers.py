"""The numbers that commands write are those of the library."""

import csv

import numpy as np
import pytest
import torch
from small import TINY

from pyro_vae import (
    Trainer,
    data,
    diagnostics,
    guides,
    handlers,
    infer,
    likelihoods,
    load,
    models,
    priors,
)
from pyro_vae.cli import main


def read(path):
    with path.open(newline="") as file:
        head, *lines = csv.reader(file)
    return head, lines


def binarized(dataset, seed=0):
    return dataset.binarized(torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A run on a table with names of rows and a class."""
    folder = tmp_path_factory.mktemp("table")
    generator = np.random.default_rng(0)
    lines = [
        f"row{i},{'ab'[i % 2]},{x:.3f},{y:.3f}"
        for i, (x, y) in enumerate(generator.normal(size=(60, 2)))
    ]
    (folder / "t.csv").write_text("\n".join([",label,height,weight", *lines]))
    argv = ["train", "--data", str(folder / "t.csv"), "--conditional", *TINY]
    assert main([*argv, "--out", str(folder / "run")]) == 0
    return folder


def test_encode_writes_the_means_of_all_data_in_their_order(run, tmp_path, capsys):
    path = tmp_path / "z.csv"
    assert main(["encode", str(run), "--out", str(path)]) == 0
    assert capsys.readouterr().out == f"wrote {path}: 1797 rows of z1\n"
    digits = data.load("digits", binarize="dynamic").whole()
    means = infer.encode(load(run / "model.pt").guide, binarized(digits).x).array()
    head, lines = read(path)
    assert head == ["z1[0]", "z1[1]", "z1[2]", "label"]
    found = np.array(lines)
    np.testing.assert_allclose(found[:, :3].astype(np.float32), means, rtol=1e-5, atol=1e-6)
    assert found[:, 3].tolist() == [digits.names[k] for k in digits.y]


def test_encode_is_reproducible(run, tmp_path):
    content = []
    for i, options in enumerate((["--seed", "3"], ["--seed", "3"], ["--seed", "4"])):
        path = tmp_path / f"{i}.npy"
        argv = ["encode", str(run), "--split", "train", "--out", str(path)]
        assert main([*argv, *options]) == 0
        content.append(np.load(path))
    assert content[0].shape == (1437, 3) and np.array_equal(content[0], content[1])
    assert not np.array_equal(content[1], content[2])


def test_encode_keeps_the_names_of_rows_and_labels(table, tmp_path):
    path = tmp_path / "z.csv"
    argv = ["encode", str(table / "run"), "--out", str(path)]
    assert main(argv) == 0
    head, lines = read(path)
    assert head == ["", "z1[0]", "z1[1]", "label"]
    assert [line[0] for line in lines] == [f"row{i}" for i in range(60)]
    assert [line[3] for line in lines] == [*"ab" * 30]
    assert (
        main(["encode", str(table / "run"), "--data", str(table / "t.csv"), "--out", str(path)])
        == 0
    )
    assert read(path) == (head, lines)


def test_encode_writes_parquet(table, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    for ending in ("csv", "parquet"):
        path = str(tmp_path / f"z.{ending}")
        assert main(["encode", str(table / "run"), "--out", path]) == 0
    found = parquet.read_table(tmp_path / "z.parquet")
    assert found.column_names == ["index", "z1[0]", "z1[1]", "label"]
    _, lines = read(tmp_path / "z.csv")
    assert found["z1[1]"].to_numpy().tolist() == np.array(lines)[:, 2].astype(np.float32).tolist()
    assert found["label"].to_pylist() == [line[3] for line in lines]


def test_encode_of_several_sites(tmp_path, capsys):
    vae = models.VAE((4,), (3, 2), likelihood=likelihoods.Gaussian(), hidden=())
    trainer = Trainer(vae, guides.BottomUp(vae))
    trainer.save(tmp_path / "model.pt")
    x = torch.randn(20, 4)
    np.save(tmp_path / "x.npy", x)
    argv = ["encode", str(tmp_path), "--data", str(tmp_path / "x.npy"), "--out"]
    assert main([*argv, str(tmp_path / "z.npy")]) == 2
    assert "--site: expected one of z1, z2 for an array" in capsys.readouterr().err
    expected = infer.encode(trainer.guide, x)
    assert main([*argv, str(tmp_path / "z.npy"), "--site", "z2"]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), expected.array("z2"), rtol=1e-5)
    assert main([*argv, str(tmp_path / "z.csv")]) == 0
    assert read(tmp_path / "z.csv")[0] == ["z1[0]", "z1[1]", "z1[2]", "z2[0]", "z2[1]"]


def test_encode_of_a_vq_vae_writes_codes(tmp_path):
    vqvae = models.VQVAE((1, 8, 8), 16, 4, likelihood=likelihoods.Bernoulli())
    trainer = Trainer(vqvae, guides.NearestCode(vqvae))
    trainer.save(tmp_path / "model.pt")
    out = tmp_path / "codes.npy"
    argv = ["encode", str(tmp_path), "--data", "digits", "--binarize", "none"]
    assert main([*argv, "--split", "test", "--out", str(out)]) == 0
    x = data.load("digits", binarize=None).test.x
    assert np.array_equal(np.load(out), trainer.guide.codes(x).numpy())


@pytest.mark.parametrize("draw", [[], ["--draw"]])
def test_sample_writes_what_the_model_draws(run, tmp_path, draw):
    path = tmp_path / "x.npy"
    assert main(["sample", str(run), "-n", "5", "--seed", "2", *draw, "--out", str(path)]) == 0
    torch.manual_seed(2)
    expected = load(run / "model.pt").model.sample(5, mean=not draw)
    assert np.array_equal(np.load(path), expected.detach().numpy())


def test_sample_writes_classes_beside_the_draws(conditional, tmp_path):
    path = tmp_path / "x.csv"
    assert main(["sample", str(conditional), "-n", "4", "--out", str(path)]) == 0
    head, lines = read(path)
    assert head[:2] == ["x[0,0,0]", "x[0,0,1]"] and head[-1] == "label" and len(head) == 65
    assert [line[-1] for line in lines] == ["0", "1", "2", "0"]


def test_sample_of_a_table_has_its_columns(table, tmp_path):
    path = tmp_path / "x.csv"
    assert main(["sample", str(table / "run"), "-n", "3", "--label", "1", "--out", str(path)]) == 0
    assert read(path)[0] == ["height", "weight", "label"]
    assert data.load(path).event_shape == (2,)


def test_sample_from_a_mixture_is_of_the_posterior_of_the_training_data(run, tmp_path):
    path = tmp_path / "x.npy"
    argv = [
        "sample",
        str(run),
        "-n",
        "5",
        "--prior",
        "mixture",
        "--components",
        "3",
        "--seed",
        "1",
    ]
    assert main([*argv, "--out", str(path)]) == 0
    trainer = load(run / "model.pt")
    train = data.load("digits", binarize="dynamic").train
    prior = priors.AggregatePosterior(3, seed=1).fit(trainer.model, trainer.guide, train)
    torch.manual_seed(1)
    expected = handlers.replace_prior(trainer.model, prior).sample(5, mean=True)
    np.testing.assert_allclose(np.load(path), expected.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_outliers_are_those_of_rarity(run, tmp_path, capsys):
    path = tmp_path / "o.csv"
    argv = ["outliers", str(run), "-n", "4", "--importance-samples", "0", "--out", str(path)]
    assert main(argv) == 0
    trainer = load(run / "model.pt")
    splits = data.load("digits", binarize="dynamic")
    torch.manual_seed(0)
    found = diagnostics.rarity(
        trainer.model, trainer.guide, splits.test, reference=binarized(splits.train)
    )
    head, lines = read(path)
    assert head == ["log q(z)", "log q(z) error", "log q(z) share"]
    value, error, share = np.array(lines, float).T
    np.testing.assert_allclose(value, found.log_density, rtol=1e-4)
    np.testing.assert_allclose(error, found.standard_error, rtol=1e-3, atol=1e-4)
    # The reference is drawn anew
    np.testing.assert_allclose(share, found.tail, atol=0.05)
    caption, _, *rows = capsys.readouterr().out.splitlines()
    assert caption.startswith("the 4 rarest of 360 data by density, in nats; share: of 1437")
    assert [int(row.split()[0]) for row in rows[:4]] == found.rarest(4).tolist()


@pytest.mark.parametrize("by", ["density", "likelihood"])
def test_outliers_finds_the_strange_rows_of_a_file(by, table, tmp_path, capsys):
    lines = (table / "t.csv").read_text().splitlines()
    strange = tmp_path / "new.csv"
    strange.write_text("\n".join([*lines[:21], "odd,a,90.0,-80.0", *lines[21:40]]))
    argv = ["outliers", str(table / "run"), "--data", str(strange), "-n", "2", "--by", by]
    assert main([*argv, "--importance-samples", "20"]) == 0
    caption, head, first, _ = capsys.readouterr().out.splitlines()
    assert caption.startswith(f"the 2 rarest of 40 data by {by}")
    assert head.split() == ["row", "name", "log", "q(z)", "share", "log", "p(x)", "share"]
    row, name, *_, share, percent = first.split()
    assert (row, name, percent) == ("20", "odd", "%") and float(share) == pytest.approx(
        1.8, abs=0.06
    )


def test_outliers_of_a_large_reference_are_told(run, monkeypatch, capsys):
    from pyro_vae.cli import numbers

    monkeypatch.setattr(numbers, "REFERENCE", 100)
    assert main(["outliers", str(run), "-n", "1", "--importance-samples", "2"]) == 0
    printed = capsys.readouterr()
    assert "compared with 100 of 1437 training data, drawn by --seed" in printed.err
    assert "share: of 100 training data" in printed.out
