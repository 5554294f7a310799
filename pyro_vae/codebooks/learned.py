"""Codes that are learnt: by gradient, or as moving averages."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from .. import ranks
from ..ground.arguments import positive
from .base import Codebook
from .starting import K_MEANS, UNUSED, KMeans, Unused


class Gradient(Codebook):
    """Codes that descend ||sg[z] - e||^2, the codebook loss, by the trainer's optimizer.

    Source: "Neural Discrete Representation Learning", van den Oord, Vinyals, Kavukcuoglu (2017).

    Args:
        codes, code_dim, initializer: as in ``Codebook``.

    Example:
        >>> codebook = Gradient(8, 4)
        >>> z = torch.zeros(5, 4)
        >>> codebook.learn(z, codebook.nearest(z)).shape
        torch.Size([5])
    """

    def __init__(self, codes: int, code_dim: int, *, initializer: KMeans | None = K_MEANS) -> None:
        """Draw the first vectors."""
        super().__init__(codes, code_dim, initializer=initializer)
        self.weight = nn.Parameter(self._first())

    def learn(self, z: Tensor, index: Tensor) -> Tensor | None:
        """||z - e||^2 per vector, (...)."""
        if self.frozen:
            return None
        with torch.autocast(z.device.type, enabled=False):
            return (z.detach().to(self.weight.dtype) - self.vectors(index)).square().sum(-1)


class MovingAverage(Codebook):
    """Codes that are moving averages of the encoder outputs next to them.

    With n_k outputs nearest to code k in a batch and s_k their sum, after each training step

        N_k <- g N_k + (1 - g) n_k,    m_k <- g m_k + (1 - g) s_k,
        e_k <- m_k / N~_k,             N~_k = (N_k + eps) N / (N + K eps),    N = sum_k N_k,

    starting at N_k = 1, m_k = e_k, or at the clusters of k-means. A code that no output of the
    last 10 batches was next to is then put on a random output e of the batch: e_k = e, N_k = 1,
    m_k = e, so that the next update does not take it back.

    A number for ``revive`` has another rule, that of Jukebox: with r = ``revive`` * (outputs in
    the batch) / K, a code of N_k < r is revived, with N_k = r and m_k = r e. It has all codes used
    alike, and moves those of rare data away.

    Sources: "Neural Discrete Representation Learning", van den Oord, Vinyals, Kavukcuoglu (2017),
    appendix A.1; "Jukebox: A Generative Model for Music", Dhariwal, Jun, Payne, Kim, Radford,
    Sutskever (2020) for the revival.

    Args:
        codes, code_dim, initializer: as in ``Codebook``.
        decay: g.
        eps: additive smoothing of the counts.
        revive: which codes are revived, ``Unused(batches)``; or the part of an even share of use
            below which a code is, 0 for never.

    Raises:
        ValueError: a decay, eps or revive out of range.

    Example:
        >>> codebook = MovingAverage(2, 1, revive=0)
        >>> z = torch.tensor([[3.0], [5.0]])
        >>> for _ in range(2000):
        ...     codebook.learn(z, torch.tensor([0, 1]))
        >>> codebook.weight.round(decimals=2)
        tensor([[3.],
                [5.]])
    """

    absent = MappingProxyType({"initializer": None, "revive": 0.5})

    def __init__(
        self,
        codes: int,
        code_dim: int,
        *,
        decay: float = 0.99,
        eps: float = 1e-5,
        revive: Unused | float = UNUSED,
        initializer: KMeans | None = K_MEANS,
    ) -> None:
        """Draw the first vectors."""
        super().__init__(codes, code_dim, initializer=initializer)
        if not 0 <= decay < 1:
            raise ValueError(
                f"decay: expected a number in [0, 1), got {decay!r}: the usual is .99"
            )
        positive("eps", eps, advice="the usual is 1e-5")
        if not (isinstance(revive, Unused) or 0 <= revive < 1):
            raise ValueError(
                "revive: expected codebooks.Unused(batches), or a part of a code's share in "
                f"[0, 1), got {revive!r}: 0 never revives a code"
            )
        self.decay, self.eps, self.revive = decay, eps, revive
        self.register_buffer("weight", self._first())
        self.register_buffer("counts", torch.ones(self.codes))
        # Batches since the last in which a code was next to an output
        self.register_buffer("idle", torch.zeros(self.codes))
        self.register_buffer("sums", self.weight.clone())

    def _start(self, centres: Tensor, counts: Tensor) -> None:
        super()._start(centres, counts)
        self.counts.copy_(counts)
        self.sums.copy_(centres * counts.unsqueeze(-1))

    @torch.no_grad()
    def learn(self, z: Tensor, index: Tensor) -> None:
        """Move the averages, and the codes with them; no cost."""
        if self.frozen:
            return
        with torch.autocast(z.device.type, enabled=False):
            z = z.reshape(-1, self.code_dim).to(self.weight.dtype)
            index = index.reshape(-1)
            hits = torch.zeros_like(self.counts).index_add(0, index, torch.ones_like(z[:, 0]))
            sums = torch.zeros_like(self.sums).index_add(0, index, z)
            hits = ranks.total(hits)
            self.counts.mul_(self.decay).add_(hits, alpha=1 - self.decay)
            self.sums.mul_(self.decay).add_(ranks.total(sums), alpha=1 - self.decay)
            total = self.counts.sum()
            smoothed = (self.counts + self.eps) * total / (total + self.codes * self.eps)
            self.weight.copy_(self.sums / smoothed.unsqueeze(-1))
            self.idle.add_(1).masked_fill_(hits > 0, 0)
            if isinstance(self.revive, Unused):
                self._revive(z, self.revive(self.idle, ranks.count(z)), 1.0)
            elif self.revive:
                least = self.revive * ranks.count(z) / self.codes
                self._revive(z, self.counts < least, least)

    def _revive(self, z: Tensor, dead: Tensor, count: float | Tensor) -> None:
        drawn = ranks.same(z[torch.randint(len(z), (self.codes,), device=z.device)])
        self.counts.masked_fill_(dead, count)
        self.idle.masked_fill_(dead, 0)
        for tensor, revived in ((self.weight, drawn), (self.sums, drawn * count)):
            tensor.copy_(torch.where(dead.unsqueeze(-1), revived, tensor))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        # Files of 0.1 do not count the batches
        state = {f"{prefix}idle": torch.zeros_like(self.idle), **state}
        super()._load_from_state_dict(state, prefix, *rest)

    def extra_repr(self) -> str:
        """Sizes, decay and revival."""
        return f"{super().extra_repr()}, decay={self.decay:g}, revive={self.revive!r}"
