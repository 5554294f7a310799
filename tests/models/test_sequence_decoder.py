import copy
import itertools

import pyro
import pytest
import torch
from chance import LEVEL, chance_of, excess, widened
from pyro.infer import SVI, Predictive, Trace_ELBO
from torch import nn

from pyro_vae import Trainer, data, diagnostics, guides, infer, likelihoods, load, save
from pyro_vae.models import VAE, SequenceDecoder
from pyro_vae.networks import GRU, CausalTransformer

NETWORKS = {"gru": lambda: GRU(8), "transformer": lambda: CausalTransformer(8, heads=2)}
SEQUENCES = torch.tensor(
    [
        (*tokens, *(0.0,) * (3 - m))
        for m in range(4)
        for tokens in itertools.product([1.0, 2.0], repeat=m)
    ]
)


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]


def loud(module, std=0.7):
    """Weights far from zero, so that places depend on each other and on z."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module


def pair(network, event_shape=(3,), likelihood=None, outputs=3, latents=2, **options):
    own = {k: options.pop(k) for k in ("skip", "word_dropout") if k in options}
    decoder = SequenceDecoder(
        event_shape,
        latents + options.get("condition", 0),
        outputs=outputs,
        width=8,
        network=network(),
        **own,
    )
    likelihood = likelihood or likelihoods.Tokens(3)
    vae = VAE(event_shape, latents, likelihood=likelihood, decoder=loud(decoder), **options)
    return vae, guides.BottomUp(vae, hidden=(8,))


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("outputs", [1, 2])
def test_features_depend_on_the_places_before_and_on_all_of_z(network, outputs, skip):
    decoder = SequenceDecoder(
        (5, 2), 3, outputs=outputs, width=8, network=network(), skip=skip
    ).double()
    x, z = torch.randn(1, 5, 2).double(), torch.randn(1, 3).double()
    assert decoder(z, x=x).shape == ((1, 5, 2, 2) if outputs > 1 else (1, 5, 2))
    matrix = torch.autograd.functional.jacobian(lambda v: decoder(z, x=v), x)
    depends = matrix.abs().reshape(5, -1, 5, 2).sum((1, 3)) > 0
    assert torch.equal(depends, torch.ones(5, 5, dtype=torch.bool).tril(-1))
    of_z = torch.autograd.functional.jacobian(lambda v: decoder(v, x=x), z)
    assert (of_z != 0).all()


@pytest.mark.parametrize("place", range(6))
def test_changing_a_token_leaves_the_distributions_up_to_it(network, place):
    decoder = loud(SequenceDecoder((6,), 2, outputs=4, width=8, network=network(), skip=True))
    x, z = torch.randint(4, (9, 6)).float(), torch.randn(9, 2)
    changed = x.clone()
    changed[:, place] = (changed[:, place] + 1) % 4
    a, b = decoder(z, x=x), decoder(z, x=changed)
    assert torch.equal(a[:, : place + 1], b[:, : place + 1])
    assert place == 5 or not torch.allclose(a[:, place + 1 :], b[:, place + 1 :])


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(("event_shape", "outputs"), [((6,), 4), ((6, 2), 1), ((6, 2), 2)])
def test_a_walk_gives_the_features_of_the_whole_sequence(network, event_shape, outputs, skip):
    options = {"outputs": outputs, "width": 8, "network": network(), "skip": skip}
    decoder = loud(SequenceDecoder(event_shape, 3, **options)).double()
    x, z = torch.randint(4, (2, *event_shape)).double(), torch.randn(2, 3).double()
    whole, filled = decoder(z, x=x), torch.zeros_like(x)
    for place, features in decoder.walk(filled, z):
        assert not features.requires_grad
        torch.testing.assert_close(features, whole[place].detach())
        filled[place] = x[place]


@pytest.mark.parametrize("skip", [False, True])
def test_probabilities_of_all_sequences_sum_to_one_and_samples_match_them(network, skip):
    vae, _ = pair(network, skip=skip, word_dropout=0.5)
    z = torch.tensor([[0.5, -1.0]])
    p = vae.decode(z).log_prob(SEQUENCES).exp().detach()
    assert p.sum() == pytest.approx(1.0, abs=1e-5)
    draws = vae.decode(z).sample((20000,))
    counts = (draws == SEQUENCES).all(-1).sum(0)
    assert counts.sum() == 20000
    assert chance_of(counts, 20000, p) > LEVEL


def test_the_mean_is_the_most_probable_token_in_turn(network):
    vae, _ = pair(network)
    z = torch.randn(20, 2)
    chosen = vae.decode(z).mean
    x = torch.zeros(20, 3)
    with torch.no_grad():
        for t in range(3):
            x[:, t] = vae.decoder(z, x=x)[:, t].argmax(-1)
    assert torch.equal(chosen, x * (x.eq(0).long().cumsum(-1) == x.eq(0).long()))
    assert torch.equal(chosen, vae.decode(z).mean)


def test_log_probability_is_the_product_of_the_conditionals_place_by_place(network):
    vae, _ = pair(network, (4, 2), likelihoods.Gaussian(0.5), outputs=1)
    x, z = torch.randn(5, 4, 2), torch.randn(5, 2)
    total = torch.zeros(5)
    for t in range(4):
        before = x.clone()
        before[:, t:] = 0
        p = torch.distributions.Normal(vae.decoder(z, x=before)[:, t], 0.5)
        total = total + p.log_prob(x[:, t]).sum(-1)
    torch.testing.assert_close(vae.decode(z).log_prob(x), total.detach())


def test_the_gradient_is_that_of_a_loop_over_sentences_and_places(network):
    vae, _ = pair(network)
    z, x = torch.randn(4, 2), SEQUENCES[[1, 4, 9, 14]]
    names, parameters = zip(*vae.decoder.named_parameters(), strict=True)
    p = vae.decoder.distribution(vae.likelihood, z)
    found = torch.autograd.grad(p.log_prob(x).sum(), parameters, allow_unused=True)
    total = 0.0
    for row, latent in zip(x, z, strict=True):
        for t in range(len(row)):
            features = vae.decoder(latent[None], x=row[None])[0, t]
            total = total + features.log_softmax(-1)[int(row[t])]
            if row[t] == 0:
                break
    expected = torch.autograd.grad(total, parameters, allow_unused=True)
    for name, one, other in zip(names, found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)


def test_importance_sampling_reaches_the_sum_over_all_sequences(network):
    vae, guide = pair(network)
    estimate = infer.importance(vae, widened(guide), SEQUENCES, samples=5000)
    p = estimate.log_likelihood.exp()
    error = (p * estimate.standard_error).square().sum().sqrt()
    assert excess((p.sum() - 1) / error) < 1
    assert error < 0.05


def test_vectors_are_drawn_and_their_mean_is_unbiased(network):
    vae, guide = pair(network, (2, 1), likelihoods.Gaussian(0.5), outputs=1)
    z = torch.tensor([[0.5, -1.0]]).expand(4000, 2)
    draws, means = vae.decode(z).sample(), vae.decode(z).mean
    error = ((draws.var(0) + means.var(0)) / 4000).sqrt()
    assert excess((draws.mean(0) - means.mean(0)) / error) < 1
    assert infer.elbo_terms(vae, guide, draws[:7]).elbo.isfinite().all()


def test_sample_dimensions_broadcast(network):
    vae, _ = pair(network)
    z, x = torch.randn(4, 5, 2), SEQUENCES[:5]
    p_x = vae.decoder.distribution(vae.likelihood, z)
    assert p_x.batch_shape == (4, 5) and p_x.event_shape == (3,)
    rows = torch.stack([vae.decode(z[i]).log_prob(x) for i in range(4)])
    torch.testing.assert_close(p_x.log_prob(x), rows)
    assert p_x.sample((3,)).shape == (3, 4, 5, 3)
    assert vae.decoder.distribution(vae.likelihood, z[0, :1]).expand((5,)).log_prob(x).shape == (
        5,
    )


def test_words_are_hidden_in_training_alone():
    hiding, seeing = (
        SequenceDecoder((9,), 2, outputs=4, width=8, word_dropout=rate) for rate in (0.999, 0.0)
    )
    seeing.load_state_dict(hiding.state_dict(), strict=False)
    z, x, y = torch.randn(3, 2), torch.ones(3, 9), torch.full((3, 9), 2.0)
    torch.manual_seed(0)
    one = hiding(z, x=x)
    torch.manual_seed(0)
    assert (one - hiding(z, x=y)).abs().mean() < 0.1 * (
        seeing(z, x=x) - seeing(z, x=y)
    ).abs().mean()
    assert torch.equal(hiding.eval()(z, x=x), seeing(z, x=x))


def test_a_distribution_stays_in_the_mode_in_which_it_was_made():
    vae, _ = pair(NETWORKS["gru"], word_dropout=0.5)
    p = vae.decode(torch.randn(9, 2))
    assert vae.decoder.training
    for q in (p, p.expand((9,))):
        assert torch.equal(q.log_prob(SEQUENCES[:9]), p.log_prob(SEQUENCES[:9]))
    assert vae.decoder.training and vae.decoder.network.training


@pytest.mark.parametrize("options", [{}, {"word_dropout": 0.3, "skip": True}])
def test_eager_and_graph_are_equal(network, options, graphs):
    losses = []
    for engine in ("eager", "graph"):
        torch.manual_seed(0)
        trainer = Trainer(*pair(network, **options), seed=0, engine=engine)
        trainer.fit(SEQUENCES, epochs=4, batch_size=5, progress=False)
        losses.append([row["elbo"] for row in trainer.history])
    assert losses[0] == losses[1]
    assert graphs


def test_saved_and_loaded_with_its_text(network, tmp_path):
    d = data.load(["ab", "ba", "a"], kind="tokens", test_fraction=0.3)
    vae, guide = pair(network, likelihood=likelihoods.Tokens(d.vocabulary))
    save(Trainer(vae, guide, seed=0).fit(d.train, epochs=1, progress=False), tmp_path / "pair.pt")
    again = load(tmp_path / "pair.pt").model
    torch.manual_seed(0)
    expected = vae.likelihood.text(vae.sample(5))
    torch.manual_seed(0)
    assert again.likelihood.text(again.sample(5)) == expected
    assert again.likelihood.vocabulary.symbols == ("a", "b")


def test_stock_pyro(network):
    vae, guide = pair(network)
    before = copy.deepcopy(vae.state_dict())
    svi = SVI(vae, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    for _ in range(2):
        svi.step(SEQUENCES)
    moved = [k for k, v in vae.state_dict().items() if not torch.equal(v, before[k])]
    assert moved == [name for name, _ in vae.named_parameters()]
    assert Predictive(vae, num_samples=3)(size=2)["x"].shape == (3, 2, 3)


@pytest.mark.parametrize(
    "guide",
    [
        guides.BottomUp,
        guides.Ladder,
        guides.FullCovariance,
        guides.Flow,
        guides.Delta,
        lambda vae: guides.SemiAmortized(guides.BottomUp(vae), steps=2),
    ],
)
def test_every_guide_reads_tokens(guide):
    model = VAE((3,), (3, 2), likelihood=likelihoods.Tokens(3), condition=2, skip=True)
    y = torch.arange(15) % 2
    trainer = Trainer(model, guide(model)).fit((SEQUENCES, y), epochs=1, progress=False)
    assert isinstance(model.decoder, SequenceDecoder)
    embeddings = [m for m in trainer.guide.modules() if isinstance(m, nn.Embedding)]
    assert embeddings and all(m.num_embeddings == 3 for m in embeddings)


def test_a_decoder_of_independent_places_when_widths_are_given():
    vae = VAE((3,), 2, likelihood=likelihoods.Tokens(3), hidden=(8,))
    p = vae.decode(torch.randn(1, 2)).log_prob(SEQUENCES).exp()
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-5)
    vae.likelihood.check(vae.sample(20))


def test_interpolations_are_sentences():
    d = data.load(["ab", "ba", "a", "b"], kind="tokens", test_fraction=0.3)
    vae = VAE(d.event_shape, 2, likelihood=likelihoods.Tokens(d.vocabulary))
    guide = guides.BottomUp(vae)
    x = d.train.x
    path = infer.interpolate(vae, guide, x[0], x[1], steps=4)
    assert path.shape == (4, 3)
    lines = vae.likelihood.text(path)
    ends = vae.likelihood.text(infer.reconstruct(vae, guide, x[:2]))
    assert [lines[0], lines[-1]] == ends


def test_evaluated_and_compared(network):
    vae, guide = pair(network)
    found = diagnostics.evaluate(vae, guide, SEQUENCES, importance_samples=5)
    assert found.terms.elbo.shape == (15,)
    diagnostics.collapse(vae, guide, SEQUENCES)


def test_bad_input():
    for build, name in [
        (lambda: SequenceDecoder((3, 4, 4), 2), "event_shape"),
        (lambda: SequenceDecoder((3,), 2), "outputs"),
        (lambda: SequenceDecoder((3,), 0, outputs=3), "latents"),
        (lambda: SequenceDecoder((3,), 2, outputs=3, word_dropout=1.0), "word_dropout"),
        (lambda: SequenceDecoder((3,), 2, outputs=3, network=GRU(7)), "network"),
        (lambda: VAE((3, 2), 2, likelihood=likelihoods.Tokens(3)), "event_shape"),
    ]:
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            build()
    four = SequenceDecoder((3,), 2, outputs=4)
    with pytest.raises(ValueError, match=r"decoder: Tokens .* \(n, 3, 3\), .* \(n, 3, 4\)"):
        VAE((3,), 2, likelihood=likelihoods.Tokens(3), decoder=four)
    trainer = Trainer(*pair(NETWORKS["gru"]))
    with pytest.raises(ValueError, match="numbered 0 to 2"):
        trainer.fit(SEQUENCES + 1, epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"expected shape \(n, 3\)"):
        trainer.fit(torch.ones(4, 5), epochs=1, progress=False)
