"""What is written is read again by others: NumPy, the csv module, pyarrow, and ``data.load``."""

import csv
import importlib.util
import sys

import numpy as np
import pytest
import torch

from pyro_vae import data, guides, infer, likelihoods, models
from pyro_vae.data import Column, Rows

COLUMNS = (Column("sex", "binary", ("f", "m")), Column("count", "count"), Column("h", "numeric"))
VALUES = torch.tensor([[1.0, 0.0, 0.1], [0.0, 3.0, torch.nan], [torch.nan, 2.0, -1e20]])


def rows():
    return Rows.of(VALUES.clone(), COLUMNS)


def read(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool])
def test_arrays_come_back_as_they_were(tmp_path, dtype):
    x = (torch.randn(5, 2, 3, dtype=torch.float64) * 9).to(dtype)
    data.write(tmp_path / "x.npy", x)
    found = np.load(tmp_path / "x.npy", allow_pickle=False)
    assert np.array_equal(found, x.numpy()) and found.dtype == x.numpy().dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_texts_are_those_of_the_same_numbers(tmp_path, dtype):
    x = (torch.randn(5000, 2, dtype=torch.float64) * 9).to(dtype)
    data.write(tmp_path / "x.csv", x)
    head, *lines = read(tmp_path / "x.csv")
    assert head == ["x[0]", "x[1]"] and len(lines) == 5000
    wide = x.float() if dtype == torch.bfloat16 else x
    assert np.array_equal(np.array(lines).astype(wide.numpy().dtype), wide.numpy())


def test_columns_are_named_by_their_places(tmp_path):
    values = {"z1": torch.arange(8.0).reshape(2, 2, 2), "label": np.array(["a,b", 'c"d'])}
    data.write(tmp_path / "z.CSV", values, index=["first", "second"])
    assert read(tmp_path / "z.CSV") == [
        ["", "z1[0,0]", "z1[0,1]", "z1[1,0]", "z1[1,1]", "label"],
        ["first", "0.0", "1.0", "2.0", "3.0", "a,b"],
        ["second", "4.0", "5.0", "6.0", "7.0", 'c"d'],
    ]


def test_rows_of_a_table_keep_names_text_and_counts(tmp_path):
    data.write(tmp_path / "t.csv", rows())
    assert read(tmp_path / "t.csv") == [
        ["sex", "count", "h"],
        ["m", "0", "0.1"],
        ["f", "3", ""],
        ["", "2", "-1e+20"],
    ]


def test_load_reads_what_was_written(tmp_path):
    x = torch.randn(30, 2)
    label = torch.arange(30) % 3
    data.write(tmp_path / "x.csv", {"z": x, "label": label}, index=[f"r{i}" for i in range(30)])
    found = data.load(tmp_path / "x.csv").whole()
    assert torch.equal(found.x, x) and torch.equal(found.y, label)
    assert [column.name for column in found.columns] == ["z[0]", "z[1]"]
    assert found.index.tolist() == [f"r{i}" for i in range(30)]


