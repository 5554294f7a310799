"""Codes that stand for vectors which nobody learns: the points of a grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..ground.arguments import at_least, is_whole, positive, whole
from .base import Codebook

# A code is a one-hot vector of so many numbers
_MOST = 2**16


def _check_codes(argument: str, codes: int) -> None:
    if codes > _MOST:
        raise ValueError(
            f"{argument}: expected at most {_MOST} codes, as each is a one-hot vector, got "
            f"{codes}: pass fewer, or use codebooks.Residual, whose codes multiply"
        )


class _Grid(Codebook):
    """All points of a grid of ``levels`` equally spaced values on [-1, 1] in each dimension.

    The first dimension is the fastest: with k_i the number of the value in dimension i, the code
    is k_1 + L_1 (k_2 + L_2 (k_3 + ...)).
    """

    learns = False

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__(math.prod(levels), len(levels), initializer=None)
        self._levels = tuple(levels)
        values = [torch.linspace(-1, 1, count).tolist() for count in reversed(levels)]
        points = torch.tensor([*itertools.product(*values)]).flip(-1)
        self.register_buffer("weight", points, persistent=False)
        steps = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("steps", torch.tensor(steps), persistent=False)
        last = torch.tensor(levels) - 1.0
        self.register_buffer("last", last, persistent=False)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """Numbers (...) of the codes next to z (..., code_dim)."""
        with torch.autocast(z.device.type, enabled=False):
            values = ((z.to(self.weight.dtype) + 1) / 2 * self.last).round()
            return (values.clamp(min=0).minimum(self.last).long() * self.steps).sum(-1)

    def learn(self, z: Tensor, index: Tensor) -> None:
        """Nothing is learnt."""


class FiniteScalar(_Grid):
    """Each dimension is rounded to one of a few values: finite scalar quantisation (FSQ).

    With L_i ``levels`` in dimension i, output z of the encoder and tanh elementwise,

        e_i = 2 / (L_i - 1) round(.5 (L_i - 1) (tanh(z_i) + 1)) - 1,    K = prod_i L_i.

    The decoder's gradient goes straight through the rounding, and through tanh. There is no
    commitment cost and no codebook to learn, and all codes are used without help. For an even L_i
    the paper's values are half a step aside; these are symmetric.

    Source: "Finite Scalar Quantization: VQ-VAE Made Simple", Mentzer, Minnen, Agustsson,
    Tschannen (2023), who advise levels (8, 6, 5) for about 2^8 codes, (8, 5, 5, 5) for 2^10,
    (7, 5, 5, 5, 5) for 2^12.

    Args:
        levels: how many values each dimension has, at least 2; their number is ``code_dim``.

    Raises:
        ValueError: no levels, fewer than two of a dimension, more than 65,536 codes.

    Example:
        >>> codebook = FiniteScalar((3, 2))
        >>> codebook.codes, codebook.nearest(codebook.bounded(torch.tensor([0.1, 9.0])))
        (6, tensor(4))
        >>> codebook.vectors(torch.tensor(4))
        tensor([0., 1.])
    """

    def __init__(self, levels: Sequence[int]) -> None:
        """Number the points of the grid."""
        given = tuple(levels) if isinstance(levels, Sequence) else (levels,)
        if not given or not all(is_whole(count) and count >= 2 for count in given):
            raise ValueError(
                f"levels: expected whole numbers of at least 2, one per dimension, got {levels!r}:"
                " pass such as (8, 5, 5, 5)"
            )
        _check_codes("levels", math.prod(given))
        super().__init__([int(count) for count in given])

    @property
    def levels(self) -> tuple[int, ...]:
        """How many values each dimension has."""
        return self._levels

    def bounded(self, z: Tensor) -> Tensor:
        """tanh(z)."""
        return z.tanh()

    def encoder_cost(self, z: Tensor, e: Tensor, index: Tensor, commitment: float) -> None:
        """None."""

    def extra_repr(self) -> str:
        """The levels."""
        return repr(self.levels)


class LookupFree(_Grid):
    """The signs of the encoder's outputs: lookup-free quantisation (LFQ), K = 2^bits codes.

    Code k stands for the vector e_i = 1 where bit i of k is set, else -1. So that all codes are
    used, and outputs are sure of theirs, the encoder descends, besides the commitment cost,

        entropy * (sum_p H(q(k|z_p)) - P H(mean of q(k|z_p))),    q(k|z) ~ exp(-||z - e_k||^2 / t),

    over the P positions of a datum, and with the mean over all of a batch.

    Source: "Language Model Beats Diffusion - Tokenizer is Key to Visual Generation" (MAGVIT-v2),
    Yu, Lezama, Gundavarapu, Versari, Sohn, Minnen, Cheng, Gupta, Gu, Hauptmann, Gong, Yang, Essa,
    Ross, Jiang (2023).

    Args:
        bits: how many, which is ``code_dim``.
        entropy: weight of the entropies, in nats.
        temperature: t.

    Raises:
        ValueError: fewer than 1 bit, more than 16; a negative entropy; a temperature that is not
            positive.

    Example:
        >>> codebook = LookupFree(3)
        >>> codebook.codes, codebook.nearest(torch.tensor([0.3, -0.2, 2.0]))
        (8, tensor(5))
        >>> codebook.vectors(torch.tensor(5))
        tensor([ 1., -1.,  1.])
    """

    inside = ("of_batches",)

    def __init__(self, bits: int, *, entropy: float = 0.1, temperature: float = 1.0) -> None:
        """Number the corners of the cube."""
        bits = whole("bits", bits)
        _check_codes("bits", 2**bits)
        super().__init__([2] * bits)
        self.entropy = at_least("entropy", entropy)
        self.temperature = positive("temperature", temperature)

    @property
    def of_batches(self) -> bool:
        """Whether the cost looks at a batch as a whole."""
        return self.entropy > 0

    def encoder_cost(self, z: Tensor, e: Tensor, index: Tensor, commitment: float) -> Tensor:
        """Commitment and entropies at each position, (...)."""
        cost = super().encoder_cost(z, e, index, commitment)
        if not self.entropy:
            return cost
        with torch.autocast(z.device.type, enabled=False):
            z = z.to(self.weight.dtype)
            # All codes are at one distance from the origin
            log_q = (2 / self.temperature * z @ self.weight.T).log_softmax(-1)
            rows = log_q.flatten(0, -2)
            log_mean = rows.logsumexp(0) - math.log(len(rows))
            # Of a code that no output is near q is 0, where -q log q has no gradient
            sure, spread = (-(log.exp() * log).sum(-1) for log in (log_q, log_mean))
            return cost + self.entropy * (sure - spread)

    def extra_repr(self) -> str:
        """Bits and the weight of the entropies."""
        return f"{self.code_dim}, entropy={self.entropy:g}"
