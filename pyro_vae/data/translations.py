"""Sentences of two made-up languages that say the same, with a known rule between them.

A sentence is DETERMINER [ADJECTIVE] NOUN VERB DETERMINER [ADJECTIVE] NOUN. In the other language
each word has one word, adjectives stand behind their nouns, the verb at the end, and the ending of
the verb tells the register, familiar or polite, of which the first language says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..ground.arguments import whole
from .arguments import Arguments
from .text import Vocabulary

DETERMINERS = {"the": "lo", "a": "un", "this": "iste", "my": "mi"}
ADJECTIVES = {"small": "petu", "big": "grandu", "red": "rosu", "old": "velu", "wise": "sagu"}
NOUNS = {
    "cat": "gatim",
    "dog": "canim",
    "bird": "avim",
    "fish": "pescim",
    "king": "rexim",
    "child": "pueram",
    "queen": "reginam",
    "moon": "lunam",
}
VERBS = {"sees": "vid", "loves": "am", "hears": "aud", "follows": "sequ", "knows": "sci"}
ENDINGS = ("a", "amos")


@dataclass(frozen=True)
class LanguagePair:
    """Sentences with their translations, as arguments ``source`` and ``target`` of a program.

    Attributes:
        train: those to train on.
        test: others, none of which is among them.
        source: the words of the first language.
        target: the words of the second one.
    """

    train: Arguments
    test: Arguments
    source: Vocabulary
    target: Vocabulary

    def __repr__(self) -> str:
        """Both sets and both vocabularies."""
        parts = ("train", "test", "source", "target")
        told = "".join(f"\n  {name}={getattr(self, name)!r}" for name in parts)
        return f"LanguagePair({told.strip()})"


def translated(line: str, register: int = 0) -> str:
    """What a sentence is in the other language.

    Example:
        >>> translated("the small cat sees a king"), translated("a dog loves my moon", 1)
        ('lo gatim petu un rexim vida', 'un canim mi lunam amamos')
    """
    words = line.split()
    order = alignment(line)
    every = DETERMINERS | ADJECTIVES | NOUNS | {s: t + ENDINGS[register] for s, t in VERBS.items()}
    return " ".join(every[words[i]] for i in order)


def alignment(line: str) -> list[int]:
    """For each word of the translation, the number of the word that it stands for.

    Example:
        >>> alignment("the small cat sees a king")
        [0, 2, 1, 4, 5, 3]
    """
    words = line.split()
    verb = next(i for i, word in enumerate(words) if word in VERBS)
    order: list[int] = []
    for phrase in (range(verb), range(verb + 1, len(words))):
        first, *between, noun = phrase
        order += [first, noun, *between]
    return [*order, verb]


def language_pair(
    n: int = 4000, test: int = 500, *, registers: int = 1, seed: int = 0
) -> LanguagePair:
    """Draw sentences, all different, and translate them.

    Args:
        n: sentences to train on.
        test: sentences to test with.
        registers: 1 for familiar translations, one of each sentence; 2 for familiar and polite
            ones, a half of each.
        seed: of the sentences and the registers.

    Raises:
        ValueError: numbers that are not positive, more sentences than there are.

    Example:
        >>> pair = language_pair(100, 20)
        >>> pair.train, pair.source
        (Arguments(100 x (source: (8,), target: (8,))), Vocabulary(22 words, length=8))
        >>> pair.source.text(pair.train["source"][:1]), pair.target.text(pair.train["target"][:1])
        (['the wise dog sees this small bird'], ['lo canim sagu iste avim petu vida'])
    """
    whole("n", n)
    whole("test", test)
    whole("registers", registers)
    generator = torch.Generator().manual_seed(seed)
    choices = [[*DETERMINERS], ["", *ADJECTIVES], [*NOUNS]]
    slots = [*choices, [*VERBS], *choices]
    sizes = [len(slot) for slot in slots]
    every = int(torch.tensor(sizes).prod())
    if n + test > every or registers > len(ENDINGS):
        raise ValueError(
            f"n: expected at most {every} sentences in all, in at most {len(ENDINGS)} registers, "
            f"got {n + test} in {registers}: lower n, test or registers"
        )
    chosen = torch.randperm(every, generator=generator)[: n + test].tolist()
    lines = [_sentence(number, slots) for number in chosen]
    polite = torch.randint(registers, (n + test,), generator=generator).tolist()
    pairs = [translated(line, register) for line, register in zip(lines, polite, strict=True)]
    source, target = (Vocabulary.of(side, words=True) for side in (lines, pairs))
    columns = {"source": source.numbers(lines), "target": target.numbers(pairs)}
    data = Arguments(kwargs=columns)
    return LanguagePair(data[:n], data[n:], source, target)


def _sentence(number: int, slots: Sequence[Sequence[str]]) -> str:
    words = []
    for slot in slots:
        number, at = divmod(number, len(slot))
        words.append(slot[at])
    return " ".join(word for word in words if word)
