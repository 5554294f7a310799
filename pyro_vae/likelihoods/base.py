"""What every likelihood is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn

from ..programs import check_finite
from ..recorded import Recorded


class Likelihood(Recorded, nn.Module):
    """Base class: ``likelihood(features)`` is p(x | features), elementwise.

    Attributes:
        levels: number of values per element for 8-bit and other discrete pixels, else None.
    """

    levels: int | None = None

    def feature_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the decoder's output for one datum of ``event_shape``.

        A model asks when it is built: a likelihood with parameters per element makes them here.
        """
        return tuple(event_shape)

    def attach(self, model: nn.Module) -> None:
        """Take notice of the model that has just been built with this likelihood."""

    def forward(self, features: Tensor) -> dist.Distribution:
        """The elementwise distribution, batch shape that of the data (n, *event_shape)."""
        raise NotImplementedError

    def mean(self, features: Tensor) -> Tensor:
        """E[x | features], what a person looks at."""
        return self(features).mean

    def inputs(self, x: Tensor) -> Tensor:
        """What the networks of guides see of ``x``: the data as they are."""
        return x

    def check(self, x: Tensor) -> None:
        """Raise ``ValueError`` if ``x`` has values that this likelihood gives no probability."""
        check_finite(x)


def network_inputs(likelihood: Any, x: Tensor) -> Tensor:
    """What networks see of ``x`` by a likelihood, which may be any module, or None."""
    inputs = getattr(likelihood, "inputs", None)
    return x if inputs is None else inputs(x)


def span_of(x: Tensor) -> str:
    """Least and largest value, for errors."""
    return f"values from {float(x.min()):.4g} to {float(x.max()):.4g}"
