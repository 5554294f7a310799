"""Files that are not what they should be: an error that names them, and no code that runs."""

import io
import json
import os
import pickle
import warnings
import zipfile

import pytest
import torch
from damaged import Touch
from saved import fit, trainer, vae
from torch import nn

from pyro_vae import guides, load, save
from pyro_vae.storage.sealed import seal


def rewritten(path, change):
    content = torch.load(path, weights_only=True)
    change(content)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(seal(buffer.getvalue()))


def describe(content, change):
    description = json.loads(content["json"])
    change(description)
    content["json"] = json.dumps(description)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file.pt"
    trainer().save(path)
    return path


@pytest.mark.parametrize(
    "content", [b"", b"text\n", b".", b"(", b"\x80\x04garbage", b"PK\x03\x04", bytes(range(64))]
)
def test_a_foreign_file_is_an_error_that_names_it(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"file.pt: not a checkpoint of pyro_vae"):
        load(path)


def test_a_foreign_file_is_refused_without_warnings(path):
    path.write_bytes(b"\x80\xa1" + bytes(60))  # torch warns about this pickle protocol
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match=r"file.pt: not a checkpoint of pyro_vae"):
            load(path)
    assert caught == []


@pytest.mark.parametrize("kept", [0.01, 0.3, 0.6, 0.9, 0.99, -1])
def test_a_truncated_file_is_an_error_that_names_it(path, kept):
    content = path.read_bytes()
    path.write_bytes(content[: kept if kept < 0 else int(kept * len(content))])
    with pytest.raises(ValueError, match=r"file.pt: not a checkpoint of pyro_vae, or a damaged"):
        load(path)


@pytest.mark.parametrize(
    "content",
    [torch.zeros(3), [1, 2], {"weight": torch.zeros(3)}, {"format": "other", "version": 1}],
    ids=["tensor", "list", "state dict", "other format"],
)
def test_another_torch_file_is_an_error_that_names_it(path, content):
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"file.pt: not a checkpoint of pyro_vae"):
        load(path)


def test_another_zip_file_is_an_error_that_names_it(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"file.pt: not a checkpoint of pyro_vae"):
        load(path)


@pytest.mark.parametrize("write", [torch.save, lambda obj, p: p.write_bytes(pickle.dumps(obj))])
def test_code_in_a_file_is_never_run(path, write):
    made = path.parent / "made"
    write({"format": "pyro_vae", "version": 1, "modules": Touch(made)}, path)
    with pytest.raises(ValueError, match=r"file.pt: not a checkpoint of pyro_vae") as error:
        load(path)
    assert not made.exists()
    assert "weights_only" not in str(error.value)  # torch advises to switch it off


def test_files_are_read_with_weights_only(path, monkeypatch):
    calls, original = [], torch.load

    def recorded(*args, **kwargs):
        calls.append(kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(torch, "load", recorded)
    load(path)
    assert [call["weights_only"] for call in calls] == [True]


CHANGES = {
    "newer": (lambda c: c.update(version=4), "newer pyro_vae .*upgrade"),
    "shape": (
        lambda c: c["modules"]["guide"].update({"conditionals.z1.loc.bias": torch.zeros(9)}),
        "its guide does not fit: .*z1.loc.bias",
    ),
    "missing tensor": (
        lambda c: c["modules"]["model"].pop("decoder.layers.0.bias"),
        "its model does not fit: .*decoder.layers.0.bias",
    ),
    "unknown class": (
        lambda c: describe(c, lambda d: d["parts"]["model"].update({"$class": "mine.Model"})),
        "needs the class 'mine.Model': import",
    ),
    "unknown argument": (
        lambda c: describe(c, lambda d: d["parts"]["model"]["arguments"].update(width=3)),
        "width",
    ),
    "bad argument": (
        lambda c: describe(c, lambda d: d["parts"]["model"]["arguments"].update(latents=-1)),
        "latents: expected positive integers",
    ),
    "no description": (lambda c: c.update(json="{"), "Expecting property name"),
    "no modules": (lambda c: c.pop("modules"), "modules"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_checkpoint_that_does_not_fit_is_an_error_that_names_it(path, name):
    change, message = CHANGES[name]
    rewritten(path, change)
    with pytest.raises(ValueError, match=rf"(?s)file.pt: .*{message}"):
        load(path)


def test_a_pair_of_other_sizes_is_an_error_that_names_the_file(path):
    model = vae(hidden=(9,))
    with pytest.raises(ValueError, match=r"(?s)file.pt: its model does not fit: .*decoder"):
        load(path, model=model, guide=guides.BottomUp(model))


def test_folders_and_missing_files(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}: expected a checkpoint file, got a folder"):
        load(tmp_path)
    missing = r"none.pt: there is no such file, expected a checkpoint written by save\(...\)"
    with pytest.raises(FileNotFoundError, match=missing):
        load(tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError, match=r"a.file.pt: its folder does not exist"):
        save(vae(), tmp_path / "a" / "file.pt")


def test_other_objects_are_an_error(tmp_path):
    with pytest.raises(TypeError, match=r"expected a Trainer, a model or a guide .*got Linear"):
        save(nn.Linear(1, 1), tmp_path / "file.pt")


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file(path, monkeypatch, failing):
    def fail(*args):
        raise OSError("disk full")

    before = path.read_bytes()
    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="disk full"):
        fit(trainer()).save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
