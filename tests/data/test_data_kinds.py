"""Every kind of object and file that people bring: the same numbers as the tensor."""

import datetime
import pickle
import re
import sys

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch
from PIL import Image
from sklearn.datasets import load_iris
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pyro_vae import Trainer
from pyro_vae.data import Dataset, files, kinds, load
from pyro_vae.data.given import as_dataset
from pyro_vae.guides import BottomUp
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

X = torch.arange(24.0).view(12, 2)
TEXT = ["dog", "cat", "owl"] * 4


def frame(library, **columns):
    return pytest.importorskip(library).DataFrame(columns or {"a": X[:, 0].numpy(), "b": X[:, 1]})


def annotated(x):
    with np.errstate(all="ignore"):
        return pytest.importorskip("anndata").AnnData(x)


KINDS = {
    "array": lambda: X.numpy(),
    "array of objects": lambda: X.numpy().astype(object),
    "list of lists": X.tolist,
    "list of tensors": lambda: list(X),
    "list of arrays": lambda: list(X.numpy()),
    "sparse tensor": X.to_sparse,
    "scipy.sparse array": lambda: scipy.sparse.csr_array(X.numpy()),
    "scipy.sparse matrix": lambda: scipy.sparse.coo_matrix(X.numpy()),
    "masked array": lambda: np.ma.masked_array(X.numpy(), mask=False),
    "TensorDataset": lambda: TensorDataset(X),
    "mapping": lambda: {"x": X.numpy()},
    "pandas": lambda: frame("pandas"),
    "polars": lambda: frame("polars"),
    "pandas with types of its own": lambda: frame("pandas").astype("Int64"),
    "anndata": lambda: annotated(X.numpy()),
    "sparse anndata": lambda: annotated(scipy.sparse.csr_matrix(X.numpy())),
    "xarray": lambda: pytest.importorskip("xarray").DataArray(X.numpy()),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_values_of_any_kind(kind):
    found = as_dataset(KINDS[kind]())
    assert torch.equal(found.x, X) and found.y is None and found.dtype == torch.float32
    d = load(KINDS[kind]())
    assert torch.equal(d.test.x, load(X).test.x)


LABELS = {
    "pandas text": lambda: pytest.importorskip("pandas").Series(TEXT),
    "pandas series of categories": lambda: pytest.importorskip("pandas").Series(
        TEXT, dtype="category"
    ),
    "pandas categorical": lambda: pytest.importorskip("pandas").Categorical(TEXT),
    "pandas frame of one column": lambda: frame("pandas", y=TEXT),
    "pandas index": lambda: pytest.importorskip("pandas").Index(TEXT),
    "polars text": lambda: pytest.importorskip("polars").Series(TEXT),
    "polars categories": lambda: pytest.importorskip("polars").Series(
        TEXT, dtype=sys.modules["polars"].Categorical
    ),
    "bytes": lambda: np.array(TEXT).astype("S"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_kind(kind):
    found = Dataset(X, LABELS[kind]())
    assert [found.names[k] for k in found.y] == TEXT and found.names == ("cat", "dog", "owl")


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_numbers_of_a_column_are_labels(library):
    assert Dataset(X, frame(library, y=np.arange(12))["y"]).y.tolist() == list(range(12))


def test_the_order_of_categories_stays():
    pandas = pytest.importorskip("pandas")
    y = pandas.Series(pandas.Categorical(TEXT, categories=["owl", "dog", "cat"]))
    assert Dataset(X, y).names == ("owl", "dog", "cat")
    fewer = Dataset(X, y.cat.remove_categories("owl"))
    assert {*fewer.names} == {"dog", "cat"}
    assert [fewer.names[k] if k >= 0 else "owl" for k in fewer.y] == TEXT


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_table_tells_its_labels(library):
    numbers = {"a": X[:, 0].numpy(), "b": X[:, 1].numpy()}
    text = as_dataset(frame(library, **numbers, kind=TEXT))
    assert torch.equal(text.x, X) and [text.names[k] for k in text.y] == TEXT
    named = as_dataset(frame(library, Label=np.arange(12) % 3, **numbers))
    assert torch.equal(named.x, X) and named.y.tolist() == [k % 3 for k in range(12)]
    # A measurement by this name is none
    measured = as_dataset(frame(library, target=X[:, 0].numpy() + 0.5, **numbers))
    assert measured.event_shape == (3,) and measured.y is None


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_columns_of_other_types_are_named_with_what_drops_them(library):
    days = [datetime.date(2020, 1, k + 1) for k in range(12)]
    table = frame(library, a=X[:, 0].numpy(), b=X[:, 1].numpy(), kind=days, place=days)
    with pytest.raises(
        TypeError, match=r"got 'kind', 'place' of other types: pass x.drop"
    ) as error:
        Dataset(table)
    way = re.search(r"pass (x\.drop\(.*\)),", str(error.value))[1]
    assert torch.equal(Dataset(eval(way, {"x": table})).x, X)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_missing_numbers_are_found(library):
    table = frame(library, a=[1, 2, 3], b=[1, 2, None])
    found = Dataset(table)
    assert found.missing and found.x.isnan().nonzero().tolist() == [[2, 1]]
    vae = VAE((2,), 2, likelihood=Gaussian())
    with pytest.raises(ValueError, match=r"got 1 NaN or infinite, the first at x\[2, 1\]"):
        Trainer(vae, BottomUp(vae)).fit(table, epochs=1)


PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3)).astype(np.uint8)


def test_pictures_in_a_list():
    pictures = [Image.fromarray(p) for p in PIXELS]
    expected = torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(Dataset(pictures).x, expected)
    grey = [p.convert("L") for p in pictures]
    assert Dataset(grey).event_shape == (1, 4, 6)
    assert torch.equal(Dataset([p.convert("RGB") for p in grey]).x, Dataset(grey).x)
    with pytest.raises(ValueError, match=r"one size, got \(6, 4\), \(7, 7\), .*resize") as error:
        Dataset([*pictures, Image.new("RGB", (7, 7))])
    p = [*pictures, Image.new("RGB", (7, 7))]
    way = str(error.value).split("pass ")[1]
    assert Dataset(eval(way, {"pictures": p})).event_shape == (3, 4, 6)


class Pictures(torch.utils.data.Dataset):
    """As torchvision's data sets: pictures and numbers of classes."""

    classes = ["left", "right"]

    def __len__(self):
        return 5

    def __getitem__(self, i):
        return Image.fromarray(PIXELS[i]), i % 2


def test_data_sets_of_torchvision_are_read_once():
    found = as_dataset(Pictures())
    torch.testing.assert_close(found.x, torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255)
    assert found.y.tolist() == [0, 1, 0, 1, 0] and found.names == ("left", "right")


def test_a_data_set_that_would_fill_the_memory_is_not_read(monkeypatch):
    monkeypatch.setattr(kinds, "memory", lambda: 2 * 5 * 4 * 6 * 3 - 1)
    with pytest.raises(ValueError, match=r"data: .* half of the memory .* train on a DataLoader"):
        as_dataset(Pictures())


def test_what_scikit_learn_loads():
    iris = load_iris()
    found = as_dataset(iris)
    assert found.event_shape == (4,) and found.y.tolist() == iris.target.tolist()


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


@pytest.mark.parametrize(
    ("data", "message", "followed"),
    [
        ("digits", r"got 'digits': pass data.load\('digits'\).train", None),
        (DataLoader(TensorDataset(X)), "got a DataLoader: pass its .dataset", lambda d: d.dataset),
        (Stream(), r"a stream, .* torch.stack\(list", lambda d: torch.stack(list(d))),
        (DataLoader(Stream()), "which fit alone takes", lambda d: torch.cat(list(d))),
        ((X, X[:, 0].long(), X), r"got 3 in one: pass data\[0\]", lambda d: d[0]),
        (TensorDataset(X, X, X), r"got 3 in one: pass data\[0\]", lambda d: d[:][0]),
        ({"image": X, "z": 1}, r"got 'image', 'z': pass one of them", lambda d: d["image"]),
        ((row for row in X), r"got generator: pass list\(...\) of it", list),
        (map(tuple, X.tolist()), r"got map: pass list\(...\) of it", list),
        ([[1, 2], [3]], "expected rows of one shape, .*pad or cut", lambda d: [r[:1] for r in d]),
        (np.ma.masked_less(X.numpy(), 3), r"3 masked: pass x.filled\(", lambda d: d.filled(0)),
        (X + 1j, r"pass torch.stack\(\[x.real, x.imag\], 1\)", lambda x: torch.view_as_real(x)),
        (
            X.numpy() + 1j,
            r"pass numpy.stack\(\[x.real, x.imag\], 1\)",
            lambda x: np.stack([x.real, x.imag], 1),
        ),
        (X.numpy().astype("M8[s]"), r"pass x.astype\(int\)", lambda x: x.astype(int)),
        (
            np.array([(1.0, 2.0)] * 3, dtype=[("a", "f4"), ("b", "f4")]),
            r"pass numpy.column_stack\(\[x\['a'\], x\['b'\]\]\)",
            lambda x: np.column_stack([x["a"], x["b"]]),
        ),
        (X[:, 0], r"pass x\[:, None\]", lambda x: x[:, None]),
        ((X > 3).byte(), "pass x > 0 for data that is 0 or 1", lambda x: x > 0),
    ],
)  # fmt: skip
def test_advice_by_kind_works_on_what_provokes_it(data, message, followed):
    with pytest.raises((TypeError, ValueError), match=message):
        as_dataset(data)
    if followed is not None:
        assert len(as_dataset(followed(data)))


def test_the_variables_of_xarray_are_named():
    xarray = pytest.importorskip("xarray")
    data = xarray.Dataset({"height": (("n", "k"), X.numpy())})
    with pytest.raises(
        TypeError, match=r"expected a mapping of .* got 'height': pass one of them"
    ):
        as_dataset(data)
    assert torch.equal(as_dataset(data["height"]).x, X)


def test_what_would_fill_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr(kinds, "memory", lambda: 10**6)
    wide = scipy.sparse.csr_array((1000, 1000))
    with pytest.raises(ValueError, match=r"got shape \(1000, 1000\), .* select rows or columns"):
        Dataset(wide)
    assert Dataset(wide[:, :10]).event_shape == (10,)
    with pytest.raises(ValueError, match="half of the memory"):
        Dataset(torch.zeros(1, 1, dtype=torch.int8).expand(1000, 1000))


# Files


def written(path, kind):
    """A file with the columns X and, after them, labels."""
    y = np.arange(12) % 3
    if kind in (".csv", ".tsv"):
        mark = "," if kind == ".csv" else "\t"
        rows = [mark.join([f"{a:g}", f"{b:g}", TEXT[i]]) for i, (a, b) in enumerate(X)]
        path.write_text("\n".join([mark.join(["a", "b", '"the kind"']), *rows]))
    elif kind == ".txt":
        path.write_text("\n".join(f"{a:g}  {b:g}  {TEXT[i]}" for i, (a, b) in enumerate(X)))
    elif kind == ".mat":
        scipy.io.savemat(path, {"X": X.numpy(), "y": y.astype(float)})
    elif kind == ".pt":
        torch.save({"x": X, "y": torch.from_numpy(y)}, path)
    elif kind == ".parquet":
        for library in ("polars", "pyarrow"):
            pytest.importorskip(library)
        table = frame("pandas", a=X[:, 0].numpy(), b=X[:, 1].numpy(), kind=TEXT)
        table.to_parquet(path)
    elif kind == ".h5ad":
        annotated(X.numpy()).write_h5ad(path)
    return path


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", [".csv", ".tsv", ".txt", ".mat", ".pt", ".parquet", ".h5ad"])
def test_files_of_any_kind(tmp_path, kind):
    d = load(written(tmp_path / f"a{kind}", kind), stratify=False)
    assert torch.equal(d.test.x, load(X).test.x) and torch.equal(d.train.x, load(X).train.x)
    assert d.name == f"a{kind}"
    if kind != ".h5ad":
        rows = (d.train.x[:, 0] / 2).long().tolist()
        names = [d.labels[k] for k in d.train.y]
        assert names == [TEXT[i] if d.labels[0] == "cat" else str(i % 3) for i in rows]


@pytest.mark.parametrize(
    ("text", "shape", "names"),
    [
        ("1,2\n3,4\n", (2,), ()),
        ("# made by hand\n\n1;2;3\n3;4;5\n", (3,), ()),
        ("a,b\n1,2\n3,4\n", (2,), ()),
        ("1 2\n3 4", (2,), ()),
        (",a,b\n0,1,2\n1,3,4\n", (2,), ()),
        (",0,1\n0,1,2\n1,3,4\n", (2,), ()),
        ("a,class\n1,10\n3,9\n", (1,), ("9", "10")),
        ("target,a\n0.5,1\n0.25,2\n", (2,), ()),
        ("\ufeffa,b\n1,2\n3,4\n", (2,), ()),
        ('"5.1","setosa"\n"4.2","other"\n', (1,), ("other", "setosa")),
    ],
)
def test_tables_of_text(tmp_path, text, shape, names):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    d = load(tmp_path / "t.csv")
    assert d.event_shape == shape and d.labels == names and len(d.train) + len(d.test) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n3\n", "at row 2"),
        ("1,x\n2,3\n3,4", "column 1 of numbers and text, such as 'x'"),
        ("1,2\n2,x\n", "could not convert string 'x'"),
        ("NA,?\n,\n", "no line of numbers"),
        ("a,b,c\n1,2,3,4\n", "3 columns in the first line, 4 in another"),
        ("a,b\n", "names of columns alone"),
        ("", "no line of numbers"),
        (
            "1,a,b\n2,c,d\n",
            "2 columns of text or labels, 'a', 'b' in the first row: drop all but one",
        ),
    ],
)
def test_broken_tables(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"t.csv: expected a table .* got: .*({message})"):
        load(tmp_path / "t.csv")
    # The advice, where there are numbers at all
    if "2 columns" in message:
        x = np.loadtxt(tmp_path / "t.csv", usecols=[0], delimiter=",")
        assert len(Dataset(x[:, None])) == 2


