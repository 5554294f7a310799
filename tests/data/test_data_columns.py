"""Tables: the kind of each column, names, categories and rows, into a likelihood and back."""

import copy
import importlib.util
import re

import numpy as np
import pytest
import scipy.sparse
import torch

from pyro_vae import Trainer, guides, handlers, infer, likelihoods, load, save
from pyro_vae import data as datasets
from pyro_vae.data import Column, Dataset, DataSplits, Rows
from pyro_vae.data.columns import kinds_of
from pyro_vae.data.frames import Table
from pyro_vae.data.given import as_dataset
from pyro_vae.models import VAE

CITIES, SMOKES = ["Rome", "Bonn", "Oslo"], ["no", "yes"]
N = 60


def rows():
    """Of a table with a column of each kind."""
    r = np.random.default_rng(0)
    year = r.integers(1990, 2020, N)
    visits = r.poisson(4.0, N)
    height = np.round(r.normal(1.7, 0.1, N), 3)
    city = [CITIES[k % 3] for k in range(N)]
    smokes = [SMOKES[k % 2] for k in range(N)]
    flag = r.integers(0, 2, N)
    return {
        "year": year,
        "visits": visits,
        "height": height,
        "city": city,
        "smokes": smokes,
        "flag": flag,
    }


KINDS = ["numeric", "count", "numeric", "categorical", "binary", "binary"]


@pytest.fixture
def csv(tmp_path):
    table = rows()
    lines = [
        ",".join(table),
        *(",".join(map(str, row)) for row in zip(*table.values(), strict=True)),
    ]
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "table.csv"


def test_a_file_tells_name_and_kind_of_each_column(csv):
    d = datasets.load(csv)
    assert [c.name for c in d.columns] == [*rows()] and [c.kind for c in d.columns] == KINDS
    assert d.columns[3].categories == ("Bonn", "Oslo", "Rome")
    assert d.columns[4].categories == ("no", "yes") and d.columns[5].categories == ()
    assert d.event_shape == (6,) and d.labels == () and d.train.y is None
    assert set(d.train.x[:, 3].tolist()) == {0.0, 1.0, 2.0}
    assert d.test.columns == d.train.columns == d.train[:5].columns
    first = Dataset(d.train.x[:1])
    assert first.columns == ()


def test_one_column_of_text_is_the_labels_and_so_is_one_by_that_name(tmp_path):
    for text, names, labels in (
        ("a,b,kind\n1,2,x\n3,4,y\n5,6,x\n", ["a", "b"], ("x", "y")),
        ("city,b,label\nRome,2,x\nBonn,4,y\nOslo,6,x\n", ["city", "b"], ("x", "y")),
        ("city,b,class\nRome,2,0\nBonn,4,1\nOslo,6,0\n", ["city", "b"], ("0", "1")),
        ("city,b,target\nRome,2,0.5\nBonn,4,1.5\nOslo,6,0.1\n", ["city", "b", "target"], ()),
    ):
        (tmp_path / "t.csv").write_text(text)
        d = datasets.load(tmp_path / "t.csv")
        assert [c.name for c in d.columns] == names and d.labels == labels


def test_the_first_column_of_pandas_names_the_rows(tmp_path):
    (tmp_path / "t.csv").write_text(",a,b\nr1,1,2\nr2,3,4\nr3,5,6\n")
    d = datasets.load(tmp_path / "t.csv")
    every = {
        str(i): row
        for part in (d.train, d.test)
        for i, row in zip(part.index, part.x.tolist(), strict=True)
    }
    assert every == {"r1": [1, 2], "r2": [3, 4], "r3": [5, 6]}
    part = d.train[d.train.x[:, 0] > 1]
    assert len(part.index) == len(part)
    assert d.train[:1].replace(binarize=None).index.tolist() == d.train.index[:1].tolist()


def test_kinds_by_values():
    x = torch.tensor([[0.0, 1.5, -1.0, 2.0, 1999.0, 7.0], [1.0, 2.0, 3.0, 0.0, 2001.0, 7.0]])
    expected = ["binary", "numeric", "numeric", "count", "numeric", "numeric"]
    assert kinds_of(x) == expected
    assert kinds_of(x, text=[3, 0]) == ["binary", *expected[1:3], "categorical", *expected[4:]]
    # Of what is there
    holes = torch.cat([x, torch.full((1, 6), torch.nan)])
    assert kinds_of(holes) == expected
    poisson = torch.poisson(torch.tensor([0.5, 5.0, 500.0]).expand(400, 3))
    assert kinds_of(poisson) == ["count"] * 3


