import math

import pytest
import torch
from torch import nn

from pyro_vae import Trainer, data, diagnostics, guides, infer, likelihoods, load, save
from pyro_vae.data.translations import VERBS, alignment, translated
from pyro_vae.models import Translation, TranslationDecoder
from pyro_vae.networks import GRU


@pytest.fixture(scope="module")
def pair():
    return data.language_pair(1000, 200)


def small(pair, **options):
    return Translation(pair.source, pair.target, latents=2, width=16, **options)


def test_the_languages_have_a_known_rule():
    pair = data.language_pair(300, 50, registers=2, seed=1)
    lines, others = (
        v.text(torch.cat([part[k] for part in (pair.train, pair.test)]))
        for k, v in (("source", pair.source), ("target", pair.target))
    )
    assert len({*lines}) == 350
    registers = [[translated(line, r) for r in range(2)] for line in lines]
    assert all(other in both for other, both in zip(others, registers, strict=True))
    polite = sum(other == both[1] for other, both in zip(others, registers, strict=True))
    assert 100 < polite < 250
    for line, other in zip(lines[:20], others[:20], strict=True):
        order, words = alignment(line), line.split()
        assert sorted(order) == list(range(len(words))) and words[order[-1]] in VERBS
        assert len(other.split()) == len(words)
    single = data.language_pair(300, 50)
    texts = [
        v.text(single.test[k]) for k, v in (("source", single.source), ("target", single.target))
    ]
    assert [*map(translated, texts[0])] == texts[1]


def test_sentences_that_were_not_seen_are_translated_exactly(pair):
    torch.manual_seed(0)
    model = Translation(pair.source, pair.target, latents=2, width=32)
    guide = guides.BottomUp(model)
    before = diagnostics.translations(model, pair.test, guide)
    trainer = Trainer(model, guide, lr=6e-3, seed=0)
    trainer.fit(pair.train, epochs=4, batch_size=32, progress=False)
    after = diagnostics.translations(model, pair.test, guide)
    rates = {name: mean for name, mean, _ in after.rows()}
    assert before.exact.double().mean() < 0.01
    assert rates["exact"] > 0.7 and rates["words"] > 0.9 and rates["exact, given z"] > 0.7
    assert after.to_dict()["exact"]["standard_error"] > 0 or rates["exact"] == 1
    lines = pair.source.text(pair.test["source"])
    right = [translated(a) == b for a, b in zip(lines, model.translate(lines), strict=True)]
    assert right == after.exact.tolist()


@pytest.mark.parametrize("network", [None, GRU])
def test_the_probability_is_that_of_a_walk_and_sums_over_z(pair, network):
    model = small(pair)
    if network is not None:
        model.decoder = TranslationDecoder(
            (pair.target.length,),
            2,
            outputs=len(pair.target),
            width=8,
            network=GRU(8),
            skip=True,
            source_length=pair.source.length,
            source_tokens=len(pair.source),
            word_dropout=0.2,
        )
    model.eval()
    source, target = pair.test[:5].values
    z, filled = torch.randn(5, 2), torch.zeros(5, pair.target.length)
    context = torch.cat([z, source], -1)
    whole = model.decoder(z, source, x=target)
    total = torch.zeros(5)
    going = torch.ones(5)
    for place, features in model.decoder.walk(filled, context):
        torch.testing.assert_close(features, whole[place].detach(), rtol=1e-4, atol=1e-5)
        filled[place] = target[place]
        log_p = features.log_softmax(-1).gather(-1, target[place].long()[:, None])[:, 0]
        total, going = total + going * log_p, going * (target[place] != 0)
    p = model.decoder.distribution(model.likelihood, z, source)
    torch.testing.assert_close(p.log_prob(target).detach(), total, rtol=1e-4, atol=1e-4)


def test_the_source_is_seen_by_prior_guide_and_decoder(pair):
    model = small(pair).eval()
    guide = guides.BottomUp(model)
    found = infer.structure(model, like=pair.train)
    assert found.parents == {"z1": ("source",), "target": ("z1", "source")}
    assert guide.inputs == {"z1": ("target", "source")}
    one, other = pair.test[:1], pair.test[1:2]
    mixed = data.Arguments(kwargs={"source": other["source"], "target": one["target"]})
    bounds = [infer.elbo_terms(model, guide, part) for part in (one, mixed)]
    assert bounds[0].reconstruction != bounds[1].reconstruction
    z = infer.encode(guide, one).mean["z1"]
    assert not torch.equal(z, infer.encode(guide, mixed).mean["z1"])


def test_evaluated_saved_and_loaded(pair, tmp_path):
    model = small(pair)
    trainer = Trainer(model, guides.BottomUp(model), seed=0)
    trainer.fit(pair.train[:64], validation=pair.test, epochs=1, batch_size=32, progress=False)
    save(trainer, tmp_path / "pair.pt")
    again = load(tmp_path / "pair.pt").model
    lines = pair.source.text(pair.test["source"][:9])
    assert again.translate(lines) == model.translate(lines)
    found = diagnostics.evaluate(model, trainer.guide, pair.test, importance_samples=3)
    rows = {(name, unit): (mean, error) for name, mean, error, unit in found.rows()}
    nats, tokens = -found.importance.log_likelihood.double(), found.units["token"].double()
    perplexity, error = rows["perplexity", "per token"]
    assert perplexity == pytest.approx(math.exp(nats.sum() / tokens.sum()))
    draws = torch.randint(len(nats), (400, len(nats)))
    again = (nats[draws].sum(1) / tokens[draws].sum(1)).exp()
    assert error == pytest.approx(float(again.std()), rel=0.25)
    bits, _ = rows["-log p(x)", "bits/character"]
    characters = sum(len(line) + 1 for line in pair.target.text(pair.test["target"]))
    assert bits == pytest.approx(float(nats.sum()) / math.log(2) / characters)


def test_eager_and_graph_are_equal(pair, graphs):
    losses = []
    for engine in ("eager", "graph"):
        torch.manual_seed(0)
        model = small(pair)
        trainer = Trainer(model, guides.BottomUp(model), seed=0, engine=engine)
        trainer.fit(pair.train[:96], epochs=3, batch_size=32, progress=False)
        losses.append([row["elbo"] for row in trainer.history])
    assert losses[0] == losses[1] and graphs


def test_bad_input(pair):
    model = small(pair)
    guide = guides.BottomUp(model)
    with pytest.raises(TypeError, match=r"^source: expected a vocabulary, got int"):
        Translation(5, pair.target)
    with pytest.raises(ValueError, match=r"^latents: expected"):
        Translation(pair.source, pair.target, latents=0)
    source, target = pair.test.values
    trainer = Trainer(model, guide)
    for columns, told in [
        ({"source": source[:, :5], "target": target}, r"source: expected shape \(n, 8\)"),
        ({"source": source, "target": target[:, :5]}, r"target: expected shape \(n, 8\)"),
        ({"source": source + 90, "target": target}, "expects tokens numbered 0 to 22"),
        ({"source": source, "target": target + 1}, "probability to whole numbers from 0 to 22"),
    ]:
        with pytest.raises(ValueError, match=told):
            trainer.fit(columns, epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"^text: expected symbols .* got 'zebra'"):
        model.translate(["the zebra sees a king"])
    with pytest.raises(TypeError, match=r"^model: expected a models\.Translation"):
        diagnostics.translations(nn.Linear(2, 2), pair.test)
    with pytest.raises(ValueError, match=r"^n: expected at most"):
        data.language_pair(10**7)
    assert isinstance(model.likelihood, likelihoods.Tokens)
