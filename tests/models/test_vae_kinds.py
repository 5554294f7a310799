"""Models of signals, pictures and video, and their guides."""

import math

import pytest
import torch
from torch import nn

from pyro_vae import Trainer, data, guides, handlers, infer, likelihoods, load, models
from pyro_vae.data import Dataset
from pyro_vae.ground.recorded import decode, encode
from pyro_vae.networks import ConvEncoder, GroupNorm

KINDS = [
    ((2, 21), "signal", nn.Conv1d),
    ((21,), "signal", nn.Conv1d),
    ((3, 9, 7), "image", nn.Conv2d),
    ((2, 5, 9, 7), "video", nn.Conv3d),
    ((5, 9, 7), "video", nn.Conv3d),
]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
GUIDES = [
    guides.BottomUp,
    guides.Delta,
    guides.Flow,
    guides.FullCovariance,
    guides.Ladder,
    lambda vae: guides.SemiAmortized(guides.BottomUp(vae), steps=1),
]


def sines(n=64, length=32, seed=0):
    """Signals (n, 2, length) of a frequency and a phase each."""
    generator = torch.Generator().manual_seed(seed)
    speed, phase = torch.rand(2, n, 1, generator=generator)
    angle = 2 * math.pi * ((1 + 3 * speed) * torch.linspace(0, 1, length) + phase)
    return torch.stack([angle.sin(), angle.cos()], 1)


def vae(event_shape, kind=None, latents=3, noise="learned", **options):
    likelihood = likelihoods.Gaussian(noise)
    return models.VAE(event_shape, latents, likelihood=likelihood, kind=kind, **options)


def convolutions(module):
    return {type(m) for m in module.modules() if isinstance(m, CONVOLUTIONS)}


@pytest.mark.parametrize("make", GUIDES)
@pytest.mark.parametrize(("event_shape", "kind", "convolution"), KINDS)
def test_every_guide_convolves_along_the_dimensions_of_the_kind(
    make, event_shape, kind, convolution
):
    model = vae(event_shape, kind, latents=(3, 2), channels=(4, 6))
    guide = make(model)
    assert model.kind == kind and convolutions(guide) == {convolution}
    (encoder,) = (m for m in guide.modules() if isinstance(m, ConvEncoder))
    channels = [m.out_channels for m in encoder.convolutions if isinstance(m, convolution)]
    assert channels == [4, 6]
    x = torch.randn(4, *event_shape)
    terms = infer.elbo_terms(model, guide, x)
    assert terms.elbo.shape == (4,) and terms.elbo.isfinite().all()
    if make is not guides.Delta:
        assert infer.log_likelihood(model, guide, x, importance_samples=3).isfinite().all()
    assert model.sample(3).shape == (3, *event_shape)


@pytest.mark.parametrize(("event_shape", "kind", "convolution"), KINDS)
def test_labels_masks_and_indicators_go_with_every_kind(event_shape, kind, convolution):
    model = vae(event_shape, kind, condition=3, labels="partial", channels=(4,))
    guide = guides.Labelled(guides.BottomUp(model))
    assert convolutions(guide) == {convolution}
    x, y = torch.randn(6, *event_shape), torch.tensor([0, 1, 2, 0, -1, -1])
    trainer = Trainer(model, guide, elbo="enumerate")
    trainer.fit((x, y), epochs=1, batch_size=6, progress=False)
    hidden = handlers.missing(vae(event_shape, kind, channels=(4,)))
    guide, x = guides.BottomUp(hidden), x.clone()
    (encoder,) = (m for m in guide.modules() if isinstance(m, ConvEncoder))
    assert encoder.maps_shape[0] == 2 * math.prod(event_shape[: -len(encoder.maps_shape) + 1])
    x[:2].flatten(1)[:, ::3] = torch.nan
    Trainer(hidden, guide).fit(x, epochs=1, batch_size=6, progress=False)
    options = {"likelihood": likelihoods.Nominal(3), "kind": kind, "channels": (4,)}
    words = models.VAE(event_shape, 2, **options)
    x = torch.randint(0, 3, (6, *event_shape)).float()
    Trainer(words, guides.BottomUp(words)).fit(x, epochs=1, batch_size=6, progress=False)


