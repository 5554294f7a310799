"""Guides of several modalities that are sequences, text, signals and pictures."""

import copy
import itertools
import math

import pytest
import torch
from media_programs import SHAPES, TOKENS, Media, media
from pyro import poutine
from pyro.infer import Trace_ELBO

from pyro_vae import Trainer, guides, handlers, infer
from pyro_vae.networks import ConvEncoder, SequenceEncoder

KINDS = (guides.ProductOfExperts, guides.MixtureOfExperts, guides.MixtureOfProducts)
every = pytest.mark.parametrize("kind", KINDS)
NAMES = [*SHAPES]
SUBSETS = [s for k in range(1, 5) for s in itertools.combinations(NAMES, k)]


def pair(kind, *, missing=False):
    torch.manual_seed(0)
    model, data = Media(), media()
    shown = handlers.missing(model) if missing else model
    return model, kind(NAMES, model=shown, like=data)


def incomplete():
    """Rows of which each lacks another modality, some two."""
    data = media()
    for i, name in enumerate(NAMES):
        data[name][i :: len(NAMES)] = torch.nan
    data["text"][0] = torch.nan
    return data


def q_of(guide, data):
    return poutine.trace(guide).get_trace(**data).nodes["z"]["fn"]


@every
def test_each_modality_has_networks_of_its_kind(kind):
    _, guide = pair(kind)
    wanted = (SequenceEncoder, SequenceEncoder, ConvEncoder, ConvEncoder)
    for expert, cls in zip(guide.experts, wanted, strict=True):
        found = [m for m in expert.modules() if isinstance(m, (SequenceEncoder, ConvEncoder))]
        assert [type(m) for m in found] == [cls]
    assert "motion (4, 3) sequence" in repr(guide)
    _, text, sound, _ = guide.experts
    embedding = next(m for m in text.modules() if isinstance(m, torch.nn.Embedding))
    assert embedding.num_embeddings == TOKENS
    assert any(isinstance(m, torch.nn.Conv1d) for m in sound.modules())


@every
def test_any_subset_has_the_bound_of_stock_pyro(kind):
    model, guide = pair(kind)
    shown, data = handlers.missing(model), media()
    for subset in SUBSETS:
        given = {name: data[name] for name in subset}
        torch.manual_seed(2)
        stock = Trace_ELBO().loss(shown, guide, **given)
        torch.manual_seed(2)
        terms = infer.elbo_terms(shown, guide, given)
        assert -float(terms.elbo.sum()) == pytest.approx(stock, rel=1e-5)
        torch.manual_seed(2)
        assert torch.allclose(infer.elbo_terms(model, guide, given).elbo, terms.elbo, atol=1e-3)


@every
def test_rows_that_lack_some_are_as_if_alone(kind):
    """Of a row the distribution is that of the modalities that it has."""
    model, guide = pair(kind, missing=True)
    data, shown = incomplete(), handlers.missing(model)
    z = torch.randn(len(data["text"]), 2)
    whole = q_of(guide, data).log_prob(z)
    for row in range(len(NAMES)):
        there = {n: v[row : row + 1] for n, v in data.items() if not v[row].isnan().any()}
        assert 0 < len(there) < len(NAMES)
        alone = q_of(guide, there).log_prob(z[row : row + 1])
        assert torch.allclose(whole[row], alone, atol=1e-4)
    trainer = Trainer(shown, guide, elbo=infer.SubsetELBO(), seed=0)
    before = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]
    trainer.fit(data, epochs=1, batch_size=4, progress=False)
    assert math.isfinite(trainer.history[0]["elbo"])
    after = (*model.parameters(), *guide.parameters())
    still = [n for n, (a, b) in enumerate(zip(after, before, strict=True)) if torch.equal(a, b)]
    assert not still


def test_a_token_that_no_text_has_is_named():
    model, guide = pair(guides.MixtureOfExperts)
    text = media()["text"]
    text[0, 0] = TOKENS
    with pytest.raises(ValueError, match=r"text: .*5"):
        infer.elbo_terms(model, guide, {"text": text})
    text = media()["text"][:, :4]
    with pytest.raises(ValueError, match="text: expected shape"):
        guide(text=text)


def test_a_kind_that_no_modality_can_have_is_named():
    model = Media()
    model.kind = {**Media.kind, "text": "image"}
    with pytest.raises(ValueError, match="kind of 'text': expected a datum of shape"):
        guides.ProductOfExperts(NAMES, model=model, like=media())
    model.kind = {**Media.kind, "texts": "tokens"}
    with pytest.raises(ValueError, match="did you mean 'text'"):
        guides.ProductOfExperts(NAMES, model=model, like=media())


@every
def test_a_graph_is_eager_to_the_last_bit(kind, monkeypatch):
    monkeypatch.setattr("pyro_vae.training.step._STEPS_BEFORE_A_GRAPH", 0)
    first = pair(kind)
    histories, states = [], []
    for engine, (model, guide) in {"eager": first, "graph": copy.deepcopy(first)}.items():
        trainer = Trainer(model, guide, engine=engine, seed=0, lr=0.01)
        trainer.fit(media(), epochs=2, batch_size=4, progress=False)
        histories.append([row["elbo"] for row in trainer.history])
        states.append([*model.state_dict().values(), *guide.state_dict().values()])
    assert histories[0] == histories[1]
    assert all(map(torch.equal, *states))