def test_the_likelihood_goes_by_the_kinds_and_the_pair_is_in_the_units_of_the_table(csv, tmp_path):
    d = datasets.load(csv)
    mixed = likelihoods.for_columns(d)
    assert mixed.names == tuple(rows())
    told = {type(p).__name__: c for p, c in zip(mixed.likelihoods, mixed.columns, strict=True)}
    assert told == {
        "Gaussian": (0, 2),
        "NegativeBinomial": (1,),
        "Nominal": (3,),
        "Bernoulli": (4, 5),
    }
    gaussian = mixed.likelihoods[0]
    torch.testing.assert_close(gaussian.loc, d.train.x[:, [0, 2]].mean(0))
    vae = VAE(d.event_shape, latents=2, likelihood=mixed, hidden=(8,))
    trainer = Trainer(vae, guides.BottomUp(vae), seed=0)
    trainer.fit(d.train, validation=d.test, epochs=2, batch_size=20, progress=False)
    trainer.save(tmp_path / "file.pt")
    again = load(tmp_path / "file.pt")
    assert again.model.likelihood.names == mixed.names
    found = infer.reconstruct(again.model, again.guide, d.test.x)
    assert (found[:, 0] - 2005).abs().max() < 40 and found.shape == d.test.x.shape
    vae.check_data(vae.sample(9))


def test_kinds_may_be_told(csv):
    d = datasets.load(csv)
    mixed = likelihoods.for_columns(d, kinds={"visits": "categorical", 0: "count", -1: "numeric"})
    kinds = {
        c: type(p).__name__
        for p, group in zip(mixed.likelihoods, mixed.columns, strict=True)
        for c in group
    }
    assert [kinds[i] for i in (0, 1, 5)] == ["NegativeBinomial", "Nominal", "Gaussian"]
    most = int(torch.cat([d.train.x, d.test.x])[:, 1].max())
    assert next(
        p for p in mixed.likelihoods if hasattr(p, "categories") and p.categories == most + 1
    )