def test_parquet_has_types(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    data.write(tmp_path / "t.parquet", rows(), index=["p", "q", "r"])
    found = parquet.read_table(tmp_path / "t.parquet")
    assert found.column_names == ["index", "sex", "count", "h"]
    assert found["sex"].to_pylist() == ["m", "f", None]
    assert str(found.schema.field("count").type) == "int64"
    assert str(found.schema.field("h").type) == "float"
    assert np.array_equal(found["h"].to_numpy(), VALUES[:, 2].numpy(), equal_nan=True)


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_load_finds_no_column_in_the_index_of_a_parquet(tmp_path, monkeypatch, package):
    pytest.importorskip("pyarrow")
    pytest.importorskip(package)
    find = importlib.util.find_spec
    others = {"pandas", "polars"} - {package}
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in others else find(n))
    x = torch.randn(6, 2)
    data.write(tmp_path / "x.parquet", {"z": x}, index=[f"r{i}" for i in range(6)])
    found = data.load(tmp_path / "x.parquet").whole()
    assert torch.equal(found.x, x)
    assert [column.name for column in found.columns] == ["z[0]", "z[1]"]
    if package == "pandas":
        assert found.index.tolist() == [f"r{i}" for i in range(6)]


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("old")
    with pytest.raises(ValueError, match="expected as many rows in each, got 3 of a, 2 of b"):
        data.write(path, {"a": torch.zeros(3), "b": torch.zeros(2)})
    with pytest.raises(ValueError, match="index"):
        data.write(path, torch.zeros(3), index=[1])
    with pytest.raises(ValueError, match="got none"):
        data.write(path, {})
    with pytest.raises(ValueError, match="'x' twice"):
        data.write(
            path, {"x": np.zeros(2), "y": Rows.of(torch.zeros(2, 1), [Column("x", "count")])}
        )
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("x.cvs", "; did you mean '.csv'?"), ("x.parqet", "; did you mean '.parquet'?"), ("x", "")],
)
def test_other_endings_are_refused_by_name(tmp_path, name, meant):
    with pytest.raises(ValueError, match=r"a name that ends in \.npy, \.csv, \.parquet") as e:
        data.write(tmp_path / name, torch.zeros(2))
    assert str(e.value).endswith(f"{name}'{meant}") and not [*tmp_path.iterdir()]


def test_parquet_without_pyarrow_tells_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'pyro_vae\[tables\]', or end .* \.csv"):
        data.write(tmp_path / "x.parquet", torch.zeros(2))


@pytest.fixture
def guide():
    return guides.BottomUp(models.VAE((6,), (3, 2), likelihood=likelihoods.Gaussian()))


def test_an_encoding_is_an_array_and_a_file(guide, tmp_path):
    found = infer.encode(guide, torch.randn(4, 6))
    assert np.array_equal(found.array("z2"), found.mean["z2"].detach().numpy())
    found.write(tmp_path / "z.npy", "z1")
    assert np.array_equal(np.load(tmp_path / "z.npy"), found.array("z1"))
    found.write(tmp_path / "z.csv")
    head, *lines = read(tmp_path / "z.csv")
    assert head == ["z1[0]", "z1[1]", "z1[2]", "z2[0]", "z2[1]"]
    both = np.concatenate([found.array("z1"), found.array("z2")], 1)
    assert np.array_equal(np.array(lines, np.float32), both)
    one = guides.BottomUp(models.VAE((6,), 2, likelihood=likelihoods.Gaussian()))
    alone = infer.encode(one, torch.randn(4, 6))
    assert np.array_equal(alone.array(), alone.array("z1"))


def test_the_site_of_an_encoding_is_named_where_there_are_several(guide, tmp_path):
    found = infer.encode(guide, torch.randn(4, 6))
    with pytest.raises(ValueError, match="site: expected one of z1, z2, got none: pass array"):
        found.array()
    with pytest.raises(ValueError, match="expected one of z1, z2, got 'z3'"):
        found.write(tmp_path / "z.csv", "z3")
    with pytest.raises(ValueError, match=r"expected one array for \.npy, got z1, z2"):
        found.write(tmp_path / "z.npy")


def test_what_all_data_share_has_no_row(tmp_path):
    import pyro
    import pyro.distributions as dist

    def program(x):
        pyro.sample("scale", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.sum(1), 1.0))

    found = infer.encode(program, torch.ones(3, 2))
    assert found.shared == ("scale",) and found.array("scale").shape == (3,)
    found.write(tmp_path / "z.csv")
    assert read(tmp_path / "z.csv") == [["z"], ["2.0"], ["2.0"], ["2.0"]]


def test_the_whole_of_divided_data_is_in_the_order_of_its_source():
    x, y = torch.arange(40.0)[:, None], torch.arange(40) % 2
    splits = data.load((x, y))
    assert torch.equal(splits.whole().x, x) and torch.equal(splits.whole().y, y)
    assert torch.equal(splits.train.x, x[splits.rows[0]])
    digits = data.load("digits")
    assert torch.equal(digits.whole().x[:1437], digits.train.x) and digits.rows == ()
    assert torch.equal(digits.whole()[1437:].y, digits.test.y)
