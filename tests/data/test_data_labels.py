"""Labels, class folders and splits: what people have, numbered without a silent change."""

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae import Trainer
from pyro_vae.data import Dataset, DataSplits, load
from pyro_vae.diagnostics import evaluate
from pyro_vae.guides import BottomUp
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

X = torch.arange(24.0).view(12, 2)


@pytest.mark.parametrize("wrap", [np.array, torch.tensor, list])
def test_a_column_of_labels_is_flattened(wrap):
    assert Dataset(X, wrap([[k % 3] for k in range(12)])).y.tolist() == [k % 3 for k in range(12)]


def test_one_hot_rows_are_refused_with_an_advice_that_keeps_them():
    y = torch.arange(12) % 3
    rows = torch.eye(3)[y]
    with pytest.raises(ValueError, match=r"turn one-hot rows into y.argmax\(1\)$"):
        Dataset(X, rows)
    assert torch.equal(Dataset(X, rows.argmax(1)).y, y)
    # What is not one-hot is not told to be
    with pytest.raises(ValueError, match=r"pass one column, y\[:, 0\]"):
        Dataset(X, torch.arange(24).view(12, 2))


@pytest.mark.parametrize("y", [1000.0 + 7 * torch.arange(12.0), np.arange(12.0) % 3])
def test_numbers_of_a_type_of_measurements_are_no_labels_by_themselves(y):
    with pytest.raises(ValueError, match=r"y: expected whole numbers, got torch.float\d+, as mea"):
        Dataset(X, y)
    whole = y.long() if isinstance(y, torch.Tensor) else y.astype(int)
    assert Dataset(X, whole).y.tolist() == y.tolist()
    factors = y[:, None]
    assert Dataset(X, factors=factors, factor_names=("size",)).factors[:, 0].tolist() == y.tolist()


TEXT = ["dog", "cat", "owl"] * 4


@pytest.mark.parametrize(
    "wrap", [list, np.array, lambda y: np.array(y, dtype=object), lambda y: np.array(y)[:, None]]
)
def test_text_is_numbered_and_gives_the_names(wrap):
    d = Dataset(X, wrap(TEXT))
    assert d.names == ("cat", "dog", "owl") and [d.names[k] for k in d.y] == TEXT
    given = Dataset(X, wrap(TEXT), names=("owl", "dog", "cat", "cow"))
    assert [given.names[k] for k in given.y] == TEXT and given.names[3] == "cow"
    with pytest.raises(
        ValueError, match="names: expected all names that y has, got none for 'owl'"
    ):
        Dataset(X, wrap(TEXT), names=("cat", "dog"))


def test_text_that_is_numbers_is_in_their_order():
    d = Dataset(X, [str(k) for k in range(12)])
    assert d.y.tolist() == list(range(12)) and d.names[2] == "2"


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_text_that_is_missing_is_minus_one(nothing):
    y = np.array(TEXT, dtype=object)
    y[[3, 7]] = nothing
    for names in (None, ("owl", "dog", "cat")):
        d = Dataset(X, y, names=names)
        assert d.names == (names or ("cat", "dog", "owl")) and d.y[[3, 7]].tolist() == [-1, -1]
        told = [d.names[k] if k >= 0 else text for k, text in zip(d.y, TEXT, strict=True)]
        assert told == TEXT and (d.y < 0).sum() == 2
    y[0] = 5
    with pytest.raises(ValueError, match="y: expected text for each row, or None where it is"):
        Dataset(X, y)


def test_whole_numbers_that_are_missing_are_minus_one():
    assert Dataset(X, np.array([1, None] * 6, dtype=object)).y.tolist() == [1, -1] * 6


def test_a_model_that_needs_all_labels_says_so_before_training():
    y = [None, *TEXT[1:]]
    vae = VAE((2,), 2, likelihood=Gaussian(), condition=3)
    trainer = Trainer(vae, BottomUp(vae))
    with pytest.raises(
        ValueError, match=r"got 1 of 12 missing, the first y\[0\]: drop these rows"
    ):
        trainer.fit(Dataset(X, y), epochs=1)
    d = Dataset(X, y)
    trainer.fit(d[d.y >= 0], epochs=1, progress=False)
    partial = VAE((2,), 2, likelihood=Gaussian(), condition=3, labels="partial")
    Trainer(partial, BottomUp(partial), elbo="enumerate").fit(d, epochs=1, progress=False)
    plain = VAE((2,), 2, likelihood=Gaussian())
    Trainer(plain, BottomUp(plain)).fit(d, epochs=1, progress=False)


def test_sets_in_one_file_are_numbered_alike(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        x_train=X,
        y_train=np.array(TEXT),
        x_test=X[:2],
        y_test=np.array(["owl", "dog"]),
    )
    d = load(tmp_path / "a.npz")
    assert d.labels == d.test.names == ("cat", "dog", "owl") and d.test.y.tolist() == [2, 1]


def picture(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), value).save(path)


def test_class_folders_that_are_numbers_are_in_their_order(tmp_path):
    for k in range(12):
        for i in range(2):
            picture(tmp_path / str(k) / f"{i}.png", 20 * k)
    d = load(tmp_path, test_fraction=0.5)
    assert d.labels == tuple(map(str, range(12)))
    for part in (d.train, d.test):
        assert torch.equal((part.x[:, 0, 0, 0] * 255 / 20).round().long(), part.y)


