"""Finitely many vectors that stand for codes: what all codebooks have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from .. import ranks
from ..ground.arguments import whole
from ..ground.recorded import Recorded
from ..infer.engine.recording import is_recording
from ..programs.freezing import Hold
from .starting import K_MEANS, KMeans

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


def one_hot(index: Tensor, codes: int, like: Tensor) -> Tensor:
    """Numbers of codes (...) as one-hot vectors (..., codes), of the dtype of another tensor.

    Example:
        >>> one_hot(torch.tensor([2, 0]), 3, torch.zeros(()))
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
    """
    numbers = torch.arange(codes, device=index.device)
    return (index.unsqueeze(-1) == numbers).to(like.dtype)


class Codebook(_AtLeastSingle):
    """Vectors e_1 .. e_K that stand for codes, in single precision at least; base class.

    What ``nearest`` is given is ``bounded(z)`` of an encoder's outputs z, which are these
    themselves where a codebook does not say otherwise.

    Args:
        codes: K.
        code_dim: length of the vectors.
        initializer: makes the first vectors from the encoder's first training batch, such as
            ``KMeans()``, the default; None for uniform on [-1/K, 1/K], and for vectors that you
            fill in yourself.

    Attributes:
        weight: (codes, code_dim).
        stack: () for one code per position, (n,) for n of them, whose vectors are added.
        learns: whether training moves the vectors.
        frozen: whether training leaves the codes as they are; see ``freeze``.
    """

    weight: Tensor
    stack: tuple[int, ...] = ()
    learns: ClassVar[bool] = True
    absent = MappingProxyType({"initializer": None})

    def __init__(self, codes: int, code_dim: int, *, initializer: KMeans | None = K_MEANS) -> None:
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

    def bounded(self, z: Tensor) -> Tensor:
        """What is quantised of an encoder's outputs (..., code_dim), of the same shape."""
        return z

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

    def encoder_cost(
        self, z: Tensor, e: Tensor, index: Tensor, commitment: float
    ) -> Tensor | None:
        """What the encoder descends besides the bound: commitment ||z - e||^2 at each position.

        Args:
            z: outputs of the encoder as they are quantised, (..., code_dim).
            e: the vectors of their codes, detached.
            index: these codes, (..., *stack).
            commitment: the weight.

        Returns:
            (...), or None for no cost.
        """
        return commitment * (z - e).square().sum(-1)

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


def by_book(books: Mapping[str, Codebook], z: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The numbers of the codes of each set of vectors.

    Args:
        books: latent site -> its codebook.
        z: latent site -> one-hot codes (n, *grid, *stack, codes).

    Returns:
        Site -> numbers (n, *grid); for the steps of a stack "site[0]", "site[1]", ...

    Example:
        >>> found = by_book({"z1": Codebook(8, 3)}, {"z1": torch.zeros(5, 2, 2, 8)})
        >>> found["z1"].shape
        torch.Size([5, 2, 2])
    """
    found = {}
    for site, book in books.items():
        index = z[site].argmax(-1)
        if not book.stack:
            found[site] = index
        else:
            found |= {f"{site}[{d}]": index[..., d] for d in range(*book.stack)}
    return found
