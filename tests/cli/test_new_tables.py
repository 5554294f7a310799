"""New tables for models that are told of some columns."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from pyro_vae import data, infer, load
from pyro_vae.cli import main, training

SITES = ("Bonn", "Kiel", "Rome")


def table(path, sites, names="a,b,site,age", seed=1):
    """A CSV whose numbers differ by seed alone, with these sites."""
    generator = np.random.default_rng(seed)
    rows = [
        f"{a:.4f},{b:.4f},{site},{age:.3f}"
        for site, (a, b, age) in zip(sites, generator.normal(size=(len(sites), 3)), strict=True)
    ]
    path.write_text("\n".join([names, *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    told = (
        "--condition-on site --condition-on-numbers age --epochs 1 --hidden 8 --latents 2 --quiet"
    )
    argv = ["train", "--data", str(table(folder / "train.csv", SITES * 20)), *told.split()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "write_report", lambda *args, **kwargs: None)
        assert main([*argv, "--importance-samples", "0", "--out", str(folder / "run")]) == 0
    return folder


def rows_of(path):
    return [*csv.DictReader(path.read_text().splitlines())]


def encoded(folder, path, out="z.csv"):
    argv = ["encode", str(folder / "run" / "model.pt"), "--data", str(path)]
    assert main([*argv, "--out", str(folder / out)]) == 0
    return rows_of(folder / out)


def expected(folder, x, y):
    found = infer.encode(load(folder / "run" / "model.pt").guide, x, y=y)
    return found.mean["z1"]


@pytest.mark.parametrize("sites", [("Rome", "Kiel"), ("Rome",), ("Kiel", "Bonn", "Rome", "Kiel")])
def test_classes_of_a_new_table_have_the_numbers_of_training(folder, sites):
    path = table(folder / "new.csv", sites)
    rows = encoded(folder, path)
    assert [row["site"] for row in rows] == [*sites]
    told = rows_of(path)
    x = torch.tensor([[float(row["a"]), float(row["b"])] for row in told])
    y = {
        "site": torch.tensor([SITES.index(site) for site in sites]),
        "age": torch.tensor([float(row["age"]) for row in told]),
    }
    means = torch.tensor([[float(row["z1[0]"]), float(row["z1[1]"])] for row in rows])
    torch.testing.assert_close(means, expected(folder, x, y), rtol=1e-4, atol=1e-5)


def test_columns_are_found_by_name(folder):
    path = table(folder / "plain.csv", SITES)
    plain = encoded(folder, path)
    swapped = [
        ",".join([b, "7", age, a, site])
        for a, b, site, age in csv.reader(path.read_text().splitlines())
    ]
    swapped[0] = "b,more,age,a,site"
    (folder / "swapped.csv").write_text("\n".join(swapped) + "\n")
    assert encoded(folder, folder / "swapped.csv") == plain


def test_a_single_datum_and_the_training_data(folder, capsys):
    path = table(folder / "one.csv", ("Rome",))
    model = str(folder / "run" / "model.pt")
    argv = ["outliers", model, "--data", str(path), "--importance-samples", "0"]
    assert main(argv) == 0
    assert "the 1 rarest of 1 data" in capsys.readouterr().out
    assert main(["evaluate", model, "--data", str(path)]) == 2
    assert "expected at least 2 data to split, got 1: add data" in capsys.readouterr().err
    assert main(["encode", model, "--out", str(folder / "all.csv")]) == 0
    whole = rows_of(folder / "all.csv")
    assert [row["site"] for row in whole] == [*SITES * 20]


@pytest.mark.parametrize("command", ["encode", "evaluate", "outliers", "interpolate"])
def test_an_unknown_class_is_never_numbered(folder, command, capsys):
    path = table(folder / "odd.csv", ("Kiel", "Rom", "Bonn") * 4)
    argv = [command, str(folder / "run" / "model.pt"), "--data", str(path)]
    out = ["--out", str(folder / f"odd{command}.png")] if command == "interpolate" else []
    out = ["--out", str(folder / "odd.csv.csv")] if command == "encode" else out
    assert main([*argv, *out]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "pyro-vae: error: --data, column 'site': expected one of Bonn, Kiel, Rome, got 'Rom'; "
        "did you mean 'Rome'?"
    )


def test_what_is_lacking_is_told(folder, capsys):
    def told(path, run="run"):
        argv = ["encode", str(folder / run / "model.pt"), "--data", str(path)]
        assert main([*argv, "--out", str(folder / "none.csv")]) == 2
        return capsys.readouterr().err

    sites = table(folder / "sites.csv", SITES, names="a,b,sites,age")
    assert "told of site, age in training: expected one of" in (found := told(sites))
    assert "got 'site'; did you mean 'sites'?" in found
    a = table(folder / "upper.csv", SITES, names="A,b,site,age")
    assert "columns of training, got no 'a'; did you mean 'A'?" in told(a)
    np.save(folder / "x.npy", np.zeros((4, 2), np.float32))
    assert "expected a table with names of columns" in told(folder / "x.npy")
    gaps = table(folder / "gaps.csv", ("Kiel", "", "Rome"))
    assert "y['site']: expected labels of all data, got -1, missing, for 1 of" in told(gaps)
    (folder / "alone").mkdir()
    shutil.copy(folder / "run" / "model.pt", folder / "alone")
    assert "copy that of the training run there" in told(sites, "alone")


def test_an_older_run_numbers_classes_as_its_training_data(folder, tmp_path, capsys):
    shutil.copytree(folder / "run", tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    del record["data"]["classes"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    path = table(tmp_path / "new.csv", ("Rome", "Kiel"))
    assert encoded(tmp_path, path) == encoded(folder, path)
    record["data"]["source"] = str(tmp_path / "moved.csv")
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    argv = ["encode", str(tmp_path / "run" / "model.pt"), "--data", str(path)]
    assert main([*argv, "--out", str(tmp_path / "z.csv")]) == 2
    assert "which tell how this older run numbers classes" in capsys.readouterr().err


def test_a_record_that_does_not_tell_is_no_secret(tmp_path, capsys):
    """Neither that it is damaged, nor that classes are numbered without it."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(30, 3)).astype(np.float32)
    train, new = str(tmp_path / "train.npz"), str(tmp_path / "new.npz")
    np.savez(train, x=x, y=np.array(SITES * 10))
    np.savez(new, x=x[:2], y=np.array(SITES[:2]))
    argv = ["train", "--data", train, "--conditional", "--epochs", "1", "--hidden", "8", "--quiet"]
    argv += ["--latents", "2", "--importance-samples", "0", "--out", str(tmp_path / "run")]
    assert main(argv) == 0
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    del record["data"]["classes"]
    record["data"]["source"] = str(tmp_path / "moved.npz")
    path.write_text(json.dumps(record))
    argv = ["encode", str(tmp_path / "run" / "model.pt"), "--out", str(tmp_path / "z.csv")]
    capsys.readouterr()
    main([*argv, "--data", new])
    assert "note: this older run does not tell how it numbers classes" in capsys.readouterr().err
    path.write_text(json.dumps(record)[:40])
    main([*argv, "--data", new])
    assert f"note: {path} is no record of a training run" in capsys.readouterr().err


