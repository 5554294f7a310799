"""Features of a classifier: learnt, cached under what they depend on, the same again."""

import functools
import warnings

import pytest
import torch

from pyro_vae import data, diagnostics
from pyro_vae.data import Dataset
from pyro_vae.diagnostics import ClassifierFeatures, InceptionFeatures

QUICK = {"size": 64, "steps": 3, "seed": 0, "cache": True, "progress": True}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", binarize=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(digits, folder):
    return ClassifierFeatures.fit(digits, steps=600, cache=folder)


def test_it_learns_the_digits(digits, trained):
    """And says so: the accuracy is that on the test set, counted here again."""
    features = trained(digits.test.x)
    assert features.shape == (360, 64) and (features >= 0).all()
    right = (trained.head(features).argmax(1) == digits.test.y).double().mean()
    assert trained.accuracy == float(right) > 0.95
    assert f"the labels of digits, accuracy {trained.accuracy:.4f}, seed 0)" in repr(trained)
    assert not trained.training and not any(p.requires_grad for p in trained.parameters())


def test_the_second_time_it_is_read(digits, folder, trained, monkeypatch):
    monkeypatch.setattr(ClassifierFeatures, "_train", None)
    before = torch.get_rng_state()
    again = ClassifierFeatures.fit(digits, steps=600, cache=folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(again(digits.test.x), trained(digits.test.x))
    assert again.accuracy == trained.accuracy
    for changed in (
        {"data": digits, "steps": 600, "seed": 1},
        {"data": digits, "steps": 599},
        {"data": digits, "steps": 600, "size": 32},
        {"data": digits.train, "steps": 600},
    ):
        with pytest.raises(TypeError, match="not callable"):
            ClassifierFeatures.fit(**changed, cache=folder)


def test_it_does_not_depend_on_the_global_stream(digits, tmp_path):
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        features = ClassifierFeatures.fit(digits.test, steps=10, seed=3, cache=False)
        runs.append(features(digits.test.x))
    assert torch.equal(*runs) and features.seed == 3
    other = ClassifierFeatures.fit(digits.test, steps=10, seed=4, cache=False)(digits.test.x)
    assert not torch.equal(runs[0], other)


def test_a_damaged_file_is_made_again(digits, tmp_path):
    first = ClassifierFeatures.fit(digits.test, steps=10, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"broken")
    again = ClassifierFeatures.fit(digits.test, steps=10, cache=tmp_path)
    assert torch.equal(first(digits.test.x), again(digits.test.x))
    assert file.stat().st_size > 1000


def test_the_users_cache_folder(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ClassifierFeatures.fit(digits.test, steps=10)
    assert len(list((tmp_path / "pyro_vae").glob("features-*.pt"))) == 1


def test_what_takes_time_is_announced_and_what_is_kept_is_told(digits, tmp_path, capsys):
    """The file is named, and deleting it trains again, as the line says."""
    fit = functools.partial(ClassifierFeatures.fit, digits, steps=10, cache=tmp_path)
    fit()
    said, (file,) = capsys.readouterr(), tmp_path.iterdir()
    assert said.out == (
        "training a classifier on the labels of digits for features, 10 steps; it will be kept in "
        f"{file}\n"
    )
    assert "classifier: 100%" in said.err and "10/10" in said.err
    fit()
    read = f"the classifier for features is read from {file}: delete this file to train it again\n"
    assert capsys.readouterr() == (read, "")
    file.unlink()
    fit()
    assert capsys.readouterr().out == said.out
    fit(cache=False, steps=11)
    assert capsys.readouterr().out.endswith("11 steps; it is not kept\n")
    fit(progress=False)
    diagnostics.frechet_distance(digits, digits.train.x, features=torch.nn.Flatten())
    assert capsys.readouterr() == ("", "")


def test_distances_tell_of_the_classifier_that_they_train(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(ClassifierFeatures.fit.__func__, "__kwdefaults__", QUICK)
    for distance in (diagnostics.frechet_distance, diagnostics.kernel_distance):
        distance(digits, digits.train.x[:200], progress=False)
        assert capsys.readouterr() == ("", "")
        distance(digits, digits.train.x[:200])
        assert str(tmp_path / "pyro_vae") in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_no_error(digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="the features are not kept for the next time"):
        ClassifierFeatures.fit(digits.test, steps=10, cache=tmp_path / "file")


@pytest.mark.parametrize("shape", [(5,), (4, 6), (1, 4, 6), (3, 5, 5)])
def test_shapes(shape):
    d = Dataset(torch.rand(40, *shape), torch.arange(40) % 3)
    assert ClassifierFeatures.fit(d, steps=10, size=7, cache=False)(d.x).shape == (40, 7)


def test_refusals():
    with pytest.raises(ValueError, match="data: expected labels y, got none"):
        ClassifierFeatures.fit(Dataset(torch.rand(40, 5)), cache=False)
    with pytest.raises(ValueError, match="data: expected at least 10 labelled data, got 4"):
        ClassifierFeatures.fit(Dataset(torch.rand(4, 5), torch.arange(4)), cache=False)
    with pytest.raises(ValueError, match=r"data: expected \(d,\), \(h, w\) or \(c, h, w\), got"):
        four = Dataset(torch.rand(40, 2, 2, 2, 2), torch.arange(40) % 3)
        ClassifierFeatures.fit(four, cache=False)


class TestInception:
    def test_nothing_is_downloaded(self, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        with pytest.raises(FileNotFoundError, match="never downloaded by themselves: put the"):
            InceptionFeatures()

    @pytest.mark.slow
    def test_shapes(self, tmp_path):
        from torchvision import models

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = models.inception_v3(weights=None, init_weights=False)
        torch.save(network.state_dict(), tmp_path / "weights.pth")
        features = InceptionFeatures(tmp_path / "weights.pth")
        grey = torch.rand(2, 28, 28)
        assert features(grey).shape == (2, 2048)
        torch.testing.assert_close(features(grey), features(grey[:, None].expand(2, 3, 28, 28)))