def test_arrays_without_names_have_kinds_too():
    x = torch.cat([torch.randn(30, 2), torch.poisson(torch.full((30, 3), 4.0))], 1)
    splits = datasets.load(x)
    for data in (Dataset(x), splits):
        mixed = likelihoods.for_columns(data)
        assert mixed.names is None and mixed.feature_shape((5,)) == (5,)
        assert mixed.columns == ((0, 1), (2, 3, 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda d: likelihoods.for_columns(d.train.x),
            "data: expected a data set of a table, got Tensor",
        ),
        (lambda d: likelihoods.for_columns(d, {"hight": "count"}), "did you mean 'height'"),
        (lambda d: likelihoods.for_columns(d, {"height": "counts"}), "did you mean 'count'"),
        (
            lambda d: likelihoods.for_columns(d, {9: "count"}),
            "kinds: expected columns 0 to 5, got 9",
        ),
        (
            lambda d: likelihoods.for_columns(Dataset(torch.zeros(3, 2, 2))),
            r"expected rows of a table, got data of shape \(2, 2\)",
        ),
        (
            lambda d: likelihoods.for_columns(Dataset(torch.full((3, 2), 7.5))),
            "numeric columns that vary, got '0' of one value, 7.5",
        ),
        (lambda d: Dataset(torch.zeros(3, 2)).to_frame(), "columns: expected data of a table"),
    ],
)
def test_what_is_no_table_is_told(csv, make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make(datasets.load(csv))


# Frames


def test_a_frame_goes_in_and_comes_out():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(rows(), index=[f"r{i}" for i in range(N)])
    d = Dataset(frame)
    assert [c.kind for c in d.columns] == KINDS
    again = d.to_frame()
    assert list(again.columns) == list(frame.columns) and (again.index == frame.index).all()
    for name in ("visits", "flag", "city", "smokes"):
        assert again[name].tolist() == frame[name].tolist()
    np.testing.assert_allclose(again["height"], frame["height"], rtol=1e-6)
    parts = datasets.load(frame)
    both = pandas.concat([parts.train.to_frame(), parts.test.to_frame()]).loc[frame.index]
    assert both["city"].tolist() == frame["city"].tolist()
    vae = VAE((6,), latents=2, likelihood=likelihoods.for_columns(parts), hidden=(4,))
    drawn, mean = (vae.sample(7, mean=m).to_frame() for m in (False, True))
    assert drawn["city"].isin(CITIES).all() and mean["smokes"].isin(SMOKES).all()
    assert drawn["visits"].dtype.kind == "i" and mean["visits"].dtype.kind == "f"
    codes = guides.BottomUp(vae).encode(parts.train).to_frame()
    assert list(codes.columns) == ["z1[0]", "z1[1]"]
    assert codes.index.tolist() == parts.train.index.tolist()
    assert guides.BottomUp(vae).encode(frame).to_frame().index.tolist() == list(frame.index)
    plain = torch.randn(7, 6).abs()
    assert parts.train.to_frame(plain).equals(Rows.of(plain, parts.columns).to_frame())
    handled = handlers.missing(vae)
    found = infer.impute(handled, guides.BottomUp(handled), parts.test, samples=5).to_frame()
    assert found.index.tolist() == parts.test.index.tolist()
    assert found.equals(parts.test.to_frame())
    with pytest.raises(ValueError, match=r"x: expected rows \(m, 6\) of this table, got \(7, 2\)"):
        d.to_frame(torch.zeros(7, 2))


def test_categories_of_a_frame_keep_their_order_and_are_all_there():
    pandas = pytest.importorskip("pandas")
    sizes = pandas.Categorical(["small", "large", "small"], categories=["small", "large", "huge"])
    frame = pandas.DataFrame({"a": [0.5, 1.5, 2.5], "size": sizes, "city": CITIES})
    d = Dataset(frame)
    assert d.columns[1].categories == ("small", "large", "huge")
    assert d.x[:, 1].tolist() == [0, 1, 0]
    numbers = Dataset(frame.assign(size=pandas.Categorical([5, 7, 5])))
    assert numbers.columns[1].categories == ("5", "7") and numbers.x[:, 1].tolist() == [0, 1, 0]
    frame.loc[1, "city"] = None
    holes = Dataset(frame)
    assert holes.columns[2].categories == ("Oslo", "Rome") and holes.missing
    assert holes.x[:, 2].isnan().tolist() == [False, True, False]
    assert holes.to_frame()["city"].isna().tolist() == [False, True, False]
    frame["city"] = frame["city"].astype(object)
    frame.loc[0, "city"] = 3
    with pytest.raises(
        ValueError, match="text in all of column 'city', got 1 others, the first 3"
    ):
        Dataset(frame)


def test_parquet_keeps_kinds_and_names(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.DataFrame(rows()).to_parquet(tmp_path / "t.parquet")
    d = datasets.load(tmp_path / "t.parquet")
    assert isinstance(d, DataSplits) and [c.kind for c in d.columns] == KINDS


@pytest.mark.parametrize(
    ("reader", "absent"), [("pandas", "polars"), ("pandas", None), ("polars", "pandas")]
)
@pytest.mark.parametrize("name", [None, "patient"])
def test_the_index_of_a_parquet_is_no_column(tmp_path, monkeypatch, reader, absent, name):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pytest.importorskip(reader)
    frame = pandas.DataFrame(rows())
    frame.index = pandas.Index([f"r{i}" for i in range(len(frame))], name=name)
    frame.to_parquet(tmp_path / "t.parquet")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == absent else find(n))
    d = datasets.load(tmp_path / "t.parquet")
    assert [c.name for c in d.columns] == [*frame.columns]
    # Of polars rows have no names
    called = [] if d.train.index is None else [*d.train.index, *d.test.index]
    assert sorted(called) == (sorted(frame.index) if reader == "pandas" else [])


def test_without_pandas_the_way_out_is_told(csv, monkeypatch):
    d = datasets.load(csv)
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'pyro_vae\[tables\]'") as error:
        d.train.to_frame()
    assert re.search("or use the tensor", str(error.value))


def test_columns_of_one_name_are_told_apart_by_their_place():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        [[0.5, "x", 1.5], [2.5, "y", 9.5], [1.0, "x", 2.5]], columns=["a", "b", "a"]
    )
    d = as_dataset(frame)
    assert d.x.tolist() == [[0.5, 1.5], [2.5, 9.5], [1.0, 2.5]] and d.names == ("x", "y")
    with pytest.raises(ValueError, match="a name of its own for each column, got 'a' twice"):
        likelihoods.for_columns(d)


