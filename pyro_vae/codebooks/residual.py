"""A stack of codebooks, each for what the ones before it leave over."""

from __future__ import annotations

import functools
import itertools
import operator

import torch
from torch import Tensor, nn

from ..ground.arguments import whole
from ..ground.recorded import rebuilt
from .base import Codebook
from .learned import MovingAverage


class Residual(Codebook):
    """n codes per position, whose vectors are added: each is next to what is left over so far.

    With r_0 = z, step d takes k_d, the code with the least ||r_(d-1) - e^d_k||, and leaves
    r_d = r_(d-1) - e^d_(k_d); the decoder sees e_1 + ... + e_n. A position has K^n values at the
    price of n K vectors, and under the uniform prior KL = positions n log K. Each step has
    vectors of its own, learnt from what reaches it; its first are the centres of that. The
    commitment cost is of all partial sums, sum_d ||z - sg[e_1 + ... + e_d]||^2.

    Source: "Autoregressive Image Generation using Residual Quantization", Lee, Kim, Kim, Cho, Han
    (2022), where all steps share their vectors.

    Args:
        n: number of steps.
        book: the codebook of the first step, and the pattern of the others; default
            ``MovingAverage(512, 64)``.

    Attributes:
        books: the codebook of each step.

    Raises:
        TypeError: a book that is no codebook whose vectors are learnt.
        ValueError: n < 1.

    Example:
        >>> codebook = Residual(3, MovingAverage(8, 4, initializer=None))
        >>> index = codebook.nearest(torch.zeros(5, 4))
        >>> index.shape, codebook.vectors(index).shape
        (torch.Size([5, 3]), torch.Size([5, 4]))
    """

    def __init__(self, n: int, book: Codebook | None = None) -> None:
        """Build the codebooks of all steps."""
        n = whole("n", n)
        book = MovingAverage(512, 64) if book is None else book
        if not isinstance(book, Codebook) or not book.learns or book.stack:
            raise TypeError(
                "book: expected a codebook of learnt vectors, for each step what is left over, "
                f"got {book!r}: pass such as codebooks.MovingAverage(512, 64)"
            )
        super().__init__(book.codes, book.code_dim, initializer=None)
        self.arguments["book"] = book
        self.stack = (n,)
        self.books = nn.ModuleList([book, *(rebuilt(book) for _ in range(n - 1))])

    def forward(self, z: Tensor) -> Tensor:
        """Sums of the vectors of one-hot codes (..., n, codes): (..., code_dim)."""
        return self._sum(book(z[..., d, :]) for d, book in enumerate(self.books))

    def _parts(self, index: Tensor) -> list[Tensor]:
        return [book.vectors(index[..., d]) for d, book in enumerate(self.books)]

    @staticmethod
    def _sum(parts: object) -> Tensor:
        return functools.reduce(operator.add, parts)

    def vectors(self, index: Tensor) -> Tensor:
        """Vectors (..., code_dim) of codes given by number (..., n)."""
        return self._sum(self._parts(index))

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """Numbers (..., n) of the codes of z (..., code_dim)."""
        found = []
        for book in self.books:
            found.append(book.nearest(z))
            z = z - book.vectors(found[-1])
        return torch.stack(found, -1)

    @torch.no_grad()
    def initialize(self, z: Tensor) -> None:
        """Take the first vectors of each step from what reaches it."""
        if self.frozen or all(book.initialized for book in self.books):
            return
        for book in self.books:
            book.initialize(z)
            z = z - book.vectors(book.nearest(z))

    def encoder_cost(self, z: Tensor, e: Tensor, index: Tensor, commitment: float) -> Tensor:
        """Commitment to all partial sums, (...)."""
        sums = itertools.accumulate(part.detach() for part in self._parts(index))
        costs = [super(Residual, self).encoder_cost(z, s, index, commitment) for s in sums]
        return self._sum(costs)

    def learn(self, z: Tensor, index: Tensor) -> Tensor | None:
        """Each step learns from what reached it."""
        costs = []
        # As they were when the codes were chosen
        for d, part in enumerate([part.detach().clone() for part in self._parts(index)]):
            costs.append(self.books[d].learn(z, index[..., d]))
            z = z - part
        return None if None in costs else self._sum(costs)

    def freeze(self, frozen: bool = True) -> Codebook:
        """Let training leave the codes as they are (or change them again); returns itself."""
        for book in self.books:
            book.freeze(frozen)
        self.frozen = frozen
        return self

    def extra_repr(self) -> str:
        """Steps and the codebook of the first."""
        return f"{len(self.books)}, {type(self.books[0]).__name__}({self.books[0].extra_repr()})"