def test_classes_of_a_folder_or_file_keep_their_numbers(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "write_report", lambda *args, **kwargs: None)
    generator = np.random.default_rng(0)

    def file(name, labels):
        x = generator.normal(size=(len(labels), 3)).astype(np.float32)
        np.savez(tmp_path / name, x=x, y=np.array(labels))
        return str(tmp_path / name)

    argv = ["train", "--data", file("train.npz", SITES * 10), "--conditional", "--epochs", "1"]
    argv += ["--hidden", "8", "--latents", "2", "--quiet", "--importance-samples", "0"]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["data"]["classes"] == [*SITES]
    argv = ["encode", str(tmp_path / "run" / "model.pt"), "--out", str(tmp_path / "z.csv")]
    new = file("new.npz", ("Rome", "Kiel", "Rome"))
    assert main([*argv, "--data", new]) == 0
    rows = rows_of(tmp_path / "z.csv")
    assert [row["label"] for row in rows] == ["Rome", "Kiel", "Rome"]
    guide = load(tmp_path / "run" / "model.pt").guide
    wanted = infer.encode(guide, data.load(new).whole().x, y=torch.tensor([2, 1, 2])).mean["z1"]
    found = torch.tensor([[float(row["z1[0]"]), float(row["z1[1]"])] for row in rows])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    # Whole numbers are those of the classes
    assert main([*argv, "--data", file("numbers.npz", (2, 1, 2))]) == 0
    assert [row["label"] for row in rows_of(tmp_path / "z.csv")] == ["Rome", "Kiel", "Rome"]
    # As many classes as in training, of which one is another
    assert main([*argv, "--data", file("other.npz", ("Bonn", "Kiel", "Wien"))]) == 2
    assert "labels: expected one of Bonn, Kiel, Rome, got 'Wien'" in capsys.readouterr().err


def drawn(model, path, *told):
    argv = ["sample", str(model), "-n", "3", "--seed", "0", "--out", str(path), *told]
    return main(argv), path.read_text() if path.exists() else None


def test_what_a_model_is_told_is_named_as_in_training(folder, capsys):
    model = folder / "run" / "model.pt"
    by_number = drawn(model, folder / "one.csv", "--given", "site=2,age=0.5")
    assert by_number == drawn(model, folder / "other.csv", "--given", "site=Rome, age=0.5")
    assert by_number[0] == 0 and by_number != drawn(
        model, folder / "k.csv", "--given", "site=Kiel"
    )
    capsys.readouterr()
    one = "--given site: expected one of Bonn, Kiel, Rome, got"
    for told, said in {
        "site=Rom": f"{one} 'Rom'; did you mean 'Rome'?",
        "site=3": f"{one} '3'",
        "sight=Rome": "--given: expected one of site, age, got 'sight'; did you mean 'site'?",
        "age=old": "--given age: expected a number, got 'old'",
    }.items():
        assert drawn(model, folder / "none.csv", "--given", told) == (2, None)
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "right", "wrong"),
    [
        (["Kiel", "Rome", "Kiel"], {"Rome": "1", "1": "1", "Kiel": "0"}, ["Bonn", "2", "-1"]),
        (["7", "3", "7"], {"3": "0", "7": "1"}, ["0", "1"]),
    ],
    ids=["words", "numbers"],
)
def test_a_class_is_named_as_in_training(tmp_path, capsys, labels, right, wrong):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 3)).astype(np.float32)
    np.savez(tmp_path / "train.npz", x=x, y=np.array(labels * 20))
    told = "--conditional --epochs 1 --hidden 8 --latents 2 --importance-samples 0 --quiet"
    argv = ["train", "--data", str(tmp_path / "train.npz"), *told.split()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "write_report", lambda *args, **kwargs: None)
        assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    for label, number in right.items():
        assert drawn(tmp_path / "run", tmp_path / "s.csv", "--label", label)[0] == 0
        assert {row["label"] for row in rows_of(tmp_path / "s.csv")} == {number}
    for label in wrong:
        assert drawn(tmp_path / "run", tmp_path / "none.csv", f"--label={label}") == (2, None)
        assert f"--label: expected one of {', '.join(sorted({*labels}))}, got" in (
            capsys.readouterr().err
        )
