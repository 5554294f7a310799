"""Codebooks: finitely many vectors that stand for codes, and how they are learnt."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import pyro.distributions as dist
import torch
from sklearn.cluster import KMeans as _KMeans
from torch import Tensor, nn
from torch.nn.functional import embedding

from . import ranks
from .ground.arguments import positive, whole
from .ground.recorded import Recorded
from .infer.engine.internals import is_recording
from .programs.freezing import Hold

_PASSED = 10
_HALF = (torch.float16, torch.bfloat16)


class _AtLeastSingle(Recorded, nn.Module):
    """A module whose tensors stay in single precision where a model is moved to half."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return tensor.to(result.device) if result.dtype in _HALF else result

        return super()._apply(moved, recurse)


class UniformCodes(_AtLeastSingle):
    """The uniform prior over grids of one-hot codes: log p(z) = -positions log codes.

    Args:
        grid_shape: shape of the grid.
        codes: number of codes; the event shape is (*grid_shape, codes).

    Example:
        >>> UniformCodes((7, 7), 512)().event_shape
        torch.Size([7, 7, 512])
    """

    def __init__(self, grid_shape: Sequence[int], codes: int) -> None:
        """Keep the logits as a buffer, so that they follow the module's device."""
        super().__init__()
        self.register_buffer("logits", torch.zeros(*grid_shape, codes), persistent=False)

    def forward(self) -> dist.Distribution:
        """The distribution, batch shape (), event shape (*grid_shape, codes)."""
        return dist.OneHotCategorical(logits=self.logits).to_event(self.logits.dim() - 1)


class KMeans(Recorded):
    """First codes: the centres of a k-means clustering of a first batch.

    Centres start at random points of the batch. With fewer points than codes the points are
    taken as they are, some of them several times.

    Args:
        iterations: Lloyd's iterations, at most.
    """

    def __init__(self, iterations: int = 10) -> None:
        self.iterations = iterations

    def __call__(self, z: Tensor, codes: int) -> tuple[Tensor, Tensor]:
        """Cluster vectors.

        Args:
            z: (m, d), at most 256 per code are used.
            codes: number of clusters.

        Returns:
            Centres (codes, d), and how many of the m vectors each stands for, (codes,).
        """
        order = torch.randperm(len(z), device=z.device)
        if len(z) < codes:
            chosen = order[torch.arange(codes, device=z.device) % len(z)]
            return z[chosen], z.new_full((codes,), len(z) / codes)
        z_used = z[order[: 256 * codes]]
        seed = int(torch.randint(2**31, ()))
        means = _KMeans(
            codes, init="random", n_init=1, max_iter=self.iterations, random_state=seed
        )
        with warnings.catch_warnings(action="ignore"):  # repeated points leave clusters empty
            labels = means.fit(z_used.cpu().numpy()).labels_
        counts = torch.as_tensor(labels, device=z.device).long().bincount(minlength=codes)
        centres = torch.as_tensor(means.cluster_centers_).to(z)
        return centres, counts.to(z) * (len(z) / len(z_used))

    def __repr__(self) -> str:
        """As it was built."""
        return f"KMeans({self.iterations})"


class Unused(Recorded):
    """Which codes are revived: those that no output of the last batches was next to.

    A code that stands for few outputs, but for some, stays where it is. Where batches are small,
    more of them are waited for, until ten times as many outputs as codes have passed.

    Args:
        batches: how many, at least.

    Raises:
        ValueError: fewer than one batch.
    """

    def __init__(self, batches: int = 10) -> None:
        self.batches = whole("batches", batches)

    def __call__(self, idle: Tensor, outputs: float | Tensor) -> Tensor:
        """Which codes are dead, (codes,).

        Args:
            idle: for how many batches no output was next to each code, (codes,).
            outputs: how many of them a batch has.
        """
        return (idle >= self.batches) & (idle * outputs >= _PASSED * len(idle))

    def __repr__(self) -> str:
        """As it was built."""
        return f"Unused({self.batches})"


_K_MEANS, _UNUSED = KMeans(), Unused()


