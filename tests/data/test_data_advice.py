"""Every message about data is provoked, and what it advises is done to what provoked it."""

import ast
import datetime
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import scipy.io
import scipy.sparse
import test_advice_media
import test_advice_sequences
import test_advice_writing
import torch
from advice import Cases, messages, texts, unsaid
from PIL import Image
from test_data_damage import tiff_of_five_channels
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pyro_vae import Trainer, data, handlers
from pyro_vae.data import Arguments, Dataset, DataSplits, Rows, load, render_shapes, shapes
from pyro_vae.data.frames import Table, numbers_of
from pyro_vae.data.given import as_dataset
from pyro_vae.guides import BottomUp
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

try:
    import pandas
except ImportError:
    pandas = None
try:
    import polars
except ImportError:
    polars = None


def raised(tree):
    """All texts that are raised, warned of, or returned by what words an advice."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            yield from texts(node.exc)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "warn":
            yield from texts(node.args[0])
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("__"):
            if node.returns is not None and ast.unparse(node.returns) in ("str", "str | None"):
                for inside in ast.walk(node):
                    if isinstance(inside, ast.Return) and inside.value is not None:
                        yield from texts(inside.value)


cases = Cases()
X = torch.arange(1.0, 25.0).view(12, 2) / 24
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 10, 12, 3)).astype(np.uint8)


@cases
def values(tmp):
    grey = torch.full((4, 2), 0.5)
    infinite = torch.where(torch.arange(24).view(12, 2) == 5, torch.inf, X)
    with_nan = infinite.where(infinite.isfinite(), torch.nan)
    yield lambda: Dataset(X[:0]), None
    yield lambda: Dataset(X[:, 0]), lambda: Dataset(X[:, 0][:, None])
    yield lambda: Dataset(X[0]), lambda: Dataset(X[0][None])
    yield lambda: Dataset((X > 0.5).byte()), lambda: Dataset(X > 0.5)
    yield lambda: Dataset(infinite), lambda: Dataset(infinite[infinite.isfinite().all(1)])
    yield lambda: Dataset(infinite), lambda: Dataset(infinite.nan_to_num(posinf=0.0))

    def trained(data, handler=lambda model: model):
        model = handler(VAE((2,), 1, likelihood=Gaussian()))
        options = {"epochs": 1, "progress": False}
        return lambda: Trainer(model, BottomUp(model)).fit(data, **options)

    yield trained(Dataset(with_nan)), trained(Dataset(with_nan[with_nan.isfinite().all(1)]))
    yield trained(Dataset(with_nan)), trained(Dataset(with_nan.nan_to_num()))
    yield trained(Dataset(with_nan)), trained(Dataset(with_nan), handlers.missing)
    yield (
        lambda: Dataset(with_nan, binarize="dynamic"),
        lambda: Dataset(
            Dataset(X).binarized(torch.Generator()).x.where(with_nan.isfinite(), torch.nan)
        ),
    )
    yield lambda: Dataset(with_nan, binarize="dynamic"), lambda: Dataset(with_nan, binarize=None)
    yield (
        lambda: Dataset(255 * X, binarize="dynamic"),
        lambda: Dataset(255 * X / 255, binarize="dynamic"),
    )
    yield lambda: Dataset(2 * X, binarize="dynamic"), lambda: Dataset(2 * X, binarize=None)
    yield (
        lambda: Dataset(grey, binarize="static"),
        lambda: (Dataset(grey).binarized(torch.Generator()), load(grey, binarize="static")),
    )
    yield (
        lambda: Dataset(X + 1j),
        lambda: Dataset(
            torch.stack([X.real, X.imag], 1) if X.is_complex() else torch.view_as_real(X + 1j)
        ),
    )
    words = np.array([["a", "b"], ["c", "a"]])
    numbered = lambda column: np.unique(column, return_inverse=True)[1]  # noqa: E731
    yield lambda: Dataset(words), lambda: Dataset(np.column_stack([*map(numbered, words.T)]))
    nothing = np.array([[None, 1.0], [2.0, 3.0]], dtype=object)
    yield lambda: Dataset(nothing), lambda: Dataset(np.nan_to_num(nothing.astype(float)))
    yield lambda: Dataset(PIXELS), lambda: Dataset(PIXELS, channels="last")
    yield lambda: Dataset(PIXELS), lambda: Dataset(torch.as_tensor(PIXELS).permute(0, 3, 1, 2))
    yield lambda: Dataset(PIXELS), lambda: Dataset(PIXELS, channels="first")
    yield lambda: Dataset(PIXELS, channels="behind"), lambda: Dataset(PIXELS[..., 0])
    yield lambda: Dataset(X, channels="last"), lambda: Dataset(X)
    yield lambda: Dataset(X, factors=X), lambda: Dataset(X, factors=X, factor_names=("a", "b"))
    yield (
        lambda: Dataset(X)[torch.zeros(1, 1).long()],
        lambda: Dataset(X).x[torch.zeros(1, 1).long()],
    )
    yield lambda: Dataset(X).batches(0), lambda: next(Dataset(X).batches(len(Dataset(X))))
    ragged = DataSplits, "d", Dataset(X), Dataset(X[:, :1])
    yield lambda: ragged[0](*ragged[1:]), lambda: DataSplits("d", Dataset(X[:, :1]), ragged[3])


@cases
def shapes_of_kinds(tmp):
    behind, later = torch.rand(4, 9, 2), torch.rand(4, 5, 3, 8, 8)
    yield (
        lambda: Dataset(behind, kind="signal"),
        lambda: Dataset(behind, kind="signal", channels="last"),
        lambda: Dataset(behind, kind="signal", channels="first"),
    )
    yield (
        lambda: load(later, kind="video"),
        lambda: load(later.transpose(1, 2), kind="video"),
        lambda: load(later, kind="video", channels="first"),
    )
    signals, x = Dataset(behind, channels="last", kind="signal"), torch.rand(4, 2, 9)
    networks = {"likelihood": Gaussian(), "channels": 4}
    image = VAE(signals.event_shape, 2, **networks)
    signal = VAE(signals.event_shape, 2, **networks, kind="signal")
    yield lambda: signals.check_classes(image), lambda: signals.check_classes(signal)
    yield (
        lambda: DataSplits("d", signals, Dataset(x)),
        lambda: DataSplits("d", signals, Dataset(x).replace(kind="signal")),
    )


@cases
def labels_of_several_kinds(tmp):
    sites, ages = torch.arange(12) % 3, X[:, 0]
    good = lambda: Dataset(X, {"site": sites, "age": ages})  # noqa: E731
    yield lambda: Dataset(X, {"site": sites, "age": ages[:4]}), good
    yield lambda: Dataset(X, {"site": sites[:4]}), good
    (tmp / "t.csv").write_text("site,age,a\n" + "R,20.5,1\nB,31,2\n" * 6)
    read = lambda **columns: lambda: load(tmp / "t.csv", **columns)  # noqa: E731
    yield read(labels="site"), read(labels=["site"])
    yield read(labels=["age"]), read(numbers=["age"])
    yield read(labels=["site"], numbers=["age"], exposure="a"), read(labels=["site"])
    yield read(labels=["site"], numbers=["site"]), read(labels=["site"])
    yield lambda: load("digits", labels=["site"]), lambda: load("digits")
    np.savetxt(tmp / "bare.csv", X, delimiter=",")
    yield lambda: load(tmp / "bare.csv", labels=["site"]), read(labels=["site"])


@cases
def labels(tmp):
    text = ["cat", "dog"] * 6
    y = torch.arange(12) % 3
    some = np.array([*text[:11], None], dtype=object)
    odd = np.array([*text[:11], 3], dtype=object)
    nan = torch.where(y == 2, torch.nan, y.float())
    yield lambda: Dataset(X, y[:5]), lambda: Dataset(X[:5], y[:5])
    yield lambda: Dataset(X, torch.eye(3)[y]), lambda: Dataset(X, torch.eye(3)[y].argmax(1))
    pair = torch.stack([y, y], 1)
    yield lambda: Dataset(X, pair), lambda: Dataset(X, pair[:, 0])
    yield lambda: Dataset(X, y.view(3, 2, 2)), lambda: Dataset(X, y.view(3, 2, 2).flatten())
    yield lambda: Dataset(X, y.float()), lambda: Dataset(X, y.float().long())
    yield lambda: Dataset(X, y.numpy() * 1.0), lambda: Dataset(X, (y.numpy() * 1.0).astype(int))
    sizes = dict(factors=y[:, None] + 0.5, factor_names=("size",))
    yield lambda: Dataset(X, y + 0.5), lambda: Dataset(X, **sizes)
    yield lambda: Dataset(X, nan), lambda: Dataset(X[nan == nan], nan[nan == nan].long())
    yield lambda: Dataset(X, odd), lambda: Dataset(X, odd.astype(str)), lambda: Dataset(X, some)
    dates = np.arange(12).astype("M8[D]")
    yield lambda: Dataset(X, dates), lambda: Dataset(X, np.unique(dates, return_inverse=True)[1])
    yield lambda: Dataset(X, text, names=("cat",)), lambda: Dataset(X, text, names=("cat", "dog"))
    yield lambda: Dataset(X, text, names=("cat",)), lambda: Dataset(X, text)
    yield lambda: Dataset(X, y, names="ab"), lambda: Dataset(X, y, names="abc")
    vae = VAE((2,), 2, hidden=(4,), condition=3, likelihood=Gaussian())
    named = Dataset(X, text, names=("cat", "dog", "owl"))
    yield lambda: Dataset(X, text).check_classes(vae), lambda: named.check_classes(vae)
    d = Dataset(X, some, names=("cat", "dog", "owl"))
    partial = VAE((2,), 2, condition=3, likelihood=Gaussian(), labels="partial")
    yield (
        lambda: d.check_classes(vae),
        lambda: d[d.y >= 0].check_classes(vae),
        lambda: d.check_classes(partial),
    )


@cases
def arguments(tmp):
    widths = torch.ones(2)
    constant = {"widths": widths}
    yield lambda: Arguments((X,), constant, (0, "widths")), lambda: Arguments((X,), constant, (0,))
    one = {"width": widths[0]}
    yield lambda: Arguments((X,), one, (0, "width")), lambda: Arguments((X,), one, (0,))
    yield lambda: Arguments((X[:0],)), None
    whole = Arguments((X,))
    yield lambda: whole.batches(0), lambda: next(whole.batches(len(whole)))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


class Items(torch.utils.data.Dataset):
    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


@cases
def kinds(tmp):
    one = Dataset(X)
    splits = DataSplits("d", one, one)
    yield lambda: as_dataset(splits), lambda: (as_dataset(splits.train), as_dataset(splits.test))
    loader, stream = DataLoader(TensorDataset(X)), Stream()
    yield lambda: as_dataset(loader), lambda: as_dataset(loader.dataset)
    yield lambda: as_dataset(stream), lambda: as_dataset(torch.stack(list(stream)))
    batches = DataLoader(stream)
    yield lambda: as_dataset(batches), lambda: as_dataset(torch.stack(list(batches)).flatten(1))
    yield lambda: as_dataset("digits"), lambda: as_dataset(load("digits").train)
    yield lambda: as_dataset((X, X, X)), lambda: as_dataset((X, X, X)[0])
    named = {"image": X, "label": [0] * 12}
    yield lambda: as_dataset(named), lambda: as_dataset(named["image"])
    yield lambda: as_dataset(named), lambda: as_dataset((named["image"], named["label"]))
    yield lambda: as_dataset(Items()), None
    triples = Items(*zip(X, X, X, strict=True))
    yield lambda: as_dataset(triples), lambda: as_dataset([item[0] for item in triples])
    yield lambda: Dataset("digits"), lambda: load("digits")
    yield lambda: Dataset([]), None
    yield lambda: Dataset(object()), None
    yield lambda: Dataset(row for row in X), lambda: Dataset(list(row for row in X))
    yield lambda: Dataset(named), lambda: Dataset(named["image"])
    yield lambda: Dataset(TensorDataset(X)), lambda: load(TensorDataset(X))
    yield lambda: Dataset([[1, 2], [3]]), lambda: Dataset([[1], [3]])
    hidden = np.ma.masked_less(X.numpy(), 0.3)
    yield lambda: Dataset(hidden), lambda: Dataset(hidden.filled(0))
    fields = np.array([(1.0, 2.0)] * 3, dtype=[("a", "f4"), ("b", "f4")])
    x = fields
    yield lambda: Dataset(fields), lambda: Dataset(np.column_stack([x["a"], x["b"]]))
    wide = scipy.sparse.csr_array((10**6, 10**8))
    yield lambda: Dataset(wide), lambda: Dataset(wide[:5, :10])
    picture = Image.fromarray(PIXELS[0])
    yield lambda: Dataset(picture), lambda: Dataset([picture])
    pictures = [picture, Image.new("RGB", (7, 7))]
    yield lambda: Dataset(pictures), lambda: Dataset([p.resize((7, 7)) for p in pictures])
    glass = [Image.new("RGBA", (4, 4), (1, 2, 3, 100)), Image.new("RGBA", (4, 4))]
    white = [
        Image.alpha_composite(Image.new("RGBA", p.size, "white"), p.convert("RGBA")) for p in glass
    ]
    yield lambda: Dataset(glass), lambda: Dataset(white)


@cases
def tables(tmp):
    days = [datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)]
    columns = {"a": [1, 2], "b": [3, 4], "day": days}
    if pandas is not None:
        one = pandas.DataFrame(columns)
        yield lambda: Dataset(one), lambda: Dataset(one.drop(columns=["day"]))
        two = pandas.DataFrame({"a": [1, 2], "label": ["p", "q"], "class": [0, 1]})
        yield lambda: as_dataset(two), lambda: as_dataset(two.drop(columns=["class"]))
        yield lambda: as_dataset(two), lambda: as_dataset((two[["a"]], two["label"]))
    if polars is not None:
        other = polars.DataFrame(columns)
        yield lambda: Dataset(other), lambda: Dataset(other.drop(["day"]))


@cases
def frames(tmp):
    (tmp / "table.csv").write_text("a,b\n0.5,3\n1.5,4\n0.1,9\n")
    d, rows = load(tmp / "table.csv"), torch.zeros(10, 2)
    yield Dataset(X).to_frame, lambda: load(tmp / "table.csv").train.columns[0].name
    without = mock.patch.dict(sys.modules, {"pandas": None})
    yield without(d.train.to_frame), lambda: (d.train.x, d.train.columns)
    stand_in = mock.patch.dict(sys.modules, {"pandas": mock.MagicMock()})
    yield (
        stand_in(lambda: d.train.to_frame(rows[:, :1])),
        stand_in(lambda: d.train.to_frame(rows)),
    )
    renamed = Dataset(Rows.of(d.train.x, [c._replace(name=f"{c.name}0") for c in d.columns]))
    vae = VAE((2,), 2, hidden=(4,), likelihood=Gaussian(), columns=d.columns)
    yield lambda: BottomUp(vae).encode(renamed), lambda: BottomUp(vae).encode(d.train)
    told = [c.name for c in d.columns]
    text = Table(np.zeros((3, 2)), (*told,), {0: ("tall",)})
    yield lambda: Dataset(text, columns=d.columns), lambda: Dataset(X[:3], columns=d.columns)
    cities = ["Rome", 3, "Bonn"]
    yield (
        lambda: numbers_of(cities, "city"),
        lambda: numbers_of([*map(str, cities)], "city"),
        lambda: numbers_of(["Rome", float("nan"), "Bonn"], "city"),
    )


@cases
def scale(tmp):
    def fit(x):
        vae = VAE((2,), 2, hidden=(4,), likelihood=Gaussian())
        Trainer(vae, BottomUp(vae)).fit(x, epochs=1, progress=False)

    apart = X * torch.tensor([1.0, 1e4])
    m, s = apart.mean(0), apart.std(0)
    yield lambda: fit(apart), lambda: fit((apart - m) / s.where(s > 0, 1))
    yield lambda: fit(1e5 * X), lambda: fit(1e5 * X / (1e5 * X).abs().max())


@cases
def loading(tmp):
    yield lambda: load(X, binarize=True), lambda: load(X)
    yield lambda: load(X, test_fraction=1.0), lambda: Dataset(X)
    yield lambda: load(X[:1]), lambda: Dataset(X[:1])
    yield lambda: load("digits", test_fraction=0.2), lambda: load("digits")
    yield lambda: load("digits", size=8), lambda: load("digits")
    yield lambda: load(""), lambda: load("digits")
    yield lambda: load("digitz"), lambda: load("digits")
    yield lambda: load("qqqq"), lambda: load("digits")
    yield lambda: load(tmp / "gone.npy"), None
    yield lambda: load("mnist", root=tmp), None
    yield lambda: load("digits", split="iwae"), lambda: load("digits")
    file, iwae = tmp / "OMNIGLOT" / "chardata.mat", {"split": "iwae", "root": tmp}

    def put(**arrays):
        file.parent.mkdir(exist_ok=True)
        scipy.io.savemat(file, arrays)
        return load("omniglot", **iwae)

    whole = {"data": np.zeros((784, 4)), "target": np.eye(4)}
    whole |= {f"test{name}": array for name, array in whole.items()}
    yield lambda: load("omniglot", **iwae), lambda: put(**whole)
    yield lambda: put(**{**whole, "data": np.zeros((783, 4))}), lambda: put(**whole)
    yield lambda: load("omniglot", split="other"), None
    yield lambda: shapes(0), lambda: shapes(1)
    yield lambda: shapes(3, size=0), lambda: shapes(3, size=8)
    yield lambda: render_shapes(X), None
    yield (
        lambda: render_shapes(torch.full((1, 5), 0.5)),
        lambda: render_shapes(torch.full((1, 5), 0.5).round()),
    )


@cases
def files(tmp):
    def text(name, content):
        (tmp / name).write_text(content)
        return tmp / name

    for name, content in (
        ("short.csv", "1,2\n3\n"),
        ("empty.csv", ""),
        ("names.csv", "a,b\n"),
        ("mixed.csv", "1,x\n2,3\n"),
        ("wide.csv", "a,b,c\n1,2,3,4\n"),
    ):
        yield (
            lambda name=name, content=content: load(text(name, content)),
            lambda: load(text("holes.csv", "1,\n2,3\n")),
        )
    two = text("two.csv", "1,a,b\n2,c,d\n")
    yield lambda: load(two), lambda: load(np.loadtxt(two, usecols=[0], delimiter=",", ndmin=2))
    broken = tmp / "broken.mat"
    yield (
        lambda: load(text(broken.name, "?")),
        lambda: (scipy.io.savemat(broken, {"x": X.numpy()}), load(broken)),
    )
    np.savez(tmp / "a.npz", pixels=X.numpy(), other=1)
    yield lambda: load(tmp / "a.npz"), lambda: load(np.load(tmp / "a.npz")["pixels"])
    np.savez(tmp / "none.npz")
    yield lambda: load(tmp / "none.npz"), None
    for name, content in (("v9.npy", b"\x93NUMPY\x09\x00\x00\x00"), ("short.npy", b"")):
        (tmp / name).write_bytes(content)
        yield lambda name=name: load(tmp / name), None
    np.save(tmp / "cut.npy", X.numpy())
    (tmp / "cut.npy").write_bytes((tmp / "cut.npy").read_bytes()[:-8])
    yield lambda: load(tmp / "cut.npy"), None
    np.savez_compressed(tmp / "bomb.npz", x=np.zeros((4000, 10)))
    content = bytearray((tmp / "bomb.npz").read_bytes())
    at = content.rindex(b"PK\x01\x02")
    content[at + 24 : at + 28] = b"\xfe\xff\xff\xff"
    (tmp / "bomb.npz").write_bytes(content)
    yield lambda: load(tmp / "bomb.npz"), None
    torch.save({"x": np.random.default_rng()}, tmp / "objects.pt")
    torch.save({"x": X}, tmp / "plain.pt")
    yield lambda: load(tmp / "objects.pt"), lambda: load(tmp / "plain.pt")
    for name in ("a.pkl", "a.h5", "a.xlsx", "a.zip", "a.nii"):
        yield lambda name=name: load(text(name, "?")), None
    (tmp / "scans").mkdir()
    text("scans/a.dcm", "?")
    without = mock.patch.dict(sys.modules, {"pydicom": None, "anndata": None})
    yield without(lambda: load(text("a.h5ad", "?"))), None
    yield without(lambda: load(tmp / "scans")), None
    broken = mock.Mock(dcmread=mock.Mock(side_effect=ValueError("no scan")))
    yield mock.patch.dict(sys.modules, {"pydicom": broken})(lambda: load(tmp / "scans")), None


@cases
def pictures(tmp):
    def folder(name, *pictures, suffix="png"):
        for i, picture in enumerate(pictures):
            path = tmp / name / (f"{i}.{suffix}" if isinstance(picture, Image.Image) else picture)
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = picture if isinstance(picture, Image.Image) else Image.fromarray(PIXELS[0])
            picture.save(path)
        return tmp / name

    one = Image.fromarray(PIXELS[0])
    good = folder("good", one, one)
    yield lambda: load(good, size=0), lambda: load(good)
    yield lambda: load(good, background="whitish"), lambda: load(good)
    glass = Image.new("RGBA", (4, 4))
    clear = folder("clear", glass, glass)
    yield lambda: load(clear), lambda: load(clear, background="white")
    large = folder("large", Image.new("1", (5000, 5000)), Image.new("1", (5000, 5000)))
    yield lambda: load(large), lambda: load(large, size=64)
    yield lambda: load(large), lambda: load(large, size=(5000, 5000))
    yield lambda: load(good, size=10**6), lambda: load(good, size=10)
    masks = [Image.fromarray((PIXELS[0, ..., 0] > 9).astype(np.uint8)) for _ in range(2)]
    black = [Image.fromarray(255 * np.asarray(mask)) for mask in masks]
    yield lambda: load(folder("masks", *masks)), lambda: load(folder("black", *black))
    pages = folder("pages", one)
    one.save(pages / "a.tif", save_all=True, append_images=[one])
    yield lambda: load(pages), None
    channels = tmp / "channels"
    channels.mkdir()
    tiff_of_five_channels(channels / "a.tif")
    yield lambda: load(channels), None
    deep = folder("deep", Image.fromarray(PIXELS[0, ..., 0].astype(np.uint16) * 257), one)
    yield lambda: load(deep), None
    empty = tmp / "empty"
    empty.mkdir()
    yield lambda: load(empty), None
    mixed = folder("mixed", "a/0.png", "b/0.png", "loose.png")
    yield lambda: load(mixed), None
    half = folder("half", "a/0.png")
    (half / "b").mkdir()
    yield lambda: load(half), None
    apart = folder("apart", "train/a/0.png", "train/b/0.png", "test/a/0.png")
    yield lambda: load(apart), lambda: load(folder("apart", "test/b/0.png"))
    twice = folder("twice", "train/0.png", "val/0.png", "valid/0.png")
    yield lambda: load(twice), None


test_the_advice_works_on_what_provokes_it = cases.test()


def test_every_message_is_provoked():
    # Text, sound and what is written have cases of their own
    others = (test_advice_sequences, test_advice_media, test_advice_writing)
    tried = [*cases, *(case for other in others for case in other.cases)]
    said = [message for case in tried for message in messages(case)]
    wanted = [
        (f"{path.name}:{line}", parts)
        for path in sorted(Path(data.__file__).parent.glob("*.py"))
        for line, parts in raised(ast.parse(path.read_text()))
    ]
    assert not (left := unsaid(wanted, said)), "\n".join(left)