@pytest.mark.parametrize(("event_shape", "kind", "convolution"), KINDS)
def test_codes_of_every_kind(event_shape, kind, convolution):
    options = {"kind": kind, "channels": (4,), "norm": nn.BatchNorm1d}
    model = models.VQVAE(event_shape, 8, 3, likelihood=likelihoods.Gaussian(), **options)
    guide = guides.NearestCode(model)
    assert convolutions(guide) == {convolution} <= convolutions(model)
    dims = len(model.grid_shape)
    assert model.grid_shape == tuple(-(-size // 2) for size in event_shape[-dims:])
    x = torch.randn(6, *event_shape)
    Trainer(model, guide).fit(x, epochs=1, batch_size=6, progress=False)
    assert guide.codes(x).shape == (6, *model.grid_shape)
    assert model.decode(guide.codes(x)).mean.shape == x.shape


def test_a_signal_is_no_picture_where_it_is_said():
    assert convolutions(vae((2, 100))) == {nn.Conv2d}
    assert convolutions(vae((2, 100), "signal")) == {nn.Conv1d}
    assert not convolutions(vae((2, 100), "array"))
    assert "(2, 100) image" in repr(vae((2, 100)))
    assert "(2, 100) signal" in repr(vae((2, 100), "signal"))


def test_networks_are_as_in_the_first_version_unless_asked():
    for event_shape in ((1, 28, 28), (3, 32, 32), (8, 8)):
        model = vae(event_shape)
        assert model.maps == {"dims": 2, "channels": (32, 64), "blocks": 0}
        for options in ({"kind": "image"}, {"channels": (32, 64), "blocks": 0}):
            torch.manual_seed(0)
            first = vae(event_shape)
            torch.manual_seed(0)
            again = vae(event_shape, **options)
            for a, b in zip(first.parameters(), again.parameters(), strict=True):
                assert torch.equal(a, b)


def test_files_name_the_networks_that_defaults_stood_for():
    model = vae((1, 40, 40), norm=GroupNorm(4))
    named = {"kind": "image", "channels": (32, 64, 128, 128), "blocks": 1}
    assert named.items() <= model.arguments.items()
    dense = vae((4,))
    assert dense.arguments | {"kind": "vector", "channels": None, "blocks": None} == (
        dense.arguments
    )
    tiny = vae((1, 1, 1)), vae((2, 2)), vae((2, 1), "signal"), vae((1, 1, 1, 1), "video")
    for one in (model, dense, vae((1, 40, 40), hidden=(4,)), vae((2, 9), "signal"), *tiny):
        again = decode(encode(one, "model"))
        assert again.maps == one.maps and again.kind == one.kind
        again.load_state_dict(one.state_dict())


def test_files_of_the_first_version_have_its_networks():
    for event_shape in ((1, 40, 40), (3, 8, 8), (1, 1)):
        held = encode(vae(event_shape), "model")
        for name in ("kind", "channels", "blocks"):
            del held["arguments"][name]
        assert decode(held).maps == {"dims": 2, "channels": (32, 64), "blocks": 0}
    for model in (vae((4,)), vae((1, 40, 40), hidden=(3,)), vae((2, 2, 2, 2))):
        held = encode(model, "model")
        for name in ("kind", "channels", "blocks"):
            del held["arguments"][name]
        assert decode(held).maps == {}


class Speech(models.VAE):
    def __init__(self, length, **options):
        noise = likelihoods.Gaussian()
        super().__init__((1, length), 2, likelihood=noise, kind="signal", channels=(3,), **options)


class Small(models.VAE):
    def __init__(self, event_shape, **options):
        super().__init__(event_shape, 2, channels=(3,), **options)


@pytest.mark.parametrize(
    "model",
    [lambda: Speech(9, blocks=2), lambda: Small((40, 40), likelihood=likelihoods.Gaussian())],
)
def test_a_subclass_may_decide_on_the_networks(model):
    model = model()
    again = decode(encode(model, "model"))
    assert again.maps == model.maps and again.maps["channels"] == (3,)


@pytest.mark.parametrize(("event_shape", "kind"), [((2, 21), "signal"), ((1, 4, 9, 7), "video")])
def test_a_graph_step_is_an_eager_step(event_shape, kind):
    x, rows = torch.randn(12, *event_shape), []
    for engine in ("eager", "graph"):
        torch.manual_seed(0)
        model = vae(event_shape, kind, channels=(4, 6), norm=nn.BatchNorm1d)
        guide = guides.BottomUp(model)
        trainer = Trainer(model, guide, engine=engine, seed=0)
        trainer.fit(x, epochs=3, batch_size=4, progress=False)
        rows.append(([row["elbo"] for row in trainer.history], [*model.parameters()]))
    (bounds, one), (again, other) = rows
    assert bounds == again
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_sines_are_learnt_and_saved(tmp_path):
    torch.manual_seed(0)
    d = data.load(sines(), kind="signal")
    model = vae(d.event_shape, d.kind, channels=(8, 16), noise=0.3)
    guide = guides.BottomUp(model)
    trainer = Trainer(model, guide, lr=3e-3, seed=0)
    trainer.fit(d.train, epochs=40, batch_size=16, progress=False)
    # What independent normals make of 64 values of variance 1/2
    independent = -32 * math.log(math.pi * math.e)
    first, last = trainer.history[0]["elbo"], trainer.history[-1]["elbo"]
    assert first < independent < last - 10
    trainer.save(tmp_path / "model.pt")
    again = load(tmp_path / "model.pt")
    assert again.model.kind == "signal" and again.model.maps == model.maps
    x = d.test.x
    torch.testing.assert_close(
        infer.reconstruct(again.model, again.guide, x), infer.reconstruct(model, guide, x)
    )


def test_data_of_one_kind_do_not_train_networks_of_another():
    d = Dataset(sines(8), kind="signal")
    model = vae((2, 32))
    with pytest.raises(ValueError, match="got a VAE with networks for 'image'"):
        Trainer(model, guides.BottomUp(model)).fit(d, epochs=1, progress=False)
    for good in (vae((2, 32), hidden=(4,)), vae((2, 32), "signal", channels=(4,))):
        Trainer(good, guides.BottomUp(good)).fit(d, epochs=1, progress=False)
