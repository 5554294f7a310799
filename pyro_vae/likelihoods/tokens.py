"""Sequences of tokens, each ended by a token of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pyro.distributions as dist
from torch import Tensor

from .. import distributions
from ..data.text import Vocabulary
from ..ground.arguments import whole
from ..networks.sequences import SequenceEncoder
from ..programs.values import check_finite, refuse, span_of
from .base import Likelihood

if TYPE_CHECKING:
    from torch import nn


class Tokens(Likelihood):
    """Sequences of tokens 0, ..., k - 1, of which 0 is the end: a free probability for each.

    p(x) = prod of p(x_t) up to and with the first 0; what follows are zeros and count for nothing.
    The probabilities of all sequences up to a length, those of that length without an end, sum to
    one. What the model predicts, ``mean``, are the most probable tokens. Guides read the data by
    ``networks.SequenceEncoder``, whatever their ``hidden``, or by an ``encoder`` of your own.

    Args:
        vocabulary: how many tokens there are, the end too; or the ``data.Vocabulary`` of a text,
            which a saved trainer keeps.

    Shapes:
        data (n, t), whole numbers as floating ones; features (..., t, k), logits.

    Raises:
        ValueError: fewer than 2 tokens.

    Example:
        >>> import torch
        >>> from pyro_vae import data
        >>> Tokens(4)(torch.zeros(3, 4)).log_prob(torch.tensor([2.0, 0.0, 0.0])).exp()
        tensor(0.0625)
        >>> Tokens(data.Vocabulary("abc", 4)).text(torch.tensor([[3.0, 1.0, 2.0, 0.0]]))
        ['cab']
    """

    def __init__(self, vocabulary: int | Vocabulary) -> None:
        """Keep the number of tokens, and what they stand for."""
        super().__init__()
        self.vocabulary = vocabulary if isinstance(vocabulary, Vocabulary) else None
        size = vocabulary if self.vocabulary is None else len(vocabulary)
        advice = "pass how many tokens there are, their end too, or d.vocabulary of a text"
        self.size = whole("vocabulary", size, 2, advice=advice)

    def feature_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """One logit per token: (t, k)."""
        if len(event_shape) != 1:
            raise ValueError(
                f"event_shape: expected (t,) of tokens, got {tuple(event_shape)}: pass the length "
                "of a row, or use likelihoods.Nominal(k) for categories of other shapes"
            )
        return (*event_shape, self.size)

    def forward(self, features: Tensor) -> dist.Distribution:
        """Sequences up to their end with these logits."""
        return distributions.UntilEnd(features)

    def encoder(self, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
        """The network with which guides read x and whatever else, vectors, by their shapes."""
        extra = sum(size for name, (size,) in shapes.items() if name != "x")
        return SequenceEncoder(shapes["x"], self.size, extra=extra)

    def check(self, x: Tensor) -> None:
        """Raise unless every value is the number of a token, and zeros follow the first zero."""
        check_finite(x)
        name = f"Tokens({self.size})"
        refuse(
            x,
            (x < 0) | (x > self.size - 1) | (x != x.round()),
            f"{name} expects tokens numbered 0 to {self.size - 1}",
            "number text by the vocabulary of the model, vocabulary.numbers(lines), or pass the "
            "number of its tokens",
        )
        behind = (x != 0) & ~distributions.up_to_end(x)
        if behind.any():
            row = int(behind.any(-1).nonzero()[0, 0])
            raise ValueError(
                f"x: {name} expects zeros after the first 0 of a row, its end, got "
                f"{span_of(x[row])} in row {row}, and {int(behind.any(-1).sum())} such rows: use "
                "another number than 0 for what is no end"
            )

    def lengths(self, x: Tensor) -> Tensor:
        """How many tokens of each row (n, t) count, its end too where there is one."""
        return distributions.up_to_end(x).sum(-1)

    def units(self, x: Tensor) -> dict[str, Tensor]:
        """How many tokens rows (n, t) have, and characters where they stand for text."""
        counts = {"token": self.lengths(x)}
        if self.vocabulary is not None:
            counts["character"] = self.vocabulary.characters(x)
        return counts

    def text(self, x: Tensor) -> list[str]:
        """The lines that rows (n, t), such as ``vae.sample(10)``, stand for.

        Raises:
            ValueError: a likelihood without a vocabulary of text.
        """
        if self.vocabulary is None:
            raise ValueError(
                f"vocabulary: expected that of a text, got {self.size} numbers: build the model "
                "with likelihoods.Tokens(d.vocabulary)"
            )
        return self.vocabulary.text(x)

    def extra_repr(self) -> str:
        """Show the vocabulary."""
        return repr(self.size if self.vocabulary is None else self.vocabulary)
