"""Translations between modalities, and how coherent they are."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess
from modalities import NAMES, Likelihood, Linear, N, Pictures, batch, pictures
from torch import nn

from pyro_vae import guides, handlers, infer

MODEL = Linear()


def guide_of(model=MODEL):
    experts = {name: Likelihood(MODEL, name) for name in NAMES}
    return guides.ProductOfExperts(experts, model=model, like=MODEL.data())


def test_translations_are_the_conditional_of_the_model():
    """Of a program that has the site only where its argument is there."""
    data, guide = MODEL.data(), guide_of()
    mean, scale, _ = MODEL.exact({"a": data["a"]})
    torch.manual_seed(0)
    found = infer.translate(MODEL, guide, a=data["a"], to="b", samples=4000)
    W, b, sigma = MODEL.W[1].double(), MODEL.b[1].double(), MODEL.sigma[1].double()
    error = found.standard_error.double()
    assert excess((found.mean.double() - (W * mean + b)) / error, 4000) < 1
    assert torch.allclose(error, W.abs() * scale / 4000**0.5, rtol=0.15)
    spread = ((W * scale).square() + sigma**2).sqrt()
    assert found.sample.shape == (4000, N, 2)
    assert torch.allclose(found.sample.std(0).double(), spread, rtol=0.15)
    off = (found.sample.double().mean(0) - (W * mean + b)) / (spread / 4000**0.5)
    assert excess(off) < 1


def test_several_sites_are_drawn_from_the_same_latents():
    data, guide = MODEL.data(), guide_of()
    found = infer.translate(MODEL, guide, a=data["a"], c=None, to=("b", "c"), samples=2000)
    assert found.given == ("a",) and found.to == ("b", "c")
    assert {*found.mean} == {"b", "c"} and found["b"].sample is found.sample["b"]
    scale = MODEL.exact({"a": data["a"]})[1][0]
    b, c = (found[site].sample.double() - found[site].mean for site in ("b", "c"))
    covariance = (b * c).mean((0, 1))
    expected = (MODEL.W[1] * MODEL.W[2]).double() * scale**2
    assert torch.allclose(covariance, expected, atol=0.05)
    assert "from a to b, c: 12 data, 2000 samples of each" in repr(found)
    # What is given may be drawn anew
    again = infer.translate(MODEL, guide, a=data["a"], to="a", samples=50)
    assert again.sample.shape == (50, N, 2) and again.mean.shape == (N, 2)


@pytest.mark.parametrize("missing", [False, True])
def test_classes_are_drawn_whether_the_site_is_observed_or_not(missing):
    model = Pictures()
    shown = handlers.missing(model) if missing else model
    guide = guides.MixtureOfExperts(["image", "label"], model=shown, like=pictures(), hidden=(5,))
    data = pictures()
    before = torch.random.get_rng_state()
    found = infer.translate(shown, guide, image=data["image"], to="label", samples=7)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert found.sample.shape == (7, N) and {*found.sample.flatten().tolist()} <= {0, 1, 2}
    assert found.mean.shape == (N,) and found.standard_error.isnan().all()
    images = infer.translate(shown, guide, label=data["label"], to="image", samples=3)
    assert images.sample.shape == (3, N, 6) and (images.standard_error > 0).all()


def test_coherence_is_a_share_with_its_error_over_data():
    class Told(nn.Module):
        def forward(self, image=None, label=None):
            with pyro.plate("data", batch(image, label)):
                z = pyro.sample("z", dist.Normal(torch.zeros(3), 0.01).to_event(1))
                # The class of a datum, in one of ten almost never another
                pyro.sample("image", dist.Normal(z, 0.01).to_event(1), obs=image)
                pyro.sample("label", dist.Categorical(logits=100 * z), obs=label)

    class Known(nn.Module):
        """The latent that an image is."""

        def forward(self, image=None, label=None):
            with pyro.plate("data", len(image)):
                pyro.sample("z", dist.Normal(image, 1e-4).to_event(1))

    label = torch.arange(30) % 3
    image = nn.functional.one_hot(label, 3).float()
    image[:3] = image[:3].flip(1)
    guide = guides.MixtureOfExperts(
        {"image": Known()}, model=Told(), like={"image": image, "label": label}
    )
    found = infer.translate(Told(), guide, image=image, to="label", samples=4)
    # Of the three that are turned round one is as it was
    share = found.coherence(label)
    assert share.value == pytest.approx(28 / 30)
    expected = (28 / 30 * 2 / 30 * 30 / 29) ** 0.5 / 30**0.5
    assert share.standard_error == pytest.approx(expected, rel=1e-6)
    anew = infer.translate(Told(), guide, image=image, to="image", samples=2)
    for judge in (lambda x: x.argmax(1), lambda x: 5 * x, nn.Identity()):
        assert anew.coherence(label, judge).value == pytest.approx(28 / 30)
        one = infer.coherence(anew.sample[0], label, judge)
        assert one.value == pytest.approx(28 / 30)
    assert repr(share) == "93.3 +- 4.6 % agree"


def test_unknown_sites_and_no_samples_are_refused():
    given = {"a": MODEL.data()["a"]}
    for to in ("z", "bb"):
        with pytest.raises(ValueError, match=f"to: .*{to}"):
            infer.translate(MODEL, guide_of(), to=to, **given)
    with pytest.raises(ValueError, match="samples: expected"):
        infer.translate(MODEL, guide_of(), to="b", samples=0, **given)