def test_counts_of_cells_keep_genes_and_cells():
    """As ``anndata.AnnData`` has them: sparse counts, ``var_names`` and ``obs_names``."""
    counts = torch.poisson(torch.full((8, 3), 2.0))
    counts[:2] = torch.tensor([[9.0, 9.0, 9.0], [0.0, 0.0, 0.0]])
    cells, genes = [f"cell{i}" for i in range(8)], ["g1", "g2", "g3"]
    named = {"X": scipy.sparse.csr_array(counts.numpy()), "var_names": genes, "obs_names": cells}
    annotated = type("AnnData", (), {"__module__": "anndata", **named})()
    d = Dataset(annotated)
    assert torch.equal(d.x, counts) and d.index.tolist() == cells
    assert [(c.name, c.kind) for c in d.columns] == [(gene, "count") for gene in genes]
    (likelihood,) = likelihoods.for_columns(d).likelihoods
    assert isinstance(likelihood, likelihoods.NegativeBinomial)
    sparse = likelihoods.for_columns(Dataset(named["X"]))
    assert sparse.names is None and torch.equal(sparse.likelihoods[0].loc, likelihood.loc)


# What is missing


def table(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    return datasets.load(tmp_path / "t.csv", stratify=False)


def all_of(d):
    """Values and labels of both sets, in the order of the first column."""
    x = torch.cat([d.train.x, d.test.x])
    order = x[:, 0].argsort()
    y = None if d.train.y is None else torch.cat([d.train.y, d.test.y])[order]
    return x[order], y


NAN = float("nan")


@pytest.mark.parametrize(
    ("text", "expected", "categories"),
    [
        ("a,b\n1,\n2,3\n3,5\n", [[1, NAN], [2, 3], [3, 5]], {}),
        ("1,NA\n2,3.5\n3,?\n", [[1, NAN], [2, 3.5], [3, NAN]], None),
        ('a;b\n1;"null"\n2;3\n3;<NA>\n', [[1, NAN], [2, 3], [3, NAN]], {}),
        (
            "a,city,size\n1,,x\n2,Rome,\n3,Bonn,y\n",
            [[1, NAN, 0], [2, 1, NAN], [3, 0, 1]],
            {"city": ("Bonn", "Rome"), "size": ("x", "y")},
        ),
        # The kind of a column is that of its first value, wherever this is
        ("a,city,size\n1,,\n2,,x\n3,Bonn,y\n", None, {"city": ("Bonn",), "size": ("x", "y")}),
        # A first line with an empty cell is no line of names, unless pandas wrote numbers there
        (",4.5\n2,3\n3,1\n", [[2, 3], [3, 1], [NAN, 4.5]], None),
        (",0,1\nr,1,2\ns,2,\n", [[1, 2], [2, NAN]], {}),
    ],
)
def test_empty_cells_are_missing_values(tmp_path, text, expected, categories):
    d = table(tmp_path, text)
    x, y = all_of(d)
    if expected is not None:
        torch.testing.assert_close(x, torch.tensor(expected), equal_nan=True)
    assert y is None and (d.columns == ()) == (categories is None)
    assert {c.name: c.categories for c in d.columns if c.categories} == (categories or {})


def test_empty_labels_are_minus_one(tmp_path):
    for text, names in (
        ("a,kind\n1,x\n2,\n3,y\n", ("x", "y")),
        ("a,b,label\n1,5,x\n2,6,NA\n3,9,y\n", ("x", "y")),
        ("a,class\n1,0\n2,\n3,1\n", ("0", "1")),
    ):
        d = table(tmp_path, text)
        assert d.labels == names and all_of(d)[1].tolist() == [0, -1, 1]
        assert not d.train.missing


@pytest.fixture
def holes(tmp_path):
    """A table with a column of each kind and a third of its cells empty."""
    r, told = np.random.default_rng(1), rows()
    cells = [["" if r.random() < 0.3 else str(v) for v in told[name]] for name in told]
    cells[0] = [*map(str, told["year"])]
    (tmp_path / "holes.csv").write_text(
        "\n".join(map(",".join, [told, *zip(*cells, strict=True)])) + "\n"
    )
    return datasets.load(tmp_path / "holes.csv")


def test_missing_values_are_refused_without_the_handler_and_trained_with_it(holes):
    assert [c.kind for c in holes.columns] == KINDS and holes.train.missing
    vae = VAE((6,), 2, likelihood=likelihoods.for_columns(holes), hidden=(4,))
    with pytest.raises(ValueError, match=r"train handlers.missing\(model\), to which NaN means"):
        Trainer(vae, guides.BottomUp(vae)).fit(holes.train, epochs=1)
    model = handlers.missing(vae)
    trainer = Trainer(model, guides.BottomUp(model), seed=0)
    trainer.fit(holes.train, validation=holes.test, epochs=2, batch_size=20, progress=False)
    found = infer.impute(model, trainer.guide, holes.test, samples=20)
    assert found.columns == holes.columns and found.index is None
    seen = ~holes.test.x.isnan()
    assert torch.equal(found.mean[seen], holes.test.x[seen]) and found.mean.isfinite().all()
    vae.check_data(found.draws[0])


# What a model knows of its table


def test_what_a_model_makes_knows_the_columns_and_what_is_computed_of_it_is_plain(csv, tmp_path):
    d = datasets.load(csv)
    vae = VAE((6,), 2, likelihood=likelihoods.for_columns(d), hidden=(4,))
    guide = guides.BottomUp(vae)
    assert vae.columns == d.columns
    drawn, mean = vae.sample(4), vae.sample(4, mean=True)
    decoded = infer.reconstruct(vae, guide, d.test.x)
    between = infer.interpolate(vae, guide, d.test.x[0], d.test.x[1])
    for rows in (drawn, mean, decoded, between, handlers.missing(vae).sample(3)):
        assert isinstance(rows, Rows) and rows.columns == d.columns
    for plain in (drawn[:2], drawn + 1, drawn.clone(), d.test.x, d.test[:2].x):
        assert type(plain) is torch.Tensor
    # Draws are data of this table
    again = Dataset(drawn)
    assert again.columns == d.columns and torch.equal(again.x, drawn)
    assert type(copy.deepcopy(drawn)) is Rows and copy.deepcopy(drawn).columns == d.columns
    torch.save(drawn, tmp_path / "drawn.pt")
    assert type(torch.load(tmp_path / "drawn.pt")) is torch.Tensor
    assert type(VAE((6,), 2, likelihood=likelihoods.Gaussian()).sample(2)) is torch.Tensor


def test_columns_stay_in_files_of_models_and_trainers(csv, tmp_path):
    d = datasets.load(csv)
    mixed = likelihoods.for_columns(d, kinds={"visits": "numeric"})
    plain = likelihoods.Gaussian.standardized(d.train.x)
    for vae in (VAE((6,), 2, likelihood=mixed), VAE((6,), 2, likelihood=plain, columns=d.columns)):
        save(vae, tmp_path / "model.pt")
        Trainer(vae, guides.BottomUp(vae)).save(tmp_path / "trainer.pt")
        for again in (load(tmp_path / "model.pt"), load(tmp_path / "trainer.pt").model):
            assert again.columns == vae.columns and again.sample(2).columns == vae.columns
            assert all(isinstance(c, Column) for c in again.columns)
            assert again.likelihood.arguments.keys() == vae.likelihood.arguments.keys()
    assert VAE((6,), 2, likelihood=mixed).columns[1] == Column("visits", "numeric")
    with pytest.raises(ValueError, match=r"one for each number of data of shape \(6,\), got 2"):
        VAE((6,), 2, likelihood=plain, columns=d.columns[:2])


def test_new_rows_are_numbered_as_the_table_that_a_model_knows(csv):
    d = datasets.load(csv)
    vae = VAE((6,), 2, likelihood=likelihoods.for_columns(d), hidden=(4,))
    guide = guides.BottomUp(handlers.missing(vae))
    names = tuple(rows())
    values = d.train.x[:2].double().numpy()
    fewer = Table(values, names, {3: ("Oslo", "Rome"), 4: ("yes",)})
    values[:, 3], values[:, 4] = [1, np.nan], 0
    with pytest.raises(ValueError, match=r"got other categories of 'city': pass data.Dataset"):
        guide.encode(Dataset(fewer))
    new = Dataset(fewer, columns=vae.columns)
    torch.testing.assert_close(new.x[:, 3], torch.tensor([2.0, NAN]), equal_nan=True)
    assert new.x[:, 4].tolist() == [1, 1] and new.columns == d.columns
    assert torch.equal(new.x[:, [0, 1, 2, 5]], d.train.x[:2, [0, 1, 2, 5]])
    # By their names, whatever their order and what is there besides
    order = [5, 0, 2, 1, 4, 3]
    other = Table(
        np.column_stack([values[:, order], [7, 8]]),
        (*(names[i] for i in order), "more"),
        {4: ("yes",), 5: ("Oslo", "Rome")},
    )
    with pytest.raises(ValueError, match="got other columns besides, or another order"):
        guide.encode(Dataset(other))
    same = Dataset(other, columns=vae.columns)
    torch.testing.assert_close(same.x, new.x, equal_nan=True)
    assert torch.equal(Dataset(d.test.x, columns=vae.columns).x, d.test.x)
    renamed = [c._replace(name="hight") if c.name == "height" else c for c in d.columns]
    with pytest.raises(ValueError, match=r"got no 'height'; did you mean 'hight'\?"):
        guide.encode(Dataset(Rows.of(d.test.x, renamed)))
    for table, told in (
        (Table(values, ("year", "visits", "hight", *names[3:]), {}), "did you mean 'hight'?"),
        (Table(values, names, {3: ("Bon", "Rome")}), "column 'city'.* did you mean 'Bonn'?"),
        (Table(values, names, {}), "column 'city': expected one of Bonn, .*, got '1'"),
        (Table(values, names, {2: ("old", "new")}), "'height': expected numbers, .* as 'old'"),
    ):
        with pytest.raises(ValueError, match=told):
            Dataset(table, columns=vae.columns)


def test_numbers_are_the_text_that_they_are_written_as():
    told = [Column("kind", "categorical", ("1", "2", "x"))]
    table = Table(np.array([[2.0], [NAN], [1.0]]), ("kind",), {})
    assert Dataset(table, columns=told).x[[0, 2], 0].tolist() == [1, 0]
    # Rows of another model know their own categories
    rows = Rows.of(torch.tensor([[0.0], [1.0]]), [Column("kind", "categorical", ("x", "1"))])
    assert Dataset(rows, columns=told).x[:, 0].tolist() == [2, 0]


def test_what_a_likelihood_cannot_be_for_is_told(holes):
    x = holes.train.x
    lost = x.clone()
    lost[:, 2] = NAN
    with pytest.raises(ValueError, match="got 'height' of missing values alone: leave it out"):
        likelihoods.for_columns(holes.train.replace(x=lost))
    model = handlers.missing(VAE((6,), 2, likelihood=likelihoods.for_columns(holes), hidden=(4,)))
    trainer = Trainer(model, guides.BottomUp(model))
    with pytest.raises(ValueError, match="the first of them column 'height': leave these"):
        trainer.fit(holes.train.replace(x=lost), epochs=1)
    lost = x.clone()
    lost[4] = NAN
    with pytest.raises(ValueError, match="got 1 of 54 without, the first in row 4: leave these"):
        trainer.fit(holes.train.replace(x=lost), epochs=1)
    known = holes.train[holes.train.x[:, 3] != 1]
    with pytest.raises(ValueError, match=r"each category of 'city' .* got 'Oslo' in other sets"):
        likelihoods.for_columns(DataSplits("t", known, holes.train))
    numbered = DataSplits("t", Dataset(known.x), Dataset(x))
    with pytest.raises(ValueError, match=r"each category of '3' .* got 1 in other sets alone"):
        likelihoods.for_columns(numbered, kinds={3: "categorical"})
    # A category that no set has is no harm
    likelihoods.for_columns(DataSplits("t", known, known))
