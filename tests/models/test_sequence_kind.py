"""Sequences of vectors (t, d): the networks of models and guides, in files and pictures."""

import math

import pytest
import torch

from pyro_vae import Trainer, data, guides, handlers, infer, likelihoods, load, models, plots
from pyro_vae.models import SequenceDecoder
from pyro_vae.networks import CausalTransformer, ConvEncoder, SequenceEncoder

GUIDES = {
    "BottomUp": guides.BottomUp,
    "Composed": lambda vae: guides.Composed(guides.BottomUp(vae, sites=["z1"])),
    "Delta": guides.Delta,
    "Flow": guides.Flow,
    "FullCovariance": guides.FullCovariance,
    "Ladder": guides.Ladder,
    "SemiAmortized": lambda vae: guides.SemiAmortized(guides.BottomUp(vae), steps=1),
}


def vae(noise="learned", **options):
    options = {"kind": "sequence", **options}
    return models.VAE((5, 3), 2, likelihood=likelihoods.Gaussian(noise), **options)


def readers(module):
    return {type(m) for m in module.modules() if isinstance(m, (ConvEncoder, SequenceEncoder))}


@pytest.mark.parametrize("make", GUIDES.values(), ids=GUIDES)
def test_every_guide_reads_place_by_place(make):
    model = vae()
    assert isinstance(model.decoder, SequenceDecoder)
    guide = make(model)
    assert readers(guide) == {SequenceEncoder}
    x = torch.randn(6, 5, 3)
    trainer = Trainer(model, guide, seed=0).fit(x, epochs=1, batch_size=3, progress=False)
    assert math.isfinite(trainer.history[0]["elbo"])
    (reader,) = (m for m in guide.modules() if isinstance(m, SequenceEncoder))
    matrix = torch.autograd.functional.jacobian(lambda v: reader(v).sum(0), x[:1])
    assert (matrix.abs().sum((0, 1, 3)) > 0).all()


def test_a_decoder_in_turn_tells_the_kind():
    decoder = SequenceDecoder((5, 3), 2, width=8, network=CausalTransformer(8, heads=2))
    model = vae(kind=None, decoder=decoder)
    assert model.kind == "sequence" and "(5, 3) sequence" in repr(model)
    assert readers(guides.BottomUp(model)) == {SequenceEncoder}
    assert models.VAE((4,), 2, likelihood=likelihoods.Tokens(3)).kind == "tokens"


def test_what_the_likelihood_asks_for_is_made_of_each_place():
    assert vae("predicted").decoder.outputs == 2
    assert vae(kind="array").decoder(torch.zeros(1, 2)).shape == (1, 5, 3)


def test_dense_networks_are_an_option():
    model = vae(hidden=(8,))
    assert not isinstance(model.decoder, SequenceDecoder)
    assert not readers(guides.BottomUp(model))


@pytest.mark.parametrize("make", [guides.BottomUp, lambda v: guides.Labelled(guides.BottomUp(v))])
def test_labels_are_read_beside_them(make):
    model = vae(condition=2, labels="partial")
    guide = make(model)
    x, y = torch.randn(4, 5, 3), torch.tensor([0, 1, -1, 1])
    trainer = Trainer(model, guide, elbo="enumerate", seed=0)
    trainer.fit(data.Dataset(x, y, kind="sequence"), epochs=1, progress=False)
    assert math.isfinite(trainer.history[0]["elbo"])
    assert infer.reconstruct(model, guide, x, y=y).shape == x.shape


def test_a_file_has_the_same_networks(tmp_path):
    x = torch.randn(4, 5, 3)
    model = vae()
    trainer = Trainer(model, guides.BottomUp(model), seed=0)
    trainer.save(tmp_path / "model.pt")
    again = load(tmp_path / "model.pt")
    assert again.model.kind == "sequence" and readers(again.guide) == {SequenceEncoder}
    found, expected = (infer.encode(guide, x).mean["z1"] for guide in (again.guide, trainer.guide))
    assert torch.equal(found, expected)


def test_they_are_drawn_as_curves_of_their_columns():
    model = vae()
    ax = plots.samples(model, 4)
    points = [len(path.vertices) for c in ax.collections for path in c.get_paths()]
    assert points.count(5) == 4 * 3  # data, columns
    figure = plots.reconstructions(model, guides.BottomUp(model), torch.randn(2, 5, 3))
    assert [ax.get_title() for ax in figure.axes] == ["data", "reconstruction"]
    by_hand = plots.images(torch.randn(2, 5, 3), kind="sequence")
    assert len(by_hand.collections) >= 3


def test_parts_that_are_missing_are_refused():
    hidden = handlers.missing(vae())
    x = torch.randn(4, 5, 3)
    x[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="no probability for a part"):
        hidden(x)