def test_classes_by_other_numbers_are_told():
    one = Dataset(X, [str(k % 3 + 1) for k in range(12)])
    assert repr(load(one)).endswith("y=0, 1, ... for '1', '2', '3', ...)")
    assert "y=" not in repr(load(Dataset(X, [str(k % 3) for k in range(12)])))


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_folder_is_used(tmp_path, name):
    for n, part in enumerate(("train", "test", name)):
        for i in range(n + 2):
            picture(tmp_path / "three" / part / f"{i}.png", 50 * n + 5)
    d = load(tmp_path / "three")
    assert [len(part) for part in (d.train, d.test, d.validation)] == [2, 3, 4]
    assert torch.equal(d.validation.x, torch.full((4, 1, 4, 4), 105 / 255))
    assert repr(d).endswith(f"validation={d.validation!r})")
    # Without a test set it is the test set, and no class
    for n, part in enumerate(("train", name)):
        picture(tmp_path / "two" / part / "0.png", 100 * n + 5)
    d = load(tmp_path / "two")
    assert (len(d.train), len(d.test), d.validation, d.labels) == (1, 1, None, ())


def test_validation_data_in_a_file(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=X, x_test=X[:3], x_val=X[:2])
    d = load(tmp_path / "a.npz", binarize=None)
    assert [len(part) for part in (d.train, d.test, d.validation)] == [12, 3, 2]
    with pytest.raises(ValueError, match="validation: expected the event shape of train"):
        DataSplits("a", d.train, d.test, Dataset(X[:, :1]))


@pytest.mark.parametrize("seed", range(5))
def test_a_split_keeps_the_shares_of_the_classes(seed):
    # Four classes of which two are rare, one of a single datum
    y = torch.tensor([0] * 700 + [1] * 290 + [2] * 9 + [3])
    x = torch.arange(1000.0)[:, None]
    d = load(Dataset(x, y), seed=seed)
    assert (len(d.train), len(d.test)) == (900, 100)
    assert torch.bincount(d.test.y, minlength=4).tolist() == [70, 29, 1, 0]
    assert torch.equal(torch.cat([d.train.x, d.test.x]).sort(0).values, x)
    assert all(torch.equal(y[part.x[:, 0].long()], part.y) for part in (d.train, d.test))
    assert not torch.equal(load(Dataset(x, y), seed=seed + 5).test.x, d.test.x)


def test_every_class_of_two_is_in_both_sets():
    y = torch.tensor([0] * 90 + [1] * 2 + [2] * 3 + [3] * 5)
    d = load(Dataset(torch.rand(100, 2), y))
    assert torch.bincount(d.test.y).tolist() == [7, 1, 1, 1]


def test_a_split_without_regard_to_labels_is_that_of_data_without():
    x = torch.rand(50, 2)
    plain = load(x).test.x
    assert torch.equal(load(Dataset(x, torch.arange(50) % 3), stratify=False).test.x, plain)
    # Labels that name each datum are no classes
    assert torch.equal(load(Dataset(x, torch.arange(50))).test.x, plain)


PICTURES = np.random.default_rng(0).integers(0, 256, (8, 10, 12, 3)).astype(np.uint8)


@pytest.mark.parametrize("make", [Dataset, lambda x, **k: load(x, **k).train])
def test_channels_behind_the_pixels(make):
    with pytest.raises(
        ValueError, match=r"looks like 3 channels behind 10 x 12 pixels: .*\"last\""
    ):
        make(PICTURES)
    found = make(PICTURES, channels="last")
    assert found.event_shape == (3, 10, 12)
    assert torch.equal(found.x, make(torch.from_numpy(PICTURES).permute(0, 3, 1, 2)).x)
    assert make(PICTURES, channels="first").event_shape == (10, 12, 3)


@pytest.mark.parametrize(
    "shape", [(8, 64, 4, 4), (8, 3, 10, 12), (8, 1, 28, 28), (8, 10, 12), (8, 5, 6, 2)]
)
def test_shapes_that_are_taken_as_they_are(shape):
    assert Dataset(torch.rand(shape)).event_shape == shape[1:]


def test_channels_of_files_and_of_no_use(tmp_path):
    np.save(tmp_path / "a.npy", PICTURES)
    assert load(tmp_path / "a.npy", channels="last").event_shape == (3, 10, 12)
    with pytest.raises(ValueError, match=r"channels: expected only for arrays .* digits"):
        load("digits", channels="last")
    with pytest.raises(ValueError, match='channels: expected "first" or "last", got \'behind\''):
        Dataset(PICTURES, channels="behind")
    with pytest.raises(ValueError, match="got \\(12, 2\\): leave channels out"):
        Dataset(X, channels="last")


def test_a_set_without_one_of_the_classes_is_not_numbered_anew():
    vae = VAE((2,), 2, likelihood=Gaussian(), hidden=(4,), condition=3)
    x = X / 24
    trainer = Trainer(vae, BottomUp(vae), seed=0)
    trainer.fit(Dataset(x, TEXT), epochs=1, progress=False)
    few = [i for i, text in enumerate(TEXT) if text != "cat"]
    x_few, y_few = x[few], [TEXT[i] for i in few]
    for call in (
        lambda data: trainer.guide.encode(data),
        lambda data: evaluate(vae, trainer.guide, data, importance_samples=0),
        lambda data: trainer.fit(x, epochs=1, validation=data, progress=False),
    ):
        with pytest.raises(
            ValueError, match="text of all 3 classes, got 2, which would be numbered"
        ):
            call((x_few, y_few))
    # The advice, and what it guards against
    named = Dataset(x_few, y_few, names=("cat", "dog", "owl"))
    assert named.y.tolist() == [1, 2] * 4 and Dataset(x_few, y_few).y.tolist() == [0, 1] * 4
    evaluate(vae, trainer.guide, named, importance_samples=0)
    with pytest.raises(ValueError, match="validation: expected the class names of the data"):
        other = Dataset(x, ["cow" if text == "cat" else text for text in TEXT])
        trainer.fit(Dataset(x, TEXT), epochs=1, validation=other, progress=False)
