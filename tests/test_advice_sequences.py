"""What is said about text, tokens, sequences and translations, and that its advice works."""

import torch
from advice import Cases

from pyro_vae import Trainer, data, likelihoods, plots
from pyro_vae.data import Vocabulary
from pyro_vae.guides import BottomUp
from pyro_vae.likelihoods import Nominal, Tokens
from pyro_vae.models import VAE, SequenceDecoder, Translation
from pyro_vae.networks import GRU, CausalTransformer, SequenceEncoder

LINES = ["a cat", "the dog", "a dog"]
WORDS = Vocabulary.of(LINES, words=True)
cases = Cases()


def vae(tokens=6, length=4, **options):
    return VAE((length,), 2, likelihood=Tokens(tokens), **options)


def fit(model, x):
    return Trainer(model, BottomUp(model)).fit(x, epochs=1, progress=False)


@cases
def pictures(tmp):
    x = WORDS.numbers(LINES)
    model = vae(WORDS, WORDS.length)
    guide = BottomUp(model)
    shown = (
        lambda: plots.reconstructions(model, guide, x),
        lambda: plots.traversals(model, guide, x[0]),
        lambda: plots.interpolation(model, guide, x[0], x[1]),
    )
    yield lambda: plots.latent_grid(model, like=x), *shown[1:]
    yield lambda: plots.uncertainty(model, guide, x), shown[0]
    dropped = SequenceDecoder(x.shape[1:], 2, outputs=len(WORDS), word_dropout=0.3)
    yield (
        lambda: plots.denoising(model, guide, x, 0.1),
        shown[0],
        lambda: VAE(x.shape[1:], 2, likelihood=Tokens(WORDS), decoder=dropped),
    )
    pair = data.language_pair(50, 10)
    model_2 = Translation(pair.source, pair.target, latents=2, width=8)
    guide_2 = BottomUp(model_2)
    yield (
        lambda: plots.interpolation(model_2, guide_2, pair.test, pair.test),
        lambda: plots.reconstructions(model_2, guide_2, pair.test),
        lambda: model_2.translate(["the cat sees a dog"], z=torch.zeros(1, 2)),
    )


@cases
def vocabularies(tmp):
    yield lambda: Vocabulary((), 4), lambda: Vocabulary.of(LINES), lambda: Vocabulary("abc", 4)
    yield lambda: Vocabulary("aba", 4), lambda: Vocabulary("ab", 4)
    yield (
        lambda: WORDS.numbers(["a dog", "a dog a dog"]),
        lambda: WORDS.numbers(["a dog"]),
        lambda: Vocabulary(WORDS.symbols, length=5, words=True).numbers(["a dog a dog"]),
    )
    common = Vocabulary.of(LINES, words=True, most=2)
    yield (
        lambda: WORDS.numbers(["a dog", "a zebra"]),
        lambda: WORDS.numbers(["a dog"]),
        lambda: Vocabulary.of([*LINES, "a zebra"], words=True).numbers(["a zebra"]),
        lambda: common.numbers(["a zebra"]),
    )
    model = vae(WORDS, WORDS.length)
    yield lambda: WORDS.text(torch.full((2, 3), 9.0)), lambda: WORDS.text(model.sample(10))
    text = "\n".join(LINES)
    yield lambda: Vocabulary.of(text), lambda: Vocabulary.of(text.splitlines())
    yield (lambda: Vocabulary.of([]),)
    lines = ["a cat", "", "a dog"]
    yield (
        lambda: Vocabulary.of(lines),
        lambda: Vocabulary.of([line for line in lines if line.strip()]),
    )


@cases
def files(tmp):
    path = tmp / "latin.txt"
    path.write_bytes("un café\nun thé\n".encode("latin-1"))

    def converted():
        path.write_text(path.read_bytes().decode("latin-1"), encoding="utf-8")
        return data.load(path, kind="tokens")

    yield lambda: data.load(path, kind="tokens"), converted
    yield (
        lambda: data.load(tmp / "none.txt", kind="tokens"),
        lambda: data.load(path, kind="tokens"),
        lambda: data.load(LINES, kind="tokens"),
    )
    yield lambda: data.language_pair(10**6), lambda: data.language_pair(50, 10)


