import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae import Trainer, guides, likelihoods, models
from pyro_vae.cli import main
from pyro_vae.data import Dataset
from pyro_vae.experiments import NAMES
from pyro_vae.experiments.running import (
    Results,
    markdown,
    number,
    over_seeds,
    parser,
    splits,
    trained,
)

KEY = {"system": "VAE+BN", "layers": 2, "seed": 0}


def test_rows_are_computed_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"ELBO": -1.5, "kl": {"z1": 2.0}}

    for _ in range(2):
        row = Results(tmp_path / "new" / "folder", {"epochs": 3}).row(KEY, compute)
        assert row == {**KEY, "ELBO": -1.5, "kl": {"z1": 2.0}}
    assert len(calls) == 1
    assert Results(tmp_path / "new" / "folder", {"epochs": 3}).rows() == [row]


def test_a_row_that_failed_leaves_nothing(tmp_path):
    results = Results(tmp_path, {})
    with pytest.raises(ZeroDivisionError):
        results.row(KEY, lambda: {"ELBO": 1 / 0})
    assert results.rows() == []


def test_a_folder_of_other_settings_is_refused(tmp_path):
    Results(tmp_path, {"epochs": 3, "latents": (2, 1)})
    Results(tmp_path, {"epochs": 3, "latents": (2, 1)})
    with pytest.raises(ValueError, match=r"--out: .*'epochs': 3.*expected .*'epochs': 4"):
        Results(tmp_path, {"epochs": 4, "latents": (2, 1)})


def test_keys_become_different_readable_file_names(tmp_path):
    results = Results(tmp_path, {})
    paths = {
        results.path({"system": s, "seed": 0}, ".pt").name for s in ("VAE+BN", "VAE BN", "a/b")
    }
    assert paths == {"VAE+BN-0.pt", "VAE-BN-0.pt", "a-b-0.pt"}


def test_training_goes_on_where_it_stopped(tmp_path):
    data = Dataset(torch.randn(40, 6))

    def build():
        torch.manual_seed(0)
        vae = models.VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(8,))
        return Trainer(vae, guides.BottomUp(vae), seed=0)

    options = {"batch_size": 10, "progress": False}
    straight = build().fit(data, epochs=5, **options)
    trained(tmp_path / "a.pt", build, data, epochs=2, every=1, **options)
    resumed = trained(tmp_path / "a.pt", build, data, epochs=5, every=2, **options)
    assert len(resumed.history) == 5
    for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_means_and_deviations_over_seeds():
    rows = [
        {"system": "b", "seed": s, "ELBO": v, "epochs": 3, "note": "x", "kl": {"z1": v}}
        for s, v in enumerate((1.0, 2.0, 6.0))
    ] + [{"system": "a", "seed": 0, "ELBO": 4.0, "epochs": 3, "note": "y", "kl": {}}]
    b, a = over_seeds(rows, ["system"])
    assert b["ELBO"] == (3.0, pytest.approx(math.sqrt(7)))
    assert b["seeds"] == 3 and b["note"] == "x" and "seed" not in b
    assert a["ELBO"][0] == 4.0 and math.isnan(a["ELBO"][1])


def test_tables():
    assert number((3.14159, 0.1), 3) == "3.142 +- 0.100"
    text = markdown([{"a": 1, "b": "2"}, {"a": 3, "b": (4.04, 0.2), "c": 5}], {"a": 0, "b": 1})
    assert text.splitlines() == ["| a | b |", "|---|---|", "| 1 | 2 |", "| 3 | 4.0 +- 0.2 |"]


def test_options():
    args = parser("some-name", "About.", epochs=7).parse_args(["--seeds", "1", "2", "--quick"])
    assert (args.epochs, args.seeds, args.quick, str(args.out)) == (
        7,
        [1, 2],
        True,
        "runs/some-name",
    )
    options = parser("some-name", "About.", epochs=7, batch_size=9)
    options.small = {"epochs": 2, "batch_size": 3}
    start = "pyro-vae experiment some-name"
    for typed, epochs, batch_size in [([], 7, 9), (["--quick"], 2, 3)]:
        args = options.parse_args(typed)
        assert (args.epochs, args.batch_size) == (epochs, batch_size)
        assert args.command == " ".join([start, *typed])
    args = options.parse_args(["--epochs", "7", "--quick"])
    assert (args.epochs, args.batch_size) == (7, 3)
    assert args.command == f"{start} --epochs 7 --quick"
    for bad in (
        ["--batch-size", "3"],
        ["--epochs", "0"],
        ["--epochs", "x"],
        ["--threads", "0"],
        ["--seeds", "-1"],
    ):
        with pytest.raises(SystemExit):
            parser("some-name", "About.", epochs=7).parse_args(bad)


@pytest.mark.parametrize("kind", ["name", "file", "folder"])
def test_data_are_named_or_lie_somewhere(kind, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 1, 6, 6), dtype=np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    for i, x in enumerate(pixels):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(x[0]).save(tmp_path / "images" / f"{i:02}.png")
    name, size = {"name": ("digits", 8), "file": ("x.npy", 6), "folder": ("images", 6)}[kind]
    source = name if kind == "name" else str(tmp_path / name)
    args = parser("some-name", "About.", epochs=7).parse_args(["--data", source])
    found = splits(args, binarize="dynamic")
    assert found.name == name and found.event_shape == (1, size, size)
    assert set(found.test.x.unique().tolist()) <= {0.0, 1.0}


def test_omniglot_is_the_split_of_published_numbers(tmp_path):
    options = parser("some-name", "About.", epochs=7)
    args = options.parse_args(["--data", "omniglot", "--data-root", str(tmp_path)])
    with pytest.raises(FileNotFoundError, match=r"chardata\.mat"):
        splits(args)


@pytest.mark.parametrize("name", NAMES)
def test_the_command_line_knows_every_experiment(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["experiment", name, "--help"])
    assert exit_.value.code == 0
    assert f"pyro-vae experiment {name}" in capsys.readouterr().out


def test_unknown_experiments_are_refused(capsys):
    assert main(["experiment", "nothing"]) == 2
    assert "ladder-mnist" in capsys.readouterr().err


def test_settings_are_readable(tmp_path):
    Results(tmp_path, {"epochs": 3})
    assert json.loads((tmp_path / "settings.json").read_text()) == {"epochs": 3}


def test_the_numbers_of_rows_are_a_table_of_columns(tmp_path, capsys):
    results = Results(tmp_path, {"epochs": 2})
    rows = [{"system": "VAE", "seed": s, "ELBO": -0.1 - s, "kl": {"z1": 1.5}} for s in (0, 1)]
    for row in rows:
        results.row({k: row[k] for k in ("system", "seed")}, lambda row=row: row)
    results.publish(lambda rows, settings: "table")
    assert (tmp_path / "rows.csv").read_text().splitlines() == [
        "system,seed,ELBO,kl/z1",
        "VAE,0,-0.1,1.5",
        "VAE,1,-1.1,1.5",
    ]