def test_an_array_of_a_file_is_chosen_by_the_line_that_is_told(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"pixels": X.numpy(), "other": 1})
    torch.save({"pixels": X, "other": X[:1]}, tmp_path / "a.pt")
    np.savez(tmp_path / "a.npz", pixels=X, other=1)
    for name in ("a.mat", "a.pt", "a.npz"):
        with pytest.raises(ValueError, match="got other, pixels: rename them") as error:
            load(tmp_path / name)
        way = re.search(r"choose with data\.(.*)$", str(error.value))[1]
        found = eval(way, {"load": load, "numpy": np, "scipy": scipy, "torch": torch})
        assert torch.equal(found.test.x, load(X).test.x)


def test_objects_are_never_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return pytest.fail, ("unpickled",)

    torch.save({"x": Evil()}, tmp_path / "a.pt")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Evil()))
    for name in ("a.pt", "a.pkl"):
        with pytest.raises(ValueError, match=rf"{name}.*[Oo]bjects are never unpickled"):
            load(tmp_path / name)


@pytest.mark.parametrize(
    "suffix", [".xlsx", ".json", ".h5", ".feather", ".png", ".nii.gz", ".zip"]
)
def test_files_that_nothing_reads_have_an_advice(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"anything")
    with pytest.raises(ValueError, match=re.escape(files.advice(tmp_path / f"a{suffix}"))):
        load(tmp_path / f"a{suffix}")


