"""Tables: the kind of each column, names, categories and rows, into a likelihood and back."""

import re

import numpy as np
import pytest
import scipy.sparse
import torch

from pyro_vae import Trainer, guides, infer, likelihoods, load
from pyro_vae import data as datasets
from pyro_vae.data import Dataset, DataSplits
from pyro_vae.data.columns import kinds_of
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
    drawn, mean = (parts.train.to_frame(vae.sample(7, mean=m)) for m in (False, True))
    assert drawn["city"].isin(CITIES).all() and mean["smokes"].isin(SMOKES).all()
    assert drawn["visits"].dtype.kind == "i" and mean["visits"].dtype.kind == "f"
    codes = guides.BottomUp(vae).encode(parts.train).to_frame()
    assert list(codes.columns) == ["z1[0]", "z1[1]"]
    assert codes.index.tolist() == parts.train.index.tolist()
    assert guides.BottomUp(vae).encode(frame).to_frame().index.tolist() == list(frame.index)
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
    with pytest.raises(
        ValueError, match=r"text in all of column 'city', got 1 others, the first in row 1"
    ):
        Dataset(frame)


def test_parquet_keeps_kinds_and_names(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.DataFrame(rows()).to_parquet(tmp_path / "t.parquet")
    d = datasets.load(tmp_path / "t.parquet")
    assert isinstance(d, DataSplits) and [c.kind for c in d.columns] == KINDS


def test_without_pandas_the_way_out_is_told(csv, monkeypatch):
    d = datasets.load(csv)
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas") as error:
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