class Codebook(_AtLeastSingle):
    """Vectors e_1 .. e_K that stand for codes, in single precision at least; base class.

    Args:
        codes: K.
        code_dim: length of the vectors.
        initializer: makes the first vectors from the encoder's first training batch, such as
            ``KMeans()``, the default; None for uniform on [-1/K, 1/K], and for vectors that you
            fill in yourself.

    Attributes:
        weight: (codes, code_dim).
        frozen: whether training leaves the codes as they are; see ``freeze``.
    """

    weight: Tensor
    absent = MappingProxyType({"initializer": None})

    def __init__(
        self, codes: int, code_dim: int, *, initializer: KMeans | None = _K_MEANS
    ) -> None:
        """Draw the first vectors."""
        super().__init__()
        self.codes, self.code_dim = whole("codes", codes), whole("code_dim", code_dim)
        if initializer is not None and not callable(initializer):
            raise TypeError(
                f"initializer: expected an object such as codebooks.KMeans(), got {initializer!r}"
            )
        self.initializer, self.initialized, self.frozen = initializer, initializer is None, False
        self._hold = Hold(())

    def _first(self) -> Tensor:
        return torch.empty(self.codes, self.code_dim).uniform_(-1 / self.codes, 1 / self.codes)

    def forward(self, z: Tensor) -> Tensor:
        """Vectors of one-hot codes (..., codes), or their mixtures: (..., code_dim)."""
        with torch.autocast(z.device.type, enabled=False):
            return z.to(self.weight.dtype) @ self.weight

    def vectors(self, index: Tensor) -> Tensor:
        """Vectors (..., code_dim) of codes given by number (...)."""
        return embedding(index, self.weight)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """Numbers (...) of the codes with the least ||z - e_k||, for z (..., code_dim).

        Distances are taken from the centre of the codes, because the products of vectors far from
        the origin would cancel.
        """
        with torch.autocast(z.device.type, enabled=False):
            centre = self.weight.mean(0)
            codes = self.weight - centre
            products = (z.to(codes.dtype) - centre) @ codes.T
            return (codes.square().sum(-1) / 2 - products).argmin(-1)

    @torch.no_grad()
    def initialize(self, z: Tensor) -> None:
        """Take the first vectors from encoder outputs (..., code_dim); once, and never frozen.

        Raises:
            RuntimeError: while a tensor graph is recorded, which could only repeat the result.
        """
        if self.initialized or self.frozen:
            return
        if is_recording():
            raise RuntimeError("the codebook takes its first codes from this batch")
        with torch.autocast(z.device.type, enabled=False):
            z = ranks.gathered(z.reshape(-1, self.code_dim).to(self.weight.dtype))
            self._start(*map(ranks.same, self.initializer(z, self.codes)))
        self.initialized = True

    def _start(self, centres: Tensor, counts: Tensor) -> None:
        self.weight.copy_(centres)

    def learn(self, z: Tensor, index: Tensor) -> Tensor | None:
        """Learn from one training batch, unless frozen.

        Args:
            z: encoder outputs (..., code_dim), detached.
            index: their nearest codes (...).

        Returns:
            A cost (...) to be descended by gradient, or None where there is none.
        """
        raise NotImplementedError

    def freeze(self, frozen: bool = True) -> Codebook:
        """Let training leave the codes as they are (or change them again); returns itself."""
        if isinstance(self.weight, nn.Parameter) and frozen != self.frozen:
            self._hold.release()
            if frozen:
                self._hold = Hold([self.weight])
        self.frozen = frozen
        return self

    def get_extra_state(self) -> Tensor:
        """What a file holds besides parameters and buffers."""
        return torch.tensor([self.initialized, self.frozen])

    def set_extra_state(self, state: Tensor) -> None:
        """Take over what ``get_extra_state`` gave."""
        self.initialized, frozen = state.tolist()
        self.freeze(frozen)

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.codes}, {self.code_dim}"


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

    def __init__(
        self, codes: int, code_dim: int, *, initializer: KMeans | None = _K_MEANS
    ) -> None:
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
        revive: Unused | float = _UNUSED,
        initializer: KMeans | None = _K_MEANS,
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