def test_the_advice_for_tables_of_json(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame("pandas").to_json(tmp_path / "a.json")
    way = files.advice(tmp_path / "a.json").split("pass data.")[1]
    assert torch.equal(eval(way, {"load": load, "pandas": pandas}).test.x, load(X).test.x)


@pytest.mark.parametrize(("kind", "reader"), [(".parquet", "pandas"), (".h5ad", "anndata")])
def test_a_reader_that_is_not_installed_is_named(tmp_path, monkeypatch, kind, reader):
    for name in ("polars", "pandas", "anndata"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    (tmp_path / f"a{kind}").write_bytes(b"anything")
    with pytest.raises(ValueError, match=rf"expected {reader} to be installed, .*pip install"):
        load(tmp_path / f"a{kind}")


def test_volumes_of_scanners(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float32)
    for k in range(3):
        nibabel.save(nibabel.Nifti1Image(x[k], np.eye(4)), tmp_path / f"{k}.nii.gz")
    d = load(tmp_path)
    assert d.event_shape == (1, 4, 5, 6)
    assert sorted(torch.cat([d.train.x, d.test.x]).sum((1, 2, 3, 4)).tolist()) == pytest.approx(
        sorted(x.sum((1, 2, 3)).tolist()), rel=1e-4
    )


def test_scans_without_their_reader(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    for k in range(2):
        (tmp_path / f"{k}.dcm").write_bytes(b"anything")
    with pytest.raises(
        ValueError, match=r"expected pydicom to be installed, .*pip install pydicom"
    ):
        load(tmp_path)
