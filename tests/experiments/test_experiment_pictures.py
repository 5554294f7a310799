import pytest
import torch
from torch import nn

from pyro_vae import data, diagnostics
from pyro_vae.data import Dataset, DataSplits
from pyro_vae.experiments.pictures import binarised, classifier, distances, pooled


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", binarize=None)


def test_pooled_pixels_are_means_of_8_bits(digits):
    small = pooled(digits, 4)
    assert small.event_shape == (1, 4, 4) and small.name == "digits, 4 x 4"
    for part, whole in ((small.train, digits.train), (small.test, digits.test)):
        x = whole.x
        mean = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
        assert (part.x - mean).abs().max() <= 0.5 / 255 + 1e-6
        levels = part.x * 255
        assert torch.allclose(levels, levels.round(), atol=1e-4)
        assert torch.equal(part.y, whole.y)
    assert pooled(digits, None) is digits
    grey = DataSplits("grey", *(Dataset(torch.rand(n, 6, 9)) for n in (4, 3)))
    assert pooled(grey, 3).event_shape == (3, 3)


def test_what_cannot_be_pooled(digits):
    with pytest.raises(ValueError, match=r"--size: expected a divisor of the sides of \(1, 8, 8"):
        pooled(digits, 3)
    flat = DataSplits("flat", Dataset(torch.rand(4, 6)), Dataset(torch.rand(4, 6)))
    with pytest.raises(
        ValueError, match=r"--size: expected a divisor of the sides of \(6,\), got"
    ):
        pooled(flat, 3)


def test_pixels_are_drawn_once_as_by_load(digits):
    found, expected = binarised(digits), data.load("digits", binarize="static")
    for part in ("train", "test"):
        assert torch.equal(getattr(found, part).x, getattr(expected, part).x)
        assert getattr(found, part).binarize is None


def test_distances_are_those_of_the_diagnostics_with_the_features_of_a_seed(digits, monkeypatch):
    fit = diagnostics.ClassifierFeatures.fit
    monkeypatch.setattr(
        diagnostics.ClassifierFeatures,
        "fit",
        lambda splits, **kwargs: fit(splits, cache=False, size=8, **kwargs),
    )
    features, settings = classifier(digits, 20)
    assert settings == {"classifier": f"20 steps from seed 0, accuracy {features.accuracy:.4f}"}
    x = torch.rand(300, 1, 8, 8)
    found = distances(features, digits.test, {"noise": x})
    assert found == {
        "noise": pytest.approx(
            float(diagnostics.frechet_distance(digits, x, features=features)), rel=1e-4
        ),
        "KID, noise": pytest.approx(
            float(diagnostics.kernel_distance(digits, x, features=features)), rel=1e-4
        ),
    }


def test_without_labels_there_are_no_distances():
    mine = DataSplits("mine", Dataset(torch.rand(40, 3)), Dataset(torch.rand(30, 3)))
    assert classifier(mine, 20) == (None, {})
    found = distances(None, mine.test, {"noise": torch.rand(30, 3)})
    assert found == {"noise": None, "KID, noise": None}
    assert distances(nn.Identity(), mine.test, {"own": mine.test.x})["own"] < 1e-6
