"""A mixture of distributions of one latent, the component of a datum being that of all latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions.constraints import Constraint

from .places import Place

# A distribution of a site, and the data (n,) for which it is there; None for all
Component = tuple[Any, Tensor | None]


class Mixing:
    """The mixtures of the sites of one run: the components of a datum, as far as they are known.

    Attributes:
        log_weights: log-probability of each component of each datum, given the values of the
            sites so far, (components, ..., n).
        index: the components that have been drawn, (..., n); None before.
    """

    def __init__(self, present: Sequence[Tensor | None], like: Tensor) -> None:
        """The components that are there for a datum, one at least, are equally probable.

        ``like`` is of the device and the number of data.
        """
        everywhere = torch.ones(len(like), dtype=torch.bool, device=like.device)
        there = torch.stack([everywhere if p is None else p for p in present])
        weights = there.to(torch.get_default_dtype())
        self.log_weights = (weights / weights.sum(0)).log()
        self.index: Tensor | None = None

    def draw(self, shape: Sequence[int]) -> Tensor:
        """Components (*shape), stratified along the first dimension: data, or samples of each."""
        if self.index is None or self.index.shape != torch.Size(shape):
            weights = self.log_weights.exp()
            place = torch.rand(shape, dtype=weights.dtype, device=weights.device)
            order = torch.rand_like(place).argsort(0)
            place = (order + place) / max(1, shape[0])
            below = weights.cumsum(0) / weights.sum(0)
            missing = place.dim() + 1 - below.dim()
            below = below.reshape(len(below), *(1,) * missing, *below.shape[1:])
            self.index = (place >= below).sum(0)
        return self.index

    def follow(self, q: Mixture, value: Tensor) -> None:
        """Take in the value of a site."""
        self.log_weights = q.joint(value).log_softmax(0)


class Mixture(TorchDistribution):
    """sum_m w_m q_m(z), with one component for all elements of a datum.

    Where weights do not depend on parameters, as those of the first site, the gradient of a draw
    by its path is that of the mixture; later sites keep the component of the first, so that the
    same holds of their joint distribution.

    Args:
        parts: the components, of the batch and event shape of the site.
        mixing: their weights, and the components that are drawn.
        place: where the values of the site lie.
        batch_shape: as expanded; default: that of the parts.
    """

    arg_constraints: dict[str, Constraint] = {}

    def __init__(
        self,
        parts: Sequence[Any],
        mixing: Mixing,
        place: Place,
        batch_shape: torch.Size | None = None,
    ) -> None:
        self.parts, self.mixing, self.place = tuple(parts), mixing, place
        self._log_weights = mixing.log_weights
        shape = batch_shape or torch.broadcast_shapes(*(part.batch_shape for part in parts))
        super().__init__(shape, torch.Size(place.event_shape), validate_args=False)

    @property
    def is_joint(self) -> bool:
        """Whether it is one density for several units, whose parts are none of their own."""
        return self.place.size > 1

    @property
    def has_rsample(self) -> bool:
        """Where all components have it."""
        return all(part.has_rsample for part in self.parts)

    @property
    def support(self) -> Constraint:
        """Where its values are."""
        return self.place.transform.codomain

    @property
    def mean(self) -> Tensor:
        """E[z], from the means of the components."""
        weights = map(self._of_values, self._log_weights.exp())
        return sum(w * part.mean for w, part in zip(weights, self.parts, strict=True))

    def _of_values(self, value: Tensor) -> Tensor:
        """What is of each datum, (..., n), for values (..., *plates, *event)."""
        value = self.place.each(value)
        return value.reshape(*value.shape, *(1,) * len(self.event_shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape ``sample_shape`` + batch shape + event shape."""
        shape = torch.Size(sample_shape) + self.batch_shape
        at = len(shape) - self.place.rank
        index = self.mixing.draw([*shape[:at], shape[at + self.place.data]])
        value: Tensor | None = None
        for number, part in enumerate(self.parts):
            part = part.expand(self.batch_shape)
            drawn = (part.rsample if part.has_rsample else part.sample)(torch.Size(sample_shape))
            chosen = self._of_values(index == number)
            value = drawn if value is None else torch.where(chosen, drawn, value)
        return value

    def joint(self, value: Tensor) -> Tensor:
        """Log w_m q_m(z) of each component and datum, (components, ..., n)."""
        return torch.stack(
            [
                weight + self.place.summed(part.log_prob(value))
                for weight, part in zip(self._log_weights, self.parts, strict=True)
            ]
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Each element's part of the log-density, of the batch shape."""
        density = self.joint(value).logsumexp(0)
        return self.place.each(density / self.place.elements)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Mixture:
        """The same for more samples."""
        return Mixture(self.parts, self.mixing, self.place, torch.Size(batch_shape))