@cases
def other_vocabularies(tmp):
    d = data.load(["ab", "ba"], kind="tokens")
    model = vae(Vocabulary.of(["ac"]), 3)
    yield (
        lambda: fit(model, d.train),
        lambda: fit(
            model,
            data.load(["ca", "c"], kind="tokens", vocabulary=model.likelihood.vocabulary).train,
        ),
        lambda: fit(vae(d.vocabulary, 3), d.train),
    )


@cases
def tokens(tmp):
    yield lambda: Tokens(1), lambda: Tokens(2), lambda: Tokens(WORDS)
    yield (
        lambda: vae().likelihood.feature_shape((3, 2)),
        lambda: vae(),
        lambda: VAE((3, 2), 2, likelihood=Nominal(6)),
    )
    x = torch.tensor([[1.0, 7.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]])
    model = vae(WORDS, WORDS.length)
    yield (
        lambda: fit(vae(), x),
        lambda: fit(vae(8), x),
        lambda: fit(model, model.likelihood.vocabulary.numbers(LINES)),
    )
    gaps = torch.tensor([[1.0, 0.0, 2.0, 0.0], [2.0, 0.0, 0.0, 0.0]])
    yield lambda: fit(vae(), gaps), lambda: fit(vae(), gaps.where(gaps != 0, 5.0))
    yield lambda: vae().likelihood.text(vae().sample(2)), lambda: model.likelihood.text(x[1:])


@cases
def networks(tmp):
    yield lambda: CausalTransformer(12, heads=4), lambda: CausalTransformer(16, heads=4)
    yield (
        lambda: SequenceDecoder((4,), 2, outputs=6, width=8, network=GRU(7)),
        lambda: SequenceDecoder((4,), 2, outputs=6, width=8, network=GRU(8)),
        lambda: SequenceDecoder((4,), 2, outputs=6, width=8, network=CausalTransformer(8)),
        lambda: SequenceDecoder((4,), 2, outputs=6, width=7, network=GRU(7)),
    )
    yield lambda: SequenceEncoder((1, 4, 4)), lambda: SequenceEncoder((4, 4))
    yield (
        lambda: SequenceDecoder((4,), 2),
        lambda: SequenceDecoder((4,), 2, outputs=len(WORDS)),
        lambda: SequenceDecoder((4, 1), 2),
    )
    yield (
        lambda: SequenceDecoder((4,), 2, outputs=6, word_dropout=1.5),
        lambda: SequenceDecoder((4,), 2, outputs=6, word_dropout=0.3),
    )

    class Joint(likelihoods.Likelihood):
        def forward(self, features):
            return torch.distributions.MultivariateNormal(features, torch.eye(2))

    x = torch.randn(5, 4, 2)
    decoder = SequenceDecoder((4, 2), 2, width=8)
    yield (
        lambda: fit(VAE((4, 2), 2, likelihood=Joint(), decoder=decoder), x),
        lambda: fit(VAE((4, 2), 2, likelihood=likelihoods.Gaussian(), decoder=decoder), x),
        lambda: fit(VAE((4, 2), 2, likelihood=Joint(), hidden=(4,)), x),
    )


@cases
def translations(tmp):
    pair = data.language_pair(60, 10)
    yield (
        lambda: Translation(5, pair.target),
        lambda: Translation(Vocabulary.of(LINES, words=True), pair.target, width=16),
    )
    model = Translation(pair.source, pair.target, width=16)
    yield (
        lambda: model.translate(pair.test["source"][:, :3]),
        lambda: model.translate(model.source.numbers(["the cat sees a dog"])),
    )


test = cases.test()
