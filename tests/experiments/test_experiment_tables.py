"""The page of tables is what its command makes of the results."""

import json
import re

import pytest

from pyro_vae.experiments import running, tables
from pyro_vae.experiments.running import Results, parser

FILES = sorted(tables.RESULTS.glob("*.json"))


def test_the_page_is_what_the_command_makes_of_the_results():
    page = tables.PAGE.read_text()
    assert tables.generated(page) == page
    named = re.findall(r"<!-- table: (\S+) -->", page)
    assert sorted(named) == [path.stem for path in FILES]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_results_tell_how_they_were_made(path):
    held = json.loads(path.read_text())
    assert {"command", "date", "machine", "versions", "settings"} <= held.keys()
    assert held["versions"].keys() == {"pyro_vae", "torch", "pyro"}
    for row in held["rows"]:
        assert "seed" in row or "seeds" in row
    # Paths of one machine have no place on a page
    assert not re.search(r"(?<![\w.])/(home|work|root|tmp|Users)/", path.read_text())


def small(tmp_path, rows, name="beta", **held):
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps({"rows": rows, "estimates": [], **held}))
    return tables.generated(
        f"Before.\n<!-- table: {name} -->\n| old |\n<!-- end -->\nAfter.\n", tmp_path
    )


def test_tables_are_replaced_and_what_is_around_them_stays(tmp_path):
    rows = [{"beta": 0.5, "seed": s, "ELBO": v} for s, v in enumerate((-1.0, -3.0))]
    page = small(tmp_path, rows)
    assert page == (
        "Before.\n<!-- table: beta -->\n| beta | seeds | ELBO |\n|---|---|---|\n"
        "| 0.5 | 2 | -2.00 ± 1.41 |\n<!-- end -->\nAfter.\n"
    )
    assert tables.generated(page, tmp_path) == page
    assert "| 0.5 | 2 | -3.00 ± 2.83 |" in small(tmp_path, [rows[0], {**rows[1], "ELBO": -5.0}])


def test_numbers_over_seeds_are_shown_as_they_are(tmp_path):
    rows = [{"beta": 2.0, "seeds": 3, "ELBO": [-2.0, 0.25], "KL": None}]
    assert "| 2 | 3 | -2.00 ± 0.25 |\n" in small(tmp_path, rows)


def test_rows_have_the_order_of_their_systems(tmp_path):
    betas = [{"beta": b, "seed": 0, "ELBO": -b} for b in (16.0, 2.0, 0.5)]
    page = small(tmp_path, betas)
    assert re.findall(r"^\| ([\d.]+) ", page, flags=re.MULTILINE) == ["0.5", "2", "16"]
    systems = [{"system": s, "seed": 0, "ELBO": 1.0} for s in ("new", "WAE-MMD", "AE")]
    page = small(tmp_path, systems, "sigma")
    assert re.findall(r"^\| (\S+) \| 1 ", page, flags=re.MULTILINE) == ["AE", "WAE-MMD", "new"]
    # What no row has is no column
    assert "KID" not in page
    assert "KID" in small(tmp_path, [{**systems[0], "KID, reconstructions": 3.0}], "sigma")


def test_estimates_stand_in_the_rows(tmp_path):
    key = {"system": "VAE", "layers": 5}
    rows = [
        {**key, "epochs": 3, "seed": s, "log p(x)": -9.0, "kl": {"z1": s, "z2": 1.0}}
        for s in (0, 1)
    ]
    estimates = [{**key, "seeds": 2, "log p(x)": [-9.0, 0.3], "log p(x) - VAE": [1.5, 0.1]}]
    page = small(tmp_path, rows, "ladder", estimates=estimates)
    assert "| VAE | 3 | 2 | -9.00 ± 0.30 | 1.50 ± 0.10 | 0.5 / 1.0 |" in page


def test_published_numbers_stand_beside_those_of_the_same_data(tmp_path):
    rows = [
        {"system": s, "layers": 5, "epochs": 3, "seed": 0, "log p(x)": -9.0}
        for s in ("VAE", "LVAE+BN+WU")
    ]
    for data, number in (("mnist", "-81.74"), ("omniglot", "-102.10")):
        page = small(tmp_path, rows, "ladder", settings={"data": data})
        assert "| log p(x) | published |" in page
        assert "| VAE | 3 | 1 | -9.00 | - |" in page
        assert f"| LVAE+BN+WU | 3 | 1 | -9.00 | {number} |" in page
    assert "published" not in small(tmp_path, rows, "ladder", settings={"data": "digits"})


def test_a_table_that_nobody_knows_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"table: expected one of sigma, .*got 'other'"):
        small(tmp_path, [], "other")


def test_a_run_writes_what_the_page_is_made_from(tmp_path):
    options = parser("beta", "About.", epochs=7, batch_size=64, data="shapes")
    options.add_argument("--betas", type=float, nargs="+", default=[1.0])
    typed = ["--seeds", "0", "1", "--betas", "0.5", "--out", str(tmp_path), "--quick", "--data"]
    args = options.parse_args([*typed, "a b.npy"])
    command = "pyro-vae experiment beta --seeds 0 1 --quick --data 'a b.npy' --betas 0.5"
    assert args.command == command
    results = Results(tmp_path, {"epochs": 7}, args.command)
    per_datum = {"ELBO": [-2.0, 0.0]}
    for seed in args.seeds:
        results.row({"beta": 0.5, "seed": seed}, lambda: {"ELBO": -1.0, "per datum": per_datum})
    results.publish(lambda rows, settings, estimates: str(len(estimates)), by=["beta"])
    assert (tmp_path / "table.md").read_text() == "1"
    held = json.loads((tmp_path / "results.json").read_text())
    assert held["command"] == command and held["settings"] == {"epochs": 7}
    assert held["versions"]["torch"] and re.fullmatch(r"\d{4}-\d\d-\d\d", held["date"])
    assert held["rows"] == results.rows()
    (tmp_path / "results.json").rename(tmp_path / "beta.json")
    page = tables.generated("<!-- table: beta -->\n<!-- end -->", tmp_path)
    assert "| 0.5 | 2 | -1.00 ± 1.00 |" in page


def test_mappings_are_merged_over_seeds():
    rows = [{"a": 1, "seed": s, "kl": {"z1": float(s), "z2": "x"}} for s in (0, 2)]
    (row,) = running.over_seeds(rows, ["a"])
    assert row["kl"] == {"z1": (1.0, pytest.approx(2**0.5)), "z2": "x"}
    assert running.number(row["kl"]["z1"], 1) == "1.0 +- 1.4"
