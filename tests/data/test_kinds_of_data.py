"""What the dimensions of a datum mean: said, told by the source, or guessed and printed."""

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae.data import Dataset, DataSplits, load
from pyro_vae.ground.kinds import KINDS, kind_of

FITTING = {
    (5,): {"vector", "signal", "tokens", "array"},
    (2, 9): {"signal", "image", "sequence", "array"},
    (3, 9, 9): {"image", "video", "array"},
    (3, 4, 9, 9): {"video", "array"},
    (2, 2, 2, 2, 2): {"array"},
}


@pytest.mark.parametrize("event_shape", FITTING)
def test_a_kind_is_of_some_shapes(event_shape):
    x = torch.rand(4, *event_shape)
    for kind in KINDS:
        if kind in FITTING[event_shape]:
            d = load(x, kind=kind, channels="first")
            assert {d.kind, d.train.kind, d.test.kind} == {kind} and d.train.kind_said
            assert kind_of(kind, event_shape).name == kind
        else:
            with pytest.raises(ValueError, match="kind: expected a datum of shape"):
                load(x, kind=kind, channels="first")


def test_a_guess_is_as_it_has_always_been_and_printed():
    guesses = {shape: Dataset(torch.rand(4, *shape)).kind for shape in FITTING}
    assert [*guesses.values()] == ["vector", "image", "image", "array", "array"]
    assert "kind='image' (guessed)" in repr(load(torch.rand(4, 2, 9)))
    told = repr(load(torch.rand(4, 2, 9), kind="signal"))
    assert "kind='signal', labels=0" in told
    assert told.count("kind='signal'") == 3


def test_sources_of_pictures_tell_it(tmp_path):
    assert load("digits").train.kind_said and "kind='image', labels=10" in repr(load("digits"))
    assert load("shapes", size=8).train.kind_said
    for i in range(2):
        Image.fromarray(np.full((4, 5, 3), 9 * i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    assert load(tmp_path).train.kind_said and load(tmp_path).kind == "image"


def test_a_table_with_names_is_of_vectors(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("height,weight\n" + "1.7,70\n1.8,80\n" * 6)
    d = load(path)
    assert d.kind == "vector" and d.train.kind_said and "guessed" not in repr(d)


def test_a_kind_goes_with_the_data():
    d = Dataset(torch.rand(6, 2, 9), [0, 1] * 3, kind="signal")
    generator = torch.Generator().manual_seed(0)
    for part in (d[:2], d[d.y == 1], d.to("cpu"), d.replace(y=None), d.binarized(generator)):
        assert part.kind == "signal" and part.kind_said
    assert load(d, kind=None).kind == "signal" and load(d, kind="image").kind == "image"
    with pytest.raises(ValueError, match="kind: expected"):
        d.replace(x=torch.rand(6, 3, 4, 5, 6))


@pytest.mark.parametrize(
    ("shape", "kind", "told"),
    [
        ((4, 100, 2), "signal", "2 channels behind all else"),
        ((4, 8, 9, 9, 3), "video", "3 channels behind all else"),
        ((4, 8, 3, 9, 9), "video", "8 frames of 3 channels"),
        ((4, 8, 1, 9, 9), "video", "8 frames of 1 channels"),
    ],
)
def test_channels_in_another_place_are_found(shape, kind, told):
    x = torch.rand(shape)
    with pytest.raises(ValueError, match=told):
        load(x, kind=kind)
    with pytest.raises(ValueError, match=told):
        Dataset(x, kind=kind)
    assert Dataset(x, kind=kind, channels="first").event_shape == shape[1:]


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((4, 2, 100), "signal"),
        ((4, 100), "signal"),
        ((4, 1, 3), "signal"),
        ((4, 3, 8, 9, 9), "video"),
        ((4, 8, 9, 9), "video"),
        ((4, 1, 8, 9, 3), "video"),
    ],
)
def test_channels_in_their_place_are_left_there(shape, kind):
    assert Dataset(torch.rand(shape), kind=kind).event_shape == shape[1:]


def test_sets_of_several_kinds_are_no_splits():
    signals, pictures = Dataset(torch.rand(4, 2, 9), kind="signal"), Dataset(torch.rand(4, 2, 9))
    with pytest.raises(ValueError, match="test: expected data of kind 'signal'"):
        DataSplits("d", signals, pictures)
