"""What all models have that end in a decoder and a likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import pyro
from torch import Tensor, nn
from torch.nn.functional import embedding

from .. import networks
from ..likelihoods.base import check_values, feature_shape
from ..programs.missing import Hiding, filled
from ..programs.program import Model
from ..programs.structure import Observed


class DecoderModel(Model):
    """p(x|z) is ``likelihood(decoder(z))``, for data of one shape; base class."""

    decoder: nn.Module
    likelihood: nn.Module
    condition: int
    one_hot: Tensor

    @property
    def event_size(self) -> int:
        """Number of elements of one datum."""
        return math.prod(self.event_shape)

    @property
    def _observed(self) -> dict[str, Observed]:
        """The only observed site, for ``structure``."""
        kind, shape = type(self.likelihood).__name__, self.event_shape
        return {"x": Observed(distribution=kind, event_shape=shape, argument="x", whole=True)}

    def _feature_shape(self) -> tuple[int, ...]:
        return feature_shape(self.likelihood, self.event_shape)

    def _check_decoder(self, *inputs: Sequence[int]) -> None:
        features = self._feature_shape()
        got = networks.output_shape(self.decoder, *inputs, argument="decoder")
        if got != features:
            raise ValueError(
                f"decoder: {type(self.likelihood).__name__} for data of shape {self.event_shape} "
                f"expects features (n, {', '.join(map(str, features))}), the decoder returned "
                f"(n, {', '.join(map(str, got))})"
            )

    def check_data(self, x: Tensor) -> None:
        """Raise ``ValueError`` if ``x`` has the wrong shape or values outside the likelihood's."""
        self.check_shape(x)
        check_values(self.likelihood, x)

    def check_shape(self, x: Tensor) -> None:
        """Raise ``ValueError`` unless ``x`` is (n, *event_shape), n >= 1, of the model's dtype."""
        if tuple(x.shape[1:]) != self.event_shape or len(x) == 0:
            raise ValueError(
                f"site 'x': expected shape (n, {', '.join(map(str, self.event_shape))}) "
                f"with n >= 1, got {tuple(x.shape)}: reshape the data, or build the model for "
                "their event_shape"
            )
        # The buffer has the dtype of the parameters and is found faster than they are
        if x.dtype != self.one_hot.dtype:
            raise ValueError(
                f"site 'x': got {x.dtype} data for a model of {self.one_hot.dtype}: use "
                f"x.to({self.one_hot.dtype}), or convert model and guide, .to({x.dtype})"
            )

    def label_features(self, y: Tensor | None, n: int) -> tuple[Tensor, ...]:
        """The one-hot labels (n, condition) as a tuple to append to a network's inputs.

        Raises:
            ValueError: labels missing, of the wrong shape, or outside 0..condition-1.
        """
        if not self.condition:
            return ()
        expected = f"y: this model is conditional on {self.condition} classes, expected "
        if y is None:
            raise ValueError(expected + f"integer labels of shape ({n},), got none: pass y=")
        if y.shape != (n,) or y.is_floating_point():
            raise ValueError(
                expected + f"integer labels of shape ({n},), got {y.dtype} {tuple(y.shape)}"
            )
        if pyro.infer.util.is_validation_enabled() and ((y < 0) | (y >= self.condition)).any():
            raise ValueError(
                expected + f"labels from 0 to {self.condition - 1}, "
                f"got {int(y.min())} to {int(y.max())}"
            )
        return (embedding(y.long(), self.one_hot),)

    def _check_given(self, x: Tensor) -> None:
        """What a run of the program checks: values only where Pyro validates."""
        self.check_shape(x)
        if pyro.infer.util.is_validation_enabled():
            # An element that no row has may be of any kind
            if not (Hiding.active and x.isnan().all(0).any()):
                check_values(self.likelihood, filled(x) if Hiding.active else x)


def check_condition(condition: Any) -> int:
    """A number of classes, 0 for none; ``ValueError`` for anything else."""
    if not isinstance(condition, Integral) or isinstance(condition, bool) or condition < 0:
        raise ValueError(
            f"condition: expected the number of classes, got {condition!r}: pass an integer "
            "such as 10, or 0 for a model without labels"
        )
    return int(condition)


def check_likelihood(likelihood: Any) -> None:
    """Raise ``TypeError`` unless it is a module."""
    if not isinstance(likelihood, nn.Module):
        raise TypeError(
            f"likelihood: expected an instance such as likelihoods.Bernoulli(), got {likelihood!r}"
        )
