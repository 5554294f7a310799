"""The order of an epoch's data, where there are too many to hold it."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ranks

_ROUNDS = 4
# Places that are numbered at once: a batch of 128 alone takes almost as long
_AHEAD = 2**14
_WORD = 2**32 - 1


class Order:
    """The rows 0 to n - 1 in a random order that is computed where it is asked for.

    A Feistel network of four rounds on numbers of 2 b bits, with n <= 4^b <= 4 n, is a bijection
    of [0, 4^b). Where it leaves [0, n) it goes on from there until it is back, which makes a
    bijection of [0, n). It takes no memory but for 2^14 rows that are computed ahead, and
    processes agree on it by four numbers.

    Sources: "How to Construct Pseudorandom Permutations from Pseudorandom Functions", Luby,
    Rackoff (1988); "Ciphers with Arbitrary Finite Domains", Black, Rogaway (2002).

    Args:
        n: how many rows.
        device: where they are numbered; the keys are drawn from torch's generator there.

    Example:
        >>> sorted(Order(10, torch.device("cpu"))[0:10].tolist())
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    def __init__(self, n: int, device: torch.device) -> None:
        self.n, self.device = n, device
        self._bits = max(1, -(-(n - 1).bit_length() // 2))
        self._keys = ranks.same(torch.randint(2**31, (_ROUNDS,), device=device)).tolist()
        self._start, self._rows = 0, torch.empty(0, dtype=torch.int64, device=device)

    def __getitem__(self, places: slice) -> Tensor:
        """The rows at places from ``start`` to ``stop``, or to the last."""
        start, stop = places.start, min(places.stop, self.n)
        if start < self._start or stop > self._start + len(self._rows):
            ahead = min(max(stop, start + _AHEAD), self.n)
            self._start, self._rows = start, self._computed(start, ahead)
        return self._rows[start - self._start : stop - self._start]

    def _computed(self, start: int, stop: int) -> Tensor:
        rows = self._mixed(torch.arange(start, stop, device=self.device))
        while (outside := rows >= self.n).any():
            rows[outside] = self._mixed(rows[outside])
        return rows

    def _mixed(self, value: Tensor) -> Tensor:
        """Another number of as many bits, for each number one of its own."""
        half = 2**self._bits - 1
        left, right = value >> self._bits, value & half
        for key in self._keys:
            mixed = (right ^ key) * 0x9E3779B1 & _WORD
            mixed = (mixed ^ mixed >> 15) * 0x85EBCA77 & _WORD
            left, right = right, left ^ (mixed ^ mixed >> 13) & half
        return left << self._bits | right
