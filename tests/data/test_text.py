import pytest
import torch

from pyro_vae import Trainer, data, guides, infer, likelihoods, models
from pyro_vae.data.text import UNKNOWN, Vocabulary
from pyro_vae.ground import recorded

LINES = ["a cat sat", "the dog ran off", "a dog ran"]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(LINES) + "\n")
    return path


@pytest.mark.parametrize("words", [False, True])
def test_lines_come_back(words):
    vocabulary = Vocabulary.of(LINES, words=words)
    x = vocabulary.numbers(LINES)
    assert x.shape == (3, 5 if words else 16) and x.dtype == torch.float32
    assert (x[:, -1] == 0).all()
    assert vocabulary.text(x) == LINES
    assert x.unique().numel() == len(vocabulary)
    again = recorded.decode(recorded.encode(vocabulary, "vocabulary"))
    assert again.text(x) == LINES and again.length == vocabulary.length


def test_words_are_joined_by_one_space():
    vocabulary = Vocabulary.of(["a  b\tc "], words=True)
    assert vocabulary.text(vocabulary.numbers(["c a"])) == ["c a"]


def test_characters_count_the_end():
    words = Vocabulary.of(LINES, words=True)
    assert words.characters(words.numbers(LINES)).tolist() == [10, 16, 10]


def test_the_rest_of_the_most_frequent_words_is_unknown():
    vocabulary = Vocabulary.of(LINES, words=True, most=3)
    assert vocabulary.symbols == (UNKNOWN, "a", "dog", "ran")
    (line,) = vocabulary.text(vocabulary.numbers(["a zebra ran"]))
    assert line == f"a {UNKNOWN} ran"


def test_a_file_is_loaded_line_by_line(path):
    d = data.load(path, kind="tokens", vocabulary="words", test_fraction=0.3)
    assert d.event_shape == (5,) and (len(d.train), len(d.test)) == (2, 1)
    assert d.vocabulary.words and d.test.vocabulary is d.vocabulary
    assert sorted(d.vocabulary.text(torch.cat([d.train.x, d.test.x]))) == sorted(LINES)
    other = data.load(["a cat ran", "a dog"], kind="tokens", vocabulary=d.vocabulary)
    assert other.event_shape == d.event_shape
    assert d.train[:1].vocabulary is d.train.to("cpu").replace().vocabulary is d.vocabulary
    assert data.load(path, kind="tokens").event_shape == (16,)
    assert data.load(torch.zeros(3, 2)).vocabulary is None


def test_text_of_another_vocabulary_than_the_models_is_refused():
    one, other = (data.load(lines, kind="tokens") for lines in (["ab", "ba"], ["ac", "ca"]))
    for tokens in (one.vocabulary, 3):
        model = models.VAE((3,), 2, likelihood=likelihoods.Tokens(tokens), hidden=(4,))
        guide = guides.BottomUp(model)
        infer.elbo_terms(model, guide, one.train.x)
        Trainer(model, guide).fit(one.train, epochs=1, progress=False)
        wrong = other.train if tokens != 3 else data.load(["abc", "b"], kind="tokens").train
        with pytest.raises(ValueError, match=r"^vocabulary: expected that of the model"):
            Trainer(model, guide).fit(wrong, epochs=1, progress=False)
    again = Vocabulary.of(["ba", "ab"])
    assert again == one.vocabulary != other.vocabulary and hash(again) == hash(one.vocabulary)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["a dog", "a zebra", "an ape"], "got 'zebra', 'an', 'ape', the first in line 2"),
        (["a dog", "", " "], "in each line, got 2 that are empty, the first is line 2"),
        (["a", "a a a a a"], "at most 4 words in a line, got 5 in line 2, and 1 such"),
        ([], "got none"),
    ],
)
def test_other_lines_are_refused(lines, told):
    with pytest.raises(ValueError, match=f"^text: expected .*{told}"):
        Vocabulary.of(LINES, words=True).numbers(lines)


def test_bad_input(path, tmp_path):
    with pytest.raises(TypeError, match=r"^text: expected lines, got one text"):
        Vocabulary.of("a cat")
    for symbols in ((), ("",), (1,)):
        with pytest.raises(ValueError, match=r"^symbols: expected characters or words"):
            Vocabulary(symbols, 4)
    with pytest.raises(ValueError, match=r"^symbols: expected each once, got 'a'"):
        Vocabulary("aba", 4)
    with pytest.raises(ValueError, match=r"^length: expected"):
        Vocabulary("ab", 0)
    vocabulary = Vocabulary("ab", 4)
    for x in (torch.ones(1, 2) * 3, torch.ones(2), -torch.ones(1, 2)):
        with pytest.raises(ValueError, match=r"^x: expected rows \(n, t\)"):
            vocabulary.text(x)
    with pytest.raises(ValueError, match=r"^kind: expected"):
        data.load(path, kind="token")
    with pytest.raises(ValueError, match=r"^vocabulary: expected"):
        data.load(path, kind="tokens", vocabulary="letters")
    with pytest.raises(FileNotFoundError, match=r"^source: expected a text file"):
        data.load(tmp_path / "none.txt", kind="tokens")
    assert data.load(torch.ones(3, 2), kind="tokens").vocabulary is None
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match="expected text in UTF-8, got a byte 0xe9 at 3"):
        data.load(bad, kind="tokens")
    with pytest.raises(ValueError, match=r"^size: expected only for folders"):
        data.load(path, kind="tokens", size=4)
